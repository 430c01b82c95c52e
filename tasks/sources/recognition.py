"""What is this repository to a family: a release, something that waits, something that is held, or nothing?

``recognise`` is pure: it judges a listing's row, what is remembered of the repository, and what ``look`` read of it.
The watch asks it for every repository of a family's organisations, and ``empelt explain`` for one.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

from tasks.domain.errors import ModelRefused
from tasks.domain.models import Digest, ModelRef, Noun
from tasks.domain.records import RepoState as Seen
from tasks.sources.detection import name_problem, settled
from tasks.sources.digest import remote_digest
from tasks.sources.facts import JSON_BYTES
from tasks.sources.failures import AccessRefused
from tasks.sources.parentage import DESCENDS, Proof, nearest_parent
from tasks.sources.preflight import preflight
from tasks.sources.protocol import RepoState, Source
from tasks.sources.stated import licence_problem, stated_parents, stated_way
from tasks.sources.templates import inspect_templates
from tasks.sources.unfinished import unfinished_parts

Verdict = Literal["release", "waits", "held", "ignored"]
Cause = Literal["new", "known", "name", "private", "settling", "unfinished", "disabled", "gated", "identity"]
Refused = Literal["preflight", "lineage", "licence", "template"]


class Rule(Noun):
    """What a family asks of its releases."""

    base: str
    """Repository id of the family's base."""
    pattern: str | None
    """Regular expression for the whole repository id; None when a person has named the repository."""
    deny: tuple[str, ...] = ()
    settle_seconds: float = 0
    """A release settles when it has this age, and a second watch finds it as the first did. With 0 it need not."""
    rescan: bool = False
    """Look also at what is on record already."""


class Memory(Noun):
    """What the ledger remembers that bears on one repository."""

    by_name: Seen | None = None
    """Last seen under this name."""
    by_id: Seen | None = None
    """Last seen under this internal id, whatever its name was."""
    trusted: bool = False
    """A person has lifted the hold on exactly this state."""
    released: frozenset[Digest] = frozenset()
    """Content digests of the family's releases on record."""


class Findings(Noun):
    """What was read beyond the listing; ``look`` stops at the first part that decides."""

    denied: str = ""
    """Why the files may not be read."""
    unfinished: tuple[str, ...] = ()
    """What a complete release would have and this one has not."""
    refused: str = ""
    """The pre-flight's refusal."""
    licence: str = ""
    """What the family's licences do not allow."""
    digest: Digest | None = None
    proof: Proof | None = None
    """Distance to the family's base; None when nothing new had to be proven."""
    stated: tuple[str, ...] = ()
    """The way to the base by what cards say; empty if they do not lead there."""
    triggers: tuple[str, ...] = ()
    """Where its chat template decides by what a message says."""
    oddities: tuple[str, ...] = ()
    """What else is unusual in its chat template."""


class Recognition(Noun):
    """What a repository is to a family, and why."""

    ref: ModelRef
    verdict: Verdict
    """``waits`` ends by itself or with the lab's next commit; ``held`` needs a person, or access."""
    cause: Cause | Refused
    reason: str
    notes: tuple[str, ...] = ()
    """What is odd and was not decisive: a silent card, a rename."""
    content_digest: Digest | None = None
    """Of a release, once its files were looked at."""


def recognise(
    state: RepoState, rule: Rule, memory: Memory, now: datetime, findings: Findings | None = None
) -> Recognition:
    """Judge one repository. Pure: the same arguments give the same answer.

    Args:
        state: the repository as its source lists it.
        rule: what the family asks.
        memory: what is remembered of it.
        now: to tell its age by.
        findings: what ``look`` read; without them a ``release`` of cause ``new`` is one as far as a listing tells.
    """
    notes = _notes(state, rule, memory, findings or Findings())

    def told(verdict: Verdict, cause: Cause | Refused, reason: str) -> Recognition:
        digest = findings.digest if findings else _known_digest(state, memory)
        kept = digest if verdict == "release" else None
        return Recognition(ref=state.ref, verdict=verdict, cause=cause, reason=reason, notes=notes, content_digest=kept)

    if rule.pattern is not None and (problem := name_problem(state.repo_id, rule.pattern, rule.deny)):
        return told("ignored", "name", problem)
    if state.disabled:
        return told("held", "disabled", f"disabled: {state.repo_id} is disabled at its source")
    if (seen := _replaced(state, memory)) and not memory.trusted:
        return told(
            "held",
            "identity",
            f"identity: {state.repo_id} was deleted and registered again: its internal id is {state.internal_id}, "
            f"and was {seen.internal_id} when {seen.revision[:12]} was seen on {seen.at:%Y-%m-%d}. Whoever owns the "
            "name now need not be who owned it then: check, and lift this hold to trust it",
        )
    if not rule.rescan and _known_digest(state, memory) in memory.released:
        return told("release", "known", f"{state.ref} is on record")
    if state.private and rule.pattern is not None:
        return told("waits", "private", f"{state.repo_id} is private: its owner has not released it yet")
    if waits := settled(state, now, rule.settle_seconds) or _first_sight(state, rule, memory):
        return told("waits", "settling", waits)
    if findings is None:
        return told("release", "new", f"{state.ref} is a release as far as its listing tells")
    if findings.denied:
        return told("held", "gated", f"gated: {findings.denied}")
    if findings.unfinished:
        missing = "; ".join(findings.unfinished)
        return told("waits", "unfinished", f"unfinished: {state.ref} lacks {missing}. The upload is not complete yet")
    if findings.licence:
        return told("held", "licence", f"licence: {state.ref}: {findings.licence}")
    if findings.refused:
        return told("held", "preflight", findings.refused)
    if findings.proof is None and findings.digest in memory.released:
        return told("release", "known", f"{state.ref} has the files of a release on record; only its commit is new")
    if lineage := _lineage_problem(state, rule, findings):
        return told("held", "lineage", lineage)
    if findings.triggers and not memory.trusted:
        return told(
            "held",
            "template",
            f"template: the chat template of {state.ref} {'; '.join(findings.triggers)}. Such conditions can hide an "
            "instruction from everybody but its victim: read it, and lift this hold to trust it",
        )
    distance = findings.proof.distance if findings.proof else None
    return told("release", "new", f"{state.ref} descends from {rule.base}: relative distance {distance:.3f}")


def look(
    source: Source,
    ref: ModelRef,
    base: ModelRef,
    *,
    architectures: Collection[str],
    released: Collection[Digest],
    tags: Sequence[str] = (),
    licences: Collection[str] = (),
) -> Findings:
    """Read what ``recognise`` needs: small files, headers and samples of weights, never whole weights.

    Args:
        source: has both models.
        ref: what may be a release.
        base: the family's base.
        architectures: the family's, as config.json names them.
        released: digests of releases on record; a repository that has one of them is not read any further.
        tags: of the listing.
        licences: that the family allows; any if empty.

    Raises:
        HubUnavailable: the source did not answer, so nothing is known.
    """
    digest: Digest | None = None
    try:
        if missing := unfinished_parts(source, ref):
            return Findings(unfinished=missing)
        # Read for the refusal alone: a gated base would else look like a release with a wrong one.
        source.read_small(base, "config.json", JSON_BYTES)
        try:
            digest, _ = remote_digest(source, ref)
        except ModelRefused:
            preflight(source, ref, base, allowed_architectures=architectures)  # which tells all that is wrong
            raise
        if digest in released:
            return Findings(digest=digest)
        if problem := licence_problem(source, [ref, base], licences):
            return Findings(licence=problem, digest=digest)
        preflight(source, ref, base, allowed_architectures=architectures)
        proof, template = nearest_parent(source, ref, [base]), inspect_templates(source, ref)
        return Findings(
            digest=digest,
            proof=proof,
            stated=stated_way(source, tags, base.repo_id),
            triggers=template.triggers,
            oddities=template.oddities,
        )
    except AccessRefused as refusal:
        return Findings(denied=str(refusal))
    except ModelRefused as refusal:
        return Findings(refused=str(refusal), digest=digest)


def _known_digest(state: RepoState, memory: Memory) -> Digest | None:
    """What is on record for exactly this state, also under the name that the repository had before."""
    for seen in (memory.by_name, memory.by_id):
        if seen is not None and seen.revision == state.sha and seen.internal_id == state.internal_id:
            return seen.content_digest
    return None


def _replaced(state: RepoState, memory: Memory) -> Seen | None:
    """The earlier repository of this name, if it was another one. A source that tells no ids tells no difference."""
    seen = memory.by_name
    if seen is None or not seen.internal_id or not state.internal_id or seen.internal_id == state.internal_id:
        return None
    return seen


def _first_sight(state: RepoState, rule: Rule, memory: Memory) -> str | None:
    """Why it must wait for the next watch; None if an earlier one saw this very state, or nothing need settle."""
    earlier = [seen for seen in (memory.by_name, memory.by_id) if seen is not None and seen.revision == state.sha]
    same = [seen for seen in earlier if seen.internal_id in ("", state.internal_id) or not state.internal_id]
    if not rule.settle_seconds or same:
        return None
    return f"{state.ref} is seen for the first time; it settles when the next watch finds it unchanged"


def _notes(state: RepoState, rule: Rule, memory: Memory, findings: Findings) -> tuple[str, ...]:
    notes = [f"its {told}" for told in findings.oddities]
    parents = stated_parents(state.tags)
    if not parents:
        notes.append("its card names no base_model")
    elif findings.stated and findings.stated != (rule.base,):
        notes.append(f"its card leads to {rule.base} by {', '.join(findings.stated)}")
    elif rule.base not in parents:
        notes.append(f"its card names {', '.join(parents)} as base_model, not {rule.base}")
    seen = memory.by_id
    if seen is not None and state.internal_id and seen.repo_id != state.repo_id:
        notes.append(f"renamed from {seen.repo_id}")
    return tuple(notes)


def _lineage_problem(state: RepoState, rule: Rule, findings: Findings) -> str | None:
    proof = findings.proof
    if proof is not None and proof.descends:
        return None
    parents = stated_parents(state.tags)
    card = f"its card names {', '.join(parents)} as base_model" if parents else "its card names no base_model"
    if proof is None or proof.distance is None:
        why = "; ".join(proof.incomparable.values()) if proof else "its weights were not read"
    else:
        why = f"its weights lie {proof.distance:.2f} from those of {rule.base}; a descendant lies below {DESCENDS}"
    return f"lineage: {state.ref} is not shown to descend from {rule.base}: {card}, and {why}"
