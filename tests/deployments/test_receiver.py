"""The webhook receiver: who is let in, what is refused, and that a crowd of events starts one watch."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.applications import Starlette

from deployments.receiver import MAX_BODY_BYTES, PER_MINUTE, Bucket, Nudge, Webhook

SECRET = "canary-secret-ñ-of-the-webhook"
EVENT = {
    "event": {"action": "update", "scope": "repo.content"},
    "repo": {"type": "model", "name": "lab/model-v2", "id": "65" * 12, "private": False, "headSha": "ab" * 20},
    "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "cd" * 20, "newSha": "ab" * 20}],
    "webhook": {"id": "ef" * 12, "version": 3},
}


class Started:
    """What the nudge starts in place of a flow run; the real one is in tests/system."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"run {self.count}"


@pytest.fixture
def started() -> Started:
    return Started()


def app(started: Started, seconds: float = 0.3) -> Starlette:
    return Webhook(SECRET, Nudge(started, seconds, pause=0)).app()


async def post(
    client: httpx.AsyncClient, body: object = EVENT, secret: str | None = SECRET, **more: object
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [] if secret is None else [(b"x-webhook-secret", secret.encode())]
    return await client.post("/webhook", content=content, headers=headers, **more)  # type: ignore[arg-type]


def client_of(application: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://here")


def answer_to(started: Started, body: object = EVENT, secret: str | None = SECRET) -> httpx.Response:
    """One request to a fresh receiver, and time enough for a run to start."""

    async def one() -> httpx.Response:
        async with client_of(app(started, seconds=0.01)) as client:
            answer = await post(client, body, secret)
            await asyncio.sleep(0.2)
            return answer

    return asyncio.run(one())


@pytest.fixture(autouse=True)
def _the_secret_is_in_no_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert "canary-secret" not in caplog.text


def test_a_right_event_is_taken_and_starts_the_watch(started: Started) -> None:
    answer = answer_to(started)
    assert (answer.status_code, answer.json()) == (202, {"watch": "planned"})
    assert started.count == 1


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET[:-1], f"{SECRET}x", SECRET.upper()])
def test_a_wrong_secret_is_refused_and_starts_nothing(started: Started, secret: str | None) -> None:
    answer = answer_to(started, secret=secret)
    assert answer.status_code == 401
    assert SECRET not in answer.text
    assert started.count == 0


@pytest.mark.parametrize("stated", [True, False])
def test_a_body_over_the_limit_is_refused(started: Started, stated: bool) -> None:
    body = json.dumps({**EVENT, "more": "x" * MAX_BODY_BYTES}).encode()

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async def one() -> httpx.Response:
        async with client_of(app(started, seconds=0.01)) as client:
            headers = [(b"x-webhook-secret", SECRET.encode())]
            answer = await client.post("/webhook", content=body if stated else in_pieces(), headers=headers)
            await asyncio.sleep(0.2)
            return answer

    assert asyncio.run(one()).status_code == 413
    assert started.count == 0


def test_a_body_at_the_limit_is_taken(started: Started) -> None:
    body = json.dumps(EVENT).encode()
    assert answer_to(started, body + b" " * (MAX_BODY_BYTES - len(body))).status_code == 202


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 60_000, "no JSON"),
        (b"[]", "event.action"),
        (b'"x"', "event.action"),
        ({**EVENT, "event": "update"}, "event.scope"),
        ({**EVENT, "event": {"action": "explode", "scope": "repo"}}, "create or delete or update or move"),
        ({**EVENT, "repo": {**EVENT["repo"], "name": "../../etc/passwd"}}, "repo.name"),  # type: ignore[dict-item]
        ({**EVENT, "repo": {**EVENT["repo"], "name": ["lab/x"]}}, "repo.name"),  # type: ignore[dict-item]
        ({**EVENT, "repo": {**EVENT["repo"], "headSha": "main"}}, "repo.headSha"),  # type: ignore[dict-item]
        ({**EVENT, "repo": {**EVENT["repo"], "type": "blob"}}, "repo.type"),  # type: ignore[dict-item]
    ],
)
def test_a_malformed_payload_is_refused_by_name_and_starts_nothing(started: Started, body: object, what: str) -> None:
    answer = answer_to(started, body)
    assert answer.status_code == 400
    assert what in answer.json()["error"]
    assert started.count == 0


def test_the_newest_commit_is_read_from_the_name_that_the_hub_writes(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    answer_to(started)
    assert f"lab/model-v2, head {'ab' * 20}" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [{"repo": {**EVENT["repo"], "type": "dataset"}}, {"event": {"action": "create", "scope": "discussion.comment"}}],  # type: ignore[dict-item]
)
def test_what_is_no_models_business_starts_nothing(started: Started, changed: dict[str, object]) -> None:
    answer = answer_to(started, {**EVENT, **changed})
    assert (answer.status_code, answer.json()) == (202, {"watch": "not concerned"})
    assert started.count == 0


def test_ten_events_at_once_start_one_watch_and_a_later_one_another(started: Started) -> None:
    async def crowd() -> list[str]:
        async with client_of(app(started)) as client:
            answers = await asyncio.gather(*(post(client) for _ in range(10)))
            await asyncio.sleep(0.6)
            assert started.count == 1
            answers.append(await post(client))
            await asyncio.sleep(0.6)
            return [answer.json()["watch"] for answer in answers]

    said = asyncio.run(crowd())
    assert sorted(said[:10]) == ["joined"] * 9 + ["planned"]
    assert said[10] == "planned"
    assert started.count == 2


def test_a_flood_is_told_to_come_later(started: Started) -> None:
    async def flood() -> list[httpx.Response]:
        async with client_of(app(started)) as client:
            found = [await post(client) for _ in range(PER_MINUTE + 20)]
            for _ in range(200):  # the watch is started a moment later, and on a busy machine more than one
                if started.count:
                    break
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.6)
            return found

    answers = asyncio.run(flood())
    assert [a.status_code for a in answers[:PER_MINUTE]] == [202] * PER_MINUTE
    refused = [a for a in answers if a.status_code == 429]
    assert refused
    assert all(int(a.headers["retry-after"]) >= 1 for a in refused)
    assert started.count == 1


def test_a_flood_of_strangers_does_not_shut_out_the_hub(started: Started) -> None:
    async def flood() -> tuple[set[int], int]:
        async with client_of(app(started)) as client:
            strangers = {(await post(client, secret="wrong")).status_code for _ in range(PER_MINUTE + 20)}
            return strangers, (await post(client)).status_code

    assert asyncio.run(flood()) == ({401, 429}, 202)


def test_a_watch_that_cannot_be_started_is_no_end_of_the_receiver(caplog: pytest.LogCaptureFixture) -> None:
    from tasks.domain.errors import EndpointUnavailable

    calls = []

    def down() -> str:
        calls.append(1)
        raise EndpointUnavailable("no Prefect server")

    async def twice() -> list[int]:
        async with client_of(Webhook(SECRET, Nudge(down, 0.01, pause=0)).app()) as client:
            found = []
            for _ in range(2):
                found.append((await post(client)).status_code)
                await asyncio.sleep(0.2)
            return found

    assert asyncio.run(twice()) == [202, 202]
    assert len(calls) == 2
    assert "no Prefect server" in caplog.text


def test_only_a_post_is_taken(started: Started) -> None:
    async def get() -> int:
        async with client_of(app(started)) as client:
            return (await client.get("/webhook")).status_code

    assert asyncio.run(get()) == 405


def test_a_bucket_fills_evenly() -> None:
    now = [0.0]
    bucket = Bucket(60, clock=lambda: now[0])
    assert [bucket.take() for _ in range(61)] == [True] * 60 + [False]
    now[0] = 2.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] = 10_000.0
    assert sum(bucket.take() for _ in range(100)) == 60
