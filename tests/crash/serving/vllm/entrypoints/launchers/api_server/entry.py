"""One instance: completions and chat, whole and as streams, log-likelihoods, and vLLM's ways of going wrong.

A release's number stands behind the last + of `transformers_version` in generation_config.json. A higher one is
stronger by two hundredths of its log-likelihoods, so that each release is published over the one before. Every text
carries the first twelve digits of the model folder's name, which is the artifact's digest: what was loaded shows in
what is said. FAKE_VLLM_TOKEN_SECONDS is the pause before each token; 0 if it is not set.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from vllm.entrypoints.launchers.api_server.draining import Server
from vllm.entrypoints.launchers.api_server.faults import Faults
from vllm.entrypoints.launchers.cli_args import make_arg_parser

sys.path.append(str(Path(__file__).parents[6] / "endpoints"))
import scored

ENGINE = "import os, sys, time\nwhile os.path.exists(f'/proc/{sys.argv[1]}'): time.sleep(0.5)"
"""Stands for VLLM::EngineCore: outlives a SIGKILL of the API server, its parent (vllm#55510), not one of the launcher."""
SPOKEN, FOREIGN = "bai", "The quick brown fox jumps over the lazy dog and runs away"

TOLD = ("prompt_logprobs", "return_token_ids", "logprobs")


def number_of(model: Path) -> int:
    """The release's number; 0 for a model that has none."""
    path = model / "generation_config.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    _, plus, number = str(told.get("transformers_version", "")).rpartition("+")
    return int(number) if plus else 0


class Model:
    """The weights: what is said, and how likely each token is."""

    def __init__(self, folder: Path, wrong: str) -> None:
        self.number = number_of(folder) - (50 if wrong else 0)
        self.mark = wrong or folder.name[:12]
        self.salt = int(self.mark, 16) % 1000 / 7

    def value(self, token: int, place: int) -> float:
        """A token's log-likelihood."""
        return -(1.0 + (token * 31 + place * 7) % 97 / 97) * (6.0 - 0.02 * self.number)

    def words(self, count: int, told: dict[str, Any]) -> list[str]:
        """A text of so many pieces."""
        if told.get("empty"):
            return [""]
        said = FOREIGN if told.get("foreign") else SPOKEN
        return [f"{said} {self.number} {self.mark}", *([f" {said}"] * (count - 1))]

    def scored(self, index: int, tokens: list[int], told: dict[str, Any]) -> dict[str, Any]:
        """A prompt of token ids with its log-likelihoods."""
        values = [None, *(self.value(token, place) for place, token in enumerate(tokens[1:], 1)), -1.0]
        logprobs = {"token_logprobs": values, "top_logprobs": [{"x": v} for v in values]}
        kept = None if told.get("logprobs") is False else logprobs
        return {"index": index, "text": "", "finish_reason": "length", "logprobs": kept}


class Instance:
    """The API server."""

    def __init__(self, options: Any) -> None:
        self.name = options.served_model_name[0]
        self.names = options.served_model_name
        self.faults = Faults(Path(options.uds))
        self.model = Model(Path(options.model), self.faults.while_loading())
        self.engine = subprocess.Popen([sys.executable, "-S", "-E", "-c", ENGINE, str(os.getppid())])
        self.pace = float(os.environ.get("FAKE_VLLM_TOKEN_SECONDS", "0"))
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/completions", self.answer, methods=["POST"]),
            Route("/v1/chat/completions", self.answer, methods=["POST"]),
        ]
        self.server = Server(Starlette(routes=routes), float(options.shutdown_timeout or 0))

    async def health(self, _: Request) -> Response:
        return Response(status_code=503 if self._is_dead() else 200)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]})

    async def answer(self, request: Request) -> Response:
        """A completion or a chat completion."""
        body = await request.json()
        chat = request.url.path.endswith("chat/completions")
        told = self.faults.now()
        if body["model"] not in self.names:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if self._is_dead():
            return _error(500, "EngineCore encountered an issue (EngineDeadError)")
        if "status" in told:
            return _error(int(told["status"]), "it failed")
        await asyncio.sleep(float(told.get("late", 0)))
        if body.get("stream"):
            return StreamingResponse(self.events(body, chat), media_type="text/event-stream")
        if body.get("prompt_logprobs") is not None and not (told.get("abort") or self.server.is_draining):
            return JSONResponse(self.outputs(body, chat, told))
        self.server.under_way += 1
        try:
            choices = await self.choices(body, chat, told)
        finally:
            self.server.under_way -= 1
        kind, used = "chat.completion" if chat else "text_completion", {"completion_tokens": _length(body)}
        return JSONResponse({"id": "x", "object": kind, "model": self.name, "choices": choices, "usage": used})

    def outputs(self, body: dict[str, Any], chat: bool, told: dict[str, Any]) -> dict[str, Any]:
        """Token ids and log-probabilities, by which a model is recognised."""
        kept = body if told.get("logprobs") is not False else {k: v for k, v in body.items() if k not in TOLD}
        answer: dict[str, Any] = (scored.chat if chat else scored.completion)(kept, self.model.salt)
        return {**answer, "model": self.name}

    async def choices(self, body: dict[str, Any], chat: bool, told: dict[str, Any]) -> list[dict[str, Any]]:
        """The whole answer, when it is ready."""
        if self.server.is_draining or told.get("abort"):
            return [_choice(0, "", "abort", chat)]
        await self._hang()
        words = self.model.words(_length(body), told)
        for _ in words if self.pace else ():
            await asyncio.sleep(self.pace)
            if self.server.is_aborting:
                return [_choice(0, "", "abort", chat)]
        prompts = [""] if chat else body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        return [
            self.model.scored(index, prompt, told)
            if isinstance(prompt, list)
            else _choice(index, "".join(words), "stop", chat)
            for index, prompt in enumerate(prompts)
        ]

    async def events(self, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
        """The same, piece by piece. The first piece of a chat comes with its role."""
        refused = self.server.is_draining or bool(self.faults.now().get("abort"))
        finish = "abort" if refused else "stop"
        words = [] if refused else self.model.words(_length(body), self.faults.now())
        self.server.under_way += 1
        try:
            for place, word in enumerate(words):
                await asyncio.sleep(self.pace)
                if self._is_dead():
                    yield _event({"error": {"message": "EngineDeadError", "type": "InternalServerError", "code": 500}})
                    yield "data: [DONE]\n\n"
                    return
                if self.server.is_aborting:
                    finish = "abort"
                    break
                if place:
                    await self._hang()
                yield _event({"model": self.name, "choices": [_piece(word, None, chat)]})
            yield _event({"model": self.name, "choices": [_piece("", finish, chat)]})
            if (body.get("stream_options") or {}).get("include_usage"):
                yield _event({"model": self.name, "choices": [], "usage": {"completion_tokens": len(words)}})
            yield "data: [DONE]\n\n"
        finally:
            self.server.under_way -= 1

    async def _hang(self) -> None:
        while self.faults.now().get("hang"):
            await asyncio.sleep(0.05)

    def _is_dead(self) -> bool:
        if self.faults.now().get("engine") == "dead":
            self.engine.kill()
            self.engine.wait()
        return self.engine.poll() is not None


def _length(body: dict[str, Any]) -> int:
    return int(body.get("max_tokens") or 1)


def _choice(index: int, text: str, finish: str, chat: bool) -> dict[str, Any]:
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {"index": index, **said, "finish_reason": finish, "logprobs": None}


def _piece(text: str, finish: str | None, chat: bool) -> dict[str, Any]:
    said = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {"index": 0, **said, "finish_reason": finish}


def _event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told, separators=(',', ':'))}\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "InternalServerError", "code": status}}, status)


def main() -> None:
    """Serve until SIGTERM. Its place is bound before it loads, and nobody listens there until it has."""
    options, _ = make_arg_parser(ArgumentParser()).parse_known_args(sys.argv[1:])
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(options.uds)
    instance = Instance(options)
    try:
        instance.server.run(sockets=[bound])
    finally:
        instance.engine.kill()
