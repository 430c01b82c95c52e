"""What the demo writes down: each stage's seconds as Prefect recorded them, scores, verdict, digests, generation."""

from datetime import datetime
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter
from prefect.client.schemas.sorting import TaskRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.domain.models import ChannelState
from tasks.domain.report import gate_rows
from tasks.domain.verdict import Verdict
from tasks.doors import open_ledger
from tasks.settings import Settings


def demo_report(
    settings: Settings,
    *,
    states: list[ChannelState],
    pushed_at: datetime,
    answers: dict[str, str],
    up_seconds: float,
    seconds: float,
) -> dict[str, Any]:
    """The report, from ledger and Prefect."""
    ledger, last = open_ledger(), states[-1]
    fact = next(
        v for v in ledger.verdicts(last.family, last.target) if v.payload["candidate_digest"] == last.artifact_digest
    )
    verdict = Verdict.model_validate(dict(fact.payload))
    lineage = ledger.lineage(last.artifact_digest)
    run_id = ledger.promotions(last.channel)[0].flow_run_id
    end = ledger.job_end(fact.job_key)
    job_run = end.flow_run_id if end else None
    scores = ledger.evaluations_of(last.artifact_digest)
    return {
        "ui": settings.prefect_url,
        "endpoint": f"{settings.gateway_url}/v1",
        "decision": f"{settings.prefect_url}/v2/artifacts/key/decision-{last.family}-{last.target}",
        "file": str(settings.home / "report.json"),
        "pushed_at": pushed_at.isoformat(),
        "live_at": last.switched_at.isoformat(),
        "release_to_served_seconds": round((last.switched_at - pushed_at).total_seconds(), 1),
        "up_seconds": round(up_seconds, 1),
        "seconds": round(seconds, 1),
        "stages": stages(settings, job_run) if job_run else [],
        "flow_run": job_run,
        "publish_run": run_id,
        "channel": last.channel,
        "generation": last.generation,
        "artifact": last.artifact_digest,
        "release": str(last.release),
        "release_revision": last.release.revision,
        "before": {
            "release": str(states[0].release),
            "artifact": states[0].artifact_digest,
            "generation": states[0].generation,
        },
        "lineage": lineage.model_dump(mode="json") if lineage else None,
        "verdict": {
            "outcome": verdict.outcome,
            "stronger_than_live": verdict.stronger_than_live,
            "reasons": list(verdict.reasons),
            "rows": gate_rows(verdict)[1:],
        },
        "scores": {
            f"{s.benchmark}/{s.metric}": {"value": s.value, "stderr": s.stderr, "n": s.n}
            for e in scores
            for s in e.scores
        },
        "answers": answers,
    }


def stages(settings: Settings, flow_run_id: str) -> list[dict[str, Any]]:
    """Name and seconds of every task run of a flow run, in order."""
    with temporary_settings({PREFECT_API_URL: f"{settings.prefect_url}/api"}), get_client(sync_client=True) as client:
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
