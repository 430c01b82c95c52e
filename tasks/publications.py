"""What is to be published: by ledger and catalog. No Prefect here; ``tasks.published_files`` makes the files."""

import math

from tasks.domain.card import Measured
from tasks.domain.errors import InputError
from tasks.domain.evidence import behind, interval
from tasks.domain.models import Digest, Score
from tasks.domain.publication import Upload
from tasks.domain.verdict import Verdict
from tasks.doors import open_catalog, open_ledger
from tasks.settings import settings


def upload_of(family: str, target: str, *, digest: Digest | None = None, repo_id: str = "") -> Upload:
    """What there is to publish of a target: what its channel serves, or the artifact that is named.

    Raises:
        InputError: nothing is served, nothing says where to, or the artifact was not merged here.
    """
    wanted = open_catalog().target(family, target)
    place, state = wanted.publish_to, open_ledger().channel(wanted.channel)
    if not repo_id and place is None:
        raise InputError(
            f"target {target!r} of {family!r} states no publish_to; state its repo, or give --to owner/name"
        )
    chosen = digest or (state.artifact_digest if state else None)
    if chosen is None:
        raise InputError(f"channel {wanted.channel!r} serves nothing yet: there is nothing to publish")
    lineage = open_ledger().lineage(chosen)
    if lineage is None or (lineage.family, lineage.target) != (family, target):
        raise InputError(
            f"artifact {chosen[:12]} was not merged here for {target!r} of {family!r}: nothing true could be said of it"
        )
    return Upload(
        family=family,
        target=target,
        digest=chosen,
        lineage=lineage,
        endpoint=settings().publish_endpoint.rstrip("/"),
        repo_id=repo_id or (place.repo if place else ""),
        private=place.private if place else True,
        accept=place.accept if place else (),
    )


def due(family: str) -> list[Upload]:
    """What the watch publishes by itself: what a channel visibly serves, has passed its gate, and is not there yet."""
    ledger, found = open_ledger(), []
    if open_catalog().family(family).publish == "never":
        return []
    for name, target in open_catalog().family(family).targets.items():
        state = ledger.channel(target.channel)
        if target.publish_to is None or state is None or state.acknowledged_generation < state.generation:
            continue
        if (state.family, state.target) != (family, name) or ledger.lineage(state.artifact_digest) is None:
            continue
        upload = upload_of(family, name)
        there = ledger.publication(upload.endpoint, upload.repo_id, upload.merge_key)
        if there is None and passed(upload) is not None:
            found.append(upload)
    return found


def passed(upload: Upload) -> Verdict | None:
    """The newest verdict that let this artifact through, or None if none ever did."""
    rows = open_ledger().verdicts(upload.family, upload.target)
    mine = (Verdict.model_validate(dict(row.payload)) for row in rows if row.outcome == "passed")
    return next((verdict for verdict in mine if verdict.candidate_digest == upload.digest), None)


def scores(upload: Upload, verdict: Verdict) -> list[Measured]:
    """The scores that the verdict was made from, with 95 % intervals; what is not on record any more is left out."""
    found = behind(open_ledger().evaluations_of(upload.digest), verdict, "candidate")
    by_name: dict[tuple[str, str], Score] = (
        {(score.benchmark, score.metric): score for score in found.scores} if found else {}
    )
    measured = []
    for row in verdict.rows:
        score = by_name.get((row.benchmark, row.metric))
        if score is not None and all(map(math.isfinite, (span := interval(score)))):
            measured.append(Measured(row.benchmark, row.metric, score.value, span.low, span.high, score.n, row.parents))
    return measured
