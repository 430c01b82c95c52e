"""Promotions with the real ledger, agent and gateway, under load; the instances stand for vLLM's part."""

import threading
import time

import httpx
import pytest

from tasks.domain.errors import PromotionFailed, PromotionRefused
from tasks.domain.jobs import PublishRequest
from tasks.domain.promotion import AbortRules, CanaryStep, PromotionPolicy
from tasks.endpoints.promotion import Promoter, stands
from tasks.endpoints.routes import read_routes

RULES = AbortRules(min_requests=10, foreign=None)
HALF = CanaryStep(weight=50, seconds=20, requests=15)


class Load:
    """Asks channel eu all the time; remembers what was answered, by whom and as which version."""

    def __init__(self, url):
        self.url, self.seen, self.lost, self._stop = url, [], [], threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self):
        number = 0
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                number += 1
                body = {"model": "eu", "prompt": f"{threading.get_ident()} {number}"}
                answer = client.post(f"{self.url}/v1/completions", json=body)
                if answer.status_code == 200:
                    said = answer.json()["choices"][0]["text"][:64]
                    self.seen.append((answer.headers["x-empelt-version"], answer.headers["x-empelt-artifact"], said))
                else:
                    self.lost.append(answer.text)
                time.sleep(0.02)


@pytest.fixture
def load(host):
    with Load(host.gateway.url) as running:
        yield running


def promoter(host, artifact, *, owner="run:1", generation=1, **more):
    now = host.ledger.channel("eu")
    request = PublishRequest(
        **{"family": "demo", "target": "eu", "channel": "eu", "artifact_digest": artifact.digest},
        release=now.release,
        expected_generation=generation,
    )
    return Promoter(
        host.ledger, request, gateway=host.gateway.url, owner=owner, lease_seconds=more.pop("lease_seconds", 60), **more
    )


def steps(host):
    return [(step.step, step.ended) for step in host.ledger.promotion_steps("eu")]


@pytest.fixture
def both(host, make_artifact):
    """Blue is live, green is staged and ready; the pinned name of green."""
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    return blue, green, host.ready(host.stage(green))


def test_a_good_canary_answers_its_share_and_is_switched_to_with_one_visible_generation(host, both, load):
    blue, green, ready = both
    way = promoter(host, green)
    assert way.warm(ready, 3).figures["seconds"]
    for step in (CanaryStep(weight=5, seconds=1), HALF, CanaryStep(weight=100, seconds=20, requests=15)):
        way.canary(step, RULES)
    generation = host.switch(green)
    host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=30)
    assert generation == 2
    assert host.ledger.canary_of("eu") is None
    assert steps(host) == [("warm", "done"), ("canary 5", "done"), ("canary 50", "done"), ("canary 100", "done")]
    half = host.ledger.promotion_steps("eu")[2].figures
    assert half["canary"]["requests"] >= 15
    assert half["live"]["requests"] > 0
    assert load.lost == []
    assert all(artifact == said for _, artifact, said in load.seen), "an answer was attributed to another artifact"
    assert {(version, artifact) for version, artifact, _ in load.seen} >= {
        ("canary", green.digest),
        ("live", blue.digest),
    }


def test_a_canary_that_answers_nothing_is_taken_back_and_nobody_loses_a_request(host, both, load, behave):
    blue, green, _ = both
    behave(host.route(green), status=500)
    with pytest.raises(PromotionRefused) as refused:
        promoter(host, green).canary(HALF, RULES)
    assert "it has answered none of its" in refused.value.problems[0]
    assert host.ledger.channel("eu").generation == 1
    assert host.ledger.canary_of("eu") is None
    assert steps(host) == [("canary 50", "refused"), ("take back", "done")]
    assert host.ledger.promotion_steps("eu")[0].figures["canary"]["errors"] >= 3
    assert load.lost == []
    assert {artifact for _, artifact, _ in load.seen} == {blue.digest}


def test_empty_answers_abort_with_both_figures(host, both, load, behave, until):
    _, green, _ = both
    behave(host.route(green), empty=True)
    with pytest.raises(PromotionRefused, match=r"empty answers: 100\.0% .*the live one 0\.0%"):
        promoter(host, green).canary(HALF, RULES)
    until(lambda: host.gateway.state()["channels"]["eu"]["canary"] is None, what="the canary to be gone")


def test_a_canary_whose_instance_hangs_is_taken_back(host, both, load, behave, monkeypatch):
    _, green, _ = both
    # A request that hangs is told from a slow one sooner: the shipped limit is 10 s.
    monkeypatch.setattr("tasks.domain.promotion.STALLED_SECONDS", 0.5)
    monkeypatch.setattr("tasks.domain.promotion.STALLED_TIMES", 2.0)
    behave(host.route(green), hang=True)
    try:
        with pytest.raises(PromotionRefused, match="none of its"):
            promoter(host, green).canary(CanaryStep(weight=100, seconds=60), AbortRules(min_requests=10))
    finally:
        host.kill(green)


def test_without_traffic_a_step_ends_by_time_and_says_so(host, both):
    _, green, _ = both
    done = promoter(host, green).canary(CanaryStep(weight=5, seconds=0.5, requests=100), RULES)
    assert done.ended == "done"
    assert "0 requests" in done.said
    assert "it was asked 0 times, and 10 are needed" in done.said


def test_a_flow_that_dies_leaves_no_canary_and_the_next_one_goes_on_where_it_stood(host, both, until):
    _, green, _ = both
    first = promoter(host, green, lease_seconds=2)
    first.canary(CanaryStep(weight=5, seconds=0.2), RULES)
    assert host.gateway.state()["channels"]["eu"]["canary"]["weight"] == 5, "it stays until the next step"
    until(lambda: host.gateway.state()["channels"]["eu"]["canary"] is None, what="the lease to end")
    # The gateway counts the lease from before it asked, and so ends it a moment before the ledger does.
    until(lambda: host.ledger.canary_of("eu") is None, what="the lease to end by the ledger's clock")
    again = promoter(host, green, owner="run:2")
    standing = stands(host.ledger, again.request)
    assert [step.weight for step in standing.left(PromotionPolicy())] == [50, 100]
    again.canary(CanaryStep(weight=50, seconds=0.2), RULES)
    host.switch(green)
    assert stands(host.ledger, again.request).is_live
    assert host.ledger.channel("eu").generation == 2


def test_what_was_refused_is_tried_from_the_beginning_when_it_is_asked_for_again(host, both, load, behave):
    _, green, _ = both
    one = promoter(host, green)
    one.canary(CanaryStep(weight=5, seconds=0.2), RULES)
    instance = host.route(green)
    behave(instance, status=500)
    with pytest.raises(PromotionRefused):
        one.canary(HALF, RULES)
    assert stands(host.ledger, one.request).passed == ()


def test_a_channel_that_moved_on_is_not_tried_on(host, both, make_artifact):
    _, green, _ = both
    host.publish(make_artifact("red"))
    with pytest.raises(PromotionFailed, match="at generation 2, not at 1"):
        stands(host.ledger, promoter(host, green).request)
    with pytest.raises(PromotionFailed, match="it is at generation 2, and 1 was expected"):
        promoter(host, green).canary(HALF, RULES)


def test_an_instance_that_does_not_answer_when_it_is_warmed_is_refused(host, both, behave):
    _, green, ready = both
    behave(host.route(green), status=400)
    with pytest.raises(PromotionRefused, match="answered 400 to warming request 1"):
        promoter(host, green).warm(ready, 3)
    assert steps(host) == [("warm", "refused"), ("take back", "done")]


def test_a_canary_ends_with_its_lease_where_flow_and_agent_die_together_and_the_next_agent_ends_it(host, both, until):
    blue, green, _ = both
    host.ledger.set_canary("eu", digest=green.digest, weight=100, generation=1, owner="run:1", lease_seconds=6)
    until(lambda: host.gateway.ask().headers["x-empelt-version"] == "canary", what="green to be tried")
    host.stop()  # and nobody renews the lease
    assert host.gateway.state()["channels"]["eu"]["canary"]["weight"] == 100
    until(lambda: host.gateway.ask().headers["x-empelt-version"] == "live", what="the lease to end")
    assert host.answer() == (blue.digest, "1")
    assert host.gateway.state()["channels"]["eu"]["canary"] is None
    written = read_routes(host.gateway.routes)
    assert written.channels["eu"].canary is not None, "no agent has written routes since"
    host.start()
    until(lambda: read_routes(host.gateway.routes).channels["eu"].canary is None, what="the next agent to end it")
    assert host.answer() == (blue.digest, "1")
