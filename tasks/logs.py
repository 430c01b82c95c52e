"""Logs of our own processes: lines for people, or one JSON object for each line; secrets struck out of both."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tasks.settings import Settings, settings
from tasks.settings_sources import SECRETS

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
STRUCK = "***"
LIKELY = re.compile(r"hf_[A-Za-z0-9]{16,}|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
"""A Hub's token, and user and password in a URL: struck out even where they are none of ours."""
LEAST_LENGTH = 6
"""A shorter secret would strike out words that have nothing to do with it."""


def secrets_of(chosen: Settings) -> list[str]:
    """All that must not be seen: the secrets, and the parts of them that are secret by themselves. Longest first."""
    found = set()
    for name in SECRETS:
        value = getattr(chosen, name)
        if value is not None:
            found.add(value.get_secret_value())
    if chosen.prefect_auth:
        found.add(chosen.prefect_auth.get_secret_value().partition(":")[2])
    if chosen.gateway_keys:  # name:key or name:key:limit, by commas or lines
        lines = chosen.gateway_keys.get_secret_value().splitlines()
        entries = [entry for line in lines for entry in line.partition("#")[0].split(",")]
        found |= {entry.split(":")[1].strip() for entry in entries if ":" in entry}
    try:
        url = make_url(chosen.ledger)
        found |= {str(url.password)} if url.password else set()
    except ArgumentError:
        pass  # what cannot be read as a URL is struck out as a whole
    return sorted((one for one in found if len(one) >= LEAST_LENGTH), key=len, reverse=True)


class Redact(logging.Filter):
    """Strikes secrets out of a record: its message, its arguments, its traceback. Lets every record pass."""

    def __init__(self, chosen: Settings | None = None) -> None:
        """With the secrets of ``chosen``, or of this process's settings."""
        super().__init__()
        self._chosen = chosen
        self._of: Settings | None = None
        self._known: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record in place, before any handler writes it."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit; a filter must not raise, and must not let it by
            message = f"{record.msg} {record.args}"
        record.msg, record.args = self.struck(message), None
        if record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
            record.exc_info, record.exc_text = None, self.struck(text)
        return True

    def struck(self, text: str) -> str:
        """``text`` without secrets."""
        for secret in self._secrets():
            text = text.replace(secret, STRUCK)
        return LIKELY.sub(STRUCK, text)

    def _secrets(self) -> list[str]:
        try:
            chosen = self._chosen or settings()
        except ValidationError:
            return []  # whoever asks for the settings is told; a logger must not fail for it
        if chosen is not self._of:
            self._of, self._known = chosen, secrets_of(chosen)
        return self._known


class JsonLines(logging.Formatter):
    """One object per line: at, level, logger, process, message; run, task, job, release, target where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **context(record),
        }
        if record.exc_info:
            record.exc_text = record.exc_text or self.formatException(record.exc_info)
        if record.exc_text:
            line["error"] = record.exc_text
        return json.dumps(line, ensure_ascii=False, default=str)


def context(record: logging.LogRecord) -> dict[str, str]:
    """Which run a record belongs to, and what that run is for; nothing outside of runs."""
    found = {
        short: str(value)
        for short, name in (("run", "flow_run_id"), ("run_name", "flow_run_name"), ("task", "task_run_name"))
        if (value := getattr(record, name, None)) and value != "<unknown>"
    }
    if "prefect.runtime" not in sys.modules:
        return found
    from prefect.runtime import flow_run

    if not flow_run.get_id():
        return found
    told = flow_run.get_parameters() or {}
    request = told.get("request") or told
    more = {
        "run": flow_run.get_id(),
        "run_name": flow_run.get_name(),
        "job": _of(told.get("claim"), "job_key") or _of(request, "claim_key"),
        "release": _of(request, "release"),
        "target": _of(request, "target"),
    }
    return {**{name: str(value) for name, value in more.items() if value}, **found}


def _of(parameter: Any, name: str) -> Any:
    """A field of a parameter, which is a model within a run, and JSON where the run only passes it on."""
    return parameter.get(name) if isinstance(parameter, dict) else getattr(parameter, name, None)


def set_up_logging(chosen: Settings) -> None:
    """For a process of ours that is no flow run: everything to stderr, which `empelt up` writes to a file."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if chosen.log_format == "json" else logging.Formatter(TEXT))
    handler.addFilter(Redact(chosen))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
