"""The serving image's own entry in a pod: the launcher's refusals, line and environment, then the process is vLLM.

vLLM is not started here: what takes its place says with what it was started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pod
import pytest
import refusals
from refusals import StartRequest

from tasks.endpoints.cluster.objects import PORT, ClusterPlan, vllm_arguments
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.wishes import Wish
from tests.local_hub.hub_fixtures import free_port

SERVING = Path(__file__).parents[2] / "infra" / "serving"
DIGEST = "3f2a00112233" + "4" * 52
PROFILE = ServingProfile(max_model_len=256)
WISH = Wish(f"eu-{DIGEST[:12]}", "eu", DIGEST, "", "live", {})


@pytest.fixture
def store(tiny: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(tiny["blue"], tmp_path / "artifacts" / DIGEST)
    return tmp_path


def test_a_pod_is_started_as_the_launcher_would_start_it_but_for_the_place(store, monkeypatch):
    monkeypatch.setattr(refusals, "port_problems", lambda _: [])  # a pod has its ports to itself, this machine has not
    request, problems = pod.read_request(vllm_arguments(WISH, PROFILE, ClusterPlan(store=str(store))))
    assert problems == []
    names = [f"eu@{DIGEST[:12]}", "eu"]
    launched = StartRequest("x", store / "artifacts" / DIGEST, names, "/run/x.sock", None, list(PROFILE.flags()))
    here, there = request.arguments(pod.EVERYWHERE), launched.arguments()
    place = here.index("--host")
    assert here[place : place + 4] == ["--host", "0.0.0.0", "--port", str(PORT)]
    assert here[:place] + here[place + 4 :] == there[:place] + there[place + 4 :]


def test_it_becomes_vllm_with_the_instances_environment(store, tmp_path):
    folder = tmp_path / "serving"
    folder.mkdir()
    for path in SERVING.glob("*.py"):
        shutil.copy(path, folder)
    stand_in = "import json, os, sys; print(json.dumps([os.getpid(), sys.argv[1:], dict(os.environ)]))"
    (folder / "vllm_plain.py").write_text(stand_in)
    model = str(store / "artifacts" / DIGEST)
    line = ["--name", "eu", "--model", model, "--served-name", "eu", "--port", str(free_port()), "--", *PROFILE.flags()]
    environment = {**os.environ, "HF_TOKEN": "secret", "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "9"}
    process = subprocess.Popen([sys.executable, folder / "pod.py", *line], stdout=subprocess.PIPE, env=environment)
    said, _ = process.communicate(timeout=60)
    pid, argv, found = json.loads(said)
    assert pid == process.pid, "signals would reach another process"
    assert argv[:2] == [str(os.getpid()), model]
    assert argv[argv.index("--host") + 1] == "0.0.0.0"
    assert argv[-len(PROFILE.flags()) :] == list(PROFILE.flags())
    assert found["HF_HUB_OFFLINE"] == "1"
    for name in ("HF_TOKEN", "VLLM_SERVER_DEV_MODE", "VLLM_CPU_KVCACHE_SPACE"):
        assert name not in found


def test_every_reason_against_a_start_is_said_at_once_and_nothing_starts(store):
    (store / "artifacts" / DIGEST / "pytorch_model.bin").write_bytes(b"x")
    model = str(store / "artifacts" / DIGEST)
    line = ["--name", "eu", "--model", model, "--served-name", "eu", "--port", "80", "--", "--trust-remote-code"]
    done = subprocess.run([sys.executable, SERVING / "pod.py", *line], capture_output=True, text=True, timeout=60)
    assert done.returncode == pod.REFUSED_CODE
    for words in ("pytorch_model.bin", "--trust-remote-code", "port 80"):
        assert words in done.stderr
