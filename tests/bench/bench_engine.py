"""How close the engine is to a copy: pytest -m bench tests/bench/bench_engine.py -s, or run it as a script.

Floor: read the inputs that the method reads, write and sync one output, no arithmetic and no digest. Rounds are
interleaved and medians compared, since a machine's speed drifts by more than what is measured. Each merge runs in a
process of its own, for its peak; seconds are the engine's own, imports excluded.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.bench

ROUNDS = 5
LAYERS, WIDE, NARROW = 10, 2816, 1024  # 101 M elements: 202 MB in bfloat16
ROOT = Path(__file__).parents[2]


def write_model(folder: Path, seed: int) -> Path:
    """Random weights in two shards, in the form of a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    names = [("embed_tokens", (14_000, NARROW))]
    names += [(f"layers.{n}.{w}", (WIDE, NARROW)) for n in range(LAYERS) for w in ("up", "gate", "down")]
    tensors = {f"model.{n}.weight": (torch.randn(s, generator=generator) * 0.02).bfloat16() for n, s in names}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["Bench"], "vocab_size": 14_000}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    half = len(tensors) // 2
    weight_map = {}
    for number, part in enumerate((list(tensors)[:half], list(tensors)[half:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def floor(inputs: list[Path], out: Path) -> float:
    """Seconds to read every input and write the size of one."""
    buffer = memoryview(bytearray(4 << 20))
    began = time.perf_counter()
    with out.open("wb", buffering=0) as target:
        for shards in zip(*(sorted(folder.glob("*.safetensors")) for folder in inputs), strict=True):
            files = [shard.open("rb", buffering=0) for shard in shards]
            while count := min([file.readinto(buffer) for file in files]):
                target.write(buffer[:count])
            for file in files:
                file.close()
        os.fsync(target.fileno())
    seconds = time.perf_counter() - began
    out.unlink()
    return seconds


def engine(config: Path, out: Path) -> dict[str, float]:
    """One merge's own report."""
    command = [sys.executable, "-m", "tasks.engine", str(config), str(out), "--json-lines"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for file in out.iterdir():
        file.unlink()
    out.rmdir()
    return json.loads(done.stdout.splitlines()[-1])


def idle_torch() -> int:
    """Peak bytes of a process that imports torch and ends."""
    code = "import torch; print(next(int(x.split()[1]) for x in open('/proc/self/status') if 'VmHWM' in x) * 1024)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def measure(place: Path) -> None:
    """Print one line per method."""
    base, instruct, eu = (write_model(place / who, seed) for seed, who in enumerate(("base", "instruct", "eu")))
    idle = idle_torch()
    for method, inputs in {"linear": [instruct, eu], "task_arithmetic": [base, instruct, eu]}.items():
        config = place / f"{method}.json"
        tuned = {"eu": {"path": str(eu)}}
        recipe = {"method": method, "tuned_weight": 0.75}
        config.write_text(json.dumps({"recipe": recipe, "base": str(base), "instruct": str(instruct), "tuned": tuned}))
        floors, ours, peaks = [], [], []
        for _ in range(ROUNDS):
            floors.append(floor(inputs, place / "copy"))
            report = engine(config, place / "out")
            ours.append(report["seconds"])
            peaks.append(report["peak_rss_bytes"] - idle)
        low, own = statistics.median(floors), statistics.median(ours)
        print(
            f"{method:16s} floor {low:.3f} s ({min(floors):.3f}-{max(floors):.3f})  engine {own:.3f} s "
            f"({min(ours):.3f}-{max(ours):.3f})  ratio {own / low:.2f}  "
            f"peak {max(peaks) / 1e6:.0f} MB above import torch ({idle / 1e6:.0f} MB)"
        )


def test_the_engine_against_a_copy(tmp_path):
    measure(tmp_path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        measure(Path(folder))
