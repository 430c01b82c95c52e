"""Where settings come from, in the order in which they count: the environment, then either what the installation in the
home was started with, or a file of settings; then the defaults.

The file is the one that EMPELT_SETTINGS names, else ``empelt.toml`` in the home. It holds no secrets: those come from
the environment, or from a file of their own that ``<name>_file`` names. A key that nothing reads is refused by name.
"""

import os
import tomllib
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

PREFIX = "EMPELT_"
NAMED_BY = "EMPELT_SETTINGS"
FILE = "empelt.toml"
ENVIRONMENT, REMEMBERED, DEFAULT = "environment", "last start", "default"
SECRETS = ("hub_token", "ledger_url", "prefect_auth", "publish_token", "webhook_secret", "gateway_keys", "gateway_key")
"""Never in a file of settings, each with a setting ``<name>_file`` beside it. A ledger's URL may hold a password."""
SEVERAL = ("gateway_keys",)
"""Those secrets whose files may hold several lines."""
OTHERS = frozenset(
    {
        "SETTINGS",
        "INSTANCE",
        "CHILD",
        "SERVING",
        "LAUNCHER",
        "DEMO_HUB_PORT",
        "DEMO_PID",
        "DB_PASSWORD",
        "API_KEY",
        "TEST",
    }
)
"""EMPELT_* that other programs of ours read: `make setup`, the launcher, the demo, the compose file, the evaluation,
the tests."""
Values = dict[str, Any]


class Problem(str):
    """Stands in a source's answer for something that is wrong, under a key that no setting has: so the model refuses it
    together with everything else.
    """


class Layers(PydanticBaseSettingsSource):
    """All sources but the defaults, laid over each other; remembers where each value came from."""

    def __init__(self, cls: type[BaseSettings], remembered: Path | None) -> None:
        super().__init__(cls)
        self.remembered = remembered if remembered is not None and remembered.exists() else None
        self.origins: dict[str, str] = {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Demanded by the base class; ``__call__`` does it all at once."""
        raise NotImplementedError

    def __call__(self) -> Values:
        """Name -> value, and a ``Problem`` for each thing that is wrong."""
        known = self.settings_cls.model_fields
        above = of_environment(known)
        home = Path(self.current_state.get("home") or above.get("home") or known["home"].default)
        merged: Values = {}
        for origin, values in [(ENVIRONMENT, above), self._below(home)]:
            # What is stated above as a value is not taken from a file that is named below, nor the other way round.
            hidden = {_twin(name) for name in merged}
            for name, value in values.items():
                if name not in merged and name not in hidden:
                    merged[name], self.origins[name] = value, origin
        return merged

    def _below(self, home: Path) -> tuple[str, Values]:
        if self.remembered is None:
            path = settings_file(home)
            return str(path), of_file(path, self.settings_cls)
        # Unknown names are left out here: a version that one has gone back to need not know those of a newer one.
        found = _stripped(dotenv_values(self.remembered, interpolate=False).items())
        return REMEMBERED, {name: value for name, value in found.items() if name in self.settings_cls.model_fields}


def of_environment(known: Collection[str]) -> Values:
    """What EMPELT_* says, by the names of settings, and a ``Problem`` for each variable that nothing reads."""
    values: Values = {}
    for name, value in _stripped(os.environ.items()).items():
        if name in known:
            values[name] = value
        elif name.upper() not in OTHERS:
            values[PREFIX + name.upper()] = Problem(f"{PREFIX}{name.upper()}: {_unknown(name, known)}")
    for name in SECRETS:
        if values.get(name) and values.get(f"{name}_file"):
            both = f"{PREFIX}{name.upper()} and {PREFIX}{name.upper()}_FILE"
            values[both] = Problem(f"{both} are both set; unset one of them")
    return values


def settings_file(home: Path) -> Path:
    """The file of settings that would count; it need not be there, unless EMPELT_SETTINGS names it."""
    return Path.cwd() / Path(os.environ.get(NAMED_BY) or home / FILE).expanduser()


def of_file(path: Path, cls: type[BaseSettings]) -> Values:
    """What the file says, paths meant from its folder, and a ``Problem`` for each key that has no place in it."""
    named = os.environ.get(NAMED_BY)
    if not named and not path.exists():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {str(path): Problem(f"{path}: cannot be read as TOML: {error}")}
    values: Values = {}
    for name, value in found.items():
        if name not in cls.model_fields:
            told = _unknown(name, cls.model_fields)
        elif name in SECRETS:
            told = f"no place for a secret; write it to a file that only you can read, and state {name}_file here"
        elif name == "home" and not named:
            told = f"this file lies in the home; set EMPELT_HOME, or name another file by {NAMED_BY}"
        else:
            is_path = isinstance(value, str) and value and "Path" in str(cls.model_fields[name].annotation)
            values[name] = str(path.parent / Path(value).expanduser()) if is_path else value
            continue
        values[f"{path}: {name}"] = Problem(f"{path}: {name}: {told}")
    return values


def _unknown(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"no setting has this name{f'; did you mean {near[0]} ({PREFIX}{near[0].upper()})?' if near else ''}"


def _twin(name: str) -> str:
    return name.removesuffix("_file") if name.endswith("_file") else f"{name}_file"


def _stripped(pairs: Iterable[tuple[str, str | None]]) -> Values:
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in pairs
        if name.startswith(PREFIX) and value is not None
    }
