"""Whose page tells of a hold. A real ledger, the shipped catalog; no server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tasks import doors
from tasks.domain.jobs import Job
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import ModelRef, Release
from tasks.pages import holds_of, views_of
from tasks.store.ledger import Ledger

LLAMA, QWEN = "empelt-demo/llama-tiny-instruct-v9", "empelt-demo/qwen3-tiny-instruct-v9"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny,qwen3-tiny")
    monkeypatch.delenv("EMPELT_CATALOG", raising=False)
    doors.forget()
    yield doors.open_ledger()
    doors.forget()


def test_two_families_of_one_organisation_tell_each_of_their_own_holds(ledger: Ledger) -> None:
    sha = "a" * 40
    keys = {
        "llama-tiny": [f"release:{LLAMA}@{sha}", "target:llama-tiny/eu"],
        "qwen3-tiny": [f"release:{QWEN}@{sha}", "target:qwen3-tiny/eu"],
        "nobody": ["release:empelt-demo/something-else@1", "release:other/llama-tiny-instruct-v9@1", "b" * 64],
    }
    for key in (key for held in keys.values() for key in held):
        ledger.record_hold(key, "why")
    for name in ("llama-tiny", "qwen3-tiny"):
        assert sorted(hold.key for hold in holds_of(doors.open_catalog().family(name))) == keys[name]


def on_record(ledger: Ledger, number: int) -> None:
    """A release of llama-tiny with a job for ``eu`` that was published, and one for ``iberian`` that was not begun."""
    born = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=number)
    ref = ModelRef(repo_id=f"empelt-demo/llama-tiny-instruct-v{number}", revision=f"{number:040x}")
    release = Release(family="llama-tiny", ref=ref, content_digest=f"{number:064x}", released_at=born, seen_at=born)
    ledger.record_release(release)
    for target in ("eu", "iberian"):
        lineage = Lineage(
            family="llama-tiny",
            target=target,
            ingredients=(Ingredient(role="instruct", ref=ref, digest=release.content_digest),),
            recipe={"method": "linear"},
            engine_version="1",
        )
        job = Job(release=release, target=target, channel=target, gate_digest="9" * 64, lineage=lineage)
        ledger.record_job(job)
    done = next(fact for fact in ledger.jobs("llama-tiny") if fact.job.release == release and fact.job.target == "eu")
    claim = ledger.claim(done.job_key, "run:x", 60)
    assert claim is not None
    ledger.switch_channel(
        "eu",
        digest=f"{number + 1000:064x}",
        release=ref,
        target="eu",
        family="llama-tiny",
        expected_generation=number - 1,
        fence=claim.fence,
        claim_key=done.job_key,
    )
    ledger.record_job_end(done.job_key, "published", "stronger", flow_run_id="a run")


def test_the_pages_of_many_jobs_ask_as_much_as_those_of_few(ledger: Ledger) -> None:
    family, asked = doors.open_catalog().family("llama-tiny"), list[str]()

    def count(*told: Any) -> None:
        asked.append(told[2])

    counts = []
    event.listen(Engine, "before_cursor_execute", count)
    try:
        for number in range(1, 13):
            on_record(ledger, number)
            asked.clear()
            views = views_of(family, {})
            counts.append((len(views), len([text for text in asked if text.startswith("SELECT")])))
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    print(counts)
    assert [jobs for jobs, _ in counts] == [2 * number for number in range(1, 13)]
    assert len({queries for _, queries in counts}) == 1, counts
    newest, *_, oldest = [view for view in views if view.row.target == "eu"]
    assert (newest.serves, newest.generation, newest.outcome, newest.run) == (True, 12, "published", "a run")
    assert (oldest.serves, oldest.generation) == (False, 1)
    assert newest.times.started is not None
    assert newest.times.switched is not None
