"""Taking an artifact out of the store: whole or not at all, and never from under somebody who has asked for it."""

import multiprocessing
import os
import signal
import stat
import time
from datetime import UTC, datetime, timedelta

import pytest

from tasks.domain.errors import DiskFull
from tasks.store import garbage
from tasks.store.artifacts import ArtifactStore

FORK = multiprocessing.get_context("fork")
WEEK = timedelta(days=7)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store", headroom_bytes=0)


def a_week_ago(store, digest):
    old = time.time() - 1.01 * WEEK.total_seconds()
    os.utime(store.manifest_of(digest), (old, old))


def limit():
    return datetime.now(UTC) - WEEK


def test_what_was_not_used_for_the_grace_period_goes_and_nothing_of_it_is_left(store, make_model):
    gone, kept = (store.adopt(make_model(name, weights=name.encode())).digest for name in ("gone", "kept"))
    a_week_ago(store, gone)
    assert garbage.remove(store, gone, limit())
    assert not garbage.remove(store, gone, limit())
    assert not garbage.remove(store, kept, limit())
    assert store.digests() == [kept]
    assert [path.stem for path in (store.root / "manifests").iterdir()] == [kept]
    assert list((store.root / "scratch").iterdir()) == []
    store.verify(kept)


@pytest.mark.parametrize("how", ["use", "get"])
def test_whoever_asks_for_an_artifact_keeps_it_from_being_collected(store, make_model, how):
    digest = store.adopt(make_model()).digest
    a_week_ago(store, digest)
    getattr(store, how)(digest)
    assert not garbage.remove(store, digest, limit())
    assert store.has(digest)


def test_looking_whether_it_is_there_is_no_use(store, make_model):
    digest = store.adopt(make_model()).digest
    a_week_ago(store, digest)
    before = garbage.last_used(store, digest)
    assert store.has(digest)
    assert store.get(digest, use=False).digest == digest
    assert garbage.last_used(store, digest) == before


def test_what_was_collected_can_be_taken_in_again(store, make_model):
    digest = store.adopt(make_model("first")).digest
    a_week_ago(store, digest)
    assert garbage.remove(store, digest, limit())
    assert not store.use(digest)
    assert store.adopt(make_model("second")).digest == digest
    assert stat.S_IMODE(os.stat(store.get(digest).folder).st_mode) == 0o555
    store.verify(digest)


def test_a_collector_killed_at_any_moment_leaves_an_artifact_whole_or_gone(store, make_model):
    """It is stopped at every step in turn; the one after it finishes what it has begun."""
    steps = ["chmod", "rename", "unlink", "drop"]

    def collect(digest, step):
        target = garbage if step == "drop" else garbage.Path
        setattr(target, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        garbage.remove(store, digest, limit())

    for step in steps:
        digest = store.adopt(make_model(step, weights=step.encode())).digest
        a_week_ago(store, digest)
        child = FORK.Process(target=collect, args=(digest, step))
        child.start()
        child.join(30)
        assert child.exitcode == -signal.SIGKILL, step
        if store.has(digest):
            assert step in ("chmod", "rename")
            store.verify(digest)
            assert garbage.remove(store, digest, datetime.now(UTC))
        assert store.digests() == []
        store.drop_orphans()
        garbage.drop_lone_manifests(store)
        assert [list((store.root / room).iterdir()) for room in ("scratch", "manifests")] == [[], []]


def test_of_a_collector_and_a_user_at_once_one_wins_whole(store, make_model):
    digest = store.adopt(make_model()).digest
    for _ in range(10):
        a_week_ago(store, digest)
        answers = FORK.SimpleQueue()
        acts = {"used": lambda: store.use(digest), "removed": lambda: garbage.remove(store, digest, limit())}
        users = [FORK.Process(target=lambda n, a, to: to.put((n, a())), args=(*one, answers)) for one in acts.items()]
        for process in users:
            process.start()
        for process in users:
            process.join(30)
        found = dict(answers.get() for _ in users)
        assert found["used"] != found["removed"]
        assert store.has(digest) == found["used"]
        if found["removed"]:
            assert store.adopt(make_model(f"again-{time.monotonic_ns()}")).digest == digest


def test_a_quota_is_refused_with_what_is_held_and_what_is_needed(tmp_path, make_model):
    store = ArtifactStore(tmp_path / "store", headroom_bytes=0, quota_bytes=3 << 20)
    store.adopt(make_model(weights=b"w" * (2 << 20)))
    store.reserve((1 << 20) - 100)
    with pytest.raises(DiskFull, match=r"may hold 3\.0 MiB and holds 2\.0 MiB; 1\.5 MiB more are needed") as refused:
        store.reserve(3 << 19)
    assert refused.value.needed_bytes == 3 << 19
    ArtifactStore(store.root, headroom_bytes=0).reserve(3 << 19)  # without a quota the disk decides


def test_a_file_with_two_names_takes_up_its_bytes_once(tmp_path):
    (tmp_path / "one").write_bytes(b"x" * 1000)
    os.link(tmp_path / "one", tmp_path / "two")
    assert garbage.bytes_under(tmp_path) == 1000
    assert garbage.bytes_under(tmp_path / "nowhere") == 0
