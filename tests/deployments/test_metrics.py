"""What Prometheus is told: figures of a real ledger and store, and alerts that name nothing else."""

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from deployments import metrics
from deployments.receiver import metrics_app
from tasks.domain.audit import AuditFact
from tasks.domain.jobs import Job, PublishRequest
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import ModelRef, Release
from tasks.doors import forget, open_ledger, open_store
from tasks.endpoints import figures
from tasks.endpoints.gathered import worker_ends
from tasks.endpoints.serving_figures import OfServing
from tasks.settings import settings
from tests.local_hub.hub_fixtures import free_port

ALERTS = Path(__file__).parents[2] / "infra" / "prometheus" / "alerts.yaml"
NOW = datetime.now(UTC)
Figures = dict[tuple[str, str], float]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith("EMPELT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EMPELT_PREFECT_PORT", str(free_port()))
    forget()
    yield tmp_path / "home"
    forget()


def job(number: int, target: str = "eu") -> Job:
    ref = ModelRef(repo_id=f"lab/instruct-v{number}", revision=f"{number:040x}")
    release = Release(
        family="tiny",
        ref=ref,
        content_digest=f"{number:064x}",
        released_at=NOW - timedelta(days=10 - number),
        seen_at=NOW - timedelta(days=9 - number),
    )
    part = Ingredient(role="instruct", ref=ref, digest=release.content_digest)
    lineage = Lineage(
        family="tiny", target=target, ingredients=(part,), recipe={"method": "task_arithmetic"}, engine_version="1"
    )
    return Job(release=release, target=target, channel=target, gate_digest="9" * 64, lineage=lineage)


def recorded(one: Job) -> Job:
    open_ledger().record_job(one)
    return one


def attempted(one: Job, times: int) -> Job:
    for _ in range(times):
        claim = open_ledger().claim(one.key, owner="run:x", lease_seconds=60)
        assert claim is not None
        open_ledger().release(claim)
    return one


def scraped() -> tuple[Figures, str]:
    """Every sample by its name and the value of its label."""
    answer = TestClient(metrics_app(settings())).get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, ",".join(s.labels.values())): s.value for s in samples}, answer.text


def test_an_empty_installation_has_figures() -> None:
    found, _ = scraped()
    assert found["empelt_ledger_up", ""] == 1
    assert found["empelt_prefect_up", ""] == 0
    assert found["empelt_jobs", "due"] == 0
    assert found["empelt_store_bytes", ""] == 0
    assert not [name for name, _ in found if name.startswith("empelt_watch_polls")]


def test_jobs_are_counted_as_the_watch_would_plan_them() -> None:
    ledger = open_ledger()
    recorded(job(1))  # older than the one that is due: nothing is done about it
    recorded(job(2))
    running = recorded(job(1, "ca"))
    ledger.claim(running.key, owner="run:a", lease_seconds=600)
    held = recorded(job(1, "gl"))
    ledger.record_hold(held.key, "by a test")
    ledger.record_hold("release:lab/other@1", "gated: by a test")
    attempted(recorded(job(1, "es")), settings().max_attempts)
    ended = attempted(recorded(job(1, "pt")), 1)
    ledger.record_job_end(ended.key, "rejected", "by a test")
    asking = recorded(job(1, "en"))
    request = PublishRequest(
        family="tiny",
        target="en",
        channel="en",
        artifact_digest="5" * 64,
        release=asking.release.ref,
        expected_generation=0,
        claim_key=asking.key,
        reason="better",
    )
    ledger.ask_approval(request, "better")
    found, _ = scraped()
    assert {name: found["empelt_jobs", name] for name in metrics.STANDINGS} == dict.fromkeys(metrics.STANDINGS, 1)
    assert found["empelt_holds", ""] == 2
    assert found["empelt_attempts_total", ""] == settings().max_attempts + 2
    assert found["empelt_job_seconds_count", "rejected"] == 1
    assert found["empelt_job_seconds_sum", "rejected"] >= 0
    assert found["empelt_ledger_rows", "jobs"] == 7


def test_a_retry_makes_attempts_count_anew_here_too() -> None:
    one = attempted(recorded(job(1)), settings().max_attempts)
    assert scraped()[0]["empelt_jobs", "exhausted"] == 1
    open_ledger().lift(one.key, "by a test")
    found, _ = scraped()
    assert (found["empelt_jobs", "exhausted"], found["empelt_jobs", "due"]) == (0, 1)


def test_a_channel_is_visible_when_the_gateway_has_said_so() -> None:
    one, ledger = recorded(job(1)), open_ledger()
    ledger.switch_channel(
        "eu",
        digest="5" * 64,
        release=one.release.ref,
        target="eu",
        family="tiny",
        expected_generation=0,
        reason="by a test",
    )
    found, _ = scraped()
    assert (found["empelt_channel_generation", "eu"], found["empelt_channel_visible", "eu"]) == (1, 0)
    assert ("empelt_switch_seconds_count", "eu") not in found
    ledger.acknowledge("eu", 1, at=ledger.promotions("eu")[0].at + timedelta(seconds=1.5))
    found, _ = scraped()
    assert found["empelt_channel_visible", "eu"] == 1
    assert (found["empelt_switch_seconds_count", "eu"], found["empelt_switch_seconds_sum", "eu"]) == (1, 1.5)


def test_a_channel_is_proved_by_its_newest_audit_alone() -> None:
    one, ledger = recorded(job(1)), open_ledger()
    ledger.switch_channel(
        "eu", digest="5" * 64, release=one.release.ref, target="eu", family="tiny", expected_generation=0, reason="x"
    )
    assert ("empelt_channel_proved", "eu") not in scraped()[0]
    for outcome, value in (("proved", 1), ("unproven", 0), ("silent", -1), ("wrong", -1), ("proved", 1)):
        ledger.record_audit(
            AuditFact(
                **{"channel": "eu", "generation": 1, "artifact_digest": "5" * 64, "outcome": outcome, "said": "x"},
                **{"seconds": 1.0, "at": datetime(2026, 11, 2, tzinfo=UTC)},
            )
        )
        found, _ = scraped()
        assert found["empelt_channel_proved", "eu"] == value
    assert found["empelt_channel_audit_timestamp_seconds", "eu"] == datetime(2026, 11, 2, tzinfo=UTC).timestamp()


def test_watches_are_told_of_each_family_and_are_no_attempts_at_jobs() -> None:
    ledger = open_ledger()
    claim = ledger.claim(metrics.WATCH, owner="run:w", lease_seconds=60)
    assert claim is not None
    ledger.record_poll("tiny", NOW, 7)
    ledger.record_poll("tiny", NOW + timedelta(minutes=10), 5, "the Hub does not answer")
    ledger.record_poll("other", NOW, 2, "the Hub does not answer")
    found, _ = scraped()
    assert found["empelt_attempts_total", ""] == 0
    assert found["empelt_watch_polls_total", "tiny"] == 2
    assert found["empelt_watch_failures_total", "tiny"] == found["empelt_watch_failures_total", "other"] == 1
    assert found["empelt_watch_calls_total", "tiny"] == 12
    assert found["empelt_watch_good_poll_timestamp_seconds", "tiny"] == pytest.approx(NOW.timestamp())
    assert ("empelt_watch_good_poll_timestamp_seconds", "other") not in found


def test_disk_and_store_are_measured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPELT_STORE_QUOTA_GIB", "1.5")
    forget()
    folder = home / "made"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    (folder / "config.json").write_text("{}")
    open_store().adopt(folder)
    found, _ = scraped()
    assert found["empelt_store_artifacts", ""] == 1
    assert found["empelt_store_bytes", ""] == 1002
    assert (found["empelt_store_quota_bytes", ""], found["empelt_download_quota_bytes", ""]) == (1.5 * 2**30, 0)
    total, _, _ = shutil.disk_usage(home)
    assert found["empelt_disk_size_bytes", ""] == total
    assert 0 < found["empelt_disk_free_bytes", ""] < total


def test_a_ledger_that_cannot_be_opened_is_told_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    settings().home.mkdir(parents=True)
    (settings().home / "ledger.db").write_bytes(b"no database at all" * 1000)
    found, _ = scraped()
    assert found["empelt_ledger_up", ""] == 0
    assert found["empelt_disk_size_bytes", ""] > 0
    assert ("empelt_jobs", "due") not in found


def test_nothing_secret_is_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPELT_HUB_TOKEN", "canary-token")
    monkeypatch.setenv("EMPELT_PREFECT_AUTH", "user:canary-password")
    forget()
    assert "canary" not in scraped()[1]


# --- alerts -----------------------------------------------------------------------------------------------------------
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def names_of(family: Metric) -> list[str]:
    """As Prometheus calls the samples of a family that has none yet."""
    ends = {
        "counter": ["_total"],
        "gauge": [""],
        "histogram": ["_bucket", "_count", "_sum"],
        "summary": ["_count", "_sum"],
    }
    return [f"{family.name}{end}" for end in ends[family.type]]


def test_every_metric_that_an_alert_names_is_one_that_we_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger()
    ledger.agent_heartbeat()
    ledger.record_poll("tiny", NOW, 1)
    ledger.switch_channel(
        "eu",
        digest="5" * 64,
        release=job(1).release.ref,
        target="eu",
        family="tiny",
        expected_generation=0,
        reason="by a test",
    )
    _, text = scraped()
    told = {family.name for family in text_string_to_metric_families(text)}
    told |= {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    of_prefect = source[source.index("def _watch_runs") : source.index("def registry_of")]
    told |= {f"empelt_{name}" for name in re.findall(r'gauge\("(\w+)"', of_prefect)}
    told |= set(re.findall(r'"(empelt_\w+)"', of_prefect))
    of_gateway = (*figures.REGISTRY.collect(), *OfServing(Path("none")).collect(), *worker_ends().collect())
    told |= {name for family in of_gateway for name in names_of(family)}
    named = {name for rule in rules() for name in re.findall(r"empelt_\w+", rule["expr"])}
    assert len(named) >= 10
    assert named <= told


def test_every_alert_has_what_a_person_needs() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert rule["annotations"]["summary"]


def test_every_standing_that_an_alert_names_is_one_of_ours() -> None:
    named = {name for rule in rules() for name in re.findall(r'standing="(\w+)"', rule["expr"])}
    assert named
    assert named <= set(metrics.STANDINGS)
    states = {name for rule in rules() for name in re.findall(r'state="(\w+)"', rule["expr"])}
    assert states <= {state.lower() for state in metrics.WATCH_STATES}
