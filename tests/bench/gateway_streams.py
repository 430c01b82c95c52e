"""The two ends of the gateway's benchmark, each a process of its own: a source of streams, and their reader.

    python gateway_streams.py emit --uds PATH --port N --gap S --count N
    python gateway_streams.py read --port N --streams N --seconds S --key KEY

Both speak HTTP by hand on asyncio protocols, so that what is measured between them is not their own weight: a Starlette
source takes more CPU for a chunk than the proxy in between. Each event holds the moment when it was written, by the
clock that all processes of a machine share; the reader takes the difference when it arrives.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from pathlib import Path

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1790000000,"model":"eu@bbbbbbbbbbbb",'
    '"choices":[{"index":0,"text":" kaixo","logprobs":null,"finish_reason":null}],"t":%020d}\n\n'
)
STAMP = re.compile(rb'"t":(\d{20})}')
TICK_SECONDS = 0.001
BODY = json.dumps({"model": "eu", "prompt": "kaixo", "max_tokens": 4096, "stream": True}).encode()


STREAMING = []
"""Of each stream under way: its transport, when the next event is due, how many were sent."""
ARRIVED = []
"""Of each event: when it arrived, and how long it was on its way, in ns."""


class Source(asyncio.Protocol):
    """One connection: a stream for each request, an event every ``gap`` seconds, ``count`` of them."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if b"/health" in data[:40]:
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        elif b'"prompt"' in data:  # the whole body is in one piece, as small as it is
            self.transport.write(HEAD)
            now = time.monotonic()
            # Spread over the gap by the order of arrival, so that events come evenly and not in one heap.
            STREAMING.append([self.transport, now + (len(STREAMING) * 7919 % 1000) / 1000 * options.gap, 0])

    def connection_lost(self, _):
        STREAMING[:] = [stream for stream in STREAMING if stream[0] is not self.transport]


async def emit():
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_unix_server(Source, options.uds, backlog=1024),
        await loop.create_server(Source, "127.0.0.1", options.port, backlog=1024),
    ]
    print("ready", flush=True)
    while servers:
        await asyncio.sleep(TICK_SECONDS)
        now = time.monotonic()
        for stream in list(STREAMING):
            transport, due, sent = stream
            if now < due:
                continue
            event = (EVENT % time.monotonic_ns()).encode()
            transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            stream[1], stream[2] = due + options.gap, sent + 1
            if stream[2] >= options.count:
                transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
                STREAMING.remove(stream)


class Reader(asyncio.Protocol):
    """One stream; notes the way of each event, in ns."""

    def connection_made(self, transport):
        transport.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer %b\r\n"
            b"content-length: %d\r\n\r\n%b" % (options.key.encode(), len(BODY), BODY)
        )

    def data_received(self, data):
        now = time.monotonic_ns()
        for found in STAMP.finditer(data):
            ARRIVED.append((now, now - int(found[1])))


async def read():
    loop = asyncio.get_running_loop()
    began = time.monotonic_ns()
    for _ in range(options.streams):
        await loop.create_connection(Reader, "127.0.0.1", options.port)
    await asyncio.sleep(options.seconds)
    # The first second is of connecting; what arrives later than the end of the time does not count.
    first, last = began + 10**9, began + int(options.seconds * 1e9)
    ways = sorted(way for at, way in ARRIVED if first <= at <= last)
    json.dump({"ways": ways, "seconds": options.seconds - 1}, sys.stdout)


parser = argparse.ArgumentParser()
parser.add_argument("role", choices=["emit", "read"])
parser.add_argument("--uds", type=Path)
parser.add_argument("--port", type=int)
parser.add_argument("--gap", type=float, default=0.04)
parser.add_argument("--count", type=int, default=10**6)
parser.add_argument("--streams", type=int, default=200)
parser.add_argument("--seconds", type=float, default=10.0)
parser.add_argument("--key", default="")

if __name__ == "__main__":
    options = parser.parse_args()
    uvloop.run(emit() if options.role == "emit" else read())
