"""The simulated year in short: one family for forty days; and that the oracle sees a protection that is missing."""

from datetime import timedelta

import pytest

from tests.year.clock import START
from tests.year.history import make_history
from tests.year.lived import Year
from tests.year.oracle import differences, violations
from tests.year.simulation import live
from tests.year.truth import truth_of

SEED, DAYS = 3, 40
END = START + timedelta(days=DAYS)


def lived(*, faults: bool = True, broken: str = "") -> Year:
    return live(SEED, DAYS, 1, 80, faults=faults, broken=broken)


@pytest.fixture(scope="module")
def year() -> Year:
    return lived()


def test_nothing_is_missed_and_nothing_doubled(year: Year):
    assert violations(year, END, faults=True) == []


def test_the_year_has_what_it_is_judged_by(year: Year):
    truth = truth_of(year.history, END)
    counts, fates = year.figures["counts"], year.figures["fates"]
    assert len(truth.releases) >= 10
    assert {kind for _, kind in truth.holds} >= {"gated", "lineage", "unfinished"}
    assert counts["watches crashed"] + counts["watches failed"] > 0
    assert fates["dies"] + fates["stalls"] + fates["late"] > 0
    assert counts["idle watches"] > 0


def test_faults_change_nothing_of_the_end(year: Year):
    calm = lived(faults=False)
    assert violations(calm, END, faults=False) == []
    assert differences(year, calm, END) == []


@pytest.mark.parametrize(
    ("broken", "expected"),
    [("watermark", "late"), ("settling", "early"), ("claims", "doubled")],
    ids=lambda word: word,
)
def test_a_missing_protection_is_seen(broken: str, expected: str):
    found = violations(lived(broken=broken), END, faults=True)
    assert [line for line in found if line.startswith(expected)], found


def test_a_history_is_the_same_for_the_same_seed():
    assert make_history(5, days=30, families=2, repositories=90) == make_history(
        5, days=30, families=2, repositories=90
    )
    assert make_history(5, days=30, families=1, repositories=9) != make_history(6, days=30, families=1, repositories=9)
