"""A quota that is used up: a real run waits with its reason, crashes nothing, and the watch takes the job up again."""

from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.disk import WAITS, reserve_room
from tasks.domain.errors import DiskFull
from tasks.domain.jobs import Job
from tasks.hub import find_releases
from tasks.jobs import open_job
from tasks.plan import plan_due
from tasks.settings import Settings

V2 = "empelt-demo/llama-tiny-instruct-v2"
MIB = 1 / 1024


def quota(monkeypatch: pytest.MonkeyPatch, **gib: float) -> None:
    for name, value in gib.items():
        monkeypatch.setenv(f"EMPELT_{name.upper()}", str(value))
    doors.forget()


def standing_of(job: Job) -> tuple[str, str]:
    """As the next watch plans it."""
    (row,) = [row for row in plan_due.fn("llama-tiny", find_releases.fn("llama-tiny")) if row.job_key == job.key]
    return row.standing, row.reason


@pytest.mark.system
@pytest.mark.parametrize("which", ["store_quota_gib", "download_quota_gib"])
def test_a_run_without_room_waits_with_its_reason_and_is_due_again_when_there_is_room(
    prefect_server: int, installation: Settings, monkeypatch: pytest.MonkeyPatch, which: str
):
    from flows.remerge_release import remerge_release

    quota(monkeypatch, **{which: MIB})  # 1 MiB; one of these models has about 4
    for _ in range(4):  # more often than a job has attempts: waiting is no failure
        state: Any = remerge_release("llama-tiny", V2, "eu", return_state=True)
        assert (state.type.value, state.name) == ("COMPLETED", "WaitsForRoom")
        assert "is taken up again by itself" in state.message
    assert "1.0 M" in state.message
    with disable_run_logger():
        job = open_job.fn("llama-tiny", V2, "eu")
        (hold,) = doors.open_ledger().holds()
        assert (hold.key, hold.reason.startswith(WAITS)) == (job.key, True)
        assert doors.open_ledger().live_claims() == []
        assert doors.open_store().digests() == []
        assert list((doors.open_store().root / "scratch").iterdir()) == []
        if which == "store_quota_gib":
            assert standing_of(job) == ("held", hold.reason)
        quota(monkeypatch, **{which: 0})
        assert standing_of(job)[0] == "due"
        assert doors.open_ledger().holds() == []


def test_what_a_job_brings_is_what_is_missing_and_what_it_merges(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with disable_run_logger():
        job = open_job.fn("llama-tiny", V2, "eu")
        whole = reserve_room.fn(job)
        quota(monkeypatch, store_quota_gib=(whole - 1) / 2**30)
        with pytest.raises(DiskFull) as refused:
            reserve_room.fn(job)
        assert refused.value.needed_bytes == whole
        quota(monkeypatch, store_quota_gib=(whole + 1) / 2**30)
        assert reserve_room.fn(job) == whole
