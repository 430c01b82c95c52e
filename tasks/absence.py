"""Holds on what a source does not list any more, or not as it was. No Prefect here."""

from collections.abc import Mapping, Sequence

from tasks.admission import hold_key
from tasks.domain.catalog import Family
from tasks.domain.errors import ModelRefused
from tasks.domain.models import Release
from tasks.doors import open_ledger, open_source, open_store
from tasks.sources.detection import name_problem
from tasks.sources.protocol import RepoState

VANISHED = "vanished:"
IDENTITY = "identity:"
"""Only a person lifts these."""


def lift_moot(family: Family, listed: Mapping[str, RepoState]) -> None:
    """Take off the holds on states that are no more: the repository moved on, was renamed, or is gone.

    Args:
        family: whose releases they are.
        listed: repositories that its rule knows, as the source lists them now.
    """
    for hold in open_ledger().holds():
        repo_id, _, sha = hold.key.removeprefix("release:").partition("@")
        rule = family.instruct
        ours = hold.key.startswith("release:") and repo_id.split("/")[0] in rule.organizations
        if not ours or hold.reason.startswith((IDENTITY, VANISHED)) or name_problem(repo_id, rule.pattern, rule.deny):
            continue
        state = listed.get(repo_id)
        if state is None:
            open_ledger().release_hold(hold.key, f"{repo_id} is not listed any more")
        elif state.sha != sha:
            open_ledger().release_hold(hold.key, f"{repo_id} moved on to {state.sha}")


def hold_vanished(family: Family, listed: Sequence[RepoState]) -> list[str]:
    """Hold releases on record whose repository is gone, and lift that where it is there again. Nothing is removed.

    A release whose files are in the store needs its repository no more, and is left alone.

    Args:
        family: whose releases they are.
        listed: all that the source lists of the family's organisations, whatever their names.

    Returns:
        A line for each release that is held from now on.
    """
    ledger, told = open_ledger(), []
    held = {hold.key: hold.reason for hold in ledger.holds()}
    for release in ledger.releases(family.family):
        repo_id, key = release.ref.repo_id, hold_key(release.ref)
        if open_store().has(release.content_digest) or _is_listed(release, listed):
            if held.get(key, "").startswith(VANISHED):
                ledger.release_hold(key, f"{repo_id} is there again, or its files are")
        elif key not in held and repo_id.split("/")[0] in family.instruct.organizations and not _moved(repo_id):
            seen = ledger.repo_seen(repo_id)
            when = f" It was there on {seen.at:%Y-%m-%d}." if seen is not None else ""
            ledger.record_hold(
                key,
                f"{VANISHED} {repo_id} was deleted, hidden or replaced: {open_source().endpoint} does not list it any "
                f"more.{when} What was made of it stays, and this hold ends when it is listed again",
            )
            told.append(f"{release.ref} has vanished")
    return told


def _is_listed(release: Release, listed: Sequence[RepoState]) -> bool:
    """Whether the repository of a release is there, under whatever name; one that took its name is another one."""
    seen = open_ledger().repo_seen(release.ref.repo_id)
    if seen is None or not seen.internal_id:
        return any(state.repo_id == release.ref.repo_id for state in listed)
    return any(state.internal_id == seen.internal_id for state in listed)


def _moved(repo_id: str) -> bool:
    """Whether the source still leads from this name to the same repository: it went to another organisation."""
    try:
        state, seen = open_source().state(repo_id), open_ledger().repo_seen(repo_id)
    except ModelRefused:
        return False
    return seen is None or state.internal_id == seen.internal_id
