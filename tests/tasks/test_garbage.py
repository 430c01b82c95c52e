"""What is collected and what is kept, of a real ledger and a real store."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks import doors
from tasks.domain.adapters import AdapterRule
from tasks.domain.jobs import Job, PublishRequest
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import ModelRef, Release
from tasks.domain.records import InstanceStatus
from tasks.garbage import collect
from tasks.references import references
from tasks.store.ledger import Ledger

BORN = datetime(2026, 11, 1, tzinfo=UTC)
Make = Callable[[str], str]


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    for name, value in {"HOME": tmp_path / "home", "KEEP_REPORTS": 2, "KEEP_GENERATIONS": 1}.items():
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    doors.forget()
    yield doors.open_ledger()
    doors.forget()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Puts a model of this name into the store, as it was half a year ago; its digest."""

    def made(name: str) -> str:
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(name.encode() * 100)
        (folder / "config.json").write_bytes(b"{}")
        digest = doors.open_store().adopt(folder).digest
        age(digest, days=180)
        return digest

    return made


def age(digest: str, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(doors.open_store().manifest_of(digest), (then, then))


def job_of(make: Make, version: int, base: str, tuned: str) -> Job:
    """A release and its job, on record; its instruct model is in the store."""
    ref = ModelRef(repo_id=f"lab/instruct-v{version}", revision=f"{version:040x}")
    came = BORN + timedelta(days=version)
    release = Release(family="f", ref=ref, content_digest=make(f"instruct{version}"), released_at=came, seen_at=came)
    parts = [("base", base), ("instruct", release.content_digest), ("tuned:eu", tuned)]
    lineage = Lineage(
        family="f",
        target="eu",
        ingredients=tuple(Ingredient(role=role, ref=ref, digest=digest) for role, digest in parts),
        recipe={"method": "task_arithmetic"},
        engine_version="1",
    )
    job = Job(release=release, target="eu", channel="eu", gate_digest="9" * 64, lineage=lineage)
    doors.open_ledger().record_release(release)
    doors.open_ledger().record_job(job)
    return job


def merged(make: Make, job: Job) -> str:
    digest = make(f"merge of {job.release.ref.slug}".replace(" ", "-"))
    doors.open_ledger().record_artifact(job.merge_key, doors.open_store().get(digest), job.lineage, seconds=1.0)
    age(digest, days=180)
    return digest


def publish(job: Job, digest: str) -> None:
    state = doors.open_ledger().channel("eu")
    doors.open_ledger().switch_channel(
        "eu",
        digest=digest,
        release=job.release.ref,
        target="eu",
        family="f",
        expected_generation=state.generation if state else 0,
    )
    doors.open_ledger().record_job_end(job.key, "published", "stronger", artifact_digest=digest)


def fates() -> dict[str, str]:
    return {one.what: one.fate for one in collect() if one.kind == "artifact"}


def test_what_serves_what_served_before_and_what_the_next_job_needs_is_kept(make: Make):
    base, tuned, retired = make("base"), make("tuned"), make("tuned-before")
    jobs = [job_of(make, version, base, tuned if version > 1 else retired) for version in (1, 2, 3)]
    merges = [merged(make, job) for job in jobs]
    for job, digest in zip(jobs, merges, strict=True):
        publish(job, digest)
    instruct = [job.release.content_digest for job in jobs]
    # One generation back is kept here (EMPELT_KEEP_GENERATIONS), and the newest job's ingredients: a gate may change.
    kept = {merges[2], merges[1], base, tuned, instruct[2]}
    assert references().keys() == kept
    found = fates()
    assert {what for what, fate in found.items() if fate == "kept"} == kept
    assert {what for what, fate in found.items() if fate == "removed"} == {merges[0], instruct[0], instruct[1], retired}
    assert set(doors.open_store().digests()) == kept
    assert fates() == dict.fromkeys(kept, "kept")


def test_a_dry_run_says_the_same_and_changes_nothing(make: Make):
    digest = make("orphan")
    used = doors.open_store().manifest_of(digest).stat().st_mtime
    (told,) = collect(dry_run=True)
    assert (told.what, told.fate) == (digest, "removed")
    assert told.why.startswith("nothing refers to it; used last")
    assert doors.open_store().manifest_of(digest).stat().st_mtime == used
    assert [one.fate for one in collect()] == ["removed"]
    assert doors.open_store().digests() == []


def test_what_was_referred_to_until_now_has_its_grace_from_now(make: Make, ledger: Ledger):
    job = job_of(make, 1, make("base"), make("tuned"))
    candidate = merged(make, job)
    collect()  # due: its merge is referred to, for half a year already
    assert references()[candidate] == "the merge of instruct-v1 x eu, which is due"
    ledger.record_job_end(job.key, "rejected", "weaker")
    newer = job_of(make, 2, job.lineage.ingredients[0].digest, job.lineage.ingredients[2].digest)
    ledger.record_job_end(newer.key, "rejected", "weaker")
    assert candidate not in references()
    assert fates()[candidate] == "kept"
    age(candidate, days=8)
    assert fates()[candidate] == "removed"


@pytest.mark.parametrize("how", ["running", "held", "exhausted", "waiting"])
def test_what_a_job_needs_that_may_come_is_kept(make: Make, ledger: Ledger, how: str):
    older = job_of(make, 1, make("base"), make("tuned"))
    digest = merged(make, older)
    newer = job_of(make, 2, older.lineage.ingredients[0].digest, older.lineage.ingredients[2].digest)
    ledger.record_job_end(newer.key, "rejected", "weaker")
    if how == "running":
        assert ledger.claim(older.key, "run:x", 600)
    elif how == "held":
        ledger.record_hold(older.key, "undecided")
    elif how == "exhausted":
        for _ in range(3):
            claim = ledger.claim(older.key, "watch", 600)
            assert claim is not None
            ledger.release(claim)
    else:
        names = {"family": "f", "target": "eu", "channel": "eu", "release": older.release.ref}
        request = PublishRequest(**names, artifact_digest=digest, expected_generation=0, claim_key=older.key)
        ledger.ask_approval(request, "stronger")
    assert {digest, older.release.content_digest} <= references().keys()
    assert "removed" not in fates().values()


def test_what_runs_and_what_is_wanted_is_kept(make: Make, ledger: Ledger):
    runs, wanted, neither = make("runs"), make("wanted"), make("neither")
    names = {"name": "eu@1", "digest": runs, "channel": "eu", "state": "ready", "since": BORN}
    ledger.report_instances([InstanceStatus(**names)])
    ledger.want_staged(wanted, "eu", owner="run:x", lease_seconds=600)
    assert fates() == {runs: "kept", wanted: "kept", neither: "removed"}


def test_half_done_work_of_a_dead_process_goes_and_that_of_a_living_one_stays():
    store = doors.open_store()
    (store.scratch("mine") / "half").write_bytes(b"x" * 10)
    code = "import sys; from pathlib import Path; from tasks.store.artifacts import ArtifactStore\n"
    code += "(ArtifactStore(Path(sys.argv[1])).scratch('left') / 'half').write_text('x' * 500)"
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=True)
    found = {one.what: (one.fate, one.bytes) for one in collect()}
    assert found == {"left": ("removed", 500), "mine": ("kept", 10)}
    assert [path.name for path in (store.root / "scratch").iterdir()] == ["mine"]


def test_the_newest_reports_of_each_target_are_kept(tmp_path: Path):
    for target in ("f-eu", "f-ca"):
        folder = tmp_path / "home" / "reports" / target
        folder.mkdir(parents=True)
        for n in range(3):
            (folder / f"v{n}.html").write_text("page")
            (folder / f"v{n}.json").write_text("{}")
            os.utime(folder / f"v{n}.html", (n, n))
    assert sorted(one.what for one in collect()) == ["f-ca/v0.html", "f-eu/v0.html"]
    left = sorted(p.name for p in (tmp_path / "home" / "reports" / "f-eu").iterdir())
    assert left == ["v1.html", "v1.json", "v2.html", "v2.json"]


def test_the_model_that_an_adapter_is_served_over_is_kept_with_it(make: Make, ledger: Ledger) -> None:
    ref = ModelRef(repo_id="lab/instruct", revision="1" * 40)
    adapter, instruct = make("adapter"), make("instruct")
    lineage = Lineage(
        family="f",
        target="eu",
        ingredients=tuple(
            Ingredient(role=r, ref=ref, digest=d) for r, d in (("base", "0" * 64), ("instruct", instruct))
        ),
        recipe={"method": "task_arithmetic"},
        engine_version="1",
        adapter=AdapterRule(rank=8),
    )
    ledger.record_artifact("5" * 64, doors.open_store().get(adapter), lineage, seconds=1.0)
    told = {"digest": adapter, "release": ref, "target": "eu", "family": "f", "expected_generation": 0}
    ledger.switch_channel("eu", **told)
    for digest in (adapter, instruct):
        age(digest, days=180)
    collect()
    assert doors.open_store().has(instruct)
    assert references()[instruct] == f"{adapter[:12]} is an adapter over it"
