"""What a progress artifact is told, and how often; that a server shows it is seen in tests/deployments/test_merge_run.py."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tasks import progress
from tasks.progress import ProgressBar

GB = 1_000_000_000


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """Percentage and description of every request to Prefect, the creation first."""
    sent: list[tuple[float, str]] = []
    artifact = uuid4()

    def create(percent: float, *, key: str, description: str) -> UUID:
        assert key == "merge-tiny-eu"
        sent.append((percent, description))
        return artifact

    def update(which: UUID, percent: float, *, description: str) -> None:
        assert which == artifact
        sent.append((percent, description))

    # What is tested is when Prefect is called, by a clock that is moved by hand: a server would tell neither.
    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    return sent


def event(done: int, total: int = 4 * GB, **more: Any) -> dict[str, Any]:
    return {"event": "progress", "done": done, "total": total, "tensor": "model.norm.weight", **more}


def test_bytes_rate_and_time_left_are_told(updates: list[tuple[float, str]], clock: Clock) -> None:
    bar = ProgressBar("merge-tiny-eu", "Merge v2 x eu", clock)
    clock.seconds += 60  # what the child takes to start is no part of its rate
    bar(event(0))
    clock.seconds += 2
    bar(event(GB))
    bar.end("4.0 GB written in 8.1 s")
    assert updates == [
        (0.0, "Merge v2 x eu"),
        (0.0, "Merge v2 x eu: 0 B of 4.0 GB"),
        (25.0, "Merge v2 x eu: 1.0 of 4.0 GB, 0.50 GB/s, 6.0 s left"),
        (100.0, "Merge v2 x eu: 4.0 GB written in 8.1 s"),
    ]


def test_a_child_that_speaks_ten_times_a_second_costs_one_request_a_second(
    updates: list[tuple[float, str]], clock: Clock
) -> None:
    bar = ProgressBar("merge-tiny-eu", "Merge", clock)
    for step in range(81):
        bar(event(step * GB // 20))
        clock.seconds += 0.125
    assert len(updates) == 1 + 10 + 1  # created, at 0 to 9 s, and the end, at exactly 10 s
    percent = [done for done, _ in updates]
    assert percent == sorted(percent)
    assert updates[-1] == (100.0, "Merge: 4.0 of 4.0 GB, 0.40 GB/s")


def test_the_end_is_shown_at_once_and_once(updates: list[tuple[float, str]], clock: Clock) -> None:
    bar = ProgressBar("merge-tiny-eu", "Merge", clock)
    for done in (0, GB, 4 * GB, 4 * GB):
        clock.seconds += 0.1
        bar(event(done))
    assert [done for done, _ in updates] == [0.0, 0.0, 100.0]
    assert updates[-1][1].startswith("Merge: 4.0 of 4.0 GB")


@pytest.mark.parametrize("other", [{"event": "report", "seconds": 1.0}, event(0, 0)])
def test_what_is_no_progress_changes_nothing(
    updates: list[tuple[float, str]], clock: Clock, other: dict[str, Any]
) -> None:
    ProgressBar("merge-tiny-eu", "Merge", clock)(other)
    assert updates == [(0.0, "Merge")]
