"""A launcher to talk to and two tiny models to serve. vLLM is reached by the Python of its own environment only."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / "infra" / "serving"
# Modules of that folder import each other by name, as they do when the launcher is run by path.
sys.path.insert(0, str(SERVING))

HIDDEN, INNER, LAYERS, HEADS, VOCABULARY = 64, 128, 2, 2, 320
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# 64 MiB of KV cache and not the 1 GiB of the default: ready 2 s sooner, since every page is written once.
FLAGS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "32"]
FLAGS += ["--kv-cache-memory-bytes", str(64 << 20)]


def byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + place) for place in range(len(others))]


def write_tiny_llama(folder: Path, seed: int) -> Path:
    """A random Llama of 0.12 M parameters with a byte tokenizer, written without torch, transformers or tokenizers."""
    folder.mkdir(parents=True)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    shapes["model.norm.weight"] = (HIDDEN,)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes |= {f"{at}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    draw, header, body = random.Random(seed), {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = array("f", [1.0] * count if len(shape) == 1 else [draw.gauss(0, 0.2) for _ in range(count)]).tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + body)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    vocabulary = {piece: number for number, piece in enumerate([*SPECIALS, *byte_characters()])}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": text, **special} for number, text in enumerate(SPECIALS)],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIALS[2], "chat_template": CHAT_TEMPLATE}
    for name, content in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", about)):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_tiny_llama(folder / name, seed) for seed, name in enumerate(("blue", "green"), 1)}


class Launcher:
    """One launcher process, spoken to over its socket."""

    def __init__(self, python: str, folder: Path, *options: str, **env: str) -> None:
        self.socket = folder / "launcher.sock"
        self.log = folder / "launcher.log"
        began = time.monotonic()
        command = [python, str(SERVING / "launcher.py"), "--socket", str(self.socket), "--logs", str(folder / "logs")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *options], env=os.environ | env, stdout=log, stderr=log)
        self._began = began
        self.import_seconds = 0.0

    def wait(self, limit: float = 240) -> Launcher:
        while not self.socket.exists():
            assert self.process.poll() is None, f"the launcher ended:\n{self.log.read_text()}"
            assert time.monotonic() - self._began < limit, f"no socket after {limit} s:\n{self.log.read_text()}"
            time.sleep(0.05)
        self.import_seconds = time.monotonic() - self._began
        return self

    def ask_line(self, line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            connection.sendall(line + b"\n")
            with connection.makefile("rb") as answers:
                return json.loads(answers.readline())

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.ask_line(json.dumps({"op": op, **fields}).encode())

    def start(self, model: Path, name: str, place: int | Path, **more: Any) -> dict[str, Any]:
        where = {"port": place} if isinstance(place, int) else {"uds": str(place)}
        fields = {"name": name, "model": str(model), "served_names": [name], "flags": FLAGS, **where} | more
        return self.ask("start", **fields)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@pytest.fixture(scope="session")
def serving_python() -> str:
    python = os.environ.get("EMPELT_SERVING_PYTHON", str(ROOT / ".venv-serving" / "bin" / "python"))
    if not Path(python).exists():
        pytest.skip(f"no vLLM environment: {python} is not there; run `make setup` or set EMPELT_SERVING_PYTHON")
    return python


@pytest.fixture(scope="module")
def launchers(serving_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Launcher]]:
    """A forking launcher and a plain one, importing at the same time."""
    folders = {mode: tmp_path_factory.mktemp(mode) for mode in ("fork", "plain")}
    started = {
        "fork": Launcher(serving_python, folders["fork"], EMPELT_INSTANCE="the-launchers-own", HF_TOKEN="hf_secret"),
        "plain": Launcher(serving_python, folders["plain"], EMPELT_LAUNCHER="plain"),
    }
    try:
        yield {mode: launcher.wait() for mode, launcher in started.items()}
    finally:
        for launcher in started.values():
            launcher.end()
