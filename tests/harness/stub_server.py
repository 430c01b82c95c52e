"""A stand-in for an OpenAI-compatible server, for faults only: ``stub_server.py PORT FAULT``.

Log-likelihoods are made up from the tokens, so that they vary; an answer is always "bai".
"""

import asyncio
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

FAULT = sys.argv[2]
SEEN = {"completions": 0, "chat": 0}


def value(token: int, place: int) -> float:
    return {"equal": -1.0, "nan": float("nan")}.get(FAULT, -1.0 - (token * 31 + place * 7) % 97 / 50)


def scored(index: int, tokens: list[int]) -> dict[str, Any]:
    values = [None, *(value(token, place) for place, token in enumerate(tokens[1:], 1)), -1.0]
    if FAULT == "no-echo":
        values = values[-1:]
    reason = "abort" if FAULT == "abort-scores" and SEEN["completions"] > 1 else "length"
    tops = [{"x": v} for v in values]
    return {
        "index": index,
        "text": "",
        "finish_reason": reason,
        "logprobs": {"token_logprobs": values, "top_logprobs": tops},
    }


async def completions(request: Request) -> PlainTextResponse:
    body = await request.json()
    SEEN["completions"] += 1
    if FAULT == "slow":
        await asyncio.sleep(30)
    if FAULT == "500" and SEEN["completions"] > 1:
        return PlainTextResponse("EngineCore encountered an issue", status_code=500)
    if FAULT == "400":
        return PlainTextResponse("maximum context length is 8 tokens", status_code=400)
    if FAULT == "late" and SEEN["completions"] < 4:
        return PlainTextResponse("no such model yet", status_code=404)
    if FAULT == "dying":
        await asyncio.sleep(0.1)
    if isinstance(body["prompt"][0], str):
        assert body["min_tokens"] == body["max_tokens"]
        places = reversed(range(len(body["prompt"])))  # any order will do: each choice has its index
        return reply({"choices": [{"index": k, "text": f"bai {k}", "finish_reason": "stop"} for k in places]})
    choices = [scored(index, tokens) for index, tokens in enumerate(body["prompt"])]
    return reply({"choices": choices[:-1] if FAULT == "partial" and SEEN["completions"] > 1 else choices})


async def chat(request: Request) -> PlainTextResponse:
    SEEN["chat"] += 1
    if FAULT == "torn" and SEEN["chat"] == 3:
        return PlainTextResponse(
            '{"choices": [', headers={"content-length": "400"}
        )  # uvicorn then drops the connection
    if FAULT == "busy" and SEEN["chat"] == 3:
        return PlainTextResponse("too many requests", status_code=429)
    empty = FAULT == "abort-chat" and SEEN["chat"] > 3
    message = {"role": "assistant", "content": "" if empty else "bai"}
    return reply({"choices": [{"index": 0, "message": message, "finish_reason": "abort" if empty else "stop"}]})


def reply(content: Any) -> PlainTextResponse:
    import json

    return PlainTextResponse(json.dumps(content), media_type="application/json")  # NaN as vLLM's json would have it


async def health(request: Request) -> JSONResponse:
    return JSONResponse({})


routes = [
    Route("/health", health),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/chat/completions", chat, methods=["POST"]),
]
uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
