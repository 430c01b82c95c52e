"""A stream of server-sent events on its way from an instance to a client, and how one sees that it is not whole.

A draining vLLM ends a stream with ``finish_reason: "abort"`` and a clean ``[DONE]`` (vllm#57082); one whose engine has
died sends an error event and a clean ``[DONE]``. Neither is passed on as a clean end. Inside generated text quotes are
escaped, so text cannot imitate what is looked for here.
"""

import re
from typing import Protocol

from tasks.endpoints.answers import Send
from tasks.endpoints.lost import Lost

ABORTED = re.compile(rb'"finish_reason":\s*"abort"')
SPOKEN = re.compile(rb'"(?:content|text|reasoning|reasoning_content|arguments|name)":\s*"[^"]')
MODEL = re.compile(rb'"model":\s*"([^"]*)"')
ERROR = b'data: {"error"'
REFUSED = re.compile(rb'"code":\s*4\d\d\b')
DONE = b"data: [DONE]\n\n"
END_OF_EVENT = b"\n\n"
CARRIED = 64
"""Of a chunk that ends within an event, so much is looked at again together with the next one."""


class Chunks(Protocol):
    """The body of an answer, as it comes."""

    async def readany(self) -> bytes:
        """The next piece; empty at the end."""


class Listened:
    """A stream that remembers whether anything was said in it."""

    def __init__(self, stream: Chunks, first: bytes, *, keep: int = 0) -> None:
        self._stream = stream
        self._keep = keep
        self.spoken = bool(SPOKEN.search(first))
        self.heard = first if keep else b""
        """Its first ``keep`` bytes."""

    async def readany(self) -> bytes:
        """The next piece; empty at the end."""
        chunk = await self._stream.readany()
        if not self.spoken:  # only until then: an answer without a word is short
            self.spoken = bool(SPOKEN.search(chunk))
        if len(self.heard) < self._keep:
            self.heard += chunk
        return chunk


async def first_words(stream: Chunks, model: str) -> bytes:
    """Read until the model has said something: whatever is wrong before that can still be asked again elsewhere.

    vLLM sends the role event together with the first token, so holding it back costs no time; two events are enough.

    Raises:
        Lost: aborted, ended, or broken before its first word; or another model than ``model`` speaks.
    """
    held = b""
    while True:
        chunk = await stream.readany()
        held += chunk
        if ABORTED.search(held) and not SPOKEN.search(held):
            raise Lost("abort", "it broke the stream off with finish_reason abort before its first word")
        if ERROR in held and not REFUSED.search(held) and not SPOKEN.search(held):
            raise Lost("status", f"it ended the stream with an error before its first word: {_failure(held)}")
        if not chunk and not SPOKEN.search(held) and DONE not in held:
            raise Lost("reset", "it ended the stream before its first word")
        check_model(held, model)
        if not chunk or held.count(END_OF_EVENT) >= 2 or SPOKEN.search(held):
            return held


async def pass_on(first: bytes, stream: Chunks, send: Send) -> str:
    """Send what came, and each further piece the moment it comes.

    Returns:
        Empty when the stream ended as it should, with the last piece sent; else what was wrong, and the client has had
        no end: the caller sends an error event.
    """
    chunk, carried, done = first, b"", False
    while chunk:
        seen = carried + chunk if carried else chunk
        if b'"abort"' in seen and ABORTED.search(seen):
            return "the instance broke this answer off"
        if ERROR in seen and not REFUSED.search(seen):
            return f"the instance failed in the middle of this answer: {_failure(seen)}"
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        done = seen.endswith(DONE)
        carried = b"" if chunk.endswith(END_OF_EVENT) else seen[-CARRIED:]
        chunk = await stream.readany()
    if not done:
        return "the instance ended this answer without its end mark"
    await send({"type": "http.response.body", "body": b""})
    return ""


def check_model(answer: bytes, model: str) -> None:
    """The instance was asked by the name of one artifact, and says that name first in each answer.

    Raises:
        Lost: it says another one: something else listens where the routes say that this artifact does.
    """
    found = MODEL.search(answer)
    if found is not None and found[1] != model.encode():
        raise Lost("other", f"it was asked as {model} and answers as {found[1][:80].decode(errors='replace')}")


def _failure(events: bytes) -> str:
    """The error event among them."""
    return events[events.index(ERROR) :].split(END_OF_EVENT)[0][:200].decode(errors="replace")
