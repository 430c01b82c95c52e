"""What a repository is to a family, asked of the Hub and of the ledger together. No Prefect: the command asks too."""

from collections.abc import Iterable
from datetime import datetime

from tasks.domain.catalog import Family
from tasks.domain.errors import ModelRefused
from tasks.domain.lineage import Lineage
from tasks.domain.models import ModelRef, Release
from tasks.doors import open_ledger, open_source
from tasks.heads import resolve
from tasks.settings import settings
from tasks.sources.detection import name_problem
from tasks.sources.protocol import RepoState
from tasks.sources.recognition import Findings, Memory, Recognition, Rule, look, recognise
from tasks.sources.stated import licence_problem


def hold_key(ref: ModelRef) -> str:
    """The key under which a release is held; a new commit is a new key."""
    return f"release:{ref.repo_id}@{ref.revision}"


def examine(
    family: Family,
    state: RepoState,
    now: datetime,
    *,
    rescan: bool = False,
    by_hand: bool = False,
    memory: Memory | None = None,
) -> Recognition:
    """Recognise one repository, reading of it what is needed. Records nothing.

    Args:
        family: whose release it may be.
        state: the repository as its source lists it.
        now: to tell its age by.
        rescan: look also at what is on record already.
        by_hand: a person has named it: its name, its age and its being private do not matter.
        memory: what is remembered of it, where that was read already.

    Raises:
        HubUnavailable: the source did not answer, so nothing is known.
    """
    rule = Rule(
        base=family.base.repo,
        pattern=None if by_hand else family.instruct.pattern,
        deny=family.instruct.deny,
        settle_seconds=0 if by_hand else settings().settle_seconds,
        rescan=rescan or by_hand,
    )
    memory = memory or _memory(family, state)
    first = recognise(state, rule, memory, now)
    if first.verdict != "release" or first.cause == "known":
        return first
    released = () if rule.rescan else memory.released
    try:
        base = resolve(family.base)
    except ModelRefused as refusal:  # which must not stop the watch of the other families
        return recognise(state, rule, memory, now, Findings(refused=f"base: {refusal}"))
    findings = look(
        open_source(),
        state.ref,
        base,
        architectures=family.architectures,
        released=released,
        tags=state.tags,
        licences=family.licences,
    )
    return recognise(state, rule, memory, now, findings)


def follows_rule(family: Family, repo_id: str) -> bool:
    """Whether the family's releases come from this owner and have such names."""
    rule = family.instruct
    return repo_id.split("/")[0] in rule.organizations and name_problem(repo_id, rule.pattern, rule.deny) is None


def ruled(family: Family, releases: Iterable[Release]) -> list[Release]:
    """Those that the family's rule knows: what is planned. A person may run any other repository, for one target.

    Such a run is on record as a release too, but it is brought to no other target, and supersedes nothing, unless the
    same files were seen under a name that the rule knows: a release that a person ran from a copy, or was renamed.
    """
    asked = list(releases)
    others = {r.content_digest for r in asked if not follows_rule(family, r.ref.repo_id)}
    names = open_ledger().repos_with_any(others) if others else {}
    unknown = {digest for digest, repos in names.items() if not any(follows_rule(family, name) for name in repos)}
    return [release for release in asked if release.content_digest not in unknown]


def admit(family: Family, state: RepoState, now: datetime) -> Release:
    """The release that a person asks for by its repository.

    Raises:
        ModelRefused: if it is none, with the reason.
    """
    found = examine(family, state, now, by_hand=True)
    if found.verdict != "release":
        raise ModelRefused(found.reason)
    return _release(family, found, state.last_modified, now)


def release_of(family: Family, state: RepoState, found: Recognition, now: datetime) -> Release:
    """The fact to record of a release that a watch recognised.

    One that was private while others came out is as new as its opening, of which the source tells no date: it is dated
    by the last watch that did not find it, unless it has changed since. What the first watch by a rule finds keeps its
    own date, and so does a name that was registered again, since nobody knows when a person came to trust it.
    """
    ledger, rule = open_ledger(), family.instruct.model_dump_json()
    first = ledger.first_seen(state.repo_id, state.internal_id, state.sha) or now
    before = ledger.watched_before(family.family, rule, first)
    if before is None or ledger.was_anothers(state.repo_id, state.internal_id):
        return _release(family, found, state.last_modified, now)
    return _release(family, found, max(state.last_modified, before), now)


def _release(family: Family, found: Recognition, released_at: datetime, now: datetime) -> Release:
    if found.content_digest is None:
        raise ModelRefused(f"{found.ref}: its files were not looked at, so it is not a release yet")
    return Release(
        family=family.family,
        ref=found.ref,
        content_digest=found.content_digest,
        released_at=released_at,
        seen_at=now,
    )


def check_licences(family: Family, lineage: Lineage) -> None:
    """Refuse a merge of a tuned base, or of a stated parent, whose licence the family does not allow, as of a release.

    Raises:
        ModelRefused: naming what each states, and what is allowed.
        HubUnavailable: the source did not answer, so nothing is known.
    """
    refs = [part.ref for part in lineage.ingredients if part.role.startswith(("tuned:", "parent:"))]
    if problem := licence_problem(open_source(), refs, family.licences):
        raise ModelRefused(f"licence: tuned bases of {lineage.target}: {problem}")


def _memory(family: Family, state: RepoState) -> Memory:
    ledger, key = open_ledger(), hold_key(state.ref)
    return Memory(
        by_name=ledger.repo_seen(state.repo_id),
        by_id=ledger.repo_of(state.internal_id) if state.internal_id else None,
        trusted=ledger.lifted_at(key) is not None and not any(hold.key == key for hold in ledger.holds()),
        released=frozenset(release.content_digest for release in ledger.releases(family.family)),
    )
