"""What each setting is, and where its value comes from: the part of `empelt doctor` that shows no secret."""

from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tasks.domain.errors import PipelineError
from tasks.settings import REMEMBERED, Settings
from tasks.settings_layers import origins
from tasks.settings_sources import SECRETS, settings_file

Row = dict[str, str]


def rows(settings: Settings) -> list[Row]:
    """Setting, value and origin, one row for each; of a secret only whether it is set."""
    found = origins(Settings, settings.home / REMEMBERED)
    return [{"name": name, "value": _shown(settings, name), "from": found[name]} for name in Settings.model_fields]


def as_text(found: list[Row]) -> str:
    """The same for people."""
    widths = [max(len(row[column]) for row in found) for column in ("name", "value")]
    return "\n".join(f"     {row['name']:<{widths[0]}}  {row['value']:<{widths[1]}}  {row['from']}" for row in found)


def check(settings: Settings) -> str:
    """Whether secrets are readable by this user only, and what takes hold at the next start.

    Raises:
        PipelineError: naming each file of a secret that others may read.
    """
    files = [path for name in SECRETS if (path := getattr(settings, f"{name}_file")) is not None]
    loose = [f"{path} has mode {path.stat().st_mode & 0o777:04o}" for path in files if path.stat().st_mode & 0o007]
    if loose:
        raise PipelineError("everybody on this host may read a secret; `chmod 600` the file", problems=loose)
    told = settings_file(settings.home)
    told_by = f"{told} is read" if told.exists() else f"no {told}"
    if not (settings.home / REMEMBERED).exists():
        return told_by
    next_time = Settings()
    changed = [name for name in Settings.model_fields if _shown(next_time, name) != _shown(settings, name)]
    return f"as at the last start; at the next one change: {', '.join(changed) or 'none'} ({told_by})"


def _shown(settings: Settings, name: str) -> str:
    value: Any = getattr(settings, name)
    if name == "ledger_url":
        return without_password(settings.ledger)
    if name in SECRETS:
        return "set" if value else "not set"
    return "not set" if value is None or value == "" else str(value)


def without_password(url: str) -> str:
    """A database's address without its password, and without its query, which may hold one too."""
    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except ArgumentError:
        return "(cannot be read as a URL)"
