"""Prefect tasks that look at a candidate before any benchmark: at its files, and at what it says when it is asked."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.examination import Examined
from tasks.domain.jobs import Candidate, Job
from tasks.domain.lineage import parent_roles
from tasks.domain.models import Digest, Evaluation
from tasks.domain.repeats import of_repeats
from tasks.domain.verdict import Verdict, not_asked
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.endpoints.protocol import Ready
from tasks.evaluate import gate_of
from tasks.examined import answers_of, files_of
from tasks.harness.questions import Source, sources_of
from tasks.heard import Heard, hear, on_record
from tasks.judge import record_judged
from tasks.packing import unpack_artifact
from tasks.repeats import items_of, repeated
from tasks.runs import is_transient
from tasks.stage import REFERENCE, staged


@task(
    name="examine-files",
    task_run_name="examine files of {job.name}",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=is_transient,
)
def examine_files(job: Job, digest: Digest) -> tuple[Examined, ...]:
    """Tokenizer, stop tokens and template beside the instruct parent's; every tensor's norm beside all parents'."""
    store, roles = open_store(), parent_roles(job.lineage)
    parents = {role: store.get(parent) for role, parent in roles.items() if role != "instruct"}
    parents["instruct"] = unpack_artifact(roles["instruct"])
    found = files_of(store.get(digest), parents)
    _tell(job, found)
    return found


@task(
    name="examine", task_run_name="examine {label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=is_transient
)
def hear_model(label: str, ready: Ready, sources: Sequence[Source]) -> Heard:
    """What the model at ``ready`` says to a few questions: from the ledger where it is, else asked now."""
    heard = hear(ready, sources)
    get_run_logger().info("%s: asked in %d requests", label, heard.requests)
    return heard


def examine_served(job: Job, ready: Ready, files: Sequence[Examined]) -> tuple[Examined, ...]:
    """How the candidate that answers at ``ready`` behaves, beside its instruct parent; after what ``files`` told.

    The parent is put up only if it was never asked so.
    """
    sources = sources_of(gate_of(job), open_catalog().target(job.family, job.target).languages)
    heard = hear_model(f"{job.name} (candidate)", ready, sources)
    found = (*files, *answers_of(heard, _parent(job, ready, sources), sources))
    _tell(job, found[len(files) :])
    return found


@task(
    name="repeat",
    task_run_name="A/A beside {job.name}",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=is_transient,
)
def examine_repeats(job: Job, ready: Ready, scores: Evaluation) -> tuple[Examined, ...]:
    """Whether a model served so says the same twice: from the ledger, else asked now; ``scores``: the first time."""
    gate = gate_of(job)
    found = of_repeats(gate, repeated(job.name, job.family, ready, gate, scores), items_of(gate))
    _tell(job, found)
    return found


def _parent(job: Job, ready: Ready, sources: Sequence[Source]) -> Heard:
    digest, chats = job.lineage.digest_of("instruct"), [one for one in sources if one.kind == "chat"]
    parent = open_store().get(digest)
    if all(on_record(parent, ready.serving, source) for source in chats):
        return hear(ready._replace(digest=digest), chats)
    with staged(job.family, digest, REFERENCE, None) as theirs:
        return hear_model("instruct parent", theirs, chats)


@task(name="refuse", task_run_name="refuse {job.name}", cache_policy=NO_CACHE)
def refuse(
    job: Job, digest: Digest, examined: Sequence[Examined], serving: Mapping[str, str]
) -> tuple[Verdict, Candidate, int]:
    """The verdict on a candidate that is not asked any benchmark, the candidate, and the channel's generation."""
    state = open_ledger().channel(job.channel)
    live = state.artifact_digest if state else None
    verdict = not_asked(gate_of(job), digest, parent_roles(job.lineage), live, examined)
    folder, now = open_store().get(digest).folder, datetime.now(UTC)
    candidate = Candidate(digest=digest, folder=folder, model="", serving=dict(serving), staged_at=now)
    return record_judged(job, verdict), candidate, state.generation if state else 0


def _tell(job: Job, found: Sequence[Examined]) -> None:
    wrong = [one.sentence for one in found if one.ok is not True]
    get_run_logger().info("%s: %s", job.name, " ".join(wrong) or f"{len(found)} examinations hold")
