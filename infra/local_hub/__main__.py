"""Start the local Hub, or push a release to it.

    python -m infra.local_hub --root DIR [--host 127.0.0.1] --port N [--page-size ROWS] [--prefix PATH]
    python -m infra.local_hub push --root DIR --repo ORG/NAME --from FOLDER [--message M] [--date ISO]

Who sends the token in LOCAL_HUB_WRITE_TOKEN may write over HTTP; without that variable the Hub is read only.
Exit codes: 0 done or ended by SIGTERM/SIGINT, 2 refused (busy port, wrong folder or id).
"""

import argparse
import errno
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from infra.local_hub.app import PAGE_SIZE, make_app
from infra.local_hub.push import PushRefused, push_folder

WRITE_TOKEN = "LOCAL_HUB_WRITE_TOKEN"
"""From the environment, since a command line is open to every user of the host."""


def main(arguments: list[str]) -> int:
    """Run one of the two commands."""
    if arguments[:1] == ["push"]:
        return _push(arguments[1:])
    return _serve(arguments)


def _push(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local_hub push", description="Push a folder as one commit.")
    parser.add_argument("--root", type=Path, required=True, help="the store of the Hub")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME")
    parser.add_argument("--from", type=Path, required=True, dest="folder", metavar="FOLDER", help="what to push")
    parser.add_argument("--message", default="Upload model")
    parser.add_argument("--date", help="ISO 8601 with a time zone; now if not given")
    asked = parser.parse_args(arguments)
    try:
        sha = push_folder(asked.root, asked.repo, asked.folder, asked.message, asked.date)
    except PushRefused as refusal:
        sys.stderr.write(f"PushRefused: {refusal}\n")
        return 2
    sys.stdout.write(f"{sha}\n")
    return 0


def _serve(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local_hub", description="Serve the store to readers.")
    parser.add_argument("--root", type=Path, required=True, help="the store; made if it is not there")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; the default is loopback only")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--page-size", type=int, default=PAGE_SIZE, help="rows per page of a listing")
    parser.add_argument("--prefix", default="", help="of every path, such as /artifactory/api/hf; none if not given")
    asked = parser.parse_args(arguments)
    asked.root.mkdir(parents=True, exist_ok=True)
    # Bound here and not by uvicorn, which ends with code 1 and a stack of log lines when a port is taken.
    # The protocol is named because asyncio sets TCP_NODELAY only then; else each answer waits 40 ms for an ACK.
    family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((asked.host, asked.port))
    except OSError as error:
        listener.close()
        kind = "AddressInUse" if error.errno == errno.EADDRINUSE else "AddressRefused"
        sys.stderr.write(
            f"{kind}: the local Hub cannot listen on {asked.host}:{asked.port} ({error.strerror}). "
            "End what listens there, or give another --port.\n"
        )
        return 2
    # uvicorn drains its connections on SIGTERM and then raises the signal again for the handler from before it;
    # without this one the process would end by the signal instead of with code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    config = uvicorn.Config(
        make_app(asked.root, asked.page_size, os.environ.get(WRITE_TOKEN) or None, asked.prefix),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
