"""From a release and a target to a job: every ingredient resolved to a revision and a digest."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from prefect import task
from prefect.runtime import flow_run

from tasks.admission import admit, check_licences
from tasks.domain.catalog import Family, Repository, Target
from tasks.domain.errors import ModelRefused
from tasks.domain.jobs import Job, parse_release
from tasks.domain.keys import job_key, merge_key_of
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Digest, ModelRef, Release
from tasks.doors import open_catalog, open_ledger, open_source
from tasks.heads import resolve
from tasks.retired import in_use
from tasks.runs import HUB
from tasks.sources.digest import remote_digest

if TYPE_CHECKING:
    from tasks.store.glance import Remembered

ENGINE_VERSION = "1"
Look = Callable[[Repository], tuple[ModelRef, Digest]]
"""How a catalog entry becomes an exact state and a digest."""


def digest_of(ref: ModelRef, seen: "Remembered | None" = None) -> Digest:
    """Content digest of a ref, from the ledger when this very revision was seen before; ``seen`` as for ``resolve``."""
    known = open_ledger().repo_seen(ref.repo_id) if seen is None else seen.by_name.get(ref.repo_id)
    if known is not None and known.revision == ref.revision and known.content_digest is not None:
        return known.content_digest
    digest, _ = remote_digest(open_source(), ref)
    state = open_source().state(ref.repo_id)
    open_ledger().record_repo_state(ref.repo_id, state.internal_id, ref.revision, digest, datetime.now(UTC))
    return digest


def look_up(repository: Repository, seen: "Remembered | None" = None) -> tuple[ModelRef, Digest]:
    """The exact state of a catalog entry and its content digest, which is recorded."""
    ref = resolve(repository, seen)
    return ref, digest_of(ref, seen)


def look_once(family: Family) -> Look:
    """``look_up``, once for each repository of a family: 3,600 jobs share 13 of them, and each costs a call."""
    entries = [family.base, *family.tuned_bases.values()]
    entries += [tuned.parent for tuned in family.tuned_bases.values() if tuned.parent]
    seen = open_ledger().remembered({entry.repo for entry in entries}, ())
    return cache(lambda repository: look_up(repository, seen))


def build_job(family: Family, target_name: str, release: Release, look: Look = look_up) -> Job:
    """The job that would bring ``release`` to a target: every ingredient resolved to a revision and a digest.

    ``look`` finds out both; one that records nothing serves a plan that is only shown.
    """
    catalog = open_catalog()
    target = catalog.target(family.family, target_name)
    ingredients = [
        Ingredient(role=role, ref=ref, digest=digest) for role, (ref, digest) in _found(family, target, look)
    ]
    ingredients.insert(1, Ingredient(role="instruct", ref=release.ref, digest=release.content_digest))
    lineage = Lineage(
        family=family.family,
        target=target_name,
        ingredients=tuple(ingredients),
        recipe=target.recipe.model_dump(mode="json"),
        engine_version=ENGINE_VERSION,
        adapter=family.adapter_of(target_name),
    )
    gate = catalog.gate_of(target).digest()
    search = target.search.digest() if target.search else None
    named = {"target": target_name, "channel": target.channel}
    return Job(release=release, **named, gate_digest=gate, lineage=lineage, search=search)


def job_keys(family: Family, target_name: str, releases: Iterable[Release], look: Look) -> dict[Digest, Digest]:
    """Content digest of each release -> the key that ``build_job`` would give it, without building all those jobs."""
    target = open_catalog().target(family.family, target_name)
    gate, recipe = open_catalog().gate_of(target).digest(), target.recipe.digest()
    others = {role: digest for role, (_, digest) in _found(family, target, look)}
    adapter = family.adapter_of(target_name)
    search = target.search.digest() if target.search else None
    found: dict[Digest, Digest] = {}
    for release in releases:
        merge = merge_key_of(target_name, {**others, "instruct": release.content_digest}, recipe, adapter)
        names = {"family": family.family, "release": release.content_digest, "target": target_name}
        found[release.content_digest] = job_key(**names, merge=merge, gate=gate, search=search)
    return found


def _found(family: Family, target: Target, look: Look) -> list[tuple[str, tuple[ModelRef, Digest]]]:
    """Role, state and digest of all but the release."""
    wanted: list[tuple[str, Repository]] = [("base", family.base)]
    for code in target.languages:
        tuned = in_use(family, code)
        wanted += [(f"tuned:{code}", tuned)] + ([(f"parent:{code}", tuned.parent)] if tuned.parent else [])
    return [(role, look(repository)) for role, repository in wanted]


@task(name="open-job", task_run_name="open {target}", **HUB)
def open_job(family_name: str, release: ModelRef | str, target: str) -> Job:
    """Everything about one release and one target, as of now.

    Args:
        family_name: as in the catalog.
        release: pinned, or as a person types it: ``owner/name`` or ``owner/name@<sha, tag or branch>``.
        target: one of the family's.

    Returns:
        The job of the release on record with these files: a newer commit or another name of the same is no new one.

    Raises:
        CatalogError: no such family or target; the Hub was not asked then.
        InputError: ``release`` is no name of a release.
        ModelRefused: if the release fails its pre-flight. Nothing was downloaded then.
    """
    open_catalog().target(family_name, target)
    family, ledger = open_catalog().family(family_name), open_ledger()
    ref = pin(family_name, release) if isinstance(release, str) else release
    known = next((r for r in ledger.releases(family_name) if r.ref == ref), None)
    if known is None:
        known = admit(family, open_source().state(ref.repo_id), datetime.now(UTC))
        if known.ref != ref:
            raise ModelRefused(f"{ref} is not the head of its repository: that is {known.ref}; run the job for that")
        # These files may be on record under another commit or name: that is the release, and what a channel has served.
        ledger.record_release(known)
        known = next(r for r in ledger.releases(family_name) if r.content_digest == known.content_digest)
    job = build_job(family, target, known)
    check_licences(family, job.lineage)
    ledger.record_job(job)
    return job


def pin(family_name: str, text: str) -> ModelRef:
    """The exact state that a person means: the beginning of a sha on record, else what the Hub says it is now."""
    repo_id, revision = parse_release(text)
    on_record = {r.ref for r in open_ledger().releases(family_name) if r.ref.repo_id == repo_id}
    meant = [ref for ref in on_record if revision and len(revision) >= 7 and ref.revision.startswith(revision)]
    return meant[0] if len(meant) == 1 else open_source().resolve(repo_id, revision)


def name_of_run() -> str:
    """``llama-tiny-instruct-v2 x eu``, from the run's parameters, whatever form they came in."""
    given = flow_run.get_parameters()
    release, target = given.get("release"), given.get("target")
    if isinstance(release, dict):
        release = release.get("repo_id")
    repo_id = release.repo_id if isinstance(release, ModelRef) else str(release).partition("@")[0]
    return f"{repo_id.rpartition('/')[2]} x {target}"
