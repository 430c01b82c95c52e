"""Prefect's own home for these tests, set before anything imports it; and one server for those that need one."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tasks.settings import Settings, settings
from tests.local_hub.hub_fixtures import RunningHub, free_port, run_hub

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Prefect reads its settings while it is imported, and writes a database, logs and a profile into its home.
_HOME = tempfile.mkdtemp(prefix="empelt-test-prefect-")
os.environ["PREFECT_HOME"] = _HOME
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _prefect_home() -> Iterator[None]:
    yield
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[int]:
    """The port of a real Prefect server with an empty database; it takes 30 s to start, so the session has one."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        port = urlsplit(str(PREFECT_API_URL.value())).port
        assert port is not None
        yield port


@pytest.fixture
def client(prefect_server: int) -> "Iterator[SyncPrefectClient]":
    """Asks that server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as opened:
        yield opened


# --- an installation of its own, on a local Hub with the demo family's real models -------------------------------------
MODELS = Path(__file__).parents[2] / "infra" / "demo_family" / "models"
LAB = "empelt-demo"
FAMILY_FILE = r"""# The family that these tests run.
family: llama-tiny
architectures: [LlamaForCausalLM]
base: {repo: empelt-demo/llama-tiny}
instruct:
  organizations: [empelt-demo]
  pattern: empelt-demo/llama-tiny-instruct-v\d+
tuned_bases:
  eu: {repo: empelt-demo/eu_llama-tiny}  # Basque
targets:
  eu:
    languages: [eu]
    channel: eu
    # chosen on the dev split
    recipe: {method: task_arithmetic, tuned_weight: 1.0}
    gate: language

# How it is served.
serving: {dtype: float32, max_model_len: 512, kv_mib: 128}
"""
GATE_FILE = """name: language
rule: point
checks:
  - {benchmark: "{language}_mc", metric: acc, floor: 0.8, critical: true}
  - {benchmark: en_mc, metric: acc, max_drop: {instruct: 0.05}}
"""


def trained_from(parent: Path, folder: Path, *, seed: int, step: float = 0.1) -> Path:
    """A model that lies ``step`` standard deviations from ``parent``, as training would leave it: a tuned base."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(parent, folder)
    noise = torch.Generator().manual_seed(seed)
    moved = {}
    for name, weight in load_file(parent / "model.safetensors").items():
        there = weight.float()
        if there.ndim > 1:
            there = there + step * there.std() * torch.randn(there.shape, generator=noise)
        moved[name] = there.to(weight.dtype)
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def tiny_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """Base, Basque base, two releases, and two tuned bases made on the spot: Portuguese, and one of a wrong parent."""
    made = tmp_path_factory.mktemp("made")
    with run_hub(tmp_path_factory.mktemp("hub")) as hub:
        for days, name in enumerate(
            ("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v1", "llama-tiny-instruct-v2")
        ):
            hub.push(f"{LAB}/{name}", MODELS / name, when=f"2026-11-{10 + days}T09:00:00Z")
        hub.push(f"{LAB}/pt_llama-tiny", trained_from(MODELS / "llama-tiny", made / "pt", seed=7))
        instruct = MODELS / "llama-tiny-instruct-v1"
        hub.push(f"{LAB}/pt_from_instruct", trained_from(instruct, made / "from-instruct", seed=8))
        foreign = Path(shutil.copytree(MODELS / "llama-tiny", made / "foreign"))
        told = json.loads((foreign / "config.json").read_text())
        (foreign / "config.json").write_text(json.dumps({**told, "architectures": ["MistralForCausalLM"]}))
        hub.push(f"{LAB}/foreign", foreign)
        yield hub


@pytest.fixture
def installation(tiny_hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A home and a catalog folder of its own, nothing up; settings and doors of this process belong to it."""
    from tasks import doors

    catalog = tmp_path / "catalog"
    (catalog / "gates").mkdir(parents=True)
    (catalog / "llama-tiny.yaml").write_text(FAMILY_FILE)
    (catalog / "gates" / "language.yaml").write_text(GATE_FILE)
    values = {"HOME": str(tmp_path / "home"), "CATALOG": str(catalog), "FAMILIES": "llama-tiny", "TARGETS": ""}
    values |= {"HUB_ENDPOINT": tiny_hub.endpoint, "SETTLE_SECONDS": "0", "PREFECT_PORT": str(free_port())}
    for name, value in values.items():
        monkeypatch.setenv(f"EMPELT_{name}", value)
    doors.forget()
    yield settings()
    doors.forget()
