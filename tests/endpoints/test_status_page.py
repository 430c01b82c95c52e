"""The page for a person, over HTTP: what it tells to whom, and what it lets in."""

import re
from datetime import UTC, datetime

import httpx
import pytest

from tasks.endpoints.routes import Canary, ChannelRoute, InstanceRoute, Routes
from tasks.endpoints.status_file import (
    ChannelLine,
    Counts,
    Drained,
    InstanceLine,
    ScoreLine,
    ServingStatus,
    StepLine,
    SwitchLine,
    read_status,
    write_status,
)
from tasks.endpoints.status_page import as_shown
from tests.local_hub.hub_fixtures import free_port

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BLUE, GREEN, OLD = "b" * 64, "a" * 64, "c" * 64
KEYS = {"keys": "team:0123456789abcdef", "own_key": "fedcba9876543210"}
LOG = "it ended with code 1. Its log ends:\n/srv/empelt/store/secret-path"


def line(name: str, digest: str, **changes) -> InstanceLine:
    told = {"channel": "eu", "release": "lab/x", "state": "ready", "reason": "", "since": NOW, "keep": "live"}
    return InstanceLine(name=name, digest=digest, **{**told, **changes})


def status(*instances: InstanceLine, at: datetime = NOW, **changes) -> ServingStatus:
    score = ScoreLine(benchmark="eu_mc", metric="acc", value=0.61, stderr=0.02, n=600, higher_is_better=True)
    switch = {"generation": 7, "digest": BLUE, "release": "lab/instruct-v2@222222222222", "at": NOW, "reason": "better"}
    channel = ChannelLine(
        channel="eu",
        family="tiny",
        target="eu",
        generation=7,
        visible_generation=7,
        digest=BLUE,
        release="lab/instruct-v2@222222222222",
        since=NOW,
        previous=OLD,
        switches=(SwitchLine(visible_at=NOW, **switch),),
        steps=(StepLine(digest=GREEN, step="verify", ended="refused", seconds=2.0, said=LOG, at=NOW),),
    )
    counts = Counts(restarts={"eu": 2}, drains={"eu": {"empty": Drained(count=3, seconds=4.5)}})
    told = {"channels": (channel,), "scores": {BLUE: (score,)}, "instances": instances, "counts": counts}
    return ServingStatus(agent="local", at=at, **{**told, **changes})


def route(digest: str) -> InstanceRoute:
    return InstanceRoute(name=f"eu-{digest[:12]}", channel="eu", digest=digest, uds=f"/x/{digest[:4]}", release="lab/x")


def routes(live: str, *others: str, canary: str = "", weight: float = 5.0) -> Routes:
    known = {one.name: one for one in map(route, (live, *others))}
    tried = Canary(instance=f"eu-{canary[:12]}", weight=weight) if canary else None
    return Routes(
        serial=4, channels={"eu": ChannelRoute(generation=7, instance=f"eu-{live[:12]}", canary=tried)}, instances=known
    )


# --- what is shown: pure ----------------------------------------------------------------------------------------------
def roles(shown):
    return {version["role"]: (version["digest"], version["model"]) for version in shown["channels"][0]["versions"]}


def test_live_canary_previous_and_staged_are_told_apart_and_only_what_is_up_can_be_asked():
    staged = "d" * 64
    shown = as_shown(routes(BLUE, GREEN, staged, canary=GREEN), {}, status(), whole=True, now=NOW)
    assert roles(shown) == {
        "live": (BLUE, "eu@bbbbbbbbbbbb"),
        "canary": (GREEN, "eu@aaaaaaaaaaaa"),
        "previous": (OLD, None),
        "staged": (staged, "eu@dddddddddddd"),
    }
    versions = {version["role"]: version for version in shown["channels"][0]["versions"]}
    assert versions["canary"]["weight"] == 5.0
    assert versions["live"]["scores"][0]["value"] == 0.61
    assert versions["live"]["release"] == "lab/instruct-v2@222222222222"


def test_a_channel_that_fell_back_says_who_answers():
    shown = as_shown(routes(OLD), {}, status(), whole=True, now=NOW)
    channel = shown["channels"][0]
    assert (channel["generation"], channel["answering"]) == (7, OLD)
    assert roles(shown) == {"live": (BLUE, None), "previous": (OLD, "eu@cccccccccccc")}


def test_without_a_word_of_the_agent_the_routes_alone_are_shown():
    shown = as_shown(routes(BLUE), {f"eu-{BLUE[:12]}": 3}, None, whole=True, now=NOW)
    assert (shown["agent_at"], roles(shown)) == (None, {"live": (BLUE, "eu@bbbbbbbbbbbb")})
    assert shown["instances"][0]["in_flight"] == 3


def test_why_an_instance_failed_is_for_the_operator_alone():
    told = status(line(f"eu-{GREEN[:12]}", GREEN, state="failed", reason=LOG))
    operator = as_shown(routes(BLUE), {}, told, whole=True)
    assert operator["instances"][0]["reason"] == operator["channels"][0]["steps"][0]["said"] == LOG
    shown = str(as_shown(routes(BLUE), {}, told, whole=False))
    assert "failed" in shown
    assert "refused" in shown
    assert "secret-path" not in shown


@pytest.mark.parametrize("content", [b"", b"{half", b'{"agent": "local", "unknown": 1}', b"\xff"])
def test_a_status_that_cannot_be_read_is_none(tmp_path, content):
    path = tmp_path / "status.json"
    assert read_status(path) is None
    path.write_bytes(content)
    assert read_status(path) is None


def test_a_status_is_replaced_whole_and_a_failed_write_leaves_the_old_one(tmp_path):
    path = tmp_path / "status.json"
    write_status(path, status())
    assert read_status(path) == status()
    with pytest.raises(OSError, match="No such file"):
        write_status(tmp_path / "gone" / "status.json", status())
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


# --- over HTTP --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def guarded(start_gateway, upstream):
    gateway = start_gateway(metrics_port=free_port(), **KEYS)
    gateway.headers = {"authorization": f"Bearer {KEYS['own_key']}"}
    gateway.route(upstream("b")[0], canary=None)
    told = status(line(f"eu-{BLUE[:12]}", BLUE), line(f"eu-{GREEN[:12]}", GREEN, state="failed", reason=LOG))
    write_status(gateway.routes.with_name("status.json"), told)
    return gateway


def asked(gateway, path, key=None):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.get(f"{gateway.url}{path}", headers=headers)


@pytest.mark.parametrize("path", ["/", "/empelt"])
def test_the_address_that_people_try_first_leads_to_the_page(guarded, path):
    answer = asked(guarded, path)
    assert (answer.status_code, answer.headers["location"]) == (307, "empelt/")


def test_the_page_needs_no_key_and_says_nothing_of_what_is_served(guarded):
    page = asked(guarded, "/empelt/")
    assert page.status_code == 200
    assert 'content="asked for"' in page.text
    for secret in ("bbbbbbbb", "lab/", "instruct", "eu_mc", "eu@", str(guarded.folder)):
        assert secret not in page.text


def test_its_policy_lets_in_nothing_but_itself(guarded):
    page = asked(guarded, "/empelt/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert (page.headers["x-content-type-options"], page.headers["x-frame-options"]) == ("nosniff", "DENY")
    assert not re.findall(r"https?://", page.text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", page.text)


def test_what_is_served_is_told_to_who_has_a_key_and_reasons_to_the_operator(guarded):
    without = asked(guarded, "/empelt/status.json")
    assert (without.status_code, without.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "bbbb" not in without.text
    assert asked(guarded, "/empelt/status.json", "0000000000000000").status_code == 401
    person = asked(guarded, "/empelt/status.json", "0123456789abcdef")
    assert person.json()["channels"][0]["versions"][0]["scores"][0]["benchmark"] == "eu_mc"
    assert "secret-path" not in person.text
    assert str(guarded.folder) not in person.text
    assert person.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in person.headers
    assert "secret-path" in asked(guarded, "/empelt/status.json", KEYS["own_key"]).text


# --- figures ----------------------------------------------------------------------------------------------------------
def test_what_the_agent_and_the_routes_say_is_told_beside_the_gateways_own(guarded, upstream):
    green = upstream("a")[0]
    guarded.route(upstream("b")[0], green, generation=7, canary=(green, 5))
    found = guarded.figures()
    assert found["empelt_canary_weight", ("artifact", "a" * 12), ("channel", "eu")] == 5
    assert found["empelt_route_generation", ("channel", "eu")] == 7
    assert found["empelt_instances", ("channel", "eu"), ("state", "failed")] == 1
    assert found["empelt_instance_restarts_total", ("channel", "eu")] == 2
    assert found["empelt_drain_seconds_count", ("channel", "eu"), ("ended", "empty")] == 3
    assert found["empelt_drain_seconds_sum", ("channel", "eu"), ("ended", "empty")] == 4.5
    assert found[("empelt_agent_told_timestamp_seconds",)] == NOW.timestamp()
    assert found["empelt_gateway_refused_total", ("code", "401")] >= 1
