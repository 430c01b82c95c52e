"""Pages that cannot be written change nothing about how a run ends. No server: the tasks run here, and fail for real."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED, temporary_settings

from tasks import doors
from tasks.domain.errors import PromotionFailed
from tasks.domain.jobs import Candidate, Job
from tasks.domain.models import ModelRef, Release
from tasks.domain.verdict import Verdict
from tasks.judge import show_decision
from tasks.overview import reported

ROOT = Path(__file__).parents[2]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """Of a family that the catalog has lost since: what both pages begin with is refused."""
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny")
    doors.forget()
    nowhere = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}
    with temporary_settings(nowhere), disable_run_logger():
        release = Release.model_construct(family="gone", ref=ModelRef(repo_id="demo/instruct-v2", revision="2" * 40))
        yield Job.model_construct(release=release, target="eu", channel="eu")
    doors.forget()


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What would stand in the run's log. Prefect hands out a run's logger inside a run only, and these tests are none."""
    monkeypatch.setattr("tasks.runs.get_run_logger", lambda: logging.getLogger("run"))
    caplog.set_level("WARNING", logger="run")
    return caplog


def test_pages_that_fail_leave_a_good_end_good(job: Job, warnings: pytest.LogCaptureFixture) -> None:
    with reported(job):
        pass
    assert "pages of gone: not written: " in warnings.text


def test_pages_that_fail_do_not_hide_why_a_run_failed(job: Job, warnings: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PromotionFailed, match="moved on"), reported(job):
        raise PromotionFailed("the channel moved on")
    assert "gone" in warnings.text


def test_a_decision_page_that_fails_leaves_the_decision(job: Job, warnings: pytest.LogCaptureFixture) -> None:
    show_decision(job, Verdict.model_construct(), Candidate.model_construct(), "Published", 2)
    assert "decision page of " in warnings.text


def test_the_end_is_written_down_before_it_is_shown() -> None:
    source = (ROOT / "flows" / "remerge_release.py").read_text(encoding="utf-8")
    assert 0 < source.index(" end_job(job") < source.index(" show_decision(job")
