"""What vLLM really does wrong, as it is brought about in an instance that stands for it."""

import os
import signal

from tests.soak.host import CHANNEL
from tests.soak.promotion import CANARY
from tests.soak.site import Site

WRONG = "0" * 12
"""What the text of an instance shows that has loaded other weights than its own."""
FAULTS: dict[str, dict[str, object]] = {
    "abort-200": {"abort": True},
    "orphan engine": {"kill": True},
    "slow load": {"slow": 2.0},
    "crash on load": {"crash": "this model cannot be loaded"},
    "wrong weights": {"wrong": WRONG},
    "hung stream": {"hang": True},
    "missing logprobs": {"logprobs": False},
}
SHORT = tuple(step.model_copy(update={"seconds": 4.0, "requests": min(step.requests, 12)}) for step in CANARY)
"""A canary for few clients."""
LOADING = {"kill", "slow", "crash", "wrong"}
"""These show when an instance is started: one that runs is killed first. ``kill`` alone leaves its engine behind."""


def strike(site: Site, digest: str, fault: dict[str, object]) -> bool:
    """Let the instance of an artifact go wrong from now on; whether a running one was killed for it."""
    site.host.misbehave(digest, **{key: value for key, value in fault.items() if key != "kill"})
    if not set(fault) & LOADING:
        return False
    listed = site.host.launcher.list().get(f"{CHANNEL}-{digest[:12]}")
    if listed is None or not listed.alive:
        return False
    os.kill(listed.pid, signal.SIGKILL)
    return True
