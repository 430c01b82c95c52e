"""What stops a job and what takes it up again: cancelled runs, holds, used-up attempts, approvals. A ledger, no server."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.logging import disable_run_logger
from prefect.states import Cancelled, Cancelling
from sqlalchemy import insert

from tasks import doors
from tasks.approve import decide, how_it_stands, open_approval
from tasks.cancelled import _job_by_parameters as job_by_parameters
from tasks.cancelled import hold_job, job_of
from tasks.domain.due import PlanRow
from tasks.domain.errors import InputError, ModelRefused, PromotionFailed
from tasks.domain.jobs import ClaimTicket, Job, PublishRequest
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Artifact, FileDigest, ModelRef, Release
from tasks.domain.records import Claim
from tasks.ledger import Held, claimed, end_job, lift_hold, take_claim, unclaimed
from tasks.runs import own_name
from tasks.standing import standing, stopped
from tasks.store.ledger import Ledger
from tasks.store.tables import approvals
from tasks.waiting import find_waiting, name_of

V2 = ModelRef(repo_id="demo/instruct-v2", revision="2" * 40)


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_MAX_ATTEMPTS", "2")
    doors.forget()
    with disable_run_logger():
        yield doors.open_ledger()
    doors.forget()


@pytest.fixture
def job(ledger: Ledger) -> Job:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    release = Release(family="demo", ref=V2, content_digest="2" * 64, released_at=now, seen_at=now)
    names = {"base": "0", "instruct": "2", "tuned:eu": "e"}
    parts = tuple(
        Ingredient(role=role, ref=ModelRef(repo_id=f"demo/{role[:4]}", revision=c * 40), digest=c * 64)
        for role, c in names.items()
    )
    lineage = Lineage(
        family="demo", target="eu", ingredients=parts, recipe={"method": "task_arithmetic"}, engine_version="1"
    )
    made = Job(release=release, target="eu", channel="eu", gate_digest="9" * 64, lineage=lineage)
    ledger.record_job(made)
    return made


def cancelled_run(state: type = Cancelled, **parameters: object) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="instruct-v2 x eu", parameters=parameters, state=state()())


def run_of(job: Job, fence: int, *, seconds: float = 0) -> FlowRun:
    run = cancelled_run(
        lambda: Cancelled,
        family="demo",
        target="eu",
        release=f"{V2.repo_id}@{V2.revision}",
        claim={"job_key": job.key, "attempt": 1, "fence": fence},
    )
    assert run.state is not None
    run.state.timestamp = run.state.timestamp + timedelta(seconds=seconds)
    return run


# --- cancel holds ------------------------------------------------------------------------------------------------------


def test_a_cancelled_run_holds_its_job_ends_its_claim_and_its_instance(ledger: Ledger, job: Job):
    claim = ledger.claim(job.key, owner="watch", lease_seconds=300)
    assert claim is not None
    run = run_of(job, claim.fence)
    ledger.want_staged("a" * 64, "eu", V2, owner=f"run:{run.id}", lease_seconds=300)
    reason = hold_job(job.key, run, run.state)
    assert reason is not None
    assert "cancelled in the UI at" in reason
    assert standing(job.key).standing == "held"
    assert standing(job.key).reason == reason
    assert ledger.live_claims() == []
    assert ledger.desired().staged == ()
    assert not ledger.renew(claim)  # a process that is slow to die can neither go on nor publish


def test_the_hook_and_the_watch_hold_once(ledger: Ledger, job: Job):
    run = run_of(job, 1)
    assert hold_job(job.key, run, Cancelling()) is not None
    assert hold_job(job.key, run, run.state) is None
    assert len(ledger.holds()) == 1


def test_a_cancelled_run_from_before_the_last_retry_holds_nothing(ledger: Ledger, job: Job):
    run = run_of(job, 1, seconds=-60)
    lift_hold(job.name)
    ledger.lift(job.key, "by hand")
    assert hold_job(job.key, run, run.state) is None
    assert standing(job.key).standing == "open"


def test_a_job_that_has_ended_is_not_held_by_a_late_cancel(ledger: Ledger, job: Job):
    ledger.record_job_end(job.key, "published", "better")
    assert hold_job(job.key, run_of(job, 1), Cancelled()) is None
    assert ledger.holds() == []


def test_another_runs_claim_is_left_alone(ledger: Ledger, job: Job):
    other = ledger.claim(job.key, owner="run:somebody else", lease_seconds=300)
    assert other is not None
    hold_job(job.key, run_of(job, other.fence + 7), Cancelled())
    assert [claim.owner for claim in ledger.live_claims()] == ["run:somebody else"]


def test_a_run_tells_its_job_by_its_ticket_or_by_what_it_claimed(ledger: Ledger, job: Job):
    assert job_of(run_of(job, 1)) == job.key
    by_hand = cancelled_run(lambda: Cancelled, family="demo", target="eu", release=V2.repo_id)
    assert job_of(by_hand) is None
    ledger.claim(job.key, owner=f"run:{by_hand.id}", lease_seconds=60)
    assert job_of(by_hand) == job.key


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ("demo/instruct-v2", True),
        (f"demo/instruct-v2@{'2' * 40}", True),
        ("demo/instruct-v2@2222222", True),
        ({"repo_id": "demo/instruct-v2", "revision": "2" * 40}, True),
        (f"demo/instruct-v2@{'3' * 40}", False),
        ("demo/instruct-v3", False),
    ],
)
def test_a_run_that_never_claimed_tells_its_job_by_its_form(job: Job, release: object, found: bool):
    row = PlanRow(
        family="demo", target="eu", channel="eu", release=job.release, job_key=job.key, standing="due", reason=""
    )
    run = cancelled_run(lambda: Cancelled, family="demo", target="eu", release=release)
    assert job_by_parameters(run, [row]) == (job.key if found else None)
    run.parameters["target"] = "gl"
    assert job_by_parameters(run, [row]) is None


def test_an_old_cancel_counts_only_for_what_was_on_record_then(ledger: Ledger, job: Job):
    run = cancelled_run(lambda: Cancelled, family="demo", target="eu", release=V2.repo_id)
    later = ModelRef(repo_id=V2.repo_id, revision="3" * 40)
    release = job.release.model_copy(update={"ref": later, "content_digest": "3" * 64})
    updated, rebased = job.model_copy(update={"release": release}), job.model_copy(update={"gate_digest": "8" * 64})
    for new in (updated, rebased):
        ledger.record_job(new)
    rows = [
        PlanRow(family="demo", target="eu", channel="eu", release=j.release, job_key=j.key, standing="due", reason="")
        for j in (updated, rebased, job)
    ]
    assert job_by_parameters(run, rows[:2]) is None  # both came after the cancel: they stay due
    assert job_by_parameters(run, rows) == job.key
    run.parameters["release"] = f"{V2.repo_id}@{V2.revision}"
    assert job_by_parameters(run, rows[:2]) is None
    assert job_by_parameters(run, rows) == job.key


# --- taking up again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["key", "beginning", "job", "release", "pinned"])
def test_a_hold_is_lifted_by_any_name_of_its_job(ledger: Ledger, job: Job, name: str):
    names = {
        "key": job.key,
        "beginning": job.key[:8],
        "job": "instruct-v2 x eu",
        "release": V2.repo_id,
        "pinned": f"{V2.repo_id}@{V2.revision[:12]}",
    }
    ledger.record_hold(job.key, "cancelled")
    (lifted,) = lift_hold(names[name])
    assert (lifted.key, lifted.reason) == (job.key, "cancelled")
    assert ledger.holds() == []
    assert standing(job.key).standing == "open"
    assert lift_hold(names[name]) == []


def test_a_retry_gives_new_attempts(ledger: Ledger, job: Job):
    for _ in range(2):
        claim = ledger.claim(job.key, owner="watch", lease_seconds=60)
        assert claim is not None
        ledger.release(claim)
    assert standing(job.key).standing == "exhausted"
    (lifted,) = lift_hold(job.name)
    assert "2 attempts" in lifted.reason
    assert standing(job.key).standing == "open"


def test_releases_and_targets_can_be_lifted_too_and_others_stay(ledger: Ledger, job: Job):
    for key in ("release:demo/instruct-v9@abc", "target:demo/gl", job.key):
        ledger.record_hold(key, "why")
    assert [hold.key for hold in lift_hold("demo/instruct-v9")] == ["release:demo/instruct-v9@abc"]
    assert [hold.key for hold in lift_hold("target:demo/gl")] == ["target:demo/gl"]
    assert [hold.key for hold in ledger.holds()] == [job.key]


@pytest.mark.parametrize(
    ("text", "lifted"),
    [
        ("lab/instruct-v1", ["release:lab/instruct-v1@abc123"]),
        ("release:lab/instruct-v1", ["release:lab/instruct-v1@abc123"]),
        ("lab/instruct-v10@ab", ["release:lab/instruct-v10@abc123"]),
        ("release:lab/instruct-v10@abc123", ["release:lab/instruct-v10@abc123"]),
        ("target:lab/eu", ["target:lab/eu"]),
        ("lab", []),
        ("lab/", []),
        ("lab/instruct", []),
        ("lab/instruct-v1@", []),
        ("lab/instruct-v10@bc", []),
        ("release:", []),
        ("target:lab/e", []),
        ("demo", []),
        ("demo/instruct-v", []),
        ("demo/instruct-v2@", []),
    ],
)
def test_a_name_means_itself_and_nothing_that_begins_with_it(ledger: Ledger, job: Job, text: str, lifted: list[str]):
    keys = ["release:lab/instruct-v1@abc123", "release:lab/instruct-v10@abc123", "target:lab/eu", "target:lab/eu-x"]
    for key in (*keys, job.key):
        ledger.record_hold(key, "identity: somebody else's")
    assert [hold.key for hold in lift_hold(text)] == lifted
    assert len(ledger.holds()) == 5 - len(lifted)


def test_a_few_digits_are_no_key(ledger: Ledger, job: Job):
    ledger.record_hold(job.key, "why")
    assert stopped("") == lift_hold(job.key[:5]) == []
    assert [hold.key for hold in stopped()] == [hold.key for hold in lift_hold(job.key[:6])] == [job.key]


def test_an_empty_name_would_mean_everything_and_is_refused(ledger: Ledger, job: Job):
    ledger.record_hold(job.key, "why")
    with pytest.raises(InputError, match="name what to retry"):
        lift_hold("  ")
    assert len(ledger.holds()) == 1


def test_a_run_by_hand_lifts_the_hold_and_of_two_one_works(ledger: Ledger, job: Job):
    ledger.record_hold(job.key, "cancelled")
    other = ledger.claim(job.key, owner="run:first", lease_seconds=60)
    assert other is not None
    assert take_claim(job, None) is None
    assert [hold.key for hold in ledger.holds()] == [job.key]  # who did not get the job lifts nothing
    assert unclaimed(job)[0] == "AlreadyClaimed"
    ledger.release(other)
    assert unclaimed(job) == ("Held", "the job is on hold: cancelled")
    assert take_claim(job, None) is not None
    assert ledger.holds() == []


# --- approvals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(ledger: Ledger, job: Job) -> str:
    """The name of a candidate that waits; its artifact is not in the store."""
    request = PublishRequest(
        family="demo",
        target="eu",
        channel="eu",
        artifact_digest="a" * 64,
        release=V2,
        expected_generation=0,
        claim_key=job.key,
    )
    ledger.ask_approval(request, "stronger")
    ledger.record_job_end(job.key, "awaiting", "stronger")
    return name_of(ledger.awaiting_approval()[0])


def test_what_waits_is_neither_due_nor_retried(ledger: Ledger, job: Job, waiting: str):
    assert waiting == "instruct-v2 x eu (aaaaaaaaaaaa)"
    assert standing(job.key).standing == "waiting"
    assert lift_hold(job.name) == []


@pytest.mark.parametrize("text", ["instruct-v2 x eu (aaaaaaaaaaaa)", "aaaaaaaa"])
def test_a_candidate_is_found_by_its_name_or_its_digest(waiting: str, text: str):
    assert name_of(find_waiting(text)) == waiting


def test_of_two_that_waited_under_one_name_the_newest_is_meant_and_decides_both(ledger: Ledger, job: Job, waiting: str):
    edited = job.model_copy(update={"gate_digest": "8" * 64})
    ledger.record_job(edited)
    (first,) = ledger.awaiting_approval()
    row = {"job_key": edited.key, "state": "waiting", "artifact_digest": "a" * 64, "reason": "stronger", "by": ""}
    request = first.request.model_copy(update={"claim_key": edited.key}).model_dump(mode="json")
    with ledger._write() as connection:  # as ledgers hold it in which asking did not supersede yet
        connection.execute(insert(approvals).values(**row, request=request, at=datetime.now(UTC)))
    assert [name_of(wish) for wish in ledger.awaiting_approval()] == [waiting, waiting]
    wish, found = open_approval.fn(waiting, "reject")
    assert found == edited
    decide(wish, "rejected", "Ane", "too chatty")
    assert ledger.awaiting_approval() == []


@pytest.mark.parametrize("text", ["", "instruct-v3 x eu", "bbbb"])
def test_an_unknown_candidate_lists_those_that_wait(waiting: str, text: str):
    with pytest.raises(InputError) as refusal:
        open_approval.fn(text, "publish")
    assert waiting in str(refusal.value)


def test_without_its_artifact_a_candidate_can_be_rejected_and_not_published(ledger: Ledger, job: Job, waiting: str):
    with pytest.raises(ModelRefused, match="is not in the store any more"):
        open_approval.fn(waiting, "publish")
    wish, found = open_approval.fn(waiting, "reject")
    assert found == job
    decide(wish, "rejected", "Ane", "too chatty")
    assert standing(job.key).standing == "rejected"
    assert standing(job.key).reason == "rejected by Ane: too chatty"
    assert ledger.awaiting_approval() == []
    with pytest.raises(InputError, match="rejected by Ane"):
        decide(wish, "published", "Iker", "")


def test_a_candidate_that_a_search_found_is_judged_again_with_the_recipe_that_made_it(
    ledger: Ledger, job: Job, tmp_path: Path
):
    searched = job.model_copy(update={"search": "5" * 64})
    found = searched.trying({"method": "linear", "tuned_weight": 0.5})
    weights = FileDigest(path="model.safetensors", sha256="e" * 64, size=5)
    for one, digest in ((searched, "d" * 64), (found, "f" * 64)):
        artifact = Artifact(digest=digest, folder=str(tmp_path), files=(weights,))
        ledger.record_artifact(one.merge_key, artifact, one.lineage, seconds=1.0)
    ledger.record_job(searched)
    ledger.ask_approval(found.request("f" * 64, 0, 1, "stronger"), "stronger")
    wish, again = open_approval.fn("ffffffff", "reject")
    assert (again, again.key) == (found, wish.job_key)
    own = searched.request("d" * 64, 0, 1, "stronger")
    ledger.decide(wish.job_key, "rejected", by="Ane", reason="")
    ledger.ask_approval(own, "stronger")
    assert open_approval.fn("dddddddd", "reject")[1] == searched


def test_what_somebody_else_has_decided_meanwhile_is_not_published(ledger: Ledger, job: Job, waiting: str):
    wish = find_waiting(waiting)
    assert how_it_stands.fn(wish) == ("waiting", "stronger")
    decide(wish, "rejected", "Ane", "too chatty")
    standing, told = how_it_stands.fn(wish)
    assert standing == "decided"
    assert "rejected by Ane: too chatty" in told


@pytest.mark.parametrize("by_its_job", [True, False])
def test_a_candidate_that_a_run_made_live_before_it_crashed_is_seen_as_such(
    ledger: Ledger, job: Job, waiting: str, by_its_job: bool
):
    claim = ledger.claim(job.key, owner="run:crashed", lease_seconds=60)
    assert claim is not None
    proof = {"claim_key": job.key, "fence": claim.fence} if by_its_job else {}
    where = {"release": V2, "target": "eu", "family": "demo", "reason": "approved by Ane."}
    ledger.switch_channel("eu", digest="a" * 64, expected_generation=0, flow_run_id="crashed", **where, **proof)
    standing, told = how_it_stands.fn(find_waiting(waiting))
    assert standing == ("live" if by_its_job else "waiting")
    assert not by_its_job or told.startswith("generation 1 by run crashed, which did not come to its end: approved by")
    ledger.switch_channel("eu", digest="b" * 64, expected_generation=1, **where)
    assert how_it_stands.fn(find_waiting(waiting))[0] == "waiting"  # rolled back since: a person decides anew


def test_a_stale_attempt_says_nothing_about_its_job(ledger: Ledger, job: Job):
    """It was thought dead and is not: the attempt that took its place has the last word."""
    old = ledger.claim(job.key, owner="run:old", lease_seconds=0.01)
    assert old is not None
    taken: list[Claim] = []

    def works_on() -> None:
        with claimed(job, ClaimTicket(job_key=job.key, attempt=1, fence=old.fence)) as held:
            assert held is not None
            new = ledger.claim(job.key, owner=held.owner, lease_seconds=60)
            assert new is not None
            taken.append(new)
            with pytest.raises(PromotionFailed, match="its attempt is over"):
                end_job.fn(job, "rejected", "too weak", "a" * 64, held.fence)
            raise InputError("its model is not what it said")

    with pytest.raises(InputError, match="not what it said"):
        works_on()
    (new,) = taken
    assert (ledger.job_end(job.key), ledger.holds()) == (None, [])
    assert [claim.fence for claim in ledger.live_claims()] == [new.fence]
    end_job.fn(job, "kept", "not stronger", "a" * 64, new.fence)
    assert standing(job.key).standing == "kept"


def test_two_processes_outside_prefect_do_not_share_a_claim(ledger: Ledger, job: Job):
    code = "import sys; from tasks.doors import open_ledger; from tasks.runs import own_name\n"
    code += "print(own_name(), open_ledger().claim(sys.argv[1], own_name(), 60) is not None)"
    assert ledger.claim(job.key, own_name(), 3600) is not None
    done = subprocess.run([sys.executable, "-c", code, job.key], capture_output=True, text=True, check=True)
    other, _, claimed_too = done.stdout.strip().rpartition(" ")
    assert claimed_too == "False"
    assert other.startswith("run:by hand, ")
    assert other != own_name() == own_name()
    again = take_claim(job, None)
    assert again is not None
    assert (again.owner, again.attempt) == (own_name(), 2)


def test_a_ledger_that_does_not_answer_for_a_while_does_not_end_the_renewal_of_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("tasks.store.database.BUSY_SECONDS", 0)  # a limit of time, as short as a test may take
    monkeypatch.setenv("EMPELT_LEASE_SECONDS", "10")
    doors.forget()
    ledger = doors.open_ledger()
    claim = ledger.claim(job.key, owner="run:x", lease_seconds=10)
    assert claim is not None
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    held = Held(claim)
    try:
        other.execute("BEGIN IMMEDIATE")  # somebody else writes, for longer than anybody waits
        assert wait_until(lambda: "was not renewed" in caplog.text)
        other.execute("ROLLBACK")
        assert wait_until(lambda: any(c.lease_until > claim.lease_until for c in ledger.live_claims()))
    finally:
        other.close()
        held.end()


def wait_until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return true()
