"""A quota that is used up: a real run waits with its reason, crashes nothing, and the watch takes the job up again."""

from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.disk import WAITS, fetch_folder, lift_waits, require_room, reserve_room
from tasks.domain.errors import DiskFull
from tasks.domain.jobs import ClaimTicket, Job
from tasks.hub import fetch_model, find_releases
from tasks.jobs import open_job
from tasks.ledger import claimed
from tasks.merge import graft
from tasks.pauses import rested
from tasks.plan import plan_due
from tasks.settings import Settings
from tasks.sources.room import reserved

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


def test_what_an_earlier_try_has_left_counts_once(installation: Settings, monkeypatch: pytest.MonkeyPatch):
    with disable_run_logger():
        job = open_job.fn("llama-tiny", V2, "eu")
        need = require_room(job)
        assert need.arrived == 0
        quota(monkeypatch, download_quota_gib=(need.downloads + 1) / 2**30)
        instruct = next(i for i in job.lineage.ingredients if i.role == "instruct")
        partial = doors.open_store().root / "scratch" / fetch_folder(instruct.digest) / ".model.partial"
        partial.mkdir(parents=True)
        (partial / "model.safetensors").write_bytes(bytes(1 << 20))
        assert require_room(job) == (need.downloads, 1 << 20, need.merge)
        (partial.parents[1] / "somebody-elses").mkdir()
        (partial.parents[1] / "somebody-elses" / "half").write_bytes(bytes(2))
        with pytest.raises(DiskFull, match="EMPELT_DOWNLOAD_QUOTA_GIB"):
            require_room(job)


def test_a_merge_keeps_room_beside_downloads_and_waits_for_theirs(installation: Settings):
    """The promise is real, and so are the disk and the models; nothing is written for it."""
    with disable_run_logger():
        job = open_job.fn("llama-tiny", V2, "eu")
        inputs = {i.role: fetch_model.fn(i.role, i.ref, i.digest) for i in job.lineage.ingredients}
        store, need = doors.open_store(), require_room(job)
        assert need.downloads == 0
        kept = store.scratch("download")
        room = store.free_bytes() - store.headroom_bytes - need.merge
        promise = (room + need.merge // 2) * 100 // 110
        with reserved(store.root / "room", promise, kept, "a download"):
            with pytest.raises(DiskFull, match="that are promised to others"):
                require_room(job)
        nearly_all = (store.free_bytes() - need.merge) * 100 // 110
        with reserved(store.root / "room", nearly_all, kept, "a download"):
            with pytest.raises(DiskFull, match=r"the merge .* are promised to other work"):
                graft.fn(job, inputs)
        assert doors.open_ledger().artifact_for(job.merge_key) is None


def test_a_job_that_waited_for_the_disk_does_not_take_the_turn_of_others(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
):
    """With a window of one, the watch hands out the first of what may be tried."""
    with disable_run_logger():
        job = open_job.fn("llama-tiny", V2, "eu")
        claim = doors.open_ledger().claim(job.key, "watch", 60)
        assert claim is not None
        ticket = ClaimTicket(job_key=job.key, attempt=1, fence=claim.fence)
        with pytest.raises(DiskFull), claimed(job, ticket):
            raise DiskFull("the disk of its worker was full when it came to the merge")
        assert lift_waits("another-family") == []
        assert lift_waits("llama-tiny") == [job.key]
        (row,) = [r for r in plan_due.fn("llama-tiny", find_releases.fn("llama-tiny")) if r.job_key == job.key]
        assert row.standing == "due"
        assert rested([row]) == []  # its pause goes on
        other = row.model_copy(update={"job_key": "f" * 64, "target": "pt"})
        assert rested([row, other]) == [other]
        monkeypatch.setenv("EMPELT_RETRY_SECONDS", "0")
        doors.forget()
        assert rested([row, other]) == [other, row]
        for _ in range(5):  # more often than a job has attempts
            claim = doors.open_ledger().claim(job.key, "watch", 60)
            assert claim is not None
            doors.open_ledger().release(claim)
        doors.open_ledger().lift(job.key, "by a person")
        assert rested([row, other]) == [row, other]
