"""A demo that is up, as people meet it: in the browser, over HTTP, at the command line; and taking a channel back.

    .venv/bin/pytest -m demo tests/system        # while `empelt demo` is up in another terminal

EMPELT_HOME, EMPELT_PREFECT_PORT and EMPELT_GATEWAY_PORT name it. The tests run in the order of this file: the last ones
roll the channel back and forth, and leave it on v2 with two generations more than before.
"""

import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.system.installation import CHANNEL, FAMILY, ROOT, TARGET, Installation, ask, named_installation, names, until

pytestmark = [pytest.mark.demo, pytest.mark.timeout(600)]

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE_MS = 90_000
"""A busy machine with two cores needs 15 s for the first page."""
PREFECTS_OWN = re.compile(r"/favicon[-\w]*\.(ico|png)$|/\w+\.svg$")
"""Files that Prefect 3.9.1 asks itself for in vain."""
REFUSED = re.compile(r"/create_flow_run: .*\b409 \(Conflict\)|Error creating flow run: Validation failed", re.DOTALL)
"""How its UI logs a form that the server refused. On a busy machine a quick Submit overtakes the form's own check."""
REVISION = re.compile(r"^[0-9a-f]{40}$")


@pytest.fixture(scope="module")
def demo() -> Installation:
    """The demo that is up."""
    found = named_installation()
    if (found.home / "report.json").exists() and found.is_up():
        return found
    lack = f"no demo is up in {found.home} (UI {found.ui}, endpoint {found.endpoint}); start `empelt demo`"
    if os.environ.get("EMPELT_DEMO_PID"):
        pytest.fail(f"{lack}: EMPELT_DEMO_PID says that there is one")
    pytest.skip(lack)


@pytest.fixture(scope="module")
def report(demo: Installation) -> dict[str, Any]:
    return dict(json.loads((demo.home / "report.json").read_text(encoding="utf-8")))


# --- in the browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api  # with the other tools of `make test`: without them this is an error, not a skip

    if not Path(CHROMIUM).exists():
        lack = f"{CHROMIUM} does not exist: `make test` installs it where it may"
        if os.environ.get("CI"):
            pytest.fail(lack)  # CI must see the UI
        pytest.skip(lack)
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(demo: Installation, browser: Any) -> Iterator[Any]:
    """A new page; whatever a test does with it, no error may have been logged by the UI."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    # Prefect's UI asks a tracking service for its settings, whatever the server says: nothing leaves this host here.
    page.route(lambda url: not url.startswith(demo.ui), lambda route: route.abort())
    errors: list[str] = []

    def on_console(message: Any) -> None:
        where = str(message.location.get("url", ""))
        if message.type == "error" and where.startswith(demo.ui) and not PREFECTS_OWN.search(where):
            errors.append(f"{where}: {message.text}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
    yield page
    page.close()
    assert [error for error in errors if not REFUSED.search(error)] == []


def open_artifact(page: Any, demo: Installation, run: str, key: str) -> None:
    """From the page of a run to one of its artifacts."""
    page.goto(f"{demo.ui}/v2/runs/flow-run/{run}")
    page.get_by_role("tab", name="Artifacts").click()
    # Not by a click: the graph of Prefect 3.9.1 goes on drawing after its page is left, and logs an error a frame.
    page.goto(f"{demo.ui}{page.get_by_role('link', name=key).get_attribute('href')}")
    page.get_by_role("tab", name="Raw").wait_for()


def table_of(page: Any) -> list[dict[str, str]]:
    """The first table of the page with rows, by its headings."""
    table = page.get_by_role("table").filter(has_text="VERDICT").first
    table.wait_for()
    head = [plain(text) for text in table.get_by_role("columnheader").all_inner_texts()]
    body = table.locator("tbody tr").all()
    return [dict(zip(head, map(plain, row.get_by_role("cell").all_inner_texts()), strict=True)) for row in body]


def plain(text: str) -> str:
    return " ".join(text.split())


def reads(page: Any, *expected: str) -> str:
    """What the page says, once it says all of this: its text is drawn after the frame and the headings around it."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while True:
        said = plain(page.locator("main").inner_text())
        missing = [text for text in expected if text not in said]
        if not missing or time.monotonic() > deadline:
            assert missing == [], said
            return said
        page.wait_for_timeout(500)


def test_the_run_of_v2_is_shown_as_published(page: Any, demo: Installation, report: dict[str, Any]) -> None:
    page.goto(f"{demo.ui}/v2/runs/flow-run/{report['flow_run']}")
    header = page.locator("main")
    header.get_by_text(f"{FAMILY}-instruct-v2 x {TARGET}", exact=True).first.wait_for()
    header.get_by_text("Published", exact=True).first.wait_for()
    header.get_by_text("remerge-release", exact=True).first.wait_for()
    # By the API: the UI shows as many tags as there is room for, in no order.
    assert {FAMILY, f"{FAMILY}-instruct-v2", TARGET} <= set(demo.run(report["flow_run"])["tags"])


def test_its_merge_and_its_publication_are_shown_as_runs_below_it(
    page: Any, demo: Installation, report: dict[str, Any]
) -> None:
    page.goto(f"{demo.ui}/v2/runs/flow-run/{report['flow_run']}")
    page.get_by_role("tab", name="Subflow Runs").click()
    for name in ("merge", f"publish {CHANNEL}"):
        page.get_by_role("link", name=name, exact=True).first.wait_for()


def test_the_gate_table_shows_every_benchmark_and_the_verdict(
    page: Any, demo: Installation, report: dict[str, Any]
) -> None:
    open_artifact(page, demo, report["flow_run"], f"gate-{FAMILY}-{TARGET}")
    rows = {(row["benchmark"].rstrip(" *"), row["metric"]): row for row in table_of(page)}
    for told in report["verdict"]["rows"]:
        row = rows[told["benchmark"].rstrip(" *"), told["metric"]]
        for column in ("score", "limit", "instruct", "tuned", "live", "verdict"):
            assert row[column] == plain(str(told[column])), (row, column)
    assert {benchmark for benchmark, _ in rows} >= {"eu_chat", "en_chat_short", "es_chat_short"}
    assert next(row["verdict"] for (name, _), row in rows.items() if name == "VERDICT") == "PASSED"


def test_the_decision_page_says_why_from_what_and_how_to_take_it_back(
    page: Any, demo: Installation, report: dict[str, Any]
) -> None:
    open_artifact(page, demo, report["flow_run"], f"decision-{FAMILY}-{TARGET}")
    page.get_by_role("heading", name=f"{FAMILY}-instruct-v2 x {TARGET}: Published").wait_for()
    ingredients = report["lineage"]["ingredients"]
    revisions = [ingredient["ref"]["revision"] for ingredient in ingredients]
    assert all(REVISION.match(revision) for revision in revisions)
    digests = [ingredient["digest"] for ingredient in ingredients]
    reasons = [plain(reason) for reason in report["verdict"]["reasons"]]
    reads(page, *revisions, *digests, report["release_revision"], report["artifact"], *reasons)
    assert page.locator("pre", has_text=f"empelt rollback {CHANNEL}").first.is_visible()


# --- over HTTP, and at the command line --------------------------------------------------------------------------------


def test_the_endpoint_lists_the_channel_and_what_is_behind_it(demo: Installation, report: dict[str, Any]) -> None:
    models = {model["id"]: model for model in ask(f"{demo.endpoint}/v1/models").body["data"]}
    assert models[CHANNEL]["root"] == report["artifact"]
    assert models[CHANNEL]["generation"] == report["generation"]


def test_an_answer_says_which_artifact_gave_it(demo: Installation, report: dict[str, Any]) -> None:
    answer = demo.chat(report["answers"]["question"])
    assert answer.status == 200
    assert answer.body["choices"][0]["message"]["content"] == report["answers"]["after"]
    assert answer.headers["x-empelt-channel"] == CHANNEL
    assert answer.headers["x-empelt-artifact"] == report["artifact"]
    assert answer.headers["x-empelt-generation"] == str(report["generation"])
    assert answer.headers["x-empelt-release"] == report["release"]


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/metrics", "/tokenize", "/docs", "/v1"])
def test_a_path_that_is_not_named_does_not_reach_vllm(demo: Installation, path: str) -> None:
    answer = ask(f"{demo.endpoint}{path}")
    assert answer.status == 404
    assert "/v1/chat/completions" in answer.body["error"]["message"]


def test_an_unknown_model_is_refused_with_the_known(demo: Installation) -> None:
    body = {"model": "basque", "messages": [{"role": "user", "content": "Kaixo"}]}
    answer = ask(f"{demo.endpoint}/v1/chat/completions", body)
    assert answer.status == 404
    assert "`basque`" in answer.body["error"]["message"]
    assert f"Served: {CHANNEL}" in answer.body["error"]["message"]


def test_status_says_at_a_glance_what_serves(demo: Installation, report: dict[str, Any]) -> None:
    found = demo.channel()
    assert found["generation"] == report["generation"]
    assert found["release"] == report["release"]
    assert f"/{FAMILY}-instruct-v2@" in found["release"]
    assert found["artifact"] == report["artifact"]
    assert found["verdict"] == "passed"
    assert found["visible"] is True
    assert found["instance"] == "ready"


# --- the check that trusts nothing -------------------------------------------------------------------------------------


@pytest.fixture
def copied(demo: Installation, tmp_path: Path) -> Path:
    """A home with the same report and the same store."""
    shutil.copy(demo.home / "report.json", tmp_path)
    (tmp_path / "store").symlink_to(demo.home / "store")
    return tmp_path


def checked(home: Path, only: str = f"{FAMILY}-instruct-v2 x {TARGET}") -> tuple[int, str]:
    """Exit code and words of the check; of the checks of one job, if no others are asked for."""
    command = [sys.executable, str(ROOT / "tests" / "system" / "check_demo.py"), "--home", str(home), "--only", only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def alter(home: Path, change: Callable[[dict[str, Any]], object], name: str = "") -> None:
    """Change what the report tells of one job; of v2 x eu if none is named."""
    path = home / "report.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    change(next(job for job in told["jobs"] if job["name"] == (name or told["name"])))
    path.write_text(json.dumps(told), encoding="utf-8")


def test_an_unaltered_demo_passes_the_check(copied: Path) -> None:
    code, said = checked(copied)
    assert code == 0, said
    assert said.count("ok ") == 5
    assert "FAIL" not in said


def test_what_stands_at_the_top_of_the_report_is_the_job(copied: Path) -> None:
    path = copied / "report.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**told, "generation": 99}), encoding="utf-8")
    code, said = checked(copied, only="the report's top")
    assert code == 1
    assert "generation: 99" in said


def test_a_rejected_candidate_that_is_told_as_published_is_found(copied: Path, report: dict[str, Any]) -> None:
    name = next(job["name"] for job in report["jobs"] if job["outcome"] == "rejected")
    alter(copied, lambda job: job.update(outcome="published", ended="Published"), name)
    code, said = checked(copied, only=name)
    assert code == 1
    assert "the job's run ended as Rejected (COMPLETED), not as Published" in said


def test_another_end_of_the_story_is_found(copied: Path, report: dict[str, Any]) -> None:
    name = f"{FAMILY}-instruct-v4 x {TARGET}"
    assert next(job["outcome"] for job in report["jobs"] if job["name"] == name) == "kept"
    alter(copied, lambda job: job.update(outcome="published"), name)
    code, said = checked(copied, only="the story")
    assert code == 1
    assert f"{name} ended published; kept was expected" in said


def test_a_refused_release_that_had_a_run_would_be_found(copied: Path, report: dict[str, Any]) -> None:
    path = copied / "report.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["refusal"]["release"] = f"{FAMILY}-instruct-v2"
    path.write_text(json.dumps(told), encoding="utf-8")
    code, said = checked(copied, only="(refused)")
    assert code == 1
    assert f"a run '{FAMILY}-instruct-v2 x {TARGET}' was made for the release that was to be refused" in said


def test_an_altered_score_is_found(copied: Path) -> None:
    alter(copied, lambda job: job["scores"]["eu_chat/strict"].update(value=0.99))
    code, said = checked(copied)
    assert code == 1
    assert "eu_chat/strict: the report's score is 0.990" in said


def test_an_altered_row_of_the_gate_is_found(copied: Path) -> None:
    alter(copied, lambda job: job["verdict"]["rows"][0].update(limit=">= 0.99"))
    code, said = checked(copied)
    assert code == 1
    assert "the report's limit is '>= 0.99'" in said


def test_an_altered_verdict_is_found(copied: Path) -> None:
    alter(copied, lambda job: job["verdict"].update(outcome="rejected"))
    code, said = checked(copied)
    assert code == 1
    assert "by verdict rejected, Prefect's table says PASSED" in said


def test_an_older_generation_is_found(copied: Path) -> None:
    alter(copied, lambda job: job.update(generation=job["generation"] - 1))
    code, said = checked(copied)
    assert code == 1
    assert "the gateway answers with x-empelt-generation" in said


def test_another_artifact_than_the_served_one_is_found(copied: Path) -> None:
    before = json.loads((copied / "report.json").read_text(encoding="utf-8"))["before"]["artifact"]
    alter(copied, lambda job: job.update(artifact=before))
    code, said = checked(copied)
    assert code == 1
    assert "the gateway answers with x-empelt-artifact" in said


def test_another_recipe_than_the_merge_had_is_found(copied: Path) -> None:
    alter(copied, lambda job: job["lineage"]["recipe"].update(tuned_weight=0.1))
    code, said = checked(copied)
    assert code == 1
    assert "sampled elements" in said


def test_an_altered_answer_is_found(copied: Path) -> None:
    path = copied / "report.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["channel_answers"][TARGET]["after"] = "Bai"
    path.write_text(json.dumps(told), encoding="utf-8")
    code, said = checked(copied)
    assert code == 1
    assert "the report says 'Bai'" in said


@pytest.mark.parametrize("altered", [False, True])
def test_one_altered_bit_of_a_weight_is_found(copied: Path, report: dict[str, Any], altered: bool) -> None:
    real = (copied / "store").resolve()
    (copied / "store").unlink()
    shutil.copytree(real / "artifacts", copied / "store" / "artifacts")
    if altered:
        folder = copied / "store" / "artifacts" / report["artifact"]
        flip_a_bit(next(folder.glob("*.safetensors")))
    code, said = checked(copied)
    # No process has mapped the copy, so this home is refused either way; only the altered one for its content.
    assert code == 1
    assert "no process has mapped" in said
    assert ("it was altered" in said) is altered


def flip_a_bit(path: Path) -> None:
    """The lowest bit of the first weight."""
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with path.open("r+b") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        byte = file.read(1)[0]
        file.seek(8 + header)
        file.write(bytes([byte ^ 1]))


# --- taking the channel back: last, since it moves the channel ---------------------------------------------------------


class RolledBack(NamedTuple):
    """What `empelt rollback` did."""

    said: dict[str, Any]
    before: dict[str, Any]
    seconds: float
    at: datetime


@pytest.fixture(scope="module")
def rolled_back(demo: Installation, report: dict[str, Any]) -> Iterator[RolledBack]:
    """The channel, taken back to v1 by the command; afterwards it is on v2 again, whatever failed."""
    before = demo.channel()
    assert before["artifact"] == report["artifact"], "the channel has moved on: start the demo again"
    began = time.monotonic()
    said = demo.empelt("rollback", CHANNEL, "--reason", "a test")
    seconds = time.monotonic() - began
    print(f"\nempelt rollback {CHANNEL}: {seconds:.1f} s from the command to its end")
    yield RolledBack(said, before, seconds, datetime.now(UTC))
    if demo.channel()["artifact"] != report["artifact"]:
        demo.empelt("rollback", CHANNEL, "--to", report["artifact"])


def test_a_rollback_takes_the_channel_to_v1_in_seconds(
    demo: Installation, report: dict[str, Any], rolled_back: RolledBack
) -> None:
    assert rolled_back.said["artifact"] == report["before"]["artifact"]
    assert rolled_back.said["release"] == report["before"]["release"]
    assert rolled_back.said["generation"] == rolled_back.before["generation"] + 1
    answer = demo.chat(report["answers"]["question"])
    assert answer.body["choices"][0]["message"]["content"] == report["answers"]["before"]
    assert answer.headers["x-empelt-artifact"] == report["before"]["artifact"]
    assert answer.headers["x-empelt-generation"] == str(rolled_back.said["generation"])
    assert rolled_back.seconds < 120


def test_the_ui_shows_the_rollback(page: Any, demo: Installation, rolled_back: RolledBack) -> None:
    assert rolled_back.said["run_url"].startswith(f"{demo.ui}/v2/runs/flow-run/")
    page.goto(rolled_back.said["run_url"])
    page.locator("main").get_by_text(f"roll back {CHANNEL}", exact=True).first.wait_for()
    page.locator("main").get_by_text("RolledBack", exact=True).first.wait_for()
    page.goto(f"{demo.ui}/v2/artifacts/artifact/{demo.artifact(f'channel-{CHANNEL}')['id']}")
    page.get_by_role("heading", name=f"generation {rolled_back.said['generation']}").wait_for()
    why = f"rolled back from {rolled_back.before['release']}"
    reads(page, rolled_back.said["release"], rolled_back.said["artifact"], why, "a test")


def test_the_api_has_the_rollback_as_a_run_that_ended_well(demo: Installation, rolled_back: RolledBack) -> None:
    newest = demo.runs("rollback-channel")[0]
    assert newest["id"] in rolled_back.said["run_url"]
    assert (newest["state"]["type"], newest["state"]["name"]) == ("COMPLETED", "RolledBack")


def test_the_watch_does_not_publish_v2_again(demo: Installation, rolled_back: RolledBack) -> None:
    after = {"start_time": {"after_": rolled_back.at.isoformat()}, "state": {"type": {"any_": ["COMPLETED"]}}}

    def watched() -> list[dict[str, Any]]:
        return [run for run in demo.runs("watch-hub", **after) if run["state"]["name"] != "Skipped"]

    until(lambda: len(watched()) >= 2, seconds=240, what="two more watches", every=2)
    assert [state for _, state in names(watched()) if state == "Dispatched"] == []
    found = demo.channel()
    assert found["artifact"] == rolled_back.said["artifact"]
    assert found["generation"] == rolled_back.said["generation"]


def test_rolling_back_again_goes_forward_to_v2(
    demo: Installation, report: dict[str, Any], rolled_back: RolledBack
) -> None:
    said = demo.empelt("rollback", CHANNEL)
    assert said["artifact"] == report["artifact"]
    assert said["generation"] == rolled_back.said["generation"] + 1
    answer = demo.chat(report["answers"]["question"])
    assert answer.headers["x-empelt-artifact"] == report["artifact"]
    assert answer.headers["x-empelt-generation"] == str(said["generation"])
