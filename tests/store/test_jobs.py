"""Jobs by name, approvals and what was decided, attempts that count anew, and when each step was recorded."""

import pytest

from tasks.domain.errors import InputError
from tasks.domain.examination import NORM
from tasks.store.views import Told


def test_a_key_tells_its_job(ledger, samples):
    job = samples.job()
    assert ledger.job(job.key) is None
    assert ledger.record_job(job)
    assert not ledger.record_job(job)
    assert ledger.job(job.key).job == job


def test_of_a_release_and_target_the_newest_job_counts_also_when_an_old_one_comes_back(ledger, samples):
    old, new = samples.job(gate="loose"), samples.job(gate="strict")
    for job in (old, new):
        ledger.record_job(job)
    assert [fact.job_key for fact in ledger.jobs("tiny")] == [new.key]
    assert ledger.record_job(old)
    assert [fact.job_key for fact in ledger.jobs("tiny")] == [old.key]
    assert ledger.jobs("another") == []


def test_a_candidate_waits_until_one_person_has_decided(ledger, samples):
    job, digest = samples.job(), samples.digest("merged")
    assert ledger.ask_approval(samples.request(job, digest), "stronger")
    assert not ledger.ask_approval(samples.request(job, digest), "stronger")
    (waiting,) = ledger.awaiting_approval()
    assert (waiting.job_key, waiting.request.artifact_digest, waiting.state) == (job.key, digest, "waiting")
    decided = ledger.decide(job.key, "published", by="Ane", reason="looks good", flow_run_id="run")
    assert (decided.state, decided.by, decided.reason, decided.flow_run_id) == ("published", "Ane", "looks good", "run")
    assert ledger.awaiting_approval() == []
    with pytest.raises(InputError, match="published by Ane"):
        ledger.decide(job.key, "rejected", by="Iker", reason="")
    assert ledger.approval(job.key).by == "Ane"


def test_an_artifact_waits_once_for_a_channel_also_when_its_gate_was_edited(ledger, samples):
    old, new, digest = samples.job(gate="loose"), samples.job(gate="strict"), samples.digest("merged")
    ledger.ask_approval(samples.request(old, digest), "stronger")
    elsewhere = samples.request(samples.job(gate="third"), digest).model_copy(update={"channel": "other"})
    ledger.ask_approval(elsewhere, "stronger")
    assert ledger.ask_approval(samples.request(new, digest), "stronger")
    assert [w.job_key for w in ledger.awaiting_approval()] == [elsewhere.claim_key, new.key]
    ended = ledger.approval(old.key)
    assert (ended.state, ended.reason) == ("superseded", f"was asked for again as job {new.key[:12]}")
    assert ledger.ask_approval(samples.request(old, digest), "stronger")  # the gate as it was before
    assert [w.job_key for w in ledger.awaiting_approval()] == [elsewhere.claim_key, old.key]


def test_a_decision_that_was_under_way_when_it_was_superseded_counts_and_ends_the_other(ledger, samples):
    old, new, digest = samples.job(gate="loose"), samples.job(gate="strict"), samples.digest("merged")
    for job in (old, new):
        ledger.ask_approval(samples.request(job, digest), "stronger")
    assert ledger.decide(old.key, "published", by="Ane", reason="").state == "published"
    assert ledger.awaiting_approval() == []
    assert ledger.approval(new.key).reason == f"was published as job {old.key[:12]}"


def test_nothing_is_decided_that_was_not_asked_for(ledger, samples):
    with pytest.raises(InputError, match="was never asked for"):
        ledger.decide(samples.job().key, "published", by="Ane", reason="")
    assert ledger.approval(samples.job().key) is None


def test_an_approval_is_of_a_job(ledger, samples):
    nameless = samples.request(samples.job(), samples.digest("merged")).model_copy(update={"claim_key": None})
    with pytest.raises(InputError, match="names no job"):
        ledger.ask_approval(nameless, "stronger")


def test_attempts_count_anew_after_a_person_has_lifted(ledger, clock):
    for _ in range(3):
        ledger.release(ledger.claim("job", owner="watch", lease_seconds=60))
        clock.forward(1)
    assert ledger.attempts("job", ledger.lifted_at("job")) == 3
    ledger.lift("job", "by hand")
    assert ledger.attempts("job", ledger.lifted_at("job")) == 0
    clock.forward(1)
    fourth = ledger.claim("job", owner="run:x", lease_seconds=60)
    assert fourth.attempt == 4  # a number is never given twice
    assert ledger.attempts("job", ledger.lifted_at("job")) == 1
    assert ledger.attempts("job") == 4
    assert [attempt.owner for attempt in ledger.attempts_of("job")] == ["watch", "watch", "watch", "run:x"]
    assert ledger.job_of("run:x") == "job"
    assert ledger.job_of("run:y") is None


def test_lifting_ends_a_hold_and_a_later_one_holds_again(ledger, clock):
    ledger.record_hold("job", "cancelled")
    ledger.lift("job", "by hand")
    assert ledger.holds() == []
    clock.forward(1)
    ledger.record_hold("job", "cancelled")
    assert [hold.reason for hold in ledger.holds()] == ["cancelled"]


def test_a_wish_of_one_owner_is_taken_back_whole(ledger, samples):
    for name in ("a", "b"):
        ledger.want_staged(samples.digest(name), "eu", samples.ref(), owner="run:x", lease_seconds=60)
    ledger.want_staged(samples.digest("a"), "eu", samples.ref(), owner="run:y", lease_seconds=60)
    assert ledger.unstage_all("run:x") == 2
    assert [wanted.owner for wanted in ledger.desired().staged] == ["run:y"]


def test_each_step_of_a_job_is_found_by_when_it_was_recorded(ledger, clock, samples):
    job, artifact = samples.job(), samples.artifact("merged")
    ledger.record_job(job)

    def now() -> Told:
        return ledger.told("tiny", ledger.jobs("tiny"))[job.key]

    times = now().times
    assert (times.released, times.seen) == (job.release.released_at, job.release.seen_at)
    assert {getattr(times, name) for name in ("started", "fetched", "merged", "judged", "switched", "visible")} == {
        None
    }

    recorded = {}
    clock.moment = job.release.seen_at

    def step(name: str) -> None:
        clock.forward(10)
        recorded[name] = clock.moment

    step("started")
    claim = ledger.claim(job.key, owner="watch", lease_seconds=600)
    step("fetched")
    ledger.record_fetched(job.release.ref, job.release.content_digest)
    step("merged")
    ledger.record_artifact(job.merge_key, artifact, job.lineage, seconds=1.0)
    clock.forward(10)
    norms = samples.evaluation()
    weighed = norms.scores[0].model_copy(update={"benchmark": "norms", "metric": NORM})
    ledger.record_evaluation(norms.model_copy(update={"eval_key": samples.digest("norms"), "scores": (weighed,)}))
    assert now().times.evaluated is None  # it was only examined
    step("evaluated")
    ledger.record_evaluation(samples.evaluation())
    step("judged")
    ledger.record_verdict(samples.digest("verdict"), job.key, "passed", {}, family="tiny", target="eu")
    step("switched")
    ledger.switch_channel(
        "eu",
        digest=artifact.digest,
        release=job.release.ref,
        target="eu",
        family="tiny",
        expected_generation=0,
        fence=claim.fence,
        claim_key=job.key,
    )
    step("visible")
    ledger.acknowledge("eu", 1)
    clock.forward(10)
    ledger.acknowledge("eu", 1)  # said again: the first time counts
    end, verdict, switch, found = now()
    assert (end, verdict.outcome, switch.generation) == (None, "passed", 1)
    assert {name: getattr(found, name) for name in recorded} == recorded
    assert ledger.visible_since("eu") == {1: recorded["visible"]}
