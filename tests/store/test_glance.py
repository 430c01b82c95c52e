"""What is read of many keys at once is what is read of one key after the other; and watches are counted."""


def test_a_glance_tells_of_each_job_what_single_questions_tell(ledger, clock, samples):
    jobs = [samples.job(name) for name in ("v1", "v2", "v3", "v4")]
    ledger.record_jobs({job.key: job for job in jobs})
    one, two, three, four = (job.key for job in jobs)
    for key in (one, two, three):
        for _ in range(2):
            ledger.release(ledger.claim(key, "watch", 60))
            clock.forward(1)
    ledger.lift(one, "by hand")
    ledger.record_hold(two, "held")
    clock.forward(1)
    present = ledger.claim(one, "run:x", 60)
    for outcome in ("failed", "published"):
        ledger.record_job_end(two, outcome, f"was {outcome}")
    ledger.ask_approval(samples.request(jobs[3], samples.digest("merged")), "stronger")
    ledger.ask_approval(samples.request(jobs[2], samples.digest("other")), "stronger")
    ledger.decide(three, "rejected", by="Ane", reason="")
    seen = ledger.glance("tiny")
    assert seen.newest == {("eu", job.release.content_digest): job.key for job in jobs}
    assert seen.ends == {two: (ledger.job_end(two).outcome, "was published")}
    assert seen.waiting == {four: ledger.approval(four).at}
    assert seen.holds == {hold.key: hold.reason for hold in ledger.holds()} == {two: "held"}
    assert seen.claims == {one: (present.attempt, "run:x")}
    told = {job.key: ledger.attempts(job.key, ledger.lifted_at(job.key)) for job in jobs}
    assert seen.attempts == {key: count for key, count in told.items() if count} == {one: 1, two: 2, three: 2}
    assert ledger.lifted() == {one: ledger.lifted_at(one)}
    assert [hold.key for hold in ledger.holds([one, two])] == [two]
    assert ledger.holds([one]) == []
    assert ledger.glance("another").newest == {}


def test_the_last_states_of_a_whole_listing_are_those_of_each_repository(ledger, clock, samples):
    files = samples.digest("files")
    for name, internal_id, sha in (("lab/a", "1", "a"), ("lab/a", "1", "b"), ("lab/b", "2", "c"), ("lab/c", "1", "d")):
        ledger.record_repo_state(name, internal_id, sha * 40, files)
        clock.forward(1)
    seen = ledger.remembered(["lab/a", "lab/b", "lab/z"], ["1", "9", ""])
    assert seen.by_name == {name: ledger.repo_seen(name) for name in ("lab/a", "lab/b")}
    assert seen.by_id == {"1": ledger.repo_of("1")}
    other = samples.digest("other")
    assert ledger.repos_with_any([files, other]) == {files: ledger.repos_with(files), other: set()}
    assert ledger.repos_with_any([]) == {}


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
