"""Where the Hub's client caches: a real process with a home folder of its own fetches a model from a local Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.local_hub.hub_fixtures import TinyModel, run_hub

FETCH = """
import json, sys
from pathlib import Path
from tasks.doors import open_source, open_store
source, scratch = open_source(), open_store().root / "scratch"
ref = source.resolve("lab/model")
files = source.fetch(ref, Path(sys.argv[1]), room=open_store().root / "room")
from huggingface_hub import constants
caches = [constants.HF_HUB_CACHE, constants.HF_XET_CACHE]
told = {"files": len(files), "before": [path.name for path in scratch.iterdir()], "caches": caches}
for cache in caches:  # as Xet does where it is on
    Path(cache).mkdir(parents=True)
    (Path(cache) / "chunk").write_bytes(b"x")
print(json.dumps(told))
"""


def test_the_client_writes_below_the_stores_scratch_and_leaves_nothing(tmp_path: Path) -> None:
    own = {"HOME": tmp_path / "user", "EMPELT_HOME": tmp_path / "home", "HF_HUB_DISABLE_XET": "0"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "EMPELT_"))}
    with run_hub(tmp_path / "hub") as hub:
        hub.push("lab/model", TinyModel().write(tmp_path / "model"))
        environment = kept | {name: str(value) for name, value in own.items()} | {"EMPELT_HUB_ENDPOINT": hub.endpoint}
        command = [sys.executable, "-c", FETCH, str(tmp_path / "into")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told, scratch = json.loads(done.stdout), tmp_path / "home" / "store" / "scratch"
    assert told["files"] > 1
    assert told["before"] == []
    assert [str(Path(cache).parents[1]) for cache in told["caches"]] == [str(scratch)] * 2
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "user" / ".cache" / "huggingface").exists()
