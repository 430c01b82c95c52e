"""Stands for one vLLM: answers with the name of its model folder, and can be told to misbehave as vLLM does.

    python fake_vllm.py --uds PATH --model FOLDER [--seconds-to-load S]

POST /behave {"abort": true} makes it answer as a draining vLLM: 200, empty, finish_reason abort.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

parser = argparse.ArgumentParser()
parser.add_argument("--uds", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--seconds-to-load", type=float, default=0.0)
options = parser.parse_args()
NAME = Path(options.model).name
config = Path(options.model) / "config.json"
FAULT = json.loads(config.read_text()).get("fault") if config.exists() else None
behaviour = {"abort": False}


def compact(value):
    return json.dumps(value, separators=(",", ":"))


async def health(request: Request) -> Response:
    return Response()


async def behave(request: Request) -> Response:
    behaviour.update(await request.json())
    return JSONResponse(behaviour)


async def complete(request: Request) -> Response:
    asked = await request.json()
    finish = "abort" if behaviour["abort"] else "length"
    text = "" if behaviour["abort"] else f"{NAME} {asked.get('prompt', '')}"
    if asked.get("stream"):
        return StreamingResponse(events(asked, finish), media_type="text/event-stream")
    await asyncio.sleep(asked.get("wait", 0.0))
    body = {"id": "x", "model": asked["model"], "choices": [{"index": 0, "text": text, "finish_reason": finish}]}
    return Response(compact(body), media_type="application/json")


async def events(asked: dict, finish: str):
    count = 0 if finish == "abort" else asked.get("max_tokens", 3)
    for number in range(count):
        if asked.get("die_at") == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if asked.get("abort_at") == number:
            finish = "abort"
            break
        choice = {"index": 0, "text": f"{NAME} {number} {time.monotonic()} ", "finish_reason": None}
        yield f"data: {compact({'choices': [choice]})}\n\n"
        await asyncio.sleep(asked.get("wait", 0.0))
    yield f"data: {compact({'choices': [{'index': 0, 'text': '', 'finish_reason': finish}]})}\n\n"
    yield "data: [DONE]\n\n"


if FAULT == "crash":
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
