"""Facts of many keys at once are those of one key after the other."""

import pytest

from tasks.store import database


@pytest.fixture(params=[500, 0], ids=["keys named", "all rows read"])
def many(request, monkeypatch):
    monkeypatch.setattr(database, "FEW", request.param)


def test_jobs_recorded_at_once_are_as_those_recorded_one_by_one(ledger, samples):
    one, two, strict = samples.job("v1"), samples.job("v2"), samples.job("v1", gate="strict")
    assert ledger.record_jobs([]) == 0
    assert ledger.record_jobs([one, two]) == 2
    assert ledger.record_jobs([one, two]) == 0
    assert ledger.newest_jobs("tiny") == {("eu", samples.digest("v1")): one.key, ("eu", samples.digest("v2")): two.key}
    assert ledger.record_jobs([strict, two]) == 1
    assert ledger.record_job(strict) is False
    assert ledger.record_jobs([one]) == 1  # the gate as it was before: the newest again
    assert ledger.newest_jobs("tiny")["eu", samples.digest("v1")] == one.key
    assert [fact.job for fact in ledger.jobs("tiny")] == [two, one]
    assert ledger.newest_jobs("another") == {}


def test_ends_lifts_and_attempts_are_those_of_each_job(ledger, clock, many):
    keys = ["a", "b", "c", "d"]
    for key in keys[:3]:
        for _ in range(2):
            ledger.release(ledger.claim(key, "watch", 60))
            clock.forward(1)
    ledger.lift("a", "by hand")
    ledger.record_hold("b", "held")
    clock.forward(1)
    ledger.release(ledger.claim("a", "watch", 60))
    for outcome in ("failed", "published"):
        ledger.record_job_end("b", outcome, outcome)
    ledger.record_job_end("c", "failed", "")
    assert ledger.job_ends() == {key: ledger.job_end(key) for key in ("b", "c")}
    assert ledger.job_ends(["b", "d"]) == {"b": ledger.job_end("b")}
    assert ledger.settled_jobs() == {"b"}
    assert ledger.lifted() == {"a": ledger.lifted_at("a")}
    assert ledger.lifted(["b"]) == {}
    assert [hold.key for hold in ledger.holds(["a", "b"])] == ["b"]
    assert ledger.holds(["a"]) == []
    assert ledger.attempts_since_lift(["b", "d"]) == {"b": 2}
    told = {key: ledger.attempts(key, ledger.lifted_at(key)) for key in keys}
    assert (
        ledger.attempts_since_lift() == {key: count for key, count in told.items() if count} == {"a": 1, "b": 2, "c": 2}
    )


def test_who_waits_for_a_person_is_known_for_all_jobs(ledger, samples):
    one, two = samples.job("v1"), samples.job("v2")
    for job in (one, two):
        ledger.ask_approval(samples.request(job, samples.digest(job.release.ref.slug)), "stronger")
    ledger.decide(one.key, "rejected", by="Ane", reason="")
    assert ledger.waiting_since() == {two.key: ledger.approval(two.key).at}


def test_the_last_states_of_a_whole_listing_are_those_of_each_repository(ledger, clock, samples, many):
    files = samples.digest("files")
    for name, internal_id, sha in (("lab/a", "1", "a"), ("lab/a", "1", "b"), ("lab/b", "2", "c"), ("lab/c", "1", "d")):
        ledger.record_repo_state(name, internal_id, sha * 40, files)
        clock.forward(1)
    ledger.record_repo_state("lab/nameless", "", "e" * 40)
    names = ["lab/a", "lab/b", "lab/c", "lab/nameless"]
    assert ledger.repos_last() == {name: ledger.repo_seen(name) for name in names}
    assert ledger.repos_last(["lab/a", "lab/z"]) == {"lab/a": ledger.repo_seen("lab/a")}
    assert ledger.repos_last_by_id() == {key: ledger.repo_of(key) for key in ("1", "2")}
    assert ledger.repos_last_by_id(["1"])["1"].repo_id == "lab/c"
    other = samples.digest("other")
    assert ledger.repos_with_any([files, other]) == {files: ledger.repos_with(files), other: set()}


def test_watches_are_counted_and_the_last_failure_is_told(ledger, clock):
    ledger.record_poll("tiny", clock(), calls=3)
    good = clock()
    clock.forward(600)
    ledger.record_poll("tiny", clock(), calls=4, failure="the Hub did not answer")
    ledger.record_poll("large", clock(), calls=1)
    large, tiny = ledger.polls()
    assert (large.family, large.polls, large.failures, large.failed_at) == ("large", 1, 0, None)
    assert (tiny.polls, tiny.failures, tiny.calls, tiny.good_at, tiny.failed_at) == (2, 1, 7, good, clock())
    assert tiny.failure == "the Hub did not answer"
    ledger.record_poll("tiny", clock(), calls=1)
    assert ledger.polls()[1].failure == ""
