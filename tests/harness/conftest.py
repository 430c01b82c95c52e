"""A tiny model, a tiny suite, a real vLLM server of it, and a stub server for the faults that a real one has rarely."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.endpoints.launcher_client import LauncherClient
from tasks.endpoints.profile import ServingProfile

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub_server.py")
WORDS = (
    "mendi ibai itsaso etxe kale zubi hiri herri ekaitz euri elur haize argi ilun gorri urdin berde zuri beltz".split()
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmarks of the repository over few and made-up items, so that a test takes seconds."""
    folder = tmp_path_factory.mktemp("suites")
    (folder / "data").mkdir()
    for source in (ROOT / "tasks/harness/suites").glob("*.template"):
        shutil.copy(source, folder)
    for name in ("eu_mc", "eu_chat", "eu_bpb", "eu_text"):
        text = (ROOT / f"tasks/harness/suites/{name}.yaml").read_text("utf-8")
        (folder / f"{name}.yaml").write_text(re.sub(r"items: \d+", "items: all", text), "utf-8")
    rng = random.Random(7)

    def some(n: int) -> str:
        return " ".join(rng.choices(WORDS, k=n))

    rows: dict[str, list[dict[str, Any]]] = {
        "eu_mc": [
            {"id": f"m{k}", "kind": "w", "prompt": f'{some(4)} "', "choices": rng.sample(WORDS, 4), "answer": k % 4}
            for k in range(24)
        ],
        "eu_chat": [{"id": f"c{k}", "kind": "w", "question": f"{some(4)}?", "answer": some(1)} for k in range(12)],
        "eu_bpb": [{"id": f"t{k}", "text": some(10 + 4 * k)} for k in range(8)],
        "eu_text": [{"id": f"p{k}", "prompt": some(6), "language": "eu"} for k in range(10)],
    }
    for name, items in rows.items():
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / "data" / f"{name}.test.jsonl").write_text(lines, "utf-8")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config and tokenizer of a tiny Llama: eos is <|im_end|> and bos <|endoftext|>, as for an instruct model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("model")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    # Heads of 32: vLLM's attention on CPUs refuses 16.
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": [2, 0],
        "initializer_range": 0.2,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "chat_template": CHAT}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_model(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with random weights, and generation defaults that stop at either end token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(model_folder)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder / name, folder)
    return folder


@pytest.fixture(scope="session")
def vllm_url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real vLLM server of the tiny model, named ``tiny``, forked by the launcher: once for all tests."""
    python = Path(os.environ.get("EMPELT_SERVING_PYTHON", ROOT / ".venv-serving/bin/python"))
    if not python.is_file():
        pytest.skip(f"no serving environment at {python}; run `make setup` or set EMPELT_SERVING_PYTHON")
    folder, port = tmp_path_factory.mktemp("vllm"), free_port()
    place, log = folder / "launcher.sock", folder / "launcher.log"
    command = [str(python), str(ROOT / "infra/serving/launcher.py"), "--socket", str(place), "--logs", str(folder)]
    with log.open("w") as out:
        launcher = subprocess.Popen([*command, "--die-with-parent"], stdout=out, stderr=subprocess.STDOUT)
    try:
        client = LauncherClient(place)
        _await(place.exists, launcher, seconds=240, log=log)
        flags = ServingProfile(max_model_len=128, max_num_seqs=32, kv_mib=64).flags()
        request = {"op": "start", "name": "tiny", "model": str(tiny_model), "served_names": ["tiny"], "port": port}
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(place))
            line.sendall(json.dumps({**request, "flags": list(flags), "env": {}}).encode() + b"\n")
            told = json.loads(line.makefile().readline())
        assert told["ok"], told
        _await(lambda: _healthy(f"http://127.0.0.1:{port}/health"), launcher, seconds=120, log=Path(told["log"]))
        yield f"http://127.0.0.1:{port}/v1"
        client.shutdown()
    finally:
        launcher.terminate()
        launcher.wait(30)


def _healthy(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=1).status == 200)
    except OSError:
        return False


Stub = Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]


@pytest.fixture
def stub_server(tmp_path: Path) -> Stub:
    """Starts ``stub_server.py`` with a fault and gives its address and process."""

    @contextmanager
    def start(fault: str = "none") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        port, log = free_port(), tmp_path / "stub.log"
        with log.open("w") as out:
            server = subprocess.Popen([sys.executable, str(STUB), str(port), fault], stdout=out, stderr=out)
        try:
            _await(lambda: _healthy(f"http://127.0.0.1:{port}/health"), server, seconds=30, log=log)
            yield f"http://127.0.0.1:{port}/v1", server
        finally:
            server.kill()
            server.wait()

    return start


def _await(done: Callable[[], bool], process: subprocess.Popen[bytes], *, seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert process.poll() is None and time.monotonic() < until, log.read_text("utf-8", "replace")[-3000:]  # noqa: PT018
        time.sleep(0.2)
