"""What the Hub posts to a webhook (version 3 of its payload), read by hand and believed in nothing.

huggingface_hub's own model of it looks for ``head_sha`` where the wire has ``headSha``, and finds none. An event is a
hint that there may be something to see; what there is, the watch finds out.
"""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tasks.domain.errors import InputError

ACTIONS = ("create", "delete", "update", "move")
WATCHED = ("repo", "repo.content", "repo.config")
"""Scopes that the watch could see something of; the others are discussions."""
_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40}")


class Event(NamedTuple):
    """One event of the Hub."""

    action: str
    scope: str
    repo_type: str
    repo_id: str
    head_sha: str | None

    @property
    def concerns_models(self) -> bool:
        """Whether a model's repository was made, moved, changed or removed."""
        return self.repo_type == "model" and self.scope in WATCHED


def parse_event(body: bytes) -> Event:
    """Read a payload.

    Raises:
        InputError: with every problem, none of which quotes more than a field's kind.
    """
    try:
        payload = json.loads(body)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError("the body is no JSON") from error
    event, repo = _object(payload, "event"), _object(payload, "repo")
    wanted: dict[str, tuple[Any, Callable[[str], object], str]] = {
        "event.action": (event.get("action"), lambda v: v in ACTIONS, " or ".join(ACTIONS)),
        "event.scope": (event.get("scope"), lambda v: re.fullmatch(r"[a-z]+(\.[a-z]+)*", v), "words with dots"),
        "repo.type": (repo.get("type"), lambda v: v in ("model", "dataset", "space"), "model, dataset or space"),
        "repo.name": (repo.get("name"), _NAME.fullmatch, "owner/name"),
        "repo.headSha": (repo.get("headSha", "0" * 40), _SHA.fullmatch, "40 hex digits, or nothing"),
    }
    problems = [
        f"{name}: expected {expected}"
        for name, (value, fits, expected) in wanted.items()
        if not isinstance(value, str) or not fits(value)
    ]
    if problems:
        raise InputError("the payload is no event of the Hub", problems=problems)
    return Event(event["action"], event["scope"], repo["type"], repo["name"], repo.get("headSha"))


def _object(payload: Any, name: str) -> dict[str, Any]:
    found = payload.get(name) if isinstance(payload, dict) else None
    return found if isinstance(found, dict) else {}
