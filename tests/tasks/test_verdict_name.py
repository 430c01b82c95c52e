"""How a run ends by its verdict: the state's name in the UI, and the ledger's word."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks import doors
from tasks.domain.jobs import Job
from tasks.domain.models import Release
from tasks.domain.verdict import Verdict
from tasks.judge import verdict_name
from tasks.order import in_order
from tasks.settings import settings
from tests.store.conftest import Samples


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Job]:
    family = getattr(request, "param", "llama-tiny")
    monkeypatch.setenv("EMPELT_FAMILIES", family)
    doors.forget()
    yield Job.model_construct(release=Release.model_construct(family=family), target="eu")
    doors.forget()


@pytest.mark.parametrize(
    ("outcome", "stronger", "ended"),
    [
        ("passed", None, ("Published", "published")),
        ("passed", True, ("Published", "published")),
        ("passed", False, ("Kept", "kept")),
        ("rejected", None, ("Rejected", "rejected")),
        ("rejected", True, ("Rejected", "rejected")),
        ("undecided", True, ("Undecided", "held")),
    ],
)
def test_only_what_passed_and_is_not_weaker_is_published(
    job: Job, outcome: str, stronger: bool | None, ended: tuple[str, str]
):
    assert (
        verdict_name(job, Verdict.model_construct(outcome=outcome, stronger_than_live=stronger, live_digest=None))
        == ended
    )


@pytest.mark.parametrize("job", ["qwen3-8b"], indirect=True)
def test_a_family_that_never_publishes_keeps_what_passed(job: Job):
    passed = Verdict.model_construct(outcome="passed", stronger_than_live=None)
    assert verdict_name(job, passed) == ("Passed", "kept")


def test_a_family_that_asks_waits_with_what_passed(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    catalog = Path(shutil.copytree(settings().catalog, tmp_path / "catalog"))
    with (catalog / "llama-tiny.yaml").open("a", encoding="utf-8") as file:
        file.write("publish: ask\n")
    monkeypatch.setenv("EMPELT_CATALOG", str(catalog))
    doors.forget()
    passed = Verdict.model_construct(outcome="passed", stronger_than_live=True, live_digest=None)
    assert verdict_name(job, passed) == ("AwaitingApproval", "awaiting")
    assert verdict_name(job, passed.model_copy(update={"stronger_than_live": False})) == ("Kept", "kept")
    assert verdict_name(job, passed.model_copy(update={"outcome": "rejected"})) == ("Rejected", "rejected")


@pytest.mark.parametrize(("claimed", "ended"), [(True, ("Published", "published")), (False, ("Kept", "kept"))])
def test_what_an_earlier_attempt_at_the_job_made_live_was_published_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: bool, ended: tuple[str, str]
):
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny")
    doors.forget()
    ledger, samples = doors.open_ledger(), Samples()
    known, digest = samples.job(), samples.digest("merged")
    claim = ledger.claim(known.key, owner="run:1", lease_seconds=60)
    assert claim is not None
    by_us = {"fence": claim.fence, "claim_key": known.key} if claimed else {}
    asked = {"digest": digest, "release": known.release.ref, "target": "eu", "family": "tiny"}
    ledger.switch_channel("eu", expected_generation=0, **asked, **by_us)
    itself = Verdict.model_construct(
        outcome="passed", stronger_than_live=False, live_digest=digest, candidate_digest=digest
    )
    assert verdict_name(known, itself) == ended
    assert verdict_name(known, itself.model_copy(update={"live_digest": samples.digest("newer")})) == ("Kept", "kept")
    doors.forget()


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_an_older_release_never_displaces_a_newer_one_that_went_live_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
):
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny")
    doors.forget()
    ledger, samples = doors.open_ledger(), Samples()
    known = samples.job()
    other = known.release.model_copy(
        update={
            "ref": known.release.ref.model_copy(update={"revision": "f" * 40}),
            "content_digest": samples.digest("other release"),
            "released_at": known.release.released_at + timedelta(days=days),
        }
    )
    for release in (known.release, other):
        ledger.record_release(release)
    served = {"digest": samples.digest("other"), "release": other.ref, "target": "eu", "family": known.family}
    ledger.switch_channel(known.channel, expected_generation=0, **served)
    stronger = Verdict.model_construct(outcome="passed", stronger_than_live=True, live_digest=None, reasons=("better",))
    found = in_order(known, stronger)
    assert found.stronger_than_live is (days <= 0)
    assert (other.ref.repo_id in " ".join(found.reasons)) == (days > 0)
    if days > 0:
        assert verdict_name(known, found) == ("Kept", "kept")
    doors.forget()
