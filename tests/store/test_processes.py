"""Several processes on one ledger at once: races have one winner, and a killed process leaves nothing half-done."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from sqlalchemy import insert

from tasks.domain.errors import PromotionFailed
from tasks.store.ledger import Ledger
from tasks.store.tables import evaluations

FORK = multiprocessing.get_context("fork")  # the child inherits the parent's open ledger, as a careless user's would
LONG = 60.0


def together(number, work):
    """Run ``work(n)`` in ``number`` processes that begin at the same moment; what each returned."""
    begin, answers = FORK.Barrier(number), FORK.SimpleQueue()

    def child(n):
        begin.wait(20)
        answers.put(work(n))

    children = [FORK.Process(target=child, args=(n,)) for n in range(number)]
    for process in children:
        process.start()
    for process in children:
        process.join(30)
        assert process.exitcode == 0
    return [answers.get() for _ in children]


@pytest.fixture
def switch(samples):
    def switch_to(ledger, name, expected):
        state = ledger.switch_channel(
            "eu",
            digest=samples.digest(name),
            release=samples.ref(name),
            target="eu",
            family="tiny",
            expected_generation=expected,
        )
        return state.generation

    return switch_to


def test_of_processes_racing_for_a_claim_exactly_one_wins_each_round(url):
    def claim_twenty_jobs(n):
        with Ledger.open(url) as ledger:
            return [ledger.claim(f"job-{job}", f"process-{n}", LONG) for job in range(20)]

    answers = together(2, claim_twenty_jobs)
    for one, two in zip(*answers, strict=True):
        assert (one is None) != (two is None)
    fences = [claim.fence for answer in answers for claim in answer if claim]
    assert len(set(fences)) == 20


def test_workers_that_race_for_the_same_jobs_do_each_of_them_once(url, tmp_path):
    done = tmp_path / "done"

    def work(n):
        with Ledger.open(url) as ledger:
            for _ in range(2):  # again and again, as a worker asks that does not know what the other has ended
                for job in (f"job-{i}" for i in range(4)):
                    if claim := ledger.claim(job, f"worker-{n}", LONG, only_open=True):
                        with done.open("a") as out:
                            out.write(f"{job}\n")
                        ledger.record_job_end(job, "published", "")
                        ledger.release(claim)
        return n

    assert sorted(together(2, work)) == [0, 1]
    assert sorted(done.read_text().split()) == sorted(f"job-{i}" for i in range(4))


def test_a_worker_that_slept_through_its_lease_finishes_and_cannot_publish(ledger, url, switch, samples):
    taken, awake, answers = FORK.Event(), FORK.Event(), FORK.SimpleQueue()

    def publish(mine, name, claim):
        release = {"release": samples.ref(name), "target": "eu", "family": "tiny"}
        fence = {"fence": claim.fence, "claim_key": "job", "expected_generation": 0}
        return mine.switch_channel("eu", digest=samples.digest(name), **release, **fence).generation

    def sleeper():
        with Ledger.open(url) as mine:
            claim = mine.claim("job", "sleeper", 0.5)
            taken.set()
            awake.wait(30)
            answers.put(mine.renew(claim))
            try:
                answers.put(publish(mine, "stale", claim))
            except PromotionFailed as refused:
                answers.put(str(refused))

    child = FORK.Process(target=sleeper)
    child.start()
    assert taken.wait(20)
    os.kill(child.pid, signal.SIGSTOP)
    with Ledger.open(url) as other:  # by the real clock
        while (claim := other.claim("job", "other", LONG)) is None:
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGCONT)  # it works while the other one does
        awake.set()  # after that: setting an event waits for whoever waits for it
        child.join(30)
        assert (child.exitcode, answers.get()) == (0, False)
        assert "was superseded: job job is now at fence" in answers.get()
        assert ledger.promotions("eu") == []
        assert publish(other, "present", claim) == 1
    assert [p.artifact_digest for p in ledger.promotions("eu")] == [samples.digest("present")]


def test_of_processes_racing_to_switch_one_makes_the_generation(ledger, url, switch):
    def try_to_switch(n):
        with Ledger.open(url) as mine:
            try:
                return switch(mine, f"candidate-{n}", 0)
            except PromotionFailed as refused:
                return str(refused)

    answers = together(3, try_to_switch)
    assert answers.count(1) == 1
    assert sum("it is at generation 1" in str(a) for a in answers) == 2
    assert len(ledger.promotions("eu")) == 1


def test_processes_that_open_a_new_ledger_at_once_make_one_schema(tmp_path):
    new = f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"

    def open_and_hold(n):
        with Ledger.open(new) as ledger:
            ledger.record_hold(f"key-{n}", "")
        return True

    assert together(3, open_and_hold) == [True] * 3
    with Ledger.open(new) as ledger:
        assert sorted(h.key for h in ledger.holds()) == ["key-0", "key-1", "key-2"]


def test_a_forked_child_does_not_speak_on_its_parents_connections(ledger):
    ledger.record_hold("parent", "")
    assert together(2, lambda n: ledger.record_hold(f"child-{n}", "")) == [None, None]
    ledger.record_hold("parent again", "")
    assert sorted(h.key for h in ledger.holds()) == ["child-0", "child-1", "parent", "parent again"]


def test_threads_share_one_ledger(ledger):
    def work(n):
        for i in range(10):
            assert ledger.claim(f"{n}-{i}", "me", LONG) is not None

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({claim.fence for claim in ledger.live_claims()}) == 40


def test_a_process_killed_in_the_middle_of_a_write_leaves_a_ledger_that_works(ledger, url, samples):
    ledger.record_evaluation(samples.evaluation("before"))
    half = {"eval_key": samples.digest("half"), "artifact_digest": samples.digest("merged"), "facts": {}}
    reached = FORK.Event()

    def stop_halfway():
        with Ledger.open(url) as mine, mine._write() as connection:
            connection.execute(insert(evaluations).values(**half, at=mine._now(connection)))
            reached.set()
            time.sleep(LONG)

    child = FORK.Process(target=stop_halfway)
    child.start()
    assert reached.wait(20)
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    assert child.exitcode == -signal.SIGKILL
    assert ledger.evaluation(samples.digest("half")) is None
    assert ledger.record_evaluation(samples.evaluation("half"))
    assert len(ledger.evaluations_of(samples.digest("merged"))) == 2


def test_a_process_killed_while_it_writes_without_pause_loses_nothing_that_it_was_told_is_kept(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    Ledger.open(url).close()
    reading, writing = FORK.Pipe(duplex=False)

    def hold_for_ever():
        with Ledger.open(url) as mine:
            for n in range(100_000):
                mine.record_hold(f"key-{n}", "x" * 2000)
                writing.send(n)

    child = FORK.Process(target=hold_for_ever)
    child.start()
    for _ in range(25):
        last = reading.recv()
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    while reading.poll():
        last = reading.recv()
    with Ledger.open(url) as ledger:
        kept = [h.key for h in ledger.holds()]
        assert kept[: last + 1] == [f"key-{n}" for n in range(last + 1)]
        assert len(kept) - (last + 1) in (0, 1)  # one may be kept that it had no time to tell
        with ledger._read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
