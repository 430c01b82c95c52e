"""The load: a process of its own that asks one channel without a pause, and writes down what each request came to.

    python -m tests.soak.load SETUP.json

SIGTERM: nothing new is asked, what is under way ends, and the process with it. Half of the clients keep their
connections, half make a new one for each request. A request counts as answered only if all tokens that were asked for
came, with an end mark: they are asked for with `ignore_eos`, and counted by the answer's `usage`.
"""

import asyncio
import json
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from tests.soak.records import End, Record, write_lines

MARK = re.compile(r"\b[0-9a-f]{12}\b")
DONE = "[DONE]"
PAUSE_SECONDS = 0.2
"""After a lost answer, so that a dead gateway is not asked thousands of times."""


@dataclass(frozen=True)
class Setup:
    """What to ask, and how much of it at once."""

    url: str
    channel: str
    out: str
    plain: int
    """Clients that ask for whole answers, one after the other."""
    streams: int
    """Clients that ask for streams."""
    plain_tokens: int
    stream_tokens: int
    seconds: float = 120.0
    """After which an answer counts as lost."""


@dataclass
class Answer:
    """One answer, as far as it has come."""

    first: float | None = None
    finish: str = ""
    said: str = ""
    text: str = ""
    tokens: int = 0
    is_done: bool = False
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0

    def take(self, told: dict[str, Any]) -> None:
        """A whole answer, or one event of a stream."""
        if "error" in told:
            self.error = str(told["error"].get("message", told["error"]))[:200]
            return
        self.said = self.said or str(told.get("model", ""))
        for choice in told.get("choices", []):
            self.finish = choice.get("finish_reason") or self.finish
            self.text += str(choice.get("text") or "")
        self.tokens = int((told.get("usage") or {}).get("completion_tokens") or self.tokens)

    def end(self, tokens: int, *, is_stream: bool) -> End:
        """What it came to."""
        if self.status != 200:
            return "refused" if self.status else "cut"
        if self.error:
            return "clean end" if self.is_done else "error event"
        whole = self.tokens == tokens and self.finish in ("stop", "length")
        if not is_stream:
            return "whole" if whole else "clean end"
        return ("whole" if whole else "clean end") if self.is_done else "cut"


async def asked(session: aiohttp.ClientSession, setup: Setup, number: int, *, is_stream: bool) -> Record:
    """Ask once."""
    tokens = setup.stream_tokens if is_stream else setup.plain_tokens
    body: dict[str, Any] = {"model": setup.channel, "prompt": "Kaixo", "max_tokens": tokens, "ignore_eos": True}
    body |= {"temperature": 0}
    if is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    sent, answer, end = time.monotonic(), Answer(), ""
    try:
        async with session.post(
            f"{setup.url}/v1/completions", json=body, headers={"x-request-id": f"soak-{number}"}
        ) as response:
            answer.status = response.status
            answer.headers = {name.lower(): value for name, value in response.headers.items()}
            await (_events(response, answer) if is_stream and response.status == 200 else _whole(response, answer))
    except TimeoutError:
        end, answer.error = "silent", f"no end within {setup.seconds:.0f} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        end = "error event" if answer.error else "cut"
        answer.error = answer.error or f"{type(error).__name__}: {error}"[:200]
    mark, told, generation = MARK.search(answer.text), answer.headers, answer.headers.get("x-empelt-generation")
    return Record(
        number=number,
        model=setup.channel,
        is_stream=is_stream,
        sent=sent,
        first=answer.first,
        ended=time.monotonic(),
        status=answer.status,
        end=end or answer.end(tokens, is_stream=is_stream),  # type: ignore[arg-type]
        finish=answer.finish,
        artifact=told.get("x-empelt-artifact", ""),
        release=told.get("x-empelt-release", ""),
        generation=int(generation) if generation else None,
        version=told.get("x-empelt-version", ""),
        retries=int(told.get("x-empelt-retries", 0)),
        said=answer.said,
        mark=mark[0] if mark else "",
        error=answer.error,
    )


async def _whole(response: aiohttp.ClientResponse, answer: Answer) -> None:
    body = await response.read()
    answer.first = time.monotonic()
    answer.take(json.loads(body))


async def _events(response: aiohttp.ClientResponse, answer: Answer) -> None:
    async for line in response.content:
        answer.first = answer.first or time.monotonic()
        told = line.decode().strip().removeprefix("data: ")
        if told == DONE:
            answer.is_done = True
        elif told:
            answer.take(json.loads(told))


class Load:
    """All clients."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._numbers = count(1)
        self._over = asyncio.Event()

    def stop(self) -> None:
        """Ask nothing new; to be called on the loop's own thread."""
        self._over.set()

    async def run(self) -> None:
        """Until stopped, and what is under way has ended."""
        kinds = [False] * self._setup.plain + [True] * self._setup.streams
        await asyncio.gather(*(self._client(kind, place % 2 == 0) for place, kind in enumerate(kinds)))

    async def _client(self, is_stream: bool, keeps: bool) -> None:
        timeout = aiohttp.ClientTimeout(total=self._setup.seconds)
        connector = aiohttp.TCPConnector(force_close=not keeps)
        out = Path(self._setup.out)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            while not self._over.is_set():
                record = await asked(session, self._setup, next(self._numbers), is_stream=is_stream)
                write_lines(out, [record])
                if record.end != "whole":
                    await asyncio.sleep(PAUSE_SECONDS)


async def main() -> None:
    """Until SIGTERM."""
    load, loop = Load(Setup(**json.loads(Path(sys.argv[1]).read_text()))), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, load.stop)
    await load.run()


if __name__ == "__main__":
    asyncio.run(main())
