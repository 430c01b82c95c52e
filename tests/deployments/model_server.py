"""Answers as vLLM does where token ids and log-probabilities are asked for, with a real model computed by transformers.

For tests of what is chosen by likelihood, where a made-up answer would choose anything. One thread; nothing is streamed.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Model:
    """One checkpoint, in float32."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def completion(self, prompt: str | list[int]) -> dict[str, Any]:
        """One choice of a completion: the prompt's tokens, and the log-probability of each from the second on."""
        tokens = self._tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        logs = torch.log_softmax(self._model(input_ids=torch.tensor([tokens])).logits[0], -1)
        values = [{str(t): {"logprob": logs[at, t].item()}} for at, t in enumerate(tokens[1:])]
        return {"prompt_token_ids": tokens, "prompt_logprobs": [None, *values]}

    @torch.no_grad()
    def chat(self, messages: list[dict[str, str]], most: int) -> dict[str, Any]:
        """The greedy answer, its stop token included in the ids as vLLM includes it."""
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        tokens = self._tokenizer(text)["input_ids"]
        out = self._model.generate(torch.tensor([tokens]), max_new_tokens=most, do_sample=False)[0].tolist()
        said = out[len(tokens) :]
        content = self._tokenizer.decode(said, skip_special_tokens=True)
        return {"prompt_token_ids": tokens, "choices": [{"token_ids": said, "message": {"content": content}}]}


@contextmanager
def serve(folder: Path, seen: list[dict[str, Any]]) -> Iterator[str]:
    """The address of a server of this checkpoint; every request is put behind ``seen`` when it comes in."""
    model = Model(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(asked)
            if "messages" in asked:
                told = model.chat(asked["messages"], asked["max_tokens"])
            else:
                told = {"choices": [{"index": n, **model.completion(one)} for n, one in enumerate(asked["prompt"])]}
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
