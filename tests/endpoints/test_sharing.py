"""Which instance holds which adapters: pure rules, each a small table; then a host that follows them."""

import json
import logging
from datetime import UTC, datetime

import pytest

from tasks.domain.adapters import base_name
from tasks.domain.errors import ModelRefused
from tasks.domain.outputs import compare
from tasks.domain.prompts import prompts_for
from tasks.endpoints.outputs import ask_outputs
from tasks.endpoints.placement import GIB, Device
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.routes import read_routes
from tasks.endpoints.sharing import SHARED, members, share
from tasks.endpoints.wishes import Wish, instance_name
from tests.endpoints.serving_host import RELEASE

NOW = datetime(2026, 11, 24, tzinfo=UTC)
PROMPTS = prompts_for(("eu", "gl"))[:4]
V2, V3 = "2" * 64, "3" * 64
EU, GL, CA, EU_NEW = "e" * 64, "6" * 64, "c" * 64, "f" * 64
OVER_V2 = dict.fromkeys((EU, GL, CA, EU_NEW), V2)


def wish(channel, digest, keep, extra=None):
    asked = NOW if keep == "staged" else None
    extra = ServingProfile(kv_mib=64).to_extra() if extra is None else extra
    return Wish(instance_name(channel, digest), channel, digest, "", keep, extra, asked)


def arranged(*wishes, known=(), ready=None, routed=None, models=OVER_V2):
    """Sets of what each instance holds, by what it answers for; the wishes; what is known next."""
    known = {one.name: one for one in known}
    return share(wishes, models, known, set(known) if ready is None else ready, routed or {}, ServingProfile())


def held(shares):
    return {one.name: set(members(one)) for one in shares.wishes}


EU_LIVE, GL_STAGED, GL_LIVE = wish("eu", EU, "live"), wish("gl", GL, "staged"), wish("gl", GL, "live")


def test_a_model_of_its_own_is_left_as_it_is_and_adapters_of_two_models_never_share():
    model = wish("es", "a" * 64, "live")
    found = arranged(model, EU_LIVE, wish("gl", GL, "live"), models={EU: V2, GL: V3})
    assert found.wishes[0] is model
    assert [(one.channel, one.digest) for one in found.wishes[1:]] == [(SHARED, V2), (SHARED, V3)]
    other_flags = wish("gl", GL, "live", ServingProfile(kv_mib=128).to_extra())
    assert len(arranged(EU_LIVE, other_flags).wishes) == 2


def test_a_candidate_comes_up_beside_what_is_live_with_all_of_it_and_then_is_the_only_one():
    (alone,) = arranged(EU_LIVE).wishes
    routed = {EU_LIVE.name: alone.name}
    both = arranged(EU_LIVE, GL_STAGED, known=[alone], routed=routed)
    assert both.of[EU_LIVE.name] == alone.name, "what is live stays where it is"
    beside = both.wishes[1]
    assert (beside.keep, beside.asked_at, set(members(beside))) == ("staged", NOW, {EU_LIVE.name, GL_STAGED.name})
    rejected = arranged(EU_LIVE, known=both.wishes, routed=routed)
    assert held(rejected) == held(arranged(EU_LIVE))
    switched = arranged(EU_LIVE, GL_LIVE, known=both.wishes, routed=routed)
    assert [one.name for one in switched.wishes] == [beside.name], "one instance holds what is live"
    assert set(switched.of.values()) == {beside.name}


def test_what_a_channel_served_before_is_where_it_was_and_needs_no_instance_of_its_own():
    (alone,) = arranged(EU_LIVE).wishes
    beside = arranged(EU_LIVE, wish("eu", EU_NEW, "staged"), known=[alone]).wishes[1]
    now = arranged(wish("eu", EU_NEW, "live"), wish("eu", EU, "previous"), known=[alone, beside])
    assert [one.name for one in now.wishes] == [beside.name]
    back = arranged(EU_LIVE, wish("eu", EU_NEW, "previous"), known=now.wishes)
    assert [one.name for one in back.wishes] == [beside.name], "a roll-back starts nothing"


def test_two_candidates_never_share_an_instance_and_one_that_loads_is_not_started_anew():
    (alone,) = arranged(EU_LIVE).wishes
    first = arranged(EU_LIVE, GL_STAGED, known=[alone])
    second = arranged(EU_LIVE, wish("ca", CA, "staged"), GL_STAGED, known=first.wishes, ready={alone.name})
    assert second.of[GL_STAGED.name] == first.of[GL_STAGED.name]
    assert len(set(second.of.values())) == 3
    for name, inside in held(second).items():
        assert len(inside & {GL_STAGED.name, instance_name("ca", CA)}) < 2, name


def test_what_became_live_in_two_instances_is_brought_together_when_nothing_is_tried():
    (alone,) = arranged(EU_LIVE).wishes
    ca = wish("ca", CA, "live")
    tried = arranged(EU_LIVE, GL_STAGED, wish("ca", CA, "staged"), known=[alone]).wishes
    spread = arranged(EU_LIVE, GL_LIVE, ca, known=tried)
    whole = spread.wishes[-1]
    assert set(members(whole)) == {EU_LIVE.name, GL_LIVE.name, ca.name}
    assert whole.name not in spread.of.values(), "nobody is sent there before it is ready"
    done = arranged(EU_LIVE, GL_LIVE, ca, known=spread.wishes)
    assert held(done) == {whole.name: set(members(whole))}


def test_what_dies_is_started_again_and_the_previous_one_comes_up_alone_when_that_does_not_help():
    (alone,) = arranged(wish("eu", EU_NEW, "live")).wishes
    again = arranged(wish("eu", EU_NEW, "live"), known=[alone], ready=set())
    assert held(again) == held(arranged(wish("eu", EU_NEW, "live")))
    fallen = arranged(wish("eu", EU, "previous"), wish("eu", EU_NEW, "live"), ready=set())
    assert held(fallen)[fallen.of[instance_name("eu", EU)]] == {instance_name("eu", EU)}


# --- a host -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_adapter(store, tmp_path):
    """Put an adapter over a model into the store."""

    def _make(text, model, **config):
        folder = tmp_path / f"adapter-{text}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(text.encode() * 100)
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base_name(model.digest)}))
        (folder / "config.json").write_text(json.dumps({"text": text, **config}))
        return store.adopt(folder)

    return _make


class Channel:
    """One channel of a host."""

    def __init__(self, host, name):
        self.host, self.name = host, name

    def stage(self, artifact):
        wanted = self.host.endpoint.stage(artifact, channel=self.name, owner="test", release=RELEASE, lease_seconds=600)
        return wanted, self.host.ready(wanted)

    def switch(self, artifact):
        now = self.host.ledger.channel(self.name)
        generation = now.generation if now else 0
        told = {"release": RELEASE, "target": self.name, "family": "demo", "expected_generation": generation}
        self.host.ledger.switch_channel(self.name, digest=artifact.digest, **told)
        self.host.endpoint.wait_visible(self.name, generation=generation + 1, deadline_seconds=60)

    def publish(self, artifact):
        wanted, _ = self.stage(artifact)
        self.switch(artifact)
        self.host.endpoint.unstage(wanted)


def running(host):
    return [one for one in host.launcher.client.list().values() if one.alive]


def test_adapters_go_the_whole_way_over_one_instance_and_back(host, make_artifact, make_adapter, until):
    instruct = make_artifact("instruct")
    eu, gl, better = (make_adapter(text, instruct) for text in ("eu", "gl", "better"))
    basque, galician = Channel(host, "eu"), Channel(host, "gl")
    host.start()
    basque.publish(eu)
    assert host.answer("eu") == (eu.digest, "1")
    (first,) = running(host)
    judged = ask_outputs(host.gateway.url, f"eu@{eu.short}", PROMPTS)
    wanted, ready = galician.stage(gl)
    others = ask_outputs(host.gateway.url, ready.model, PROMPTS)
    assert (ready.model, "adapters" in ready.serving) == (f"gl@{gl.short}", False)
    assert host.answer(ready.model) == (gl.digest, None), "the candidate is asked by its own name, before any switch"
    assert read_routes(host.gateway.routes).instances[f"eu-{eu.short}"].process == first.name
    galician.switch(gl)
    host.endpoint.unstage(wanted)
    until(lambda: len(running(host)) == 1, what="one instance for both")
    (both,) = running(host)
    assert both.name != first.name
    assert both.model == instruct.folder
    assert [host.answer(name) for name in ("eu", "gl", f"eu@{eu.short}")] == [
        (eu.digest, "1"), (gl.digest, "1"), (eu.digest, "1"),
    ]  # fmt: skip
    moved = ask_outputs(host.gateway.url, f"eu@{eu.short}", PROMPTS)
    assert compare(judged.answers, moved.answers, 0.01).problems == (), (
        "what moved to another instance says what it said"
    )
    assert compare(judged.answers, others.answers, 0.01).problems, "another adapter of the same instance does not"
    basque.publish(better)
    until(lambda: len(running(host)) == 1, what="one instance for three")
    (three,) = running(host)
    assert host.answer("eu") == (better.digest, "2")
    basque.switch(eu)
    assert host.answer("eu") == (eu.digest, "3"), "rolled back"
    assert [one.pid for one in running(host)] == [three.pid], "what was served before was in the same instance"
    assert {one.digest for one in host.ledger.instances()} >= {instruct.digest, eu.digest, gl.digest}


def test_a_candidate_that_cannot_load_takes_no_other_channel_with_it(host, make_artifact, make_adapter):
    instruct = make_artifact("instruct")
    eu, broken = make_adapter("eu", instruct), make_adapter("broken", instruct, fault="crash")
    host.start()
    Channel(host, "eu").publish(eu)
    before = host.status(eu).pid
    with pytest.raises(ModelRefused, match="this model cannot be loaded"):
        Channel(host, "gl").stage(broken)
    assert host.answer("eu") == (eu.digest, "1")
    assert host.status(eu).pid == before


def test_an_adapter_whose_model_is_not_here_is_refused_by_name(host, make_artifact, make_adapter, store):
    instruct = make_artifact("instruct")
    eu = make_adapter("eu", instruct.model_copy(update={"digest": "9" * 64}))
    host.start()
    with pytest.raises(ModelRefused, match=f"no artifact '{'9' * 64}'"):
        Channel(host, "eu").stage(eu)
    assert running(host) == []


def test_a_new_agent_adopts_an_instance_and_knows_what_it_holds(host, make_artifact, make_adapter, until):
    instruct = make_artifact("instruct")
    eu, gl = make_adapter("eu", instruct), make_adapter("gl", instruct)
    host.start()
    Channel(host, "eu").publish(eu)
    Channel(host, "gl").publish(gl)
    until(lambda: len(running(host)) == 1, what="one instance for both")
    (before,) = running(host)
    host.stop()
    assert host.answer("gl") == (gl.digest, "1")
    host.start()
    seen = host.ledger.agent_last_seen()
    until(lambda: host.ledger.agent_last_seen() > seen, what="the new agent to have looked around")
    until(lambda: (s := host.status(eu)) and s.state == "ready", what="eu to be adopted")
    assert [(one.name, one.pid) for one in running(host)] == [(before.name, before.pid)]
    assert [host.answer(name)[0] for name in ("eu", "gl")] == [eu.digest, gl.digest]


def test_each_adapter_of_what_is_started_again_says_what_it_said_when_it_was_judged(
    host, make_artifact, make_adapter, until, caplog
):
    caplog.set_level(logging.INFO)
    instruct = make_artifact("instruct")
    eu, other = make_adapter("eu", instruct), make_adapter("other", instruct)
    host.start()
    channel = Channel(host, "eu")
    for one in (other, eu):
        channel.publish(one)
        host.judge(one)
    host.kill(eu)
    until(lambda: f"eu@{eu.short}" in caplog.text.partition("was started again: ")[0], what="both to be asked")
    until(lambda: host.gateway.ask().status_code == 200, what="an answer")
    assert caplog.text.count("log-probabilities as judged, greatest difference 0.0000") >= 2


def test_an_adapter_that_says_something_else_than_when_it_was_judged_is_not_routed(
    host, make_artifact, make_adapter, until
):
    instruct = make_artifact("instruct")
    eu, other = make_adapter("eu", instruct), make_adapter("other", instruct)
    host.start()
    channel = Channel(host, "eu")
    for one in (other, eu):
        channel.publish(one)
    host.judge(eu, says=other)
    host.kill(eu)
    refused = "it does not answer as it did when it was judged: "
    until(lambda: any(s.reason.startswith(refused) for s in host.ledger.instances()), what="it to be refused")
    assert f"eu-{eu.short}" not in read_routes(host.gateway.routes).instances


def test_the_model_that_is_shared_takes_its_room_once(host, make_artifact, make_adapter, until):
    """1.5 GiB for what is not weights and 1 GiB of cache: 6 GiB hold two instances, and not three."""
    host.device = Device("cpu", "cpu", memory_bytes=6 * GIB)
    instruct = make_artifact("instruct")
    host.start()
    for name in ("eu", "gl", "ca"):
        Channel(host, name).publish(make_adapter(name, instruct))
        until(lambda: len(running(host)) == 1, what="one instance for all")
    assert [host.answer(name)[1] for name in ("eu", "gl", "ca")] == ["1", "1", "1"]
