"""What tests of several rooms need."""

import os
from collections.abc import Callable

import psutil
import pytest

# A task that a test calls by itself starts a Prefect server of its own: 5 s alone, beside three other tests more than the
# 20 s that Prefect waits for it.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


@pytest.fixture
def step_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes psutil see what a step of the system clock leaves behind on Linux: another time of boot."""
    before = psutil.boot_time()

    def step(seconds: float) -> None:
        # The clock itself cannot be set: it is the whole machine's, and takes rights that a test has not.
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + seconds)

    return step
