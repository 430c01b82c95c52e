"""What all settings have in common: sources laid over each other, secrets read from files, one list of refusals."""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from tasks.settings_sources import (
    DEFAULT,
    NAMED_BY,
    PREFIX,
    SECRETS,
    SEVERAL,
    Layers,
    Problem,
    Values,
    of_environment,
    of_file,
    settings_file,
)


class Layered(BaseSettings):
    """Settings whose sources are those of ``tasks.settings_sources``, and whose errors never show a value."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then our own layers in place of the library's: see ``tasks.settings_sources``."""
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        remembered = dotenv_settings.env_file
        return init_settings, Layers(settings_cls, remembered if isinstance(remembered, Path) else None)

    @model_validator(mode="before")
    @classmethod
    def _secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_secrets_read(values)

    @field_validator(*(f"{name}_file" for name in SECRETS), mode="after", check_fields=False)
    @classmethod
    def _absolute_or_none(cls, value: Path | None) -> Path | None:
        return None if value is None else Path.cwd() / value.expanduser()


def home_of_this_process(cls: type[Layered]) -> Path:
    """The home that this process means; read without the rest, which need not be right while something is up."""
    told = of_environment(cls.model_fields).get("home")
    told = told or (of_file(settings_file(Path()), cls).get("home") if os.environ.get(NAMED_BY) else None)
    return Path.cwd() / Path(told or cls.model_fields["home"].default).expanduser()


def origins(cls: type[Layered], remembered: Path | None) -> dict[str, str]:
    """Setting -> where its value comes from: the environment, the last start, a file by its path, or "default"."""
    layers = Layers(cls, remembered)
    layers()
    found = {name: layers.origins.get(name, DEFAULT) for name in cls.model_fields}
    for name in SECRETS:
        if layers.origins.get(f"{name}_file") and name not in layers.origins:
            found[name] = found[f"{name}_file"]
    return found


def with_secrets_read(values: Values) -> Values:
    """The same with each secret that a file holds; "" means none. A ``Problem`` for each file that holds none."""
    read = {name: value for name, value in values.items() if value != "" or name.removesuffix("_file") not in SECRETS}
    for name in SECRETS:
        path = read.get(f"{name}_file")
        if path and not read.get(name):
            found = read_secret(Path(path).expanduser(), several=name in SEVERAL)
            read[f"{name}_file: problem" if isinstance(found, Problem) else name] = found
    return read


def read_secret(path: Path, *, several: bool = False) -> str:
    """The secret that ``path`` holds, without the line's end; a ``Problem`` if it holds none, or several lines."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return Problem(f"{path} should hold a secret and cannot be read: {error}")
    if not text or (len(text.splitlines()) > 1 and not several):
        return Problem(f"{path} holds {len(text.splitlines())} lines; one is expected, the secret itself")
    return text


def refusal(error: ValidationError) -> list[str]:
    """One line for each problem, without the value of anything that is or may be a secret."""
    lines: list[str] = []
    for problem in error.errors():
        name, value = str(problem["loc"][0]) if problem["loc"] else "", problem["input"]
        if isinstance(value, Problem):
            lines.append(value)
        elif problem["type"] == "extra_forbidden":
            lines.append(f"{name}: no setting has this name")
        else:
            shown = "" if name in SECRETS or not name else f"={value}"
            lines.append(f"{PREFIX}{name.upper()}{shown}: {problem['msg'].removeprefix('Value error, ')}")
    return lines
