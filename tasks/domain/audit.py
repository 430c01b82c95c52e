"""What a look at a channel found: whether what answers is what should, and how sure that is."""

from collections.abc import Sequence
from typing import Literal

from pydantic import AwareDatetime

from tasks.domain.models import Digest, Noun
from tasks.domain.words import duration

AuditOutcome = Literal["proved", "unproven", "wrong", "silent"]


class AuditFact(Noun):
    """One look at one channel."""

    channel: str
    generation: int
    artifact_digest: Digest
    outcome: AuditOutcome
    """``unproven``: nothing contradicts it, and there is nothing to prove it by. ``silent``: it did not answer."""
    said: str
    """By what it is proved, or why it is not."""
    problems: tuple[str, ...] = ()
    """All that is wrong."""
    seconds: float
    at: AwareDatetime

    @property
    def is_bad(self) -> bool:
        """Somebody must look at it."""
        return self.outcome in ("wrong", "silent")


def audit_page(found: Sequence[AuditFact]) -> str:
    """The audit as Markdown: a table, then everything that is wrong."""
    lines = ["# Audit of what is served", ""]
    if not found:
        return "\n".join([*lines, "No channel has served anything yet."])
    lines += ["| channel | generation | artifact | is it the judged model? | took |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.channel} | {one.generation} | `{one.artifact_digest[:12]}` | **{one.outcome}**: {_cell(one.said)} "
        f"| {duration(one.seconds)} |"
        for one in found
    ]
    for one in found:
        if one.problems:
            lines += ["", f"## {one.channel}: {one.outcome}", "", *(f"- {_cell(text)}" for text in one.problems)]
    return "\n".join(lines)


def summary(found: Sequence[AuditFact]) -> str:
    """One sentence: how many are proved, and which are not."""
    if not found:
        return "no channel has served anything yet"
    names = {
        kind: [f"{one.channel} (generation {one.generation})" for one in found if one.outcome == kind]
        for kind in ("proved", "unproven", "wrong", "silent")
    }
    told = [f"{len(names['proved'])} of {len(found)} channels answer with the judged model"]
    told += [f"{kind}: {', '.join(names[kind])}" for kind in ("wrong", "silent", "unproven") if names[kind]]
    return "; ".join(told)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
