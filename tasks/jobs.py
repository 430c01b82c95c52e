"""From a release and a target to a job: every ingredient resolved to a revision and a digest."""

from datetime import UTC, datetime

from prefect import task
from prefect.runtime import flow_run

from tasks.domain.catalog import Family, Repository
from tasks.domain.errors import ModelRefused
from tasks.domain.jobs import Job, run_name
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Digest, ModelRef, Release
from tasks.doors import open_catalog, open_ledger, open_source
from tasks.runs import HUB
from tasks.sources.digest import remote_digest
from tasks.sources.preflight import preflight
from tasks.sources.protocol import RepoState

ENGINE_VERSION = "1"


def resolve(repository: Repository) -> ModelRef:
    """The exact state of a catalog entry: its pinned revision, or the head of its repository now."""
    if repository.revision is not None:
        return ModelRef(repo_id=repository.repo, revision=repository.revision)
    return open_source().resolve(repository.repo)


def digest_of(ref: ModelRef) -> Digest:
    """Content digest of a ref, from the ledger when this very revision was seen before."""
    seen = open_ledger().repo_seen(ref.repo_id)
    if seen is not None and seen.revision == ref.revision and seen.content_digest is not None:
        return seen.content_digest
    digest, _ = remote_digest(open_source(), ref)
    state = open_source().state(ref.repo_id)
    open_ledger().record_repo_state(ref.repo_id, state.internal_id, ref.revision, digest, datetime.now(UTC))
    return digest


def admit(family: Family, state: RepoState, now: datetime) -> Release:
    """Pre-flight from headers, before any big download; then the release as a fact."""
    source = open_source()
    ref = ModelRef(repo_id=state.repo_id, revision=state.sha)
    preflight(source, ref, resolve(family.base), allowed_architectures=family.architectures)
    digest, _ = remote_digest(source, ref)
    return Release(family=family.family, ref=ref, content_digest=digest, released_at=state.last_modified, seen_at=now)


def build_job(family: Family, target_name: str, release: Release) -> Job:
    """The job that would bring ``release`` to a target: every ingredient resolved to a revision and a digest."""
    catalog = open_catalog()
    target = catalog.target(family.family, target_name)
    wanted = [("base", family.base)]
    for code in target.languages:
        tuned = family.tuned_bases[code]
        wanted += [(f"tuned:{code}", tuned)] + ([(f"parent:{code}", tuned.parent)] if tuned.parent else [])
    refs = {role: resolve(repository) for role, repository in wanted}
    ingredients = [Ingredient(role=role, ref=ref, digest=digest_of(ref)) for role, ref in refs.items()]
    ingredients.insert(1, Ingredient(role="instruct", ref=release.ref, digest=release.content_digest))
    lineage = Lineage(
        family=family.family,
        target=target_name,
        ingredients=tuple(ingredients),
        recipe=target.recipe.model_dump(mode="json"),
        engine_version=ENGINE_VERSION,
    )
    gate = catalog.gate_of(target).digest()
    return Job(release=release, target=target_name, channel=target.channel, gate_digest=gate, lineage=lineage)


@task(name="open-job", task_run_name="open {target}", **HUB)
def open_job(family_name: str, ref: ModelRef, target: str) -> Job:
    """Everything about one release and one target, as of now.

    Raises:
        ModelRefused: if the release fails its pre-flight. Nothing was downloaded then.
    """
    family = open_catalog().family(family_name)
    known = next((r for r in open_ledger().releases(family_name) if r.ref == ref), None)
    if known is None:
        known = admit(family, open_source().state(ref.repo_id), datetime.now(UTC))
        if known.ref != ref:
            raise ModelRefused(f"{ref} is not the head of its repository: that is {known.ref}; run the job for that")
        open_ledger().record_release(known)
    return build_job(family, target, known)


def name_of_run() -> str:
    """``llama-tiny-instruct-v2 x eu``, from the run's parameters, whatever form they came in."""
    given = flow_run.get_parameters()
    return run_name(ModelRef.model_validate(given["release"]), str(given["target"]))
