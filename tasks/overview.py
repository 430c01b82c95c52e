"""Prefect tasks that keep two kinds of page up to date: ``matrix-<release>`` and ``overview-<family>``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
)
from prefect.client.schemas.sorting import FlowRunSort

from tasks.cancelled import FLOW, job_of
from tasks.domain.jobs import Job
from tasks.domain.overview import JobView, matrix_page, overview_page, page_key, refused_page
from tasks.doors import open_catalog, open_ledger
from tasks.pages import holds_of, published_of, releases_in, views_of
from tasks.runs import warn_of
from tasks.waiting import name_of

RECENT_RELEASES = 10
RECENT_RUNS = 200
Page = tuple[str, str]
"""Markdown, and one line about it."""


@contextmanager
def reported(job: Job) -> Iterator[None]:
    """Show how things stand with a job's release and its family once the block has ended, well or not.

    Pages that cannot be written are a failed task and a warning: how the block ended is not changed by them.
    """
    try:
        yield
    except Exception:
        _try_to_show(job.family)
        raise
    _try_to_show(job.family)


def _try_to_show(family: str) -> None:
    warn_of(show_pages(family, return_state=True), f"pages of {family}")


@task(name="show-pages", task_run_name="show pages of {family_name}", cache_policy=NO_CACHE)
def show_pages(family_name: str) -> list[str]:
    """Write the overview of a family and the matrices of its releases where they have changed; the keys written."""
    family = open_catalog().family(family_name)
    views, holds = views_of(family, _newest_runs(family_name)), holds_of(family)
    ledger = open_ledger()
    channels = [(name, ledger.channel(target.channel)) for name, target in family.targets.items()]
    waiting = [(name_of(w), w) for w in ledger.awaiting_approval() if w.request.family == family_name]
    recent = releases_in(views, RECENT_RELEASES)
    told = [view for view in views if view.row.release in recent]
    page = overview_page(
        family_name,
        channels=channels,
        waiting=waiting,
        held=holds,
        views=told,
        approve_link=_approve_link(),
        published=published_of(family),
    )
    serving = sum(state is not None for _, state in channels)
    pages: dict[str, Page] = {
        page_key("overview", family_name): (page, f"{family_name}: {serving} of {len(channels)} channels serve")
    }
    for hold in holds:
        if hold.key.startswith("release:"):
            repo_id, _, revision = hold.key.removeprefix("release:").partition("@")
            key = page_key("matrix", repo_id.split("/")[-1])
            pages[key] = (refused_page(repo_id, revision, hold), f"{repo_id}: held before it was fetched")
    # The oldest first: of two revisions of one repository, the page is the newer one's.
    for release in reversed(recent):
        here = [view for view in views if view.row.release == release]
        pages[page_key("matrix", release.ref.slug)] = (matrix_page(release, here), _in_short(here))
    return _write(pages)


def _in_short(views: Sequence[JobView]) -> str:
    return ", ".join(f"{view.row.target}: {view.outcome or view.row.standing}" for view in views)


def _write(pages: dict[str, Page]) -> list[str]:
    """Make a new version of each page that is not as it was: an artifact keeps all of its versions."""
    asked = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=list(pages)))
    with get_client(sync_client=True) as client:
        now: dict[str | None, Any] = {a.key: a.data for a in client.read_latest_artifacts(artifact_filter=asked)}
    changed = [key for key, (page, _) in pages.items() if now.get(key) != page]
    for key in changed:
        create_markdown_artifact(pages[key][0], key=key, description=pages[key][1])
    return changed


def _newest_runs(family: str) -> dict[str, str]:
    """job_key -> id of its newest flow run."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
            flow_run_filter=FlowRunFilter(),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=RECENT_RUNS,
        )
    ours = [run for run in runs if run.parameters.get("family") == family]
    return {key: str(run.id) for run in reversed(ours) if (key := job_of(run))}


def _approve_link() -> str:
    with get_client(sync_client=True) as client:
        return f"/v2/deployments/deployment/{client.read_deployment_by_name('approve-release/by-hand').id}"
