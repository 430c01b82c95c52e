"""A start that nobody else checks is asked what its artifact said when it was judged, before anybody is sent to it.

A candidate is asked by whoever stages it. An instance that is started again, after it has ended or for a roll-back that
is not warm, has no such person beside it: its agent asks, over the instance's own socket and beside the agent's rounds.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from typing import Any

from tasks.domain.errors import EndpointUnavailable, InputError, TransientError
from tasks.domain.models import Digest
from tasks.domain.outputs import reference_key
from tasks.domain.proof import Proof, nothing_on_record, prove
from tasks.endpoints.outputs import ask_outputs
from tasks.endpoints.protocol import DesiredState

ASKED = "answers; asked what it said when it was judged"
"""The reason of an instance that is up and not yet proved."""

logger = logging.getLogger(__name__)


class Proving:
    """The questions under way, one set for each start."""

    def __init__(self, state: DesiredState, executor: Executor) -> None:
        """Ask nothing yet; ``state`` knows what is on record."""
        self._state = state
        self._executor = executor
        self._asked: dict[str, Future[tuple[Proof, ...]]] = {}
        """By socket: each start has its own."""

    def problem(self, where: str, models: Mapping[str, Digest], serving: Mapping[str, str]) -> str | None:
        """What speaks against its being what was judged; "" if nothing does, None while it is being asked.

        Args:
            where: the instance's socket.
            models: pinned name -> the artifact that should answer to it; one for each adapter where it holds several.
            serving: image, flags, device: how each of them is served now.
        """
        asked = self._asked.get(where)
        if asked is None:
            self._asked = {key: one for key, one in self._asked.items() if not one.done()}  # of starts that have ended
            self._asked[where] = self._executor.submit(self._prove_all, where, models, serving)
            return None
        if not asked.done():
            return None
        del self._asked[where]
        try:
            proofs = asked.result()
        except (EndpointUnavailable, TransientError) as error:  # it is asked again, for as long as it may take to start
            logger.warning("%s could not be asked, and is asked again: %s", ", ".join(models), error)
            return None
        except InputError as error:  # other weights, or a server that gives no log-probabilities
            return str(error)
        for proof in proofs:
            logger.info("%s was started again: %s", ", ".join(models), proof)
        return ""

    def _prove_all(self, where: str, models: Mapping[str, Digest], serving: Mapping[str, Any]) -> tuple[Proof, ...]:
        return tuple(self._prove(where, model, digest, serving) for model, digest in models.items())

    def _prove(self, where: str, model: str, digest: Digest, serving: Mapping[str, Any]) -> Proof:
        known = self._state.outputs_of(reference_key(digest, serving))
        if known is None:
            return nothing_on_record(digest, serving)
        heard = ask_outputs(where, model, known.answers)
        return prove(known, heard.answers, where=f"for {model} at {where}", served_by=())
