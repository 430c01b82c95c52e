"""The run forms of the Prefect UI: JSON schemas whose choices are those of the catalog and the ledger.

Prefect makes a schema from a flow's signature, which knows types and no choices. What stands here is laid over it; the
server refuses a run whose parameters do not fit (HTTP 409), and the UI shows choices, descriptions and examples.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from tasks.domain.jobs import RELEASE_TEXT

Schema = dict[str, Any]
MOST_EXAMPLES = 10


def remerge_form(schema: Schema, families: Mapping[str, Sequence[str]], releases: Sequence[str]) -> Schema:
    """The form of ``remerge_release``.

    Args:
        schema: as Prefect made it.
        families: name of each family -> its targets.
        releases: those on record, newest first, as ``owner/name@sha``.
    """
    known = list(releases[:MOST_EXAMPLES])
    listed = ", ".join(known) or "none yet"
    form = deepcopy(schema)
    form["properties"] = {
        "family": _choice("Family", "Whose base and tuned bases to graft.", sorted(families), 0),
        "release": {
            "title": "Release",
            "type": "string",
            "pattern": RELEASE_TEXT,
            # Plain text in one paragraph: the UI draws neither markdown nor lists here, and no examples.
            "description": "The instruct model: owner/name for the head of its repository, or owner/name@revision"
            f" with a sha (its beginning, if it is on record), tag or branch. On record: {listed}",
            "examples": known or ["owner/name"],
            "position": 1,
        },
        "target": _choice(
            "Target",
            "What to merge it for. "
            + " ".join(f"{name}: {', '.join(targets)}." for name, targets in sorted(families.items())),
            sorted({target for targets in families.values() for target in targets}),
            2,
        ),
    }
    form["required"] = ["family", "release", "target"]
    # Which target goes with which family: the UI does not draw this, the server holds to it.
    form["allOf"] = [
        {"if": {"properties": {"family": {"const": name}}}, "then": {"properties": {"target": {"enum": list(targets)}}}}
        for name, targets in sorted(families.items())
    ]
    # ``claim`` is the watch's and ModelRef is for code: not in the form, and still accepted by the flow.
    form.pop("definitions", None)
    return form


def backfill_form(schema: Schema, families: Mapping[str, Sequence[str]]) -> Schema:
    """The form of ``backfill_base``: a choice of family, and how many releases at least.

    Args:
        schema: as Prefect made it.
        families: name of each family -> its targets.
    """
    form = deepcopy(schema)
    known = "; ".join(f"{name}: {', '.join(targets)}" for name, targets in sorted(families.items()))
    properties = form["properties"]
    properties["family"] = _choice("Family", "Whose targets get releases that they lack.", sorted(families), 0)
    properties["target"]["description"] = f"Only this target; all of the family's if empty. There are: {known}"
    properties["releases"]["minimum"] = 1
    return form


def approve_form(schema: Schema, waiting: Sequence[str]) -> Schema:
    """The form of ``approve_release``.

    Args:
        schema: as Prefect made it.
        waiting: the candidates that wait, as ``tasks.approve`` names them.
    """
    form = deepcopy(schema)
    what = "Which of the waiting candidates." if waiting else "Nothing waits for approval now."
    candidate = _choice("Candidate", what, list(waiting), 0) if waiting else _text("Candidate", what, 0)
    form["properties"] = {
        "candidate": candidate,
        "decision": _choice(
            "Decision",
            "publish: it is judged again against what is live at that moment, and served if it is still stronger. "
            "reject: it is done with.",
            ["publish", "reject"],
            1,
        ),
        "by": {**_text("By", "Your name; recorded with the decision.", 2), "minLength": 1},
        "comment": {**_text("Comment", "Why; recorded, and shown with the channel.", 3), "default": ""},
    }
    form["required"] = ["candidate", "decision", "by"]
    return form


def rollback_form(schema: Schema, channels: Sequence[str], served: Sequence[str]) -> Schema:
    """The form of ``rollback_channel``.

    Args:
        schema: as Prefect made it.
        channels: every channel of the catalog, and every one that has served something.
        served: lines that say what each channel has served, newest first.
    """
    form = deepcopy(schema)
    listed = "; ".join(served) or "nothing yet"
    form["properties"] = {
        "channel": _choice("Channel", "The served name.", list(channels), 0),
        "to": {
            **_text("To", f"previous, or the beginning of the digest of an artifact that it has served: {listed}", 1),
            "default": "previous",
        },
        "reason": {**_text("Reason", "Recorded, and shown with the channel.", 2), "default": "by hand"},
    }
    form["required"] = ["channel"]
    return form


def publish_form(schema: Schema, channels: Sequence[str], families: Mapping[str, Sequence[str]]) -> Schema:
    """The form of ``publish_model``: the request with choices for what has choices."""
    form = deepcopy(schema)
    request = form["definitions"]["PublishRequest"]["properties"]
    targets = sorted({target for names in families.values() for target in names})
    for name, choices in (("family", sorted(families)), ("target", targets), ("channel", list(channels))):
        request[name] = {**request[name], "enum": choices}
    return form


def _choice(title: str, description: str, choices: list[str], position: int) -> Schema:
    only = {"default": choices[0]} if len(choices) == 1 else {}
    return {**_text(title, description, position), "enum": choices, **only}


def _text(title: str, description: str, position: int) -> Schema:
    return {"title": title, "type": "string", "description": description, "position": position}
