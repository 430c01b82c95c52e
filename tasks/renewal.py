"""A lease that is renewed by a thread for as long as its work lasts. No Prefect here."""

import logging
import threading
from collections.abc import Callable

from tasks.domain.errors import TransientError

logger = logging.getLogger(__name__)


class Renewal:
    """Calls ``renew`` every so many seconds until it says False, or ``end`` is called.

    A ledger that does not answer is asked again: its server was restarted, its disk was full for a moment. What ran out
    meanwhile can be renewed unless somebody else has taken it, and hours of work are not given up for it.
    """

    def __init__(self, name: str, every_seconds: float, renew: Callable[[], bool]) -> None:
        self._name, self._every_seconds, self._call = name, every_seconds, renew
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=name, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(self._every_seconds):
            try:
                if not self._call():
                    return
            except TransientError as error:
                logger.warning("%s was not renewed, and is tried again: %s", self._name, error)

    def end(self) -> None:
        """Stop renewing."""
        self._ended.set()
        self._thread.join(5)
