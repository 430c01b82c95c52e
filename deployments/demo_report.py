"""What the demo writes down: of every job its stages as Prefect recorded them, scores, verdict, digests, generation."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
)
from prefect.client.schemas.sorting import TaskRunSort

from deployments.demo_wait import Ended
from tasks.domain.errors import EndpointUnavailable
from tasks.domain.report import gate_rows
from tasks.doors import open_ledger
from tasks.prefect_api import prefect_of
from tasks.settings import Settings

if TYPE_CHECKING:
    from deployments.demo import Stage


def demo_report(settings: Settings, stage: "Stage", *, up_seconds: float, seconds: float) -> dict[str, Any]:
    """The report, from ledger and Prefect. At its top the job that the story is about: the newer release's first."""
    jobs = [job_report(settings, job, stage.pushed.get(job.release.ref.slug)) for job in stage.ended]
    first = next(job for job in jobs if job["release"].split("@")[0].endswith(stage.story.newer))
    before = next(job for job in jobs if job["release"].split("@")[0].endswith(stage.story.older))
    return {
        **first,
        "family": stage.story.family,
        "ui": settings.prefect_url,
        "endpoint": f"{settings.gateway_url}/v1",
        "file": str(settings.home / "report.json"),
        "up_seconds": round(up_seconds, 1),
        "seconds": round(seconds, 1),
        "before": {name: before[name] for name in ("release", "artifact", "generation")},
        "answers": stage.answers.get(first["target"], {}),
        "channel_answers": stage.answers,
        "jobs": jobs,
        "refusal": stage.refusal,
        "channels": [
            {
                "channel": state.channel,
                "target": state.target,
                "generation": state.generation,
                "artifact": state.artifact_digest,
                "release": str(state.release),
            }
            for state in open_ledger().channels()
        ],
    }


def job_report(settings: Settings, job: Ended, pushed: tuple[str, datetime] | None) -> dict[str, Any]:
    """One job, from its release's push to its end."""
    if job.end.flow_run_id:
        wait_for_run(settings, job.end.flow_run_id)
    ledger, digest = open_ledger(), job.verdict.candidate_digest
    promotion = next((p for p in ledger.promotions(job.channel) if p.artifact_digest == digest), None)
    evaluations = ledger.evaluations_of(digest)
    asked = {row.benchmark for row in job.verdict.rows}
    decided = {"published": promotion.at if promotion else job.end.at}.get(job.end.outcome, job.end.at)
    return {
        "name": job.name,
        "target": job.target,
        "channel": job.channel,
        "release": str(job.release.ref),
        "release_revision": job.release.ref.revision,
        "outcome": job.end.outcome,
        "ended": job.state_name,
        "reasons": list(job.reasons),
        "why": job.why,
        "pushed_at": pushed[1].isoformat() if pushed else None,
        "ended_at": job.end.at.isoformat(),
        "live_at": promotion.at.isoformat() if promotion else None,
        "push_to_end_seconds": round((decided - pushed[1]).total_seconds(), 1) if pushed else None,
        "flow_run": job.end.flow_run_id,
        "publish_run": promotion.flow_run_id if promotion else None,
        "decision": decision_of(settings, job),
        "stages": stages(settings, job.end.flow_run_id) if job.end.flow_run_id else [],
        "artifact": digest,
        "generation": promotion.generation if promotion else None,
        "lineage": job.lineage.model_dump(mode="json"),
        "verdict": {
            "outcome": job.verdict.outcome,
            "stronger_than_live": job.verdict.stronger_than_live,
            "reasons": list(job.reasons),
            "rows": gate_rows(job.verdict)[1:],
        },
        "scores": {
            f"{s.benchmark}/{s.metric}": {"value": s.value, "stderr": s.stderr, "n": s.n}
            for e in evaluations
            for s in e.scores
            if s.benchmark in asked
        },
    }


def wait_for_run(settings: Settings, flow_run_id: str, seconds: float = 180) -> None:
    """A job ends in the ledger before its page is drawn and its run ends: wait for that."""
    deadline = time.monotonic() + seconds
    with prefect_of(settings), get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            state = client.read_flow_run(UUID(flow_run_id)).state
            if state is not None and state.is_final():
                return
            time.sleep(0.5)
    raise EndpointUnavailable(f"run {flow_run_id} had not ended after {seconds:.0f} s; look at {settings.prefect_url}")


def decision_of(settings: Settings, job: Ended) -> str:
    """Address of the job's own decision page; by its key the UI shows the target's latest."""
    key = f"decision-{job.release.family}-{job.target}"
    run = ArtifactFilter(
        key=ArtifactFilterKey(any_=[key]),
        flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(job.end.flow_run_id)] if job.end.flow_run_id else []),
    )
    with prefect_of(settings), get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=run, limit=1)
    address = f"{settings.prefect_url}/v2/artifacts"
    return f"{address}/artifact/{found[0].id}" if found else f"{address}/key/{key}"


def stages(settings: Settings, flow_run_id: str) -> list[dict[str, Any]]:
    """Name and seconds of every task run of a flow run, in order."""
    with prefect_of(settings), get_client(sync_client=True) as client:
        runs = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
            task_run_filter=TaskRunFilter(),
            sort=TaskRunSort.END_TIME_DESC,
        )
    rows = [
        {
            "stage": run.name,
            "started": run.start_time.isoformat(),
            "seconds": round(run.total_run_time.total_seconds(), 2),
        }
        for run in runs
        if run.start_time is not None and not (run.state and run.state.state_details.child_flow_run_id)
    ]
    return sorted(rows, key=lambda row: str(row["started"]))
