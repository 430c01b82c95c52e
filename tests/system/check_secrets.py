"""Looks for secrets where none may be: files of a home, Prefect's API and database, command lines of our processes.

    python tests/system/check_secrets.py --home HOME --canaries FILE [--api URL --auth-from NAME] [--may-hold PATH ...]

FILE is a JSON object, name -> secret. Each secret is looked for as it is, percent-encoded, escaped as in JSON, and in base64
alone and as `user:password`. Nothing of ours is imported. Prints what was looked at and what was found; exit code 1 if any.
Secrets themselves are never printed.
"""

import argparse
import base64
import json
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psutil

CHUNK = 1 << 20
SQLITE = b"SQLite format 3\0"
LISTS = ("flow_runs", "task_runs", "deployments", "artifacts", "logs", "flows", "work_pools", "variables")
LISTS += ("block_documents", "automations", "events")
ALONE = frozenset({"events"})
"""Answered in pages by a token, and not by limit and offset."""


class Found(NamedTuple):
    """One secret in one place."""

    secret: str
    place: str


def spellings(canaries: Mapping[str, str]) -> dict[bytes, str]:
    """Every way in which a secret may have been written -> its name."""
    ways: dict[bytes, str] = {}
    for name, secret in canaries.items():
        raw = secret.encode()
        for text in {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), base64.b64encode(raw)}:
            ways[text.rstrip(b"=")] = name
    return ways


def in_bytes(data: bytes, ways: Mapping[bytes, str]) -> set[str]:
    """Names of the secrets in ``data``."""
    return {name for text, name in ways.items() if text in data}


def in_file(path: Path, ways: Mapping[bytes, str]) -> set[str]:
    """Names of the secrets in a file of any size; of a SQLite database also what its pages hold in pieces."""
    found: set[str] = set()
    begin = b""
    overlap, tail = max(map(len, ways), default=1), b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            begin = begin or chunk[: len(SQLITE)]
            found |= in_bytes(tail + chunk, ways)
            tail = chunk[-overlap:]
    if begin == SQLITE:  # the gateway's metrics end in .db as well
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            for line in database.iterdump():
                found |= in_bytes(line.encode(), ways)
    return found


def in_home(home: Path, ways: Mapping[bytes, str], may_hold: frozenset[Path] = frozenset()) -> tuple[list[Found], int]:
    """Secrets in files below ``home``, and how many files were read."""
    found, read = [], 0
    for path in sorted(home.rglob("*")):
        if not path.is_file() or path.is_symlink() or path.resolve() in may_hold:
            continue
        try:
            names = in_file(path, ways)
        except FileNotFoundError:
            continue  # removed since it was listed
        read += 1
        found += [Found(name, str(path.relative_to(home))) for name in names]
        found += [Found(name, f"the name of {path.parent}/...") for name in in_bytes(path.name.encode(), ways)]
    return found, read


def processes_of(home: Path) -> Iterator[psutil.Process]:
    """Every process that carries this home's EMPELT_INSTANCE."""
    instance = (home / "instance-id").read_text().strip()
    for process in psutil.process_iter():
        try:
            if process.environ().get("EMPELT_INSTANCE") == instance:
                yield process
        except psutil.Error:
            continue


def in_command_lines(home: Path, ways: Mapping[bytes, str]) -> tuple[list[Found], set[int]]:
    """Secrets on the command lines of this home's processes, and the processes that were looked at."""
    found, seen = [], set()
    for process in processes_of(home):
        try:
            line = "\0".join([process.name(), *process.cmdline()])
        except psutil.Error:
            continue
        seen.add(process.pid)
        found += [Found(name, f"command line of pid {process.pid}") for name in in_bytes(line.encode(), ways)]
    return found, seen


def in_api(url: str, auth: str | None, ways: Mapping[bytes, str]) -> tuple[list[Found], int]:
    """Secrets in what Prefect's API tells, and how many rows it told."""
    found, rows = [], 0
    for kind in LISTS:
        for row in _listed(url, auth, kind):
            rows += 1
            told = json.dumps(row, ensure_ascii=False).encode()
            found += [Found(name, f"{kind} {row.get('id')}") for name in in_bytes(told, ways)]
    return found, rows


def _listed(url: str, auth: str | None, kind: str) -> Iterator[dict[str, Any]]:
    if kind in ALONE:
        page = _ask(f"{url}/{kind}/filter", auth, {"limit": 50})
        while True:
            yield from page["events"]
            if not page.get("next_page"):
                return
            page = _ask(page["next_page"], auth, None)
    offset = 0
    while rows := _ask(f"{url}/{kind}/filter", auth, {"limit": 200, "offset": offset}):
        yield from rows
        offset += len(rows)


def _ask(url: str, auth: str | None, body: dict[str, Any] | None) -> Any:
    headers = {"content-type": "application/json"}
    if auth:
        headers["authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=60) as answer:
        return json.loads(answer.read())


def main() -> int:
    """Look everywhere; 1 if a secret was found anywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--canaries", type=Path, required=True, help="JSON, name -> secret")
    parser.add_argument("--api", default="", help="address of Prefect's API; not looked at if not given")
    parser.add_argument("--auth-from", default="", help="name of the canary that the API asks for")
    parser.add_argument("--may-hold", type=Path, nargs="*", default=[], help="files that secrets are kept in")
    parser.add_argument("--seconds", type=float, default=0, help="how long command lines are watched")
    told = parser.parse_args()
    canaries: dict[str, str] = json.loads(told.canaries.read_text(encoding="utf-8"))
    ways = spellings(canaries)
    lines: set[Found] = set()
    pids: set[int] = set()
    until = time.monotonic() + told.seconds
    while True:
        found, seen = in_command_lines(told.home, ways)
        lines, pids = lines | set(found), pids | seen
        if time.monotonic() >= until:
            break
        time.sleep(0.1)
    may_hold = frozenset(path.resolve() for path in [*told.may_hold, told.canaries])
    files, read = in_home(told.home, ways, may_hold)
    rows_found, rows = in_api(told.api, canaries.get(told.auth_from), ways) if told.api else ([], 0)
    everything = sorted({*lines, *files, *rows_found})
    print(f"{len(canaries)} secrets; {read} files, {rows} rows of the API, {len(pids)} processes")
    for one in everything:
        print(f"FOUND {one.secret} in {one.place}")
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main())
