"""How an artifact looks where it is published, and bringing it there in a child process. No Prefect here."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tasks.child import run_child
from tasks.domain.bom import BOM, bill
from tasks.domain.card import CARD, card_files, published_card
from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.licences import LICENCE_FILE, Ancestor, inherit
from tasks.domain.models import Artifact
from tasks.domain.publication import MARKER, Marker, Publication, Upload, notice, objections
from tasks.domain.search import about_search
from tasks.doors import open_ledger, open_source, open_store
from tasks.publications import passed, scores
from tasks.settings import settings
from tasks.sources.cards import ancestry

NOTICE = "NOTICE"


def carry_out(upload: Upload, flow_run_id: str | None = None) -> Publication:
    """Publish, or adopt what stands there, and put it on record. The caller holds the claim.

    Raises:
        ModelRefused: the artifact, a licence or the repository speaks against it.
        TransientError: no answer for now, or not in time; the next try goes on from there.
    """
    token = settings().publish_token
    if token is None:
        raise InputError(
            f"{upload.name}: no token for {upload.endpoint}. Set EMPELT_PUBLISH_TOKEN (or EMPELT_PUBLISH_TOKEN_FILE) "
            "to one that may write there"
        )
    artifact = open_store().verify(upload.digest)
    with laid_out(artifact, described(upload, artifact)) as folder:
        asked = upload.model_dump(include={"endpoint", "repo_id", "private"})
        request = folder.parent / "request.json"
        key = settings().publish_signing_key
        asked |= {"folder": str(folder), "xet": settings().publish_xet, "signing_key": str(key) if key else None}
        request.write_text(json.dumps(asked))
        report = run_child(
            "tasks.publishing",
            [str(request)],
            deadline_seconds=settings().upload_deadline_seconds,
            records=settings().children,
            told={"EMPELT_PUBLISH_TOKEN": token.get_secret_value()},
        )
    done = Publication(
        **upload.model_dump(include={"endpoint", "repo_id", "digest", "family", "target", "private"}),
        **{name: report[name] for name in ("commit", "tag", "how", "bytes", "seconds")},
        merge_key=upload.merge_key,
        flow_run_id=flow_run_id,
        at=open_ledger().now(),
    )
    open_ledger().record_publication(done)
    return done


def described(upload: Upload, artifact: Artifact) -> dict[str, str]:
    """The files that describe the artifact where it is published, by name.

    Raises:
        ModelRefused: it passed no gate, or a licence speaks against it; every reason is told.
        HubUnavailable: a card of an ancestor cannot be read for now.
    """
    verdict, folder = passed(upload), Path(artifact.folder)
    if verdict is None:
        raise ModelRefused(f"{upload.name}: artifact {upload.digest[:12]} has passed no gate, and is not published")
    ancestors = _ancestors(upload)
    problems = objections(upload.repo_id, ancestors, upload.accept)
    if problems:
        raise ModelRefused(
            f"{upload.name} is held: licences speak against it. Read them; what may be accepted is stated in the "
            "catalog, in `accept` of the target's publish_to",
            problems=problems,
        )
    found, measured = inherit(ancestors), scores(upload, verdict)
    own = {name: _text(folder / name) for name in (CARD, LICENCE_FILE, NOTICE)}
    made = card_files(upload.lineage, ancestors, {}, licence_file=own[LICENCE_FILE])
    told = notice(found, own[NOTICE])
    written = {CARD, *([NOTICE] if told else []), *([LICENCE_FILE] if LICENCE_FILE in made else [])}
    files = [file for file in artifact.files if file.path not in written]
    named = {"artifact": upload.digest, "merge": upload.merge_key}
    kept, fact = own[CARD] or made[CARD], open_ledger().search_for(upload.merge_key)
    found_by = about_search(fact) if fact else []
    try:
        card = published_card(kept, measured=measured, gate=verdict.gate, files=files, search=found_by, **named)
    except ValueError:  # of another version of ours
        card = published_card(made[CARD], measured=measured, gate=verdict.gate, files=files, search=found_by, **named)
    name = upload.repo_id.partition("/")[2]
    made_of = bill(
        upload.lineage,
        name=name,
        artifact=upload.digest,
        merge=upload.merge_key,
        found=found,
        ancestors=ancestors,
        measured=measured,
        files=files,
    )
    texts = {CARD: card, BOM: made_of}
    texts |= {LICENCE_FILE: own[LICENCE_FILE] or made[LICENCE_FILE]} if LICENCE_FILE in made else {}
    texts |= {NOTICE: told} if told else {}
    rest = tuple(file for file in artifact.files if file.path not in texts)
    marker = Marker(
        family=upload.family, target=upload.target, merge_key=upload.merge_key, artifact=upload.digest, files=rest
    )
    return texts | {MARKER: marker.text()}


@contextmanager
def laid_out(artifact: Artifact, texts: dict[str, str]) -> Iterator[Path]:
    """A folder with the files as they will stand there: the artifact's by hard links, the texts beside them."""
    scratch = open_store().scratch(f"publish-{artifact.short}-{uuid4().hex[:8]}")
    folder = scratch / "files"
    try:
        for file in artifact.files:
            if file.path not in texts:
                place = folder / file.path
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(Path(artifact.folder) / file.path, place)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(scratch)


def _ancestors(upload: Upload) -> list[Ancestor]:
    """All ancestors; the card of one that the source has lost is read where its files lie."""
    store = open_store()
    models = [
        (part.ref, Path(store.get(part.digest, use=False).folder) if store.has(part.digest) else None)
        for part in upload.lineage.ingredients
    ]
    return ancestry(open_source(), models, strict=True)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
