"""A real local Hub in a process of its own, and tiny real models to push to it."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from infra.local_hub import push_folder
from tasks.domain.models import ModelRef

REPOSITORY = Path(__file__).parents[2]
WHEN = "2026-11-20T09:00:00Z"
ARCHITECTURE = "LlamaForCausalLM"
Push = Callable[..., ModelRef]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class RunningHub:
    """The Hub's address and its store."""

    root: Path
    port: int
    process: subprocess.Popen[bytes]
    prefix: str = ""

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.port}/admin"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def push(self, repo_id: str, folder: Path, message: str = "Upload model", when: str = WHEN) -> str:
        return push_folder(self.root, repo_id, folder, message, when)

    def pull(self, lever: str, **settings: Any) -> None:
        """Set a lever of the Hub: ``failures`` or ``repos`` with its settings, or nothing to clear it."""
        body, method = json.dumps(settings).encode(), "POST" if settings else "DELETE"
        with urlopen(Request(f"{self.admin}/{lever}", body, method=method), timeout=5):
            pass

    def answered(self) -> list[dict[str, Any]]:
        """Every request since the last ``pull("requests")``: method, path, status, bytes, signed."""
        with urlopen(f"{self.admin}/requests", timeout=5) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
        return found

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256

    def alter(self, path: Path, content: bytes) -> None:
        """Change a file of the store behind the Hub's back."""
        path.chmod(0o644)
        path.write_bytes(content)


@contextmanager
def run_hub(root: Path, *arguments: str, write_token: str | None = None, prefix: str = "") -> Iterator[RunningHub]:
    port = free_port()
    command = [sys.executable, "-m", "infra.local_hub", "--root", str(root), "--port", str(port), *arguments]
    command += ["--prefix", prefix] if prefix else []
    environment = {**os.environ, "LOCAL_HUB_WRITE_TOKEN": write_token or ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=REPOSITORY, env=environment) as process:
        try:
            wait_until_up(port, process)
            yield RunningHub(root, port, process, prefix)
        finally:
            process.terminate()
            process.wait(timeout=10)


def wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(f"the Hub ended with {process.returncode}: {process.stderr.read().decode()}")
        try:
            with urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                return
        except (URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError("the Hub was not up after 30 s")


Values = Callable[[str, int], bytes]


def safetensors_bytes(
    tensors: dict[str, tuple[int, ...]], fill: int = 0, dtype: str = "BF16", values: Values | None = None
) -> bytes:
    """A safetensors file of 2-byte tensors: of ``values`` (name, elements), else every byte of data being ``fill``."""
    header: dict[str, Any] = {}
    data: list[bytes] = []
    at = 0
    for name, shape in tensors.items():
        count = 2
        for n in shape:
            count *= n
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + count]}
        data.append(values(name, count // 2) if values else bytes([fill]) * count)
        at += count
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"".join(data)


def trained(origin: int, steps: int = 0, drift: float = 0.1) -> Values:
    """Weights as they come of training: drawn for ``origin``, then moved by ``drift`` in a direction of ``steps``."""

    def values(name: str, count: int) -> bytes:
        start, moves = Random(f"{origin} {name}"), Random(f"{origin} {name} {steps}")
        drawn = [start.gauss() + (drift * moves.gauss() if steps else 0) for _ in range(count)]
        return b"".join(struct.pack("<f", value)[2:] for value in drawn)

    return values


@dataclass
class TinyModel:
    """A model folder in the making; change a field, then ``write`` it."""

    fill: int = 0
    dtype: str = "BF16"
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "architectures": [ARCHITECTURE],
            "model_type": "llama",
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "intermediate_size": 16,
            "vocab_size": 16,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        }
    )
    tensors: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "model.embed_tokens.weight": (16, 8),
            "model.layers.0.mlp.down_proj.weight": (8, 16),
            "model.layers.1.mlp.down_proj.weight": (8, 16),
            "model.norm.weight": (8,),
        }
    )
    tokens: list[str] = field(default_factory=lambda: ["<s>", "<r0>", "<r1>", *"abcdefgh"])
    added: dict[int, str] = field(default_factory=lambda: {0: "<s>", 1: "<r0>", 2: "<r1>"})
    merges: list[Any] = field(default_factory=lambda: [["a", "b"], ["c", "d"]])
    shards: int = 2
    others: dict[str, bytes] = field(default_factory=dict)
    values: Values | None = None
    card: str = "---\nlicense: apache-2.0\nlanguage: [en, eu]\nbase_model: demo/base\n---\n# Tiny\n"

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        self._write_weights(folder)
        tokenizer = {
            "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(self.tokens)}, "merges": self.merges},
            "added_tokens": [{"id": i, "content": t, "special": True} for i, t in self.added.items()],
        }
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        (folder / "README.md").write_text(self.card)
        (folder / "LICENSE").write_text("Apache-2.0")
        for path, content in self.others.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    def _write_weights(self, folder: Path) -> None:
        names = list(self.tensors)
        if self.shards == 1:
            parts = {"model.safetensors": names}
        else:
            cut = (len(names) + self.shards - 1) // self.shards
            parts = {
                f"model-{n + 1:05d}-of-{self.shards:05d}.safetensors": names[n * cut : (n + 1) * cut]
                for n in range(self.shards)
            }
            weight_map = {name: shard for shard, held in parts.items() for name in held}
            index = {"metadata": {}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for shard, held in parts.items():
            content = safetensors_bytes({name: self.tensors[name] for name in held}, self.fill, self.dtype, self.values)
            (folder / shard).write_bytes(content)
