"""`empelt base update`: another revision of a tuned base, or its successor, takes its place in the catalog.

It is looked over as a new one is: pre-flight, licence, tokenizer and parent. Its content digest is part of every merge
key, so each target that uses it is due again for the newest release, and where that is refused for the one that is
live; nothing older. What was before stays on record.
"""

from typing import Any

from deployments.adding import due_as_text, due_rows, refresh
from deployments.base_names import Named, find_base
from deployments.bases import look_over, name_is_of_a_base
from deployments.showing import human_bytes
from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.models import ModelRef
from tasks.doors import open_catalog, open_ledger, open_source
from tasks.heads import on_record
from tasks.retired import reopen
from tasks.settings import Settings
from tasks.sources.digest import remote_digest


def update(settings: Settings, name: str, repository: str, *, dry_run: bool) -> dict[str, Any]:
    """Bring a tuned base to another state.

    Args:
        settings: of this installation.
        name: ``family/language``, or the repository.
        repository: ``owner/name@revision``, ``owner/name``, ``@revision``, or "" for the head of its repository.
        dry_run: look it over and show the lines, write nothing.

    Raises:
        InputError: with every problem; nothing was written then.
        HubUnavailable: the Hub does not answer; nothing was written then.
    """
    named = find_base(settings, name)
    was, ref = named.entry, _meant(named, repository)
    problems: list[str] = []
    report, proven = look_over(named.family, named.language, ref, was.parent, problems)
    if problems or report is None or proven is None:
        refused = f"{ref} does not take the place of the tuned base {named.name}; nothing was written"
        raise InputError(refused, problems=dict.fromkeys(problems))
    digest, before = remote_digest(open_source(), ref)[0], _digest_before(named)
    values = {"repo": ref.repo_id, "revision": ref.revision} | ({"retired": ""} if was.retired else {})
    named.file.state(named.language, **values)
    named.file.check(settings.family_names)
    told: dict[str, Any] = {
        **{"name": named.name, "family": named.family.family, "language": named.language, "repo": ref.repo_id},
        **{"revision": ref.revision, "digest": digest, "digest_before": before, "parent": proven.as_json()},
        "was": {"repo": was.repo, "revision": was.revision, "retired": was.retired},
        "preflight": {"parameters": report.parameters, "download_bytes": report.download_bytes},
        **{"targets": named.targets, "file": str(named.file.path), "changes": named.file.changes},
        "notes": ["its files are those of before, so nothing becomes due"] if digest == before else [],
        **{"dry_run": dry_run, "written": False, "due": [], "forms": ""},
    }
    if dry_run:
        return told
    told["written"] = named.file.save()
    open_catalog.cache_clear()
    details = {"was": told["was"], "digest_before": before, "parent": proven.says}
    where: dict[str, Any] = {"repo_id": ref.repo_id, "revision": ref.revision, "digest": digest}
    open_ledger().record_base_change(named.family.family, named.language, "updated", **where, details=details)
    if was.retired and digest == before:
        reopen(named.family.family, named.targets, named.name)
    runs = named.family.family in open_catalog().families
    told["due"] = due_rows(named.family.family, _running(named)) if runs else []
    told["forms"] = refresh(settings)
    return told


def _running(named: Named) -> list[str]:
    """Those of its targets that run here (EMPELT_TARGETS)."""
    return [name for name in named.targets if name in open_catalog().family(named.family.family).targets]


def _meant(named: Named, repository: str) -> ModelRef:
    """The state that is asked for; InputError if it is what the catalog has."""
    repo, at, revision = repository.partition("@")
    if at and not revision:
        raise InputError(f"REPO {repository!r}: nothing after the @; leave it out for the head of the repository")
    was = named.entry
    name_is_of_a_base(named.family, named.language, repo or was.repo)
    ref = open_source().resolve(repo or was.repo, revision or None)
    if (ref.repo_id, ref.revision) == (was.repo, was.revision) and not was.retired:
        which = "" if revision else ", which is the head of its repository"
        raise InputError(f"{named.name} is pinned to {ref} already{which}: there is nothing to update")
    return ref


def _digest_before(named: Named) -> str | None:
    """Content digest of the state that is in use, as far as it is known or can still be read."""
    was, (_, digest) = named.entry, on_record(named.entry)
    if digest is not None or was.revision is None:
        return digest
    try:
        return remote_digest(open_source(), ModelRef(repo_id=was.repo, revision=was.revision))[0]
    except ModelRefused:  # gone at the source, which is no reason to stay with it
        return None


def as_text(report: dict[str, Any]) -> str:
    """The same for people."""
    was, looked = report["was"], report["preflight"]
    before = f"{was['repo']}@{was['revision'][:12]}" if was["revision"] else f"the head of {was['repo']}"
    lines = [
        f"ok    {report['repo']}@{report['revision'][:12]} can be merged: {looked['parameters']:,} parameters, "
        f"{human_bytes(looked['download_bytes'])}",
        f"ok    parent {report['parent']['says']}",
        f"ok    it takes the place of {before}" + (f", retired: {was['retired']}" if was["retired"] else ""),
        *(f"note  {note}" for note in report["notes"]),
    ]
    if report["changes"]:
        lines += ["", report["changes"], ""]
    lines.append(f"{'wrote' if report['written'] else 'would write'} {report['file']}")
    return "\n".join([*lines, *due_as_text(report)])
