"""What the gateway counts of each version while one is tried: by a real gateway, with upstreams that stand for vLLM."""

import pytest

from tasks.domain.promotion import Counted
from tasks.endpoints.hearing import is_foreign, said
from tasks.endpoints.siblings import joined
from tasks.endpoints.tally import Reading, Tally


@pytest.fixture(scope="module")
def blue(upstream):
    return upstream("a")


@pytest.fixture(scope="module")
def green(upstream):
    return upstream("b")


@pytest.fixture
def both(gateway, blue, green, behave):
    """Channel eu by blue, with green tried on all of it; what each has answered since."""
    for instance, _ in (blue, green):
        behave(instance)
    gateway.route(blue[0], green[0], canary=(green[0], 100))
    before = counts(gateway, blue), counts(gateway, green)
    return lambda: tuple(counts(gateway, one).minus(was) for one, was in zip((blue, green), before, strict=True))


def counts(gateway, one) -> Counted:
    return Reading("eu", one[0].digest).read(gateway.state()["tallies"])


def test_answers_are_counted_for_the_version_that_gave_them(gateway, both, green):
    assert gateway.ask().headers["x-empelt-version"] == "canary"
    assert gateway.ask(green[0].pinned).status_code == 200  # nobody was sent there: not counted
    blue, tried = both()
    assert (blue.requests, tried.requests, tried.errors, tried.empty) == (0, 1, 0, 0)
    assert sum(tried.seconds.values()) == 1


def test_what_a_canary_loses_counts_although_the_live_one_answers(gateway, both, green, behave):
    behave(green[0], abort=True)
    assert gateway.ask().headers["x-empelt-version"] == "live"
    blue, tried = both()
    assert (blue.requests, blue.errors) == (1, 0)
    assert (tried.requests, tried.errors, sum(tried.seconds.values())) == (1, 1, 0)


def test_streams_count_once_and_one_that_breaks_off_is_lost(gateway, both):
    gateway.ask(stream=True)
    gateway.ask(stream=True, abort_at=1)
    _, tried = both()
    assert (tried.requests, tried.errors, tried.empty) == (2, 1, 0)


def test_answers_without_a_word_and_refusals_are_counted(gateway, both, green, behave):
    gateway.ask(stream=True, max_tokens=0)
    behave(green[0], status=400)
    assert gateway.ask().status_code == 400
    behave(green[0], empty=True)
    assert gateway.ask().status_code == 200
    _, tried = both()
    assert (tried.requests, tried.errors, tried.refused, tried.empty) == (3, 0, 1, 2)


BASQUE = "Zein da Eslovakiako hiriburua? Eslovakiako hiriburua Bratislava da, eta Danubio ibaiaren ertzean dago."
SPANISH = "La capital de Eslovaquia es Bratislava, una ciudad que se encuentra a orillas del Danubio, junto a Austria."


@pytest.mark.parametrize("stream", [False, True])
def test_languages_are_told_by_the_gateway_itself_and_only_counted(gateway, blue, green, behave, until, stream):
    behave(green[0], text=SPANISH)
    gateway.route(blue[0], green[0], canary=(green[0], 100, "eu"))
    was = counts(gateway, green)
    gateway.ask(stream=stream, max_tokens=1)
    until(lambda: counts(gateway, green).minus(was).sampled == 1, what="the first answer to be heard")
    behave(green[0], text=BASQUE)
    gateway.ask(stream=stream, max_tokens=1)
    found = until(lambda: (n := counts(gateway, green).minus(was)).sampled == 2 and n, what="the second one")
    assert found.foreign == 1
    assert "Danubio" not in str(gateway.state())
    gateway.route(blue[0], green[0], canary=(green[0], 100))
    gateway.ask(stream=stream)
    assert counts(gateway, green).minus(was).sampled == 2, "no languages are named, and nobody listens"


def test_what_an_answer_says_is_read_whole_and_from_a_stream():
    pieces = b'data: {"choices":[{"delta":{"content":"\\u00d1a "}}]}\n\ndata: {"choices":[{"delta":{"content":"\\"x\\""}}]}\n\n'
    assert said(pieces) == 'Ña "x"'
    assert said(b'{"choices":[{"text":"bat","logprobs":null}]}') == "bat"
    assert said(b'{"choices":[{"text":"cut off in the mid') == ""
    assert is_foreign(b'{"text":"bai"}', ("eu",)) is None


def test_a_worker_that_goes_keeps_what_it_said_last_and_another_begins_at_nothing():
    old, new = Tally(), Tally()
    for _ in range(3):
        old.of("eu", "b" * 64).answered(0.01, is_empty=False)
    reading = Reading("eu", "b" * 64)
    assert reading.read({old.name: old.report()}).requests == 3
    new.of("eu", "b" * 64).failed()
    assert reading.read({old.name: old.report(), new.name: new.report()}).requests == 4
    assert reading.read({new.name: new.report()}).requests == 4
    assert reading.read({}).requests == 4


def test_a_gateways_report_holds_the_tallies_of_all_its_workers():
    own = {"serial": 3, "in_flight": {}, "tallies": {"a": {}}}
    others = [{"serial": 3, "in_flight": {}, "tallies": {"b": {}}}, {"serial": -1, "in_flight": {}}]
    assert joined(own, others)["tallies"] == {"a": {}, "b": {}}


def test_the_oldest_artifacts_are_forgotten():
    tally = Tally()
    for number in range(70):
        tally.of("eu", f"{number:064d}"[::-1]).failed()
    assert len(tally.report()["eu"]) == 64
