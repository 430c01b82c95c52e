"""`empelt plan`, `explain` and `retry`: what they say is what the watch would do, and asking changes nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from deployments import planning
from deployments.completion import explainable, families, stopped_names
from deployments.explained import as_text as explained_as_text
from deployments.explaining import explain
from deployments.planning import read_plan
from deployments.retrying import retry
from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.doors import forget, open_ledger
from tasks.hub import find_releases
from tasks.plan import plan_due
from tasks.settings import Settings
from tests.deployments.conftest import MODELS

V1, V2 = "empelt-demo/llama-tiny-instruct-v1", "empelt-demo/llama-tiny-instruct-v2"


def weights_bytes(*models: str) -> int:
    return sum((MODELS / model / "model.safetensors").stat().st_size for model in models)


def watch() -> dict[str, str]:
    """Release -> job_key, as the watch has recorded them."""
    with disable_run_logger():
        rows = plan_due.fn("llama-tiny", find_releases.fn("llama-tiny"))
    return {row.release.ref.repo_id: row.job_key for row in rows}


def by_release(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["release"]: row for row in found["rows"]}


def test_a_plan_says_what_the_watch_would_do_and_what_it_costs_and_records_nothing(installation: Settings):
    rows = by_release(read_plan("", offline=False))
    assert {name: row["standing"] for name, row in rows.items()} == {V2: "due", V1: "superseded"}
    due = rows[V2]
    weights = weights_bytes("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v2")
    assert weights < due["fetch_bytes"] < weights * 1.1  # and the small files
    assert 0.99 < due["write_bytes"] / weights_bytes("llama-tiny") <= 1
    assert (due["expected_seconds"], due["expected_from_jobs"]) == (None, 0)  # nothing was measured: nothing is said
    ledger = open_ledger()
    assert (ledger.releases("llama-tiny"), ledger.repo_seen(V2), ledger.holds(), ledger.jobs()) == ([], None, [], [])
    assert watch() == {name: row["job"] for name, row in rows.items()}


def test_offline_goes_by_the_ledger_alone(installation: Settings, monkeypatch: pytest.MonkeyPatch):
    assert read_plan("", offline=True)["rows"] == []
    keys = watch()
    monkeypatch.setenv("EMPELT_HUB_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    forget()
    found = read_plan("llama-tiny", offline=True)
    assert {row["release"]: row["job"] for row in found["rows"]} == keys
    assert (by_release(found)[V2]["fetch_bytes"], found["asked"]) == (None, "ledger")


def test_seconds_are_the_median_of_jobs_that_ended_here(installation: Settings, monkeypatch: pytest.MonkeyPatch):
    key, ledger = watch()[V1], open_ledger()
    claim = ledger.claim(key, owner="watch", lease_seconds=60)
    assert claim is not None
    (attempt,) = ledger.attempts_of(key)
    ledger.record_job_end(key, "rejected", "Too weak.", at=attempt.at.replace(microsecond=0, year=attempt.at.year + 1))
    ledger.release(claim)
    seconds, jobs = planning.expected_seconds("llama-tiny", "eu")
    assert jobs == 1
    assert seconds == pytest.approx(365 * 86400, rel=0.01)
    assert planning.expected_seconds("llama-tiny", "pt") == (seconds, 1)  # of its family, where the target has none
    assert planning.expected_seconds("other", "eu") == (None, 0)


def test_an_unknown_family_is_refused_with_those_that_run(installation: Settings):
    with pytest.raises(InputError, match=r"'llama-huge' does not run here.*\['llama-tiny'\]"):
        read_plan("llama-huge", offline=True)


def test_a_held_release_is_shown_as_waiting_with_its_reason(installation: Settings, tiny_hub: Any):
    revision = (tiny_hub.root / "repos" / V2 / "main").read_text()
    open_ledger().record_hold(f"release:{V2}@{revision}", "its template is wrong")
    found = read_plan("", offline=False)
    assert {row["release"]: row["standing"] for row in found["rows"]} == {V1: "due"}
    (waiting,) = found["waiting"]
    assert waiting["what"].startswith(V2)
    assert "its template is wrong" in waiting["why"]


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain_tells_recognition_preflight_and_each_job(installation: Settings):
    key = watch()[V2]
    open_ledger().record_hold(key, "llama-tiny-instruct-v2 x eu: undecided")
    told = explain(installation, V2, offline=False)
    assert [(one["family"], one["verdict"], one["cause"]) for one in told["recognition"]] == [
        ("llama-tiny", "release", "known")
    ]
    assert told["preflight"][0]["ok"] is True
    assert told["releases"][0]["revision"] == told["revision"]
    (job,) = told["jobs"]
    assert (job["target"], job["job"], job["standing"]) == ("eu", key, "held")
    assert "undecided" in job["why"]
    assert "empelt retry 'llama-tiny-instruct-v2 x eu'" in job["due_again"]
    text = explained_as_text(told)
    for words in ("recognised   by llama-tiny: release", "pre-flight   for llama-tiny: passes", "x eu", "held"):
        assert words in text


def test_explain_says_what_a_repository_is_to_the_catalog(installation: Settings):
    told = explain(installation, "empelt-demo/eu_llama-tiny", offline=False)
    assert told["roles"] == [{"family": "llama-tiny", "role": "tuned base", "language": "eu"}]
    assert told["recognition"][0]["verdict"] == "ignored"
    assert told["jobs"] == []


def test_explain_of_an_artifact_or_a_channel_tells_where_it_was_served(installation: Settings):
    ref = find_ref()
    names = {"target": "eu", "family": "llama-tiny", "reason": "first"}
    open_ledger().switch_channel("eu", digest="ab" * 32, release=ref, expected_generation=0, **names)
    told = explain(installation, "eu", offline=True)
    assert (told["kind"], told["generation"], told["promotions"][0]["why"]) == ("channel", 1, "first")
    assert explain(installation, "abababab", offline=True)["artifact"] == "ab" * 32
    assert "generation 1" in explained_as_text(told)


def find_ref() -> Any:
    watch()
    return open_ledger().releases("llama-tiny")[-1].ref


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nothing", "is nothing that can be explained"),
        ("abcdef0123", "no artifact that was judged or served here begins with abcdef0123"),
        ("empelt-demo/nowhere", "nothing is known of empelt-demo/nowhere"),
        ("a/b@", "names no release"),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(installation: Settings, what: str, says: str):
    with pytest.raises(InputError, match=says):
        explain(installation, what, offline=False)


# --- retry ------------------------------------------------------------------------------------------------------------


def test_retry_lifts_holds_and_used_up_attempts_by_name(installation: Settings):
    ledger, keys = open_ledger(), watch()
    ledger.record_hold(keys[V2], "undecided")
    for _ in range(installation.max_attempts):
        claim = ledger.claim(keys[V1], owner="watch", lease_seconds=60)
        assert claim is not None
        ledger.release(claim)
    assert stopped_names("") == ["llama-tiny-instruct-v1 x eu", "llama-tiny-instruct-v2 x eu"]
    lifted = retry(installation, "llama-tiny-instruct-v2 x eu", now=False)["lifted"]
    assert [(one["what"], one["why"]) for one in lifted] == [(keys[V2], "undecided")]
    (again,) = retry(installation, keys[V1][:10], now=False)["lifted"]
    assert "3 attempts" in again["why"]
    assert by_release(read_plan("", offline=True))[V2]["standing"] == "due"


def test_retry_of_what_is_not_stopped_lists_what_is(installation: Settings):
    with pytest.raises(InputError, match=r"nothing called 'x' is held.*; nothing at all is"):
        retry(installation, "x", now=False)
    open_ledger().record_hold("target:llama-tiny/eu", "its base is gone")
    with pytest.raises(InputError, match=r"target:llama-tiny/eu: its base is gone"):
        retry(installation, "x", now=False)


def test_retry_now_without_a_server_lifts_nothing(installation: Settings):
    open_ledger().record_hold("target:llama-tiny/eu", "its base is gone")
    with pytest.raises(EndpointUnavailable, match="`empelt up`"):
        retry(installation, "target:llama-tiny/eu", now=True)
    assert [hold.key for hold in open_ledger().holds()] == ["target:llama-tiny/eu"]


# --- completion -------------------------------------------------------------------------------------------------------


def test_completion_offers_names_and_is_silent_without_a_ledger(installation: Settings):
    assert families("lla") == ["llama-tiny"]
    assert explainable("") == []
    assert stopped_names("") == []
    assert not (installation.home / "ledger.db").exists()
    watch()
    assert explainable("empelt") == [V1, V2]


def test_a_shell_is_offered_names_after_tab(installation: Settings):
    words = "empelt plan --family lla"
    asked = {"_EMPELT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    command = Path(sys.executable).with_name("empelt")
    done = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == ["llama-tiny"]
    assert done.stderr == ""


def test_completion_is_silent_when_the_catalog_is_gone(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for path in installation.catalog.glob("*.yaml"):
        path.unlink()
    assert families("") == []
