"""What one request, one key and all of them together may use of the gateway."""

from collections import Counter

from tasks.domain.models import Noun
from tasks.endpoints.keys import OWN, Key

EVERYBODY = Key("", b"", 0)
"""Who asks where no keys are asked for."""


class Limits(Noun):
    """All of them; a request over one is refused in OpenAI's error shape."""

    body_bytes: int = 8 * 1024 * 1024
    """413. A context of 128 k tokens as text is under 1 MiB; batches of prompts need more."""
    upload_seconds: float = 30.0
    """408: for the whole body to arrive."""
    request_seconds: float = 600.0
    """504: from the body's arrival to the end of the answer, all tries and waits among it."""
    idle_seconds: float = 120.0
    """504, or an error event: a stream may be silent for so long, before its first byte and between two."""
    in_flight: int = 512
    """429: requests under way, held ones among them. It bounds memory too: each may hold a body."""
    hold_seconds: float = 30.0
    """503: a request without a byte waits for an instance, or is tried again, for so long."""


class Turnstile:
    """Counts requests in and out, for each key and in all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: Counter[str] = Counter()
        self._all = 0

    def enter(self, key: Key) -> str:
        """Let one in; or say in a sentence why not, and count nothing."""
        if self._all >= self._most and key.name != OWN:  # its own requests confirm a switch, which a rush would undo
            return f"{self._all} requests are under way, the limit of this gateway is {self._most}. Try again shortly."
        mine = self._inside[key.name]
        if key.max_in_flight and mine >= key.max_in_flight:
            return f"{mine} requests of key {key.name!r} are under way, its limit is {key.max_in_flight}."
        self._inside[key.name] += 1
        self._all += 1
        return ""

    def leave(self, key: Key) -> None:
        """One that was let in is done."""
        self._inside[key.name] -= 1
        self._all -= 1
