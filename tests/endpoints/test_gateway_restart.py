"""A gateway that is restarted under load loses no request; one whose drain is switched off does."""

import asyncio
import os
import signal

import aiohttp
import httpx
import psutil
import pytest

from tasks.endpoints.siblings import joined
from tests.local_hub.hub_fixtures import free_port

CLIENTS, STREAMS = 6, 3


@pytest.fixture(scope="module")
def blue(upstream):
    return upstream("b")[0]


def has_ended(pid):
    """Whether or not somebody has asked for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def load(gateway, during):
    """Clients with kept connections ask without a pause while ``during`` runs; what each request came to."""
    found, stop = [], asyncio.Event()

    async def client(number, stream):
        async with aiohttp.ClientSession() as session:
            while not stop.is_set():
                asked = {"model": "eu", "prompt": "q", "stream": stream, "max_tokens": 10, "wait": 0.05}
                try:
                    async with session.post(f"{gateway.url}/v1/completions", json=asked) as answer:
                        text = await answer.text()
                        whole = text.endswith("data: [DONE]\n\n") if stream else '"finish_reason":"length"' in text
                        found.append(answer.status if whole else "broken")
                except aiohttp.ClientError as error:
                    found.append(type(error).__name__)

    clients = [asyncio.ensure_future(client(n, n < STREAMS)) for n in range(CLIENTS)]
    await during()
    stop.set()
    await asyncio.gather(*clients)
    return found


async def restarted(gateway):
    """Restart it; wait until another worker answers."""
    before = gateway.worker()
    await asyncio.sleep(1.0)
    gateway.process.send_signal(signal.SIGHUP)
    for _ in range(2000):
        if gateway.worker() != before:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    assert gateway.worker() != before


def test_a_restart_under_load_loses_no_request(start_gateway, blue, until):
    gateway = start_gateway()
    gateway.route(blue)
    first = gateway.worker()

    async def twice():
        await restarted(gateway)
        await restarted(gateway)

    found = asyncio.run(load(gateway, twice))
    assert len(found) > 40
    assert set(found) == {200}
    until(lambda: has_ended(first), seconds=150, what="the first worker to leave")


def test_what_the_old_worker_has_under_way_is_counted_until_it_is_done(start_gateway, blue, until):
    gateway = start_gateway()
    gateway.route(blue)

    async def ask():
        async with aiohttp.ClientSession() as session:
            asked = {"model": "eu", "prompt": "q", "stream": True, "max_tokens": 60, "wait": 0.1}
            async with session.post(f"{gateway.url}/v1/completions", json=asked) as answer:
                words = answer.content.iter_any()
                await anext(words)
                await restarted(gateway)
                async with aiohttp.ClientSession() as other, other.get(f"{gateway.url}/empelt/routes") as routes:
                    counted = (await routes.json())["in_flight"]
                rest = [piece async for piece in words]
            return counted, rest[-1]

    counted, last = asyncio.run(ask())
    assert counted == {blue.name: 1}
    assert last.endswith(b"data: [DONE]\n\n")
    until(lambda: gateway.state()["in_flight"] == {blue.name: 0}, what="the count to fall")


def test_without_a_drain_a_restart_cuts_streams_off(start_gateway, blue):
    gateway = start_gateway(drain_seconds=0)
    gateway.route(blue)
    found = asyncio.run(load(gateway, lambda: restarted(gateway)))
    assert {"broken", "ClientPayloadError", "ServerDisconnectedError", "ClientOSError"} & set(found)


def test_new_settings_take_hold_and_bad_ones_leave_the_old_worker(start_gateway, blue, until):
    gateway = start_gateway()
    gateway.route(blue)
    gateway.write(limits={**gateway.config["limits"], "body_bytes": 40})
    asyncio.run(restarted(gateway))
    assert gateway.ask(prompt="x" * 50).status_code == 413
    worker = gateway.worker()
    gateway.write(keys="anna:short")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: "not restarted, the old worker goes on" in gateway.log(), what="the refusal")
    assert gateway.worker() == worker
    assert httpx.get(f"{gateway.url}/health").status_code == 200


def test_a_worker_that_dies_is_replaced_and_who_connects_meanwhile_is_answered(start_gateway, blue, until):
    gateway = start_gateway()
    gateway.route(blue)
    worker = gateway.worker()
    os.kill(worker, signal.SIGKILL)
    answer = gateway.ask()
    assert answer.status_code == 200
    until(lambda: gateway.worker() != worker, seconds=150, what="the supervisor to say so")


def test_a_worker_does_not_outlive_its_supervisor(start_gateway, until):
    gateway = start_gateway()
    worker = gateway.worker()
    gateway.process.kill()
    gateway.process.wait()
    until(lambda: has_ended(worker), seconds=150, what="the worker to end")


def test_reports_of_several_workers_are_one():
    own = {"serial": 7, "channels": {"eu": {}}, "in_flight": {"eu-a": 1, "eu-b": 0}, "tallies": {}}
    others = [{"serial": 6, "in_flight": {"eu-a": 2, "eu-c": 1}}, {"serial": 8, "in_flight": {}}]
    assert joined(own, []) == own
    assert joined(own, others) == {**own, "serial": 6, "in_flight": {"eu-a": 3, "eu-b": 0, "eu-c": 1}}


# --- figures ----------------------------------------------------------------------------------------------------------
def test_figures_are_told_by_channel_artifact_and_code_and_outlive_a_restart(start_gateway, blue, upstream, behave):
    green, _ = upstream("a")
    gateway = start_gateway(metrics_port=free_port())
    gateway.route(blue)
    assert gateway.ask().status_code == 200
    gateway.ask("nobody")
    behave(blue, status=500, times=1)
    assert gateway.ask().status_code == 200
    behave(blue)
    gateway.ask(stream=True, end_at=1)
    asyncio.run(restarted(gateway))
    gateway.route(green, generation=2)
    assert gateway.ask().status_code == 200
    found = gateway.figures()
    labels = {"artifact": "b" * 12, "channel": "eu"}

    def of(name, **labels):
        return found.get((name, *sorted(labels.items())))

    assert of("empelt_gateway_requests_total", code="200", **labels) == 3
    assert of("empelt_gateway_requests_total", code="200", artifact="a" * 12, channel="eu") == 1
    assert of("empelt_gateway_requests_total", code="404", artifact="", channel="") == 1
    assert of("empelt_gateway_lost_total", kind="stream", **labels) == 1
    assert of("empelt_gateway_retried_total", kind="status", **labels) == 1
    assert of("empelt_gateway_first_byte_seconds_count", channel="eu") == 4
    assert of("empelt_gateway_switch_seconds_count") >= 1
    assert of("empelt_gateway_holding") == 0
    assert of("empelt_gateway_in_flight") == 0


def test_a_request_that_waits_is_seen(start_gateway, until):
    gateway = start_gateway(metrics_port=free_port(), limits={"hold_seconds": 3.0})
    gateway.route(None)

    async def ask():
        async with aiohttp.ClientSession() as session:
            asked = asyncio.ensure_future(session.post(f"{gateway.url}/v1/completions", json={"model": "eu"}))
            await asyncio.sleep(1.0)
            during = await asyncio.to_thread(gateway.figures)
            return during, (await asked).status

    during, status = asyncio.run(ask())
    assert during[("empelt_gateway_holding",)] == 1
    assert status == 503
    found = gateway.figures()
    assert found[("empelt_gateway_holding",)] == 0
    assert found[("empelt_gateway_held_total", ("channel", "eu"))] == 1
    lost = ("empelt_gateway_lost_total", ("artifact", ""), ("channel", "eu"), ("kind", "unanswered"))
    assert found[lost] == 1


def test_a_worker_that_is_killed_takes_no_figure_along_that_it_had_told(start_gateway, blue, until):
    gateway = start_gateway(metrics_port=free_port())
    gateway.route(blue)
    for _ in range(3):
        assert gateway.ask().status_code == 200
    count = ("empelt_gateway_requests_total", ("artifact", "b" * 12), ("channel", "eu"), ("code", "200"))
    assert gateway.figures()[count] == 3  # each scrape asks the worker
    killed = gateway.worker()
    os.kill(killed, signal.SIGKILL)
    until(lambda: gateway.worker() != killed, what="another worker")
    assert gateway.ask().status_code == 200
    found = gateway.figures()
    assert found[count] == 4
    assert found["empelt_gateway_worker_ends_total", ("how", "died")] == 1
    assert found["empelt_gateway_worker_ends_total", ("how", "replaced")] == 0
    assert found[("empelt_gateway_in_flight",)] == 0
    assert not list(gateway.folder.glob("*figures*")), "a mapped file ends its process on a full disk"


def test_a_worker_that_hangs_hides_no_figure(start_gateway, blue):
    gateway = start_gateway(metrics_port=free_port())
    gateway.route(blue)
    assert gateway.ask().status_code == 200
    count = ("empelt_gateway_requests_total", ("artifact", "b" * 12), ("channel", "eu"), ("code", "200"))
    assert gateway.figures()[count] == 1
    worker = gateway.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        assert gateway.figures()[count] == 1
    finally:
        os.kill(worker, signal.SIGCONT)


def test_open_streams_are_seen_by_channel_and_artifact(start_gateway, blue, until):
    gateway = start_gateway(metrics_port=free_port())
    gateway.route(blue)
    streams = ("empelt_gateway_streams", ("artifact", "b" * 12), ("channel", "eu"))
    body = {"model": "eu", "stream": True, "max_tokens": 600, "wait": 0.1}
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=body) as answer:
        words = answer.iter_text()
        next(words)
        assert gateway.figures()[streams] == 1
    until(lambda: gateway.figures()[streams] == 0, what="the stream to be closed")


def test_a_request_that_a_stop_cuts_off_counts_as_lost(start_gateway, blue, until):
    """What a worker tells last, when its drain is over; its supervisor has read it when it says that it has left."""
    gateway = start_gateway(metrics_port=free_port(), drain_seconds=1)
    gateway.route(blue)

    async def ask():
        async with aiohttp.ClientSession() as session:
            asked = {"model": "eu", "prompt": "q", "wait": 30}
            work = asyncio.ensure_future(session.post(f"{gateway.url}/v1/completions", json=asked))
            await restarted(gateway)
            return (await work).status

    assert asyncio.run(ask()) == 500
    lost = ("empelt_gateway_lost_total", ("artifact", "b" * 12), ("channel", "eu"), ("kind", "unanswered"))
    until(lambda: gateway.figures().get(lost) == 1, what="it to be counted")
    assert gateway.figures()["empelt_gateway_requests_total", *lost[1:3], ("code", "500")] == 1
