"""How the figures of several workers become one: pure, by lines as workers write them."""

import json

from tasks.endpoints.gathered import Gathered

COUNT = "empelt_gateway_requests_total"
LABELS = {"channel": "eu", "artifact": "b" * 12, "code": "200"}


def line(requests: int, holding: int = 0, asked: int = 0) -> str:
    told = [[COUNT, sorted(LABELS.items()), requests], ["empelt_gateway_holding", [], holding]]
    return json.dumps({"asked": asked, "figures": told})


def values(gathered: Gathered) -> dict[str, float]:
    return {sample.name: sample.value for family in gathered.collect() for sample in family.samples}


def test_counts_of_all_are_added_up_and_gauges_of_those_that_are_here():
    gathered = Gathered()
    for worker in (1, 2):
        gathered.meet(worker)
    gathered.hear(1, line(5, holding=2))
    gathered.hear(2, line(3, holding=1))
    gathered.hear(2, line(4, holding=1))  # the last word counts, not the sum of words
    assert values(gathered) == {COUNT: 9, "empelt_gateway_holding": 3}
    gathered.bury(1)
    assert values(gathered) == {COUNT: 9, "empelt_gateway_holding": 1}
    gathered.meet(3)
    gathered.hear(3, line(1))
    assert values(gathered) == {COUNT: 10, "empelt_gateway_holding": 1}


def test_a_line_that_is_no_figures_changes_nothing():
    gathered = Gathered()
    gathered.meet(1)
    gathered.hear(1, line(5))
    for other in ("", "ready", "{half", "[]", '{"asked": 1}', '{"asked": 1, "figures": [[1]]}', "null"):
        gathered.hear(1, other)
    assert values(gathered)[COUNT] == 5


def test_only_an_answer_to_this_question_ends_a_wait(monkeypatch):
    gathered = Gathered()
    for worker in (1, 2):
        gathered.meet(worker)
    gathered.hear(1, line(5, asked=1))
    waited = []

    def wait_for(condition, seconds):
        waited.append(condition())

    # What a wait would wait for is noted and not waited for: when threads are woken is not what is asked here.
    monkeypatch.setattr(gathered._news, "wait_for", wait_for)
    gathered.wait([1], 2)
    gathered.hear(1, line(5, asked=2))
    gathered.wait([1], 2)
    gathered.wait([1, 2], 2)
    gathered.bury(2)  # a worker that has ended is not waited for
    gathered.wait([1, 2], 2)
    assert waited == [False, True, False, True]
