"""What tests of several rooms need."""

from collections.abc import Callable

import psutil
import pytest


@pytest.fixture
def step_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes psutil see what a step of the system clock leaves behind on Linux: another time of boot."""
    before = psutil.boot_time()

    def step(seconds: float) -> None:
        # The clock itself cannot be set: it is the whole machine's, and takes rights that a test has not.
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + seconds)

    return step
