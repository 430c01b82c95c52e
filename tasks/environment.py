"""The environment of a merge or an evaluation: a flow run's, without its secrets. No Prefect here.

Those children parse files that strangers have published, and what they print ends up in logs. They read folders of this
host and ask one server by its address; none of them speaks to the Hub, to Prefect or to the ledger.
"""

import re
from collections.abc import Mapping

from tasks.settings_sources import PREFIX, SECRETS

_OURS = frozenset(PREFIX + name.upper() + end for name in SECRETS for end in ("", "_FILE"))
_SECRET_NAME = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|(PG)?PASSWORD|PASSWD|PASS|CREDENTIALS?|AUTH|API_?KEYS?|(ACCESS|PRIVATE|SECRET)_KEY)(_|$)",
    re.I,
)
_USER_AND_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_STATED = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
"""A token that somebody has stored in the home folder is not read either."""


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child may see of it: no secret of ours, nothing of Prefect's, nothing that looks like a secret."""
    return {name: value for name, value in environ.items() if not _is_secret(name, value)} | _STATED


def _is_secret(name: str, value: str) -> bool:
    # All of Prefect's: its headers and connection URLs hold passwords under names that do not say so.
    named = name in _OURS or name.startswith("PREFECT_") or _SECRET_NAME.search(name)
    return bool(named or _USER_AND_PASSWORD.search(value))
