"""From desired state to wishes and routes: pure functions, so every rule is one small table."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tasks.domain.errors import InputError
from tasks.domain.models import ModelRef
from tasks.domain.records import CanaryWish, Desired, Live, Wanted
from tasks.endpoints.profile import ServedAdapter, ServingProfile
from tasks.endpoints.routes import Canary, ChannelRoute, InstanceRoute, Routes
from tasks.endpoints.wishes import choose_routes, instance_name, wishes_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
A, B, C = "a" * 64, "b" * 64, "c" * 64
RELEASE = ModelRef(repo_id="lab/instruct", revision="1" * 40)
EU_A, EU_B, EU_C = (instance_name("eu", digest) for digest in (A, B, C))


def live(digest, generation=1, previous=None):
    return Live(
        channel="eu",
        generation=generation,
        digest=digest,
        previous_digest=previous,
        release=RELEASE,
        target="eu",
        family="demo",
        switched_at=NOW,
        acknowledged_generation=0,
    )


def staged(digest):
    return Wanted(digest=digest, channel="eu", release=RELEASE, owner="t", wanted_at=NOW, lease_until=NOW)


def desired(*lives, stages=()):
    return Desired(live=lives, staged=stages, at=NOW)


def route(digest):
    return InstanceRoute(name=instance_name("eu", digest), channel="eu", digest=digest, uds=f"/{digest[:4]}.sock")


def routes(channel=None, *digests):
    known = {instance_name("eu", digest): route(digest) for digest in digests}
    return Routes(serial=4, channels={"eu": channel} if channel else {}, instances=known)


def test_the_order_of_wishes_is_live_routed_staged_previous():
    state = desired(live(B, 3, previous=A), stages=(staged(C),))
    now = routes(ChannelRoute(generation=2, instance=EU_A), A)
    assert [(w.name, w.keep) for w in wishes_of(state, now, running={EU_A}, failing=())] == [
        (EU_B, "live"),
        (EU_A, "routed"),
        (EU_C, "staged"),
    ]
    after = routes(ChannelRoute(generation=3, instance=EU_B), A, B)
    assert [(w.name, w.keep) for w in wishes_of(state, after, running={EU_A, EU_B}, failing=())] == [
        (EU_B, "live"),
        (EU_C, "staged"),
        (EU_A, "previous"),
    ]


def test_an_artifact_that_is_live_and_staged_is_one_instance():
    assert [w.keep for w in wishes_of(desired(live(A), stages=(staged(A),)), Routes(), running=(), failing=())] == [
        "live"
    ]


@pytest.mark.parametrize(("failing", "names"), [((), [EU_B]), ({EU_B}, [EU_B, EU_A])])
def test_a_previous_artifact_is_started_only_when_the_live_one_fails(failing, names):
    state = desired(live(B, 2, previous=A))
    assert [w.name for w in wishes_of(state, Routes(), running=(), failing=failing)] == names


def test_a_previous_artifact_is_kept_warm_for_as_long_as_its_promotion_says():
    state = live(B, 2, previous=A).model_copy(update={"extra": {"keep_previous_seconds": 60}})
    for seconds, names in ((59, [EU_B, EU_A]), (60, [EU_B])):
        now = Desired(live=(state,), staged=(), at=NOW + timedelta(seconds=seconds))
        assert [w.name for w in wishes_of(now, Routes(), running={EU_A, EU_B}, failing=())] == names
    later = Desired(live=(state,), staged=(), at=NOW + timedelta(days=9))
    assert [w.name for w in wishes_of(later, Routes(), running=(), failing={EU_B})] == [EU_B, EU_A]


def test_what_was_served_before_goes_first_when_the_live_one_has_failed_twice():
    before = {"previous_extra": {"profile": {"kv_mib": 7}}, "previous_release": RELEASE}
    state = desired(live(B, 2, previous=A).model_copy(update=before), stages=(staged(C),))
    found = wishes_of(state, Routes(), running={EU_A}, failing={EU_B}, hopeless={EU_B})
    assert [(w.name, w.keep) for w in found] == [(EU_A, "previous"), (EU_B, "live"), (EU_C, "staged")]
    assert (found[0].extra, found[0].release) == ({"profile": {"kv_mib": 7}}, str(RELEASE))


NEW, OLD = ChannelRoute(generation=2, instance=EU_B), ChannelRoute(generation=1, instance=EU_A)


@pytest.mark.parametrize(
    ("ready", "before", "expected"),
    [
        pytest.param([A, B], OLD, NEW, id="the new one is ready"),
        pytest.param([A], OLD, OLD, id="the old one keeps the channel until then"),
        pytest.param([A], NEW, OLD, id="the new one died: back to the previous one, under its own generation"),
        pytest.param([A], None, OLD, id="nothing was routed: the previous one answers"),
        pytest.param([], OLD, ChannelRoute(generation=2, instance=None, coming=True), id="held while it comes"),
    ],
)
def test_a_channel_is_routed_to(ready, before, expected):
    state = desired(live(B, 2, previous=A))
    found = choose_routes(state, {r.name: r for r in map(route, ready)}, {EU_B}, routes(before, A, B))
    assert found.channels["eu"] == expected
    assert set(found.instances) == {instance_name("eu", digest) for digest in ready}


def canary(digest, generation, weight=5.0):
    at = {"at": NOW, "lease_until": NOW}
    return CanaryWish(channel="eu", digest=digest, weight=weight, generation=generation, owner="t", **at)


@pytest.mark.parametrize(
    ("wish", "ready", "expected"),
    [
        pytest.param(
            canary(C, 2), [B, C], Canary(instance=EU_C, weight=5.0, until=NOW.timestamp()), id="beside the live one"
        ),
        pytest.param(canary(C, 2), [B], None, id="its instance does not answer"),
        pytest.param(canary(C, 1), [B, C], None, id="it began before the last switch"),
        pytest.param(canary(B, 2), [B], None, id="it is live by now"),
        pytest.param(
            canary(C, 2),
            [C],
            Canary(instance=EU_C, weight=5.0, until=NOW.timestamp()),
            id="the live one is being started again",
        ),
    ],
)
def test_a_canary_is_routed_beside_the_live_one_and_moves_no_generation(wish, ready, expected):
    state = Desired(live=(live(B, 2, previous=A),), staged=(staged(C),), canaries=(wish,), at=NOW)
    chosen = choose_routes(state, {instance_name("eu", digest): route(digest) for digest in ready}, (), Routes())
    assert chosen.channels["eu"].canary == expected
    assert chosen.channels["eu"].generation == 2


def test_the_end_of_a_canary_goes_by_this_hosts_clock_and_is_written_anew_only_when_it_moves():
    both, tried = {EU_B: route(B), EU_C: route(C)}, canary(C, 2)

    def chosen(current, lease_until, ahead):
        wish = tried.model_copy(update={"lease_until": lease_until})
        state = Desired(live=(live(B, 2, previous=A),), staged=(staged(C),), canaries=(wish,), at=NOW)
        return choose_routes(state, both, (), current, ahead_seconds=ahead)

    first = chosen(Routes(), NOW, 30.0)
    assert first.channels["eu"].canary.until == NOW.timestamp() + 30.0
    assert chosen(first, NOW, 30.7) == first, "two readings of two clocks are no new routes"
    renewed = chosen(first, NOW + timedelta(seconds=15), 30.0)
    assert renewed.channels["eu"].canary.until == NOW.timestamp() + 45.0


def test_a_profile_survives_the_ledger_and_decides_every_flag():
    profile = ServingProfile(dtype="bfloat16", max_model_len=4096, kv_mib=8192, device="gpu", extra=("--seed", "1"))
    assert ServingProfile.read(profile.to_extra(), default=ServingProfile()) == profile
    assert ServingProfile.read({}, default=profile) == profile
    flags = " ".join(profile.flags())
    for part in ("--dtype bfloat16", "--max-model-len 4096", "--kv-cache-memory-bytes 8589934592", "--seed 1"):
        assert part in flags
    assert profile.facts(image="vllm-gpu 0.32.0 plain")["flags"] == flags
    with pytest.raises(InputError, match="not a serving profile"):
        ServingProfile.read({"profile": {"dtpye": "x"}}, default=profile)


def test_adapters_survive_the_ledger_and_are_told_where_there_are_any():
    served = (ServedAdapter("eu", "a" * 64), ServedAdapter("gl", "b" * 64))
    plain, profile = ServingProfile(), ServingProfile(adapters=served)
    assert ServingProfile.read(json.loads(json.dumps(profile.to_extra())), default=plain) == profile
    assert profile.facts(image="x")["adapters"] == "eu@aaaaaaaaaaaa gl@bbbbbbbbbbbb"
    assert "adapters" not in plain.facts(image="x") | plain.to_extra()["profile"], "what is on record stays as it is"
    assert profile.flags() == plain.flags()
    with pytest.raises(InputError, match="not a list of pairs of channel and digest"):
        ServingProfile.read({"profile": {"adapters": ["eu"]}}, default=plain)
