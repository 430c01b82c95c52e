"""A person at the Prefect UI of a demo that is up: the form, the pages, Cancel, Retry's other half, and an approval.

    .venv/bin/pytest -m demo tests/system/test_ui_actions.py        # while `empelt demo` is up in another terminal

Runs after `test_demo_up.py`, and leaves the channel on v2 with two generations more.
"""

# ruff: noqa: F811
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.system.installation import CHANNEL, FAMILY, ROOT, TARGET, Answer, Installation, ask, until

# Fixtures, by name.
from tests.system.test_demo_up import browser, demo, page, plain, reads, report  # noqa: F401

pytestmark = [pytest.mark.demo, pytest.mark.timeout(600)]

FORM = "remerge-release/by-hand-or-watch"
RELEASE = f"empelt-demo/{FAMILY}-instruct-v1"
OPEN_TARGET = "gl"
"""v1 was never brought to it: v2 was there first, so the job is open and nobody will start it."""


def deployment(demo: Installation, name: str) -> dict[str, Any]:
    return dict(ask(f"{demo.ui}/api/deployments/name/{name}").body)


def start(demo: Installation, name: str, parameters: dict[str, Any], **more: Any) -> Answer:
    url = f"{demo.ui}/api/deployments/{deployment(demo, name)['id']}/create_flow_run"
    return ask(url, {"parameters": parameters, **more})


def ended(demo: Installation, run: str, seconds: float = 240) -> dict[str, Any]:
    """The state in which a run ends."""

    def state() -> dict[str, Any] | None:
        now = demo.run(run)["state"]
        return now if now["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return dict(until(state, seconds=seconds, what=f"run {run} to end"))


# --- the form ----------------------------------------------------------------------------------------------------------


def test_the_form_offers_families_targets_and_known_releases(page: Any, demo: Installation) -> None:
    page.goto(f"{demo.ui}/v2/deployments/deployment/{deployment(demo, FORM)['id']}/run")
    page.get_by_text("What to merge it for.").wait_for()
    said = plain(page.locator("main").inner_text())
    assert f"{RELEASE}@" in said
    assert "claim" not in said.lower()
    page.get_by_text("Select", exact=True).last.click()
    page.get_by_role("option").first.wait_for()
    offered = [plain(text) for text in page.get_by_role("option").all_inner_texts()]
    assert {TARGET, OPEN_TARGET} <= set(offered)


def test_a_bad_release_is_refused_in_the_form(page: Any, demo: Installation) -> None:
    page.goto(f"{demo.ui}/v2/deployments/deployment/{deployment(demo, FORM)['id']}/run")
    page.get_by_text("The instruct model:").wait_for()
    page.get_by_text("Release", exact=True).locator("xpath=following::textarea[1]").fill("not a release")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("does not match").first.wait_for()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"family": "llama-huge"}, "llama-huge"),
        ({"target": "tlh"}, "tlh"),
        ({"release": "not a release"}, "not a release"),
    ],
)
def test_the_server_refuses_bad_parameters(demo: Installation, changed: dict[str, str], named: str) -> None:
    refusal = start(demo, FORM, {"family": FAMILY, "target": TARGET, "release": RELEASE, **changed})
    assert refusal.status in (409, 422)
    assert named in str(refusal.body)


# --- the pages ---------------------------------------------------------------------------------------------------------


def open_page(page: Any, demo: Installation, key: str, *expected: str) -> str:
    """The newest version of a page, as text, once there is one that says this; runs and watches bring new ones."""

    def version() -> str | None:
        found = demo.artifact(key)
        return (
            str(found["id"]) if all(text in plain(str(found["data"]).replace("*", "")) for text in expected) else None
        )

    newest = until(version, seconds=120, what=f"a version of {key} that says {expected}", every=2)
    page.goto(f"{demo.ui}/v2/artifacts/artifact/{newest}")
    return reads(page, *(text.replace("`", "") for text in expected))


def test_the_matrix_of_v2_has_its_targets_and_links_to_the_runs(
    page: Any,
    demo: Installation,
    report: dict[str, Any],
) -> None:
    open_page(page, demo, f"matrix-{FAMILY}-instruct-v2", f"serves `{CHANNEL}`, generation", "PASSED", f"{TARGET}_chat")
    row = page.get_by_role("row").filter(has_text=f"serves {CHANNEL}")
    assert report["flow_run"] in row.get_by_role("link", name="run").get_attribute("href")


def test_the_overview_tells_what_serves_and_how_long_it_took(
    page: Any,
    demo: Installation,
    report: dict[str, Any],
) -> None:
    headings = ("Serving", "Waiting for approval", "Under way, due and held", "From release to served")
    open_page(page, demo, f"overview-{FAMILY}", *headings, report["release_revision"][:12])
    for heading in headings:
        page.get_by_role("heading", name=heading).wait_for()
    header = page.get_by_role("table").last.get_by_role("columnheader").all_inner_texts()
    assert {"seen", "fetched", "merged", "evaluated", "judged", "switched", "visible", "total"} <= set(header)


# --- cancel ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(demo: Installation) -> Iterator[str]:
    """A run by hand that is to begin in an hour; its job is free again afterwards."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": later}}
    asked = {"family": FAMILY, "target": OPEN_TARGET, "release": RELEASE}
    yield str(start(demo, FORM, asked, state=state).body["id"])
    demo.empelt("retry", f"{FAMILY}-instruct-v1 x {OPEN_TARGET}")


def test_cancel_in_the_ui_puts_the_job_on_hold(page: Any, demo: Installation, planned: str) -> None:
    page.goto(f"{demo.ui}/v2/runs/flow-run/{planned}")
    page.get_by_role("button", name="Open menu").last.click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()
    page.locator("main").get_by_text("Cancelled", exact=True).first.wait_for()

    def held() -> list[dict[str, str]]:
        return [row for row in demo.empelt("status")["waiting"] if "cancelled in the UI at" in row["why"]]

    (row,) = until(held, seconds=180, what="the watch to hold the job", every=3)
    assert f"{FAMILY}-instruct-v1 x {OPEN_TARGET}" in str(row)


# --- approval ----------------------------------------------------------------------------------------------------------

ASK = """
import sys
from tasks.domain.jobs import PublishRequest
from tasks.doors import open_ledger
from tasks.forms import refresh_forms
from tasks.settings import settings
ledger, digest = open_ledger(), sys.argv[1]
made = next(p for p in ledger.promotions(sys.argv[2]) if p.artifact_digest == digest and p.claim_key)
request = PublishRequest(family=made.family, target=made.target, channel=made.channel, artifact_digest=digest,
                         release=made.release, expected_generation=0, claim_key=made.claim_key)
ledger.ask_approval(request, "asked by a test")
refresh_forms(settings())
"""


@pytest.fixture(scope="module")
def wished(demo: Installation, report: dict[str, Any]) -> Iterator[str]:
    """v2 waits for approval while v1 is live, as in a family whose policy is `ask`; afterwards v2 is live."""
    demo.empelt("rollback", CHANNEL, "--to", report["before"]["artifact"], "--reason", "a test of approvals")
    command = [sys.executable, "-c", ASK, report["artifact"], CHANNEL]
    environment = {**demo.environment, "EMPELT_FAMILIES": FAMILY}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=240)
    yield f"{FAMILY}-instruct-v2 x {TARGET} ({report['artifact'][:12]})"
    if demo.channel()["artifact"] != report["artifact"]:
        demo.empelt("rollback", CHANNEL, "--to", report["artifact"])


def test_what_waits_is_in_the_form_and_in_status(demo: Installation, wished: str) -> None:
    form = deployment(demo, "approve-release/by-hand")["parameter_openapi_schema"]["properties"]
    assert form["candidate"]["enum"] == [wished]
    assert [row["what"] for row in demo.empelt("status")["waiting"] if "for approval" in row["why"]] == [wished]


def test_an_approved_candidate_is_judged_again_and_served(
    demo: Installation,
    report: dict[str, Any],
    wished: str,
) -> None:
    before = demo.channel()["generation"]
    refusal = start(demo, "approve-release/by-hand", {"candidate": "v9 x eu", "decision": "publish", "by": "Ane"})
    assert refusal.status in (409, 422)
    asked = {"candidate": wished, "decision": "publish", "by": "Ane", "comment": "good for a talk"}
    made = start(demo, "approve-release/by-hand", asked)
    state = ended(demo, made.body["id"])
    assert (state["type"], state["name"]) == ("COMPLETED", "Published"), state["message"]
    live = demo.channel()
    assert (live["artifact"], live["generation"], live["visible"]) == (report["artifact"], before + 1, True)
    assert "approved by Ane. good for a talk" in live["why"]
    assert [row for row in demo.empelt("status")["waiting"] if "for approval" in row["why"]] == []
