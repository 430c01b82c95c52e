"""The cases that other gates are compared by: what they say of themselves, and what this gate decides on them."""

import pytest

from tests.bench.other_gates.cases import MARGIN, Case, cases, marks_of
from tests.bench.other_gates.own import decide

CASES = {case.name: case for case in cases()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_this_gate_says_what_such_a_case_wants(case: Case) -> None:
    word, why = decide(case.given())
    assert word in case.wanted, why


def test_the_cases_are_what_their_names_say() -> None:
    instruct = sum(marks_of("instruct-v2")["es_chat_short"]) / 80
    worse = CASES["worse by twice the margin"].candidate["es_chat_short"]
    assert sum(worse) / 80 == pytest.approx(instruct - 2 * MARGIN, abs=0.5 / 80)
    few = CASES["worse by .1, 30 items"]
    theirs = few.given()["baseline"]
    for name in ("en_chat_short", "es_chat_short"):
        assert (sum(theirs[name]) - sum(few.candidate[name])) / 30 == pytest.approx(0.1)
    assert CASES["the instruct parent itself"].candidate == marks_of("instruct-v2")
    assert 60 < sum(CASES["always the same answer"].candidate["eu_mc"]) < 140
