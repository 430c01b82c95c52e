"""A tiny model, a tiny suite, a real vLLM server of it, and a stub server for the faults that a real one has rarely."""

import json
import os
import random
import shutil
import signal
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
    for source in (ROOT / "tasks/harness/suites").glob("eu_*.yaml"):
        shutil.copy(source, folder)
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
    """A real vLLM server of the tiny model, named ``tiny``; about 60 s to start, once for all tests."""
    python = Path(os.environ.get("EMPELT_SERVING_PYTHON", ROOT / ".venv-serving/bin/python"))
    if not python.is_file():
        pytest.skip(f"no serving environment at {python}; run `make setup` or set EMPELT_SERVING_PYTHON")
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "server.log"
    flags = {
        "--model": tiny_model,
        "--served-model-name": "tiny",
        "--dtype": "float32",
        "--max-model-len": 128,
        "--max-num-seqs": 32,
        "--host": "127.0.0.1",
        "--port": port,
        "--load-format": "safetensors",
        "--generation-config": "auto",
    }
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [str(part) for pair in flags.items() for part in pair]
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
    }
    settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_CI_ENV": "1"}
    with log.open("w") as out:
        server = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _await_health(f"http://127.0.0.1:{port}/health", server, seconds=240, log=log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # The group, since VLLM::EngineCore and VLLM::Worker outlive the process that started them.
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        server.wait()


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
            _await_health(f"http://127.0.0.1:{port}/health", server, seconds=30, log=log)
            yield f"http://127.0.0.1:{port}/v1", server
        finally:
            server.kill()
            server.wait()

    return start


def _await_health(url: str, server: "subprocess.Popen[bytes]", *, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not come up; {log} ends with:\n{log.read_text()[-3000:]}")
