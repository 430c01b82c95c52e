"""A stand-in for an OpenAI-compatible server that says what it is told: ``speaking_server.py PORT JSON``.

``text`` is its answer to every chat, ``finish`` how that ends, ``continued`` how it goes on with every text.
"""

import json
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

told = {
    "text": "Bai, hala da.",
    "finish": "stop",
    "continued": "Fitxategia irekitzeko, aukeratu menuan dagoen agindua eta gorde aldaketak.",
} | json.loads(sys.argv[2])


async def chat(request: Request) -> JSONResponse:
    await request.json()
    message = {"role": "assistant", "content": told["text"]}
    return JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": told["finish"]}]})


async def completions(request: Request) -> JSONResponse:
    prompts = (await request.json())["prompt"]
    text = told["continued"] if told["text"] else ""
    places = reversed(range(len(prompts)))  # any order will do: each choice has its index
    return JSONResponse({"choices": [{"index": k, "text": text, "finish_reason": "length"} for k in places]})


async def health(request: Request) -> JSONResponse:
    return JSONResponse({})


routes = [
    Route("/health", health),
    Route("/v1/chat/completions", chat, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
]
uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
