"""Moments and durations, as pages and commands tell them."""

from datetime import UTC, datetime

import pytest

from tasks.domain.words import duration, moment


def test_a_moment_names_its_zone() -> None:
    assert moment(datetime(2026, 11, 23, 5, 12, 7, tzinfo=UTC)) == "2026-11-23 05:12:07 UTC"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0.0 s"), (4.21, "4.2 s"), (42, "42 s"), (599, "599 s"), (720, "12 min"), (9000, "2.5 h"), (None, "unknown")],
)
def test_a_duration_is_as_exact_as_is_of_use(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told


def test_what_was_not_recorded_can_be_told_otherwise() -> None:
    assert duration(None, none="–") == "–"
