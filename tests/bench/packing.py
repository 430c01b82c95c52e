"""``python tests/bench/packing.py``: what packing saves, and how fast it goes. The tables of BENCHMARKS.md.

The demo family's tuned bases, trained for real; and synthetic ones: bfloat16 weights drawn from N(0, 0.02), moved by a
normal delta of relative size r. Every pack is unpacked again and compared with the original, byte by byte.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tasks.engine.merge import merge_config  # noqa: E402
from tasks.engine.methods.table import TABLE  # noqa: E402
from tasks.engine.packs.writing import pack, unpack  # noqa: E402
from tests.engine.folders import recipe_for, write_folder  # noqa: E402

MODELS = ROOT / "infra" / "demo_family" / "models"
DEMO = {
    **{f"{code}_llama-tiny": "llama-tiny" for code in ("eu", "ca", "gl", "es")},
    "eu_qwen3-tiny": "qwen3-tiny",
    "llama-tiny-instruct-v1": "llama-tiny",
}
RELATIVE = (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3)
TENSOR = (2048, 2048)


def drawn(seed: int, layers: int, relative: float) -> dict[str, np.ndarray]:
    """A synthetic model: base, and moved by a delta of this size."""
    found = {}
    for layer in range(layers):
        base = np.random.Generator(np.random.PCG64(layer)).standard_normal(TENSOR, np.float32) * np.float32(0.02)
        move = np.random.Generator(np.random.PCG64([seed, layer])).standard_normal(TENSOR, np.float32)
        found[f"model.layers.{layer}.mlp.up_proj.weight"] = base + np.float32(0.02 * relative) * move
    return found


def dropped(folder: Path) -> None:
    """Out of the page cache, as far as an ordinary user may: what was just written is not what is read later."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(child: Path, parent: Path, place: Path, repeats: int, threads: int) -> tuple[float, float, float]:
    """Ratio, and median MB/s of packing and of unpacking; raises unless every byte comes back."""
    packing, unpacking, ratio = [], [], 0.0
    for number in range(repeats):
        packed, again = place / f"packed-{number}", place / f"again-{number}"
        report = pack(child, parent, packed, digest="0" * 64, threads=threads)
        began = time.perf_counter()
        unpack(packed, again, threads=threads)
        took = time.perf_counter() - began
        for path in child.iterdir():
            if path.read_bytes() != (again / path.name).read_bytes():
                raise SystemExit(f"{path} did not come back")
        ratio = report.ratio
        packing.append(report.raw_bytes / report.seconds / 1e6)
        unpacking.append(report.raw_bytes / took / 1e6)
        for folder in (packed, again):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
    return ratio, statistics.median(packing), statistics.median(unpacking)


def merges(base: Path, instruct: Path, tuned: Path, place: Path, repeats: int, threads: int) -> list[str]:
    """Seconds of a merge from raw files and from the pack, by turns; raises unless their bytes are the same."""
    packed = place / "packed-tuned"
    pack(tuned, base, packed, digest="0" * 64, threads=threads)
    lines = []
    for method in ("task_arithmetic", "ties"):
        seconds: dict[Path, list[float]] = {tuned: [], packed: []}
        files = {}
        values = {"weight": 0.6} | ({"density": 0.4} if method == "ties" else {})
        for number in range(repeats):
            for source, taken in seconds.items():
                out = place / f"out-{method}-{number}-{source.name}"
                config = recipe_for(TABLE[method], base, instruct, [instruct, source], values)
                began = time.perf_counter()
                files[source] = merge_config(config, out, threads=threads).files
                taken.append(time.perf_counter() - began)
                for path in out.iterdir():
                    path.unlink()
        if files[tuned] != files[packed]:
            raise SystemExit(f"{method}: the merge from the pack has other bytes")
        raw, through = (statistics.median(taken) for taken in seconds.values())
        lines.append(f"| {method} | {raw:.2f} s | {through:.2f} s | {through / raw:.1f} | yes |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12, help="of 8.4 MB each in the synthetic models")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="packing-") as folder:
        place = Path(folder)
        rest = (place, asked.repeats, asked.threads)
        warm = write_folder(place / "warm", drawn(1, 1, 0.01), "BF16")
        measure(warm, warm, place, 1, asked.threads)  # kernels are compiled at their first call
        print("| model | parent | bytes | packed to | pack MB/s | unpack MB/s |\n|---|---|---|---|---|---|")
        for name, parent in DEMO.items():
            ratio, packing, unpacking = measure(MODELS / name, MODELS / parent, *rest)
            size = sum(path.stat().st_size for path in (MODELS / name).glob("*.safetensors"))
            print(f"| {name} | {parent} | {size:,} | {ratio:.1%} | {packing:.0f} | {unpacking:.0f} |", flush=True)
        print("\n| relative size of the delta | packed to | pack MB/s | unpack MB/s |\n|---|---|---|---|")
        base = write_folder(place / "base", drawn(0, asked.layers, 0.0), "BF16")
        for number, relative in enumerate(RELATIVE):
            child = write_folder(place / f"child-{number}", drawn(number + 1, asked.layers, relative), "BF16")
            dropped(child)
            ratio, packing, unpacking = measure(child, base, *rest)
            print(f"| {relative:g} | {ratio:.1%} | {packing:.0f} | {unpacking:.0f} |", flush=True)
        print("\n| method | from raw files | from the pack | times as long | same bytes |\n|---|---|---|---|---|")
        print("\n".join(merges(base, place / "child-3", place / "child-4", *rest)))


if __name__ == "__main__":
    main()
