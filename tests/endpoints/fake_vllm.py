"""Stands for one vLLM: answers with the name of its model folder, and can be told to misbehave as vLLM does.

    python fake_vllm.py --uds PATH --model FOLDER [--adapters JSON] [--seconds-to-load S]

With adapters, ``[{"name", "path"}]``, it answers to their names alone, each with the name of its own folder.

POST /behave changes how it answers from then on, until it is told otherwise; a model's config.json may say so from the
start, as ``behaves``:

    abort   as a draining vLLM: 200, empty, finish_reason abort
    empty   200, and no word
    text    what it says, instead of its name
    status  with this error; ``times``: only so often
    stale   it closes a kept connection when that is used again, as one that closes idle connections too soon
    reset   it closes the connection before its first byte; ``times`` as above
    hang    it never answers
    served  it knows only these names, and answers 404 to others: another server on the same socket
    says    the name that it calls itself in each answer, whatever it was asked for
    salt    its weights are other ones: it stands for what decides log-probabilities and greedy tokens
    bare    it gives no log-probabilities
    words   what it says in each piece of a stream, instead of its name and the piece's number
    pause   seconds that it waits after each piece, whatever was asked for
    ends_early  a stream ends without its end mark at this piece

A request's own fields are for one stream: ``wait`` s before each piece, ``first_wait`` s before all; at piece number N it
is killed (``die_at``), breaks off (``cut_at``), aborts (``abort_at``), fails with an error event and a clean end
(``error_at``), ends without its end mark (``end_at``), or falls silent (``hang_at``). ``when_told``: not before
POST /behave {"go": true}.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import weakref
from pathlib import Path

import scored
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

parser = argparse.ArgumentParser()
parser.add_argument("--uds", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--seconds-to-load", type=float, default=0.0)
parser.add_argument("--adapters", type=json.loads, default=[])
options = parser.parse_args()
NAME = Path(options.model).name
ADAPTERS = {one["name"]: Path(one["path"]).name for one in options.adapters}
config = Path(options.model) / "config.json"
CONFIGS = [config, *(Path(one["path"]) / "config.json" for one in options.adapters)]
FAULTS = [json.loads(path.read_text()).get("fault") for path in CONFIGS if path.exists()]
CALM = {
    "abort": False,
    "empty": False,
    "text": "",
    "status": 0,
    "reset": False,
    "stale": False,
    "hang": False,
    "served": [],
    "says": "",
    "words": "",
    "pause": 0,
    "ends_early": 0,
    "times": -1,
    "go": False,
}
AT = ("die_at", "cut_at", "abort_at", "error_at", "end_at", "hang_at")
CALM |= {"salt": sum(NAME.encode()) % 97, "bare": False}
used: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
"""Connections that have brought a request."""
behaviour = CALM | (json.loads(config.read_text()).get("behaves", {}) if config.exists() else {})


def compact(value):
    return json.dumps(value, separators=(",", ":"))


async def health(request: Request) -> Response:
    return Response()


async def behave(request: Request) -> Response:
    behaviour.update({**CALM, **await request.json()})
    return JSONResponse(behaviour)


async def misbehave(request: Request, asked: dict) -> Response | None:
    """An error instead of an answer; None when this one is to be answered."""
    served = behaviour["served"] or list(ADAPTERS)
    if served and asked["model"] not in served:
        error = {"message": f"The model `{asked['model']}` does not exist.", "type": "NotFoundError", "code": 404}
        return JSONResponse({"error": error}, 404)
    if behaviour["hang"]:
        await asyncio.sleep(3600)
    if behaviour["times"] == 0:
        return None
    if behaviour["status"] or behaviour["reset"]:
        behaviour["times"] -= 1
    if behaviour["reset"]:
        request._receive.__self__.transport.abort()
        return Response()
    return JSONResponse({"error": {"message": "it failed"}}, behaviour["status"]) if behaviour["status"] else None


async def complete(request: Request) -> Response:
    asked = await request.json()
    transport = request._receive.__self__.transport
    if behaviour["stale"] and transport in used:
        transport.abort()
        return Response()
    used.add(transport)
    if (fault := await misbehave(request, asked)) is not None:
        return fault
    if "prompt_logprobs" in asked and not behaviour["abort"]:
        asked |= {"prompt_logprobs": None} if behaviour["bare"] else {}
        make = scored.chat if "messages" in asked else scored.completion
        own = sum(ADAPTERS.get(asked["model"], "").encode())
        return Response(compact(make(asked, (behaviour["salt"] + own) % 97)), media_type="application/json")
    finish, name = "abort" if behaviour["abort"] else "length", ADAPTERS.get(asked["model"], NAME)
    text = "" if behaviour["abort"] or behaviour["empty"] else behaviour["text"] or f"{name} {asked.get('prompt', '')}"
    if asked.get("stream"):
        return StreamingResponse(events(request, asked, finish), media_type="text/event-stream")
    await asyncio.sleep(asked.get("wait", 0.0))
    body = {
        "id": "x",
        "model": behaviour["says"] or asked["model"],
        "choices": [{"index": 0, "text": text, "finish_reason": finish}],
    }
    return Response(compact(body), media_type="application/json")


async def events(request: Request, asked: dict, finish: str):
    model, name = behaviour["says"] or asked["model"], ADAPTERS.get(asked["model"], NAME)
    await asyncio.sleep(asked.get("first_wait", 0.0))
    count = 0 if finish == "abort" else asked.get("max_tokens", 3)
    for number in range(count):
        while number in (asked.get(fault) for fault in AT) and asked.get("when_told") and not behaviour["go"]:
            await asyncio.sleep(0.02)
        if asked.get("die_at") == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if asked.get("abort_at") == number:
            finish = "abort"
            break
        if asked.get("cut_at") == number:
            request._receive.__self__.transport.abort()
            return
        if asked.get("hang_at") == number:
            await asyncio.sleep(3600)
        if asked.get("end_at") == number or 0 < behaviour["ends_early"] == number:
            return
        if asked.get("error_at") == number:
            yield f"data: {compact({'error': {'message': 'EngineDeadError', 'type': 'server', 'code': 500}})}\n\n"
            yield "data: [DONE]\n\n"
            return
        said = behaviour["text"] or behaviour["words"] or f"{name} {number} {time.monotonic()} "
        kind = {"delta": {"content": said}} if request.url.path.endswith("chat/completions") else {"text": said}
        choice = {"index": 0, **kind, "finish_reason": None}
        yield f"data: {compact({'model': model, 'choices': [choice]})}\n\n"
        await asyncio.sleep(behaviour["pause"] or asked.get("wait", 0.0))
    yield f"data: {compact({'choices': [{'index': 0, 'text': '', 'finish_reason': finish}]})}\n\n"
    yield "data: [DONE]\n\n"


if "crash" in FAULTS:
    sys.exit("RuntimeError: this model cannot be loaded")
time.sleep(options.seconds_to_load)
routes = [
    Route("/health", health),
    Route("/behave", behave, methods=["POST"]),
    Route("/v1/completions", complete, methods=["POST"]),
    Route("/v1/chat/completions", complete, methods=["POST"]),
    Route("/tokenize", complete, methods=["POST"]),
]
uvicorn.run(Starlette(routes=routes), uds=options.uds, log_level="error")
