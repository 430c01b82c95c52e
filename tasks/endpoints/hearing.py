"""In which language answers are, while a new version is tried: told in a thread of the gateway, and only counted.

No answer leaves the process, is logged or is kept: its beginning waits for its turn, at most a few at a time.
"""

import asyncio
import json
import logging
import re
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from tasks.domain.language import language_of
from tasks.endpoints.routes import Canary
from tasks.endpoints.tally import Count

MOST_BYTES = 16_384
"""Of an answer. A stream spends about 250 on each token, and 60 tokens tell the language."""
MOST_WAITING = 8
MOST_ANSWERS = 300
"""Of each version in one canary; at 1 ms each."""
PIECE = re.compile(rb'"(?:content|text)":\s*("(?:[^"\\]|\\.)*")')

logger = logging.getLogger(__name__)


class Hearing:
    """Counts answers in other languages than the expected ones."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="hearing")
        self._waiting = 0
        self._heard: Counter[tuple[str, str, int]] = Counter()

    def wants(self, canary: Canary | None, channel: str, count: Count | None) -> bool:
        """Whether one more answer of this version is to be heard."""
        if canary is None or not canary.languages or count is None or self._waiting >= MOST_WAITING:
            return False
        return self._heard[channel, canary.instance, id(count)] < MOST_ANSWERS

    def hear(self, canary: Canary, channel: str, count: Count, answer: bytes) -> None:
        """Tell the language of an answer, soon, and count it. Called from the event loop, as what follows is."""
        self._waiting += 1
        self._heard[channel, canary.instance, id(count)] += 1
        loop = asyncio.get_running_loop()
        told = self._executor.submit(is_foreign, answer[:MOST_BYTES], canary.languages)
        told.add_done_callback(lambda done: loop.call_soon_threadsafe(self._count, count, done))

    def _count(self, count: Count, told: Future[bool | None]) -> None:
        self._waiting -= 1
        try:
            found = told.result()
        except (ImportError, OSError) as error:
            logger.error("the language of answers is not told: %s", error)
            return
        if found is not None:
            count.heard(is_foreign=found)


def is_foreign(answer: bytes, languages: tuple[str, ...]) -> bool | None:
    """Whether an answer is in none of the languages; None where it is too short to tell."""
    language = language_of(said(answer), languages)
    return None if language is None else language not in languages


def said(answer: bytes) -> str:
    """The text of an answer of vLLM, whole or as its events came."""
    return "".join(json.loads(piece) for piece in PIECE.findall(answer))
