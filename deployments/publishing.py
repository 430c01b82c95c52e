"""`empelt publish`: an artifact to a Hub, by hand and in this process. No server need be up."""

from typing import Annotated, Any

import typer

from deployments import completion
from deployments.output import AsJson, show
from tasks.domain.errors import InputError, TransientError
from tasks.domain.publication import Upload, summary
from tasks.domain.words import size
from tasks.doors import open_ledger, open_store
from tasks.settings import settings

LEAST_DIGITS = 6
"""Of an artifact's digest; fewer could mean several."""


def publish(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CHANNEL|ARTIFACT",
            help="What a channel serves, or an artifact by its digest or 6 digits of it.",
            autocompletion=completion.channels,
        ),
    ],
    to: Annotated[
        str, typer.Option(metavar="REPO", help="owner/name; by default what the catalog states in publish_to.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show; write nothing, here or there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish to the Hub of EMPELT_PUBLISH_ENDPOINT: one commit, then the tag of its merge key. Safe to repeat.

    Only what has passed its gate, and what the licences of all its ancestors allow.

    Exit codes: 0 published or there already, 2 refused with every reason, 3 the Hub does not answer or another process
    is publishing it.
    """
    chosen = settings()
    if not chosen.ledger_url and not (chosen.home / "ledger.db").exists():
        raise InputError(f"no ledger in {chosen.home}: name the home with EMPELT_HOME")
    upload = find(what, to)
    found = planned(upload) if dry_run else _publish(upload)
    show(found, as_json, as_text(found))


def find(what: str, to: str = "") -> Upload:
    """What ``what`` means, and where it goes.

    Raises:
        InputError: no channel and no one artifact of that name; what there is is listed.
    """
    from tasks.publications import upload_of

    ledger = open_ledger()
    state = ledger.channel(what)
    if state is not None:
        return upload_of(state.family, state.target, digest=state.artifact_digest, repo_id=to)
    held = open_store().digests() if len(what) >= LEAST_DIGITS else []
    lineages = {digest: ledger.lineage(digest) for digest in held if digest.startswith(what)}
    merged = {digest: lineage for digest, lineage in lineages.items() if lineage is not None}
    if len(merged) != 1:
        channels = [channel.channel for channel in ledger.channels()]
        told = f"; it may be {[digest[:16] for digest in merged]}" if merged else ""
        raise InputError(
            f"{what!r} is no channel, and not the beginning of one artifact that was merged here{told}; channels: "
            f"{channels}"
        )
    ((digest, lineage),) = merged.items()
    return upload_of(lineage.family, lineage.target, digest=digest, repo_id=to)


def planned(upload: Upload) -> dict[str, Any]:
    """What would be published; every check is made that needs no word from the Hub it goes to."""
    from tasks.published_files import described

    artifact = open_store().get(upload.digest, use=False)
    texts = described(upload, artifact)
    files = {file.path: file.size for file in artifact.files} | {
        name: len(text.encode()) for name, text in texts.items()
    }
    there = open_ledger().publication(upload.endpoint, upload.repo_id, upload.merge_key)
    return {
        "repository": upload.repo_id,
        "endpoint": upload.endpoint,
        "private": upload.private,
        "artifact": upload.digest,
        "merge_key": upload.merge_key,
        "on_record": there.tag if there else None,
        "bytes": sum(files.values()),
        "files": files,
        "dry_run": True,
    }


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    if not found.get("dry_run"):
        return f"{found['how']}  {found['url']}\ncommit    {found['commit']}\nsent      {size(found['bytes'])}"
    lines = [f"would publish {found['artifact'][:12]} to {found['repository']} at {found['endpoint']}"]
    lines += [f"private   {'yes' if found['private'] else 'no'}, if it is made", f"size      {size(found['bytes'])}"]
    lines += [f"on record {found['on_record'] or 'no'}"]
    return "\n".join([*lines, *(f"  {path}  {size(count)}" for path, count in sorted(found["files"].items()))])


def _publish(upload: Upload) -> dict[str, Any]:
    from tasks.ledger import claimed
    from tasks.published_files import carry_out

    with claimed(upload, None, hold_refusals=False) as held:
        if held is None:
            raise TransientError(f"{upload.name}: another process is publishing it now; try again when it has ended")
        return summary(carry_out(upload))
