"""One instance: completions with log-likelihoods, by the prompt's tokens and the number of the release that is served.

A release's number stands behind the last + of `transformers_version` in generation_config.json. A higher one is
stronger by two hundredths of its log-likelihoods, so that each release is published over the one before.
"""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from vllm.entrypoints.launchers.cli_args import make_arg_parser

sys.path.append(str(Path(__file__).parents[6] / "endpoints"))
import scored as made_up


def number_of(model: Path) -> int:
    """The release's number; 0 for a model that has none."""
    path = model / "generation_config.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    _, plus, number = str(told.get("transformers_version", "")).rpartition("+")
    return int(number) if plus else 0


def main() -> None:
    """Serve until SIGTERM."""
    options, _ = make_arg_parser(ArgumentParser()).parse_known_args(sys.argv[1:])
    model = Path(options.model)
    number, names = number_of(model), options.served_model_name

    def value(token: int, place: int) -> float:
        return -(1.0 + (token * 31 + place * 7) % 97 / 97) * (6.0 - 0.02 * number)

    def scored(index: int, tokens: list[int]) -> dict[str, Any]:
        values = [None, *(value(token, place) for place, token in enumerate(tokens[1:], 1)), -1.0]
        tops = [{"x": v} for v in values]
        logprobs = {"token_logprobs": values, "top_logprobs": tops}
        return {"index": index, "text": "", "finish_reason": "length", "logprobs": logprobs}

    async def completions(request: Request) -> Response:
        body = await request.json()
        if "prompt_logprobs" in body:  # a fixed prompt, by which the model is known again
            return JSONResponse(made_up.completion({**body, "model": names[0]}, number))
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        choices = [
            scored(index, prompt)
            if isinstance(prompt, list)
            else {"index": index, "text": f"bai {number}", "finish_reason": "stop", "logprobs": None}
            for index, prompt in enumerate(prompts)
        ]
        return JSONResponse({"id": "x", "object": "text_completion", "model": names[0], "choices": choices})

    async def chat(request: Request) -> Response:
        body = await request.json()
        if "prompt_logprobs" in body:
            return JSONResponse(made_up.chat({**body, "model": names[0]}, number))
        message = {"role": "assistant", "content": f"bai {number}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"id": "x", "object": "chat.completion", "model": names[0], "choices": [choice]})

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def health(_: Request) -> Response:
        return Response()

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    uvicorn.run(Starlette(routes=routes), uds=options.uds, log_level="error")
