"""The page for a person: what is served, by which version, how good it is, and a box that asks two versions at once.

The page itself holds nothing of this installation and needs no key; all that it shows comes from ``status.json``, which
needs one wherever requests do. It loads nothing from elsewhere, and its policy lets nothing else in: whatever a model
or a release calls itself is shown as text.
"""

import base64
import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

from tasks.endpoints.answers import Header, Send
from tasks.endpoints.routes import ChannelRoute, InstanceRoute, Routes
from tasks.endpoints.status_file import ChannelLine, InstanceLine, ServingStatus

PAGE = "/empelt/"
STATUS = "/empelt/status.json"
TO_PAGE = {"/": b"empelt/", "/empelt": b"empelt/"}
"""Redirected relative to where one is, so that a proxy may put a prefix before all of it."""
KEYS_MARK = b'content="not asked for"'
PRIVATE: list[Header] = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


@lru_cache
def _read() -> tuple[bytes, list[Header]]:
    """The page as it lies in the package, and its headers."""
    body = files("tasks.endpoints").joinpath("status_page.html").read_bytes()

    def hashed(tag: bytes) -> str:
        (inside,) = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), body, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed(b'script')}; style-src {hashed(b'style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    headers = [
        *((b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy.encode())),
        *((b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY")),
        *((b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-resource-policy", b"same-origin")),
        *PRIVATE,
    ]
    return body, headers


async def send_page(send: Send, *, keys_asked_for: bool) -> None:
    """The page. All that it says of this installation is whether keys are asked for, as any refusal does too."""
    body, headers = _read()
    if keys_asked_for:
        body = body.replace(KEYS_MARK, b'content="asked for"', 1)
    length: Header = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def send_to_page(send: Send, path: str) -> None:
    """From an address that people try first."""
    headers = [(b"location", TO_PAGE[path]), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def as_shown(
    routes: Routes, in_flight: dict[str, int], status: ServingStatus | None, *, whole: bool, now: datetime | None = None
) -> dict[str, Any]:
    """What the page shows: what the gateway routes by now, and beside it what the agent said last. Pure.

    Args:
        routes: as loaded by the gateway.
        in_flight: instance -> requests under way.
        status: what the agent said; None when it said nothing yet.
        whole: also why instances are as they are, and what steps of promotions said, which may hold paths and the end
            of a log: for the operator alone.
        now: for tests.
    """
    known = {line.channel: line for line in status.channels} if status else {}
    lines = {line.name: line for line in status.instances} if status else {}
    names = sorted({*routes.channels, *known})
    return {
        "at": (now or datetime.now(UTC)).isoformat(),
        "agent_at": status.at.isoformat() if status else None,
        "serial": routes.serial,
        "channels": [
            _channel(name, routes, routes.channels.get(name), known.get(name), status, whole=whole) for name in names
        ],
        "instances": [
            _instance(name, routes.instances.get(name), lines.get(name), in_flight.get(name, 0), whole=whole)
            for name in sorted({*routes.instances, *lines})
        ],
        "restarts": dict(status.counts.restarts) if status else {},
    }


def _channel(
    name: str,
    routes: Routes,
    route: ChannelRoute | None,
    line: ChannelLine | None,
    status: ServingStatus | None,
    *,
    whole: bool,
) -> dict[str, Any]:
    """One channel: its versions, newest switches, and who answers now."""
    answering = routes.instances.get(route.instance) if route and route.instance else None
    tried = route.tried if route else None
    canary = routes.instances.get(tried.instance) if tried else None
    live = line.digest if line else answering.digest if answering else None
    versions = [_version("live", name, live, routes, line, status)] if live else []
    if canary is not None and tried is not None:
        shown = _version("canary", name, canary.digest, routes, line, status)
        versions.append({**shown, "weight": tried.weight})
    told = {version["digest"] for version in versions}
    if line is not None and line.previous is not None and line.previous not in told:
        versions.append(_version("previous", name, line.previous, routes, line, status))
        told.add(line.previous)
    others = [one for one in routes.instances.values() if one.channel == name and one.digest not in told]
    versions += [_version("staged", name, one.digest, routes, line, status) for one in others]
    return {
        "channel": name,
        "family": line.family if line else None,
        "target": line.target if line else None,
        "generation": line.generation if line else None,
        "routed_generation": route.generation if route else None,
        "answering": answering.digest if answering else None,
        "coming": bool(route and route.coming),
        "since": line.since.isoformat() if line else None,
        "versions": versions,
        "switches": [switch.model_dump(mode="json") for switch in line.switches] if line else [],
        "steps": [step.model_dump(mode="json", exclude=None if whole else {"said"}) for step in line.steps]
        if line
        else [],
    }


def _version(
    role: str, channel: str, digest: str, routes: Routes, line: ChannelLine | None, status: ServingStatus | None
) -> dict[str, Any]:
    """One artifact of a channel. It can be asked for by its pinned name while an instance of it is routed."""
    up = next((one for one in routes.instances.values() if (one.channel, one.digest) == (channel, digest)), None)
    switches = line.switches if line else ()
    release = next((switch.release for switch in switches if switch.digest == digest), "")
    scores = status.scores.get(digest, ()) if status else ()
    return {
        "role": role,
        "digest": digest,
        "release": release or (up.release if up else ""),
        "model": up.pinned if up else None,
        "scores": [score.model_dump() for score in scores],
    }


def _instance(
    name: str, route: InstanceRoute | None, line: InstanceLine | None, under_way: int, *, whole: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": name,
        "channel": line.channel if line else route.channel if route else "",
        "digest": line.digest if line else route.digest if route else "",
        "state": line.state if line else "unknown",
        "keep": line.keep if line else "",
        "since": line.since.isoformat() if line else None,
        "routed": route is not None,
        "in_flight": under_way,
    }
    return {**told, "reason": line.reason} if whole and line else told
