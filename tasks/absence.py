"""Holds on what a source does not list any more, or not as it was. No Prefect here."""

from collections.abc import Mapping, Sequence

from tasks.admission import hold_key
from tasks.domain.catalog import Family
from tasks.domain.errors import ModelRefused
from tasks.doors import open_ledger, open_source, open_store
from tasks.recall import Recall
from tasks.sources.detection import name_problem
from tasks.sources.protocol import RepoState

VANISHED = "vanished:"
IDENTITY = "identity:"
"""Only a person lifts these."""


def lift_moot(family: Family, listed: Mapping[str, RepoState], held: Mapping[str, str]) -> set[str]:
    """Take off the holds on states that are no more: the repository moved on, was renamed, or is gone.

    Args:
        family: whose releases they are.
        listed: repositories that its rule knows, as the source lists them now.
        held: key -> reason of everything that is held.

    Returns:
        The keys of the holds that were taken off.
    """
    rule = family.instruct
    lifted: dict[str, str] = {}
    for key, reason in held.items():
        repo_id, _, sha = key.removeprefix("release:").partition("@")
        ours = key.startswith("release:") and repo_id.split("/")[0] in rule.organizations
        if not ours or reason.startswith((IDENTITY, VANISHED)) or name_problem(repo_id, rule.pattern, rule.deny):
            continue
        state = listed.get(repo_id)
        if state is None:
            lifted[key] = f"{repo_id} is not listed any more"
        elif state.sha != sha:
            lifted[key] = f"{repo_id} moved on to {state.sha}"
    for key, why in lifted.items():
        open_ledger().release_hold(key, why)
    return set(lifted)


def hold_vanished(family: Family, listed: Sequence[RepoState], recall: Recall, held: Mapping[str, str]) -> list[str]:
    """Hold releases on record whose repository is gone, and lift that where it is there again. Nothing is removed.

    A release whose files are in the store needs its repository no more, and is left alone.

    Args:
        family: whose releases they are.
        listed: all that the source lists of the family's organisations, whatever their names.
        recall: what the ledger remembers of the family now.
        held: key -> reason of everything that is held.

    Returns:
        A line for each release that is held from now on.
    """
    ledger, told = open_ledger(), []
    names, ids = {state.repo_id for state in listed}, {state.internal_id for state in listed}
    last = recall.last(release.ref.repo_id for release in recall.releases)
    for release in recall.releases:
        repo_id, key = release.ref.repo_id, hold_key(release.ref)
        seen = last.get(repo_id)
        # Under whatever name; one that took its name is another one.
        there = seen.internal_id in ids if seen is not None and seen.internal_id else repo_id in names
        if there or open_store().has(release.content_digest):
            if held.get(key, "").startswith(VANISHED):
                ledger.release_hold(key, f"{repo_id} is there again, or its files are")
        elif key not in held and repo_id.split("/")[0] in family.instruct.organizations and not _moved(repo_id):
            when = f" It was there on {seen.at:%Y-%m-%d}." if seen is not None else ""
            ledger.record_hold(
                key,
                f"{VANISHED} {repo_id} was deleted, hidden or replaced: {open_source().endpoint} does not list it any "
                f"more.{when} What was made of it stays, and this hold ends when it is listed again",
            )
            told.append(f"{release.ref} has vanished")
    return told


def _moved(repo_id: str) -> bool:
    """Whether the source still leads from this name to the same repository: it went to another organisation."""
    try:
        state, seen = open_source().state(repo_id), open_ledger().repo_seen(repo_id)
    except ModelRefused:
        return False
    return seen is None or state.internal_id == seen.internal_id
