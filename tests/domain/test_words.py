"""Moments, durations, sizes and rates, as pages and commands tell them."""

from datetime import UTC, datetime

import pytest

from tasks.domain.words import duration, moment, pace, size


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


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_960, "10 kB"),
        (999_600, "1.0 MB"),
        (310_400_000, "310 MB"),
        (999_600_000, "1.0 GB"),
        (4_940_000_000, "4.9 GB"),
        (141_100_000_000, "141.1 GB"),
        (None, "unknown"),
    ],
)
def test_a_size_changes_its_unit_where_it_is_rounded_to_the_next(count: int | None, told: str) -> None:
    assert size(count) == told


def test_a_pace_tells_bytes_rate_and_time_left() -> None:
    found = pace(1_200_000_000, 4_800_000_000, began=0, seconds=2)
    assert found.bytes_per_second == 6e8
    assert found.seconds_left == 6
    assert str(found) == "1.2 of 4.8 GB, 0.60 GB/s, 6.0 s left"


def test_work_that_is_taken_up_again_is_no_faster_than_it_is() -> None:
    found = pace(3_000_000_000, 4_000_000_000, began=2_000_000_000, seconds=2)
    assert found.bytes_per_second == 5e8
    assert found.seconds_left == 2


@pytest.mark.parametrize(("done", "seconds"), [(0, 0.0), (0, 5.0), (100, 0.0)])
def test_a_pace_that_is_not_known_yet_is_not_told(done: int, seconds: float) -> None:
    found = pace(done, 4_800_000_000, began=0, seconds=seconds)
    assert (found.bytes_per_second, found.seconds_left) == (None, None)
    assert str(found) == f"{done} B of 4.8 GB"


def test_work_that_is_done_has_nothing_left() -> None:
    assert str(pace(5_000_000, 5_000_000, began=0, seconds=0.01)) == "5.0 of 5.0 MB, 0.50 GB/s"
