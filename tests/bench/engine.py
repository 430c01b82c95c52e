"""How close a merge is to a copy, and to mergekit: make bench, or `python tests/bench/engine.py --mergekit PYTHON`.

Three bf16 models of Llama-3.2-1B's shape on tmpfs. One round does everything once, so that a machine which drifts drifts
for all; medians are compared. Before each of them memory for one output is touched and given back: what a virtual machine has handed
to its host comes back slowly (the same copy took 1.8 to 8.4 s without). The floor reads all that the method reads, once, and writes one output: with one thread, as
``cp`` would, and with as many as the engine has. The engine's seconds are its own, from the plan to the
last file; its command, CPU time and peak are those of its process from start to end. Start-up is that of --dry-run. mergekit 0.1.5 runs in an environment of its own.
"""

import argparse
import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.bench_models import write_model  # noqa: E402

BLOCK = 1 << 20
BYTECODE = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""As where it is installed: Python keeps what it has compiled."""
TASK = {"density": 0.5}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {}, "task_arithmetic": {}, "language_graft": {}, "slerp": {"t": 0.4}, "model_stock": {}, "ties": TASK,
    "dare_linear": TASK, "della": TASK,
}  # fmt: skip
AIMS = {
    "linear": 1.5, "task_arithmetic": 1.5, "language_graft": 1.5, "slerp": 2.5, "model_stock": 2.5, "ties": 4.0,
    "dare_linear": 4.0, "della": 4.0,
}  # fmt: skip


class Run(NamedTuple):
    """One process."""

    seconds: float
    cpu: float
    peak: int
    own: float = 0.0
    """Seconds by its own report, start-up apart."""


def recipe(method: str, models: list[Path]) -> tuple[dict[str, Any], list[Path]]:
    """mergekit's YAML as a mapping, and the models that it reads."""
    base, instruct, tuned = map(str, models)
    entries = [{"model": instruct, "parameters": {"weight": 1.0}}, {"model": tuned, "parameters": {"weight": 0.75}}]
    wanted: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16", "parameters": dict(METHODS[method])}
    if method == "slerp":
        return {**wanted, "base_model": instruct, "models": [{"model": tuned}]}, models[1:]
    if method == "linear":
        return {**wanted, "models": [{"model": base, "parameters": {"weight": 0.5}}, *entries]}, models
    if method == "model_stock":
        return {**wanted, "base_model": base, "models": [{"model": instruct}, {"model": tuned}]}, models
    listed = entries[1:] if method == "language_graft" else entries
    return {**wanted, "base_model": base, "models": listed}, models


def make_ready(models: list[Path]) -> None:
    """Touch as much memory as one output takes, and a quarter more, and give it back."""
    size = sum(shard.stat().st_size for shard in models[0].glob("*.safetensors"))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, size * 5 // 4, flags=flags).close()


def floor(models: list[Path], out: Path, threads: int) -> float:
    """Seconds to read every input and write the size of one, in this many threads; no arithmetic, no digest."""
    shards = [sorted(folder.glob("*.safetensors")) for folder in models]
    sizes = [shard.stat().st_size for shard in shards[0]]
    out.mkdir()
    targets = [os.open(out / shard.name, os.O_WRONLY | os.O_CREAT) for shard in shards[0]]
    blocks = [(n, start) for n, size in enumerate(sizes) for start in range(0, size, BLOCK)]
    sources = [[os.open(shard, os.O_RDONLY) for shard in own] for own in shards]

    def copy(own: list[tuple[int, int]]) -> None:
        buffer = bytearray(BLOCK)
        for number, start in own:
            for files in sources:
                count = os.preadv(files[number], [buffer], start)
            os.pwrite(targets[number], memoryview(buffer)[:count], start)

    began = time.perf_counter()
    for target, size in zip(targets, sizes, strict=True):  # finding room is part of writing
        os.posix_fallocate(target, 0, size)
    workers = [threading.Thread(target=copy, args=(blocks[n::threads],)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began
    for handle in [*targets, *(file for files in sources for file in files)]:
        os.close(handle)
    shutil.rmtree(out)
    return seconds


def watched(command: list[str], environment: dict[str, str] | None = None) -> tuple[Run, str]:
    """Run a process; its wall and CPU time, and the highest VmHWM over its tree, mapped pages included."""
    began = time.perf_counter()
    process = psutil.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            try:
                tree = [process, *process.children(recursive=True)]
            except psutil.Error:
                return
            for one in tree:
                peaks[one.pid] = max(peaks.get(one.pid, 0), high_water(one.pid))

    looker = threading.Thread(target=look)
    looker.start()
    before = os.times()
    said, errors = process.communicate()
    seconds = time.perf_counter() - began
    ended.set()
    looker.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors[-2000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, cpu, sum(peaks.values())), said


def high_water(pid: int) -> int:
    """VmHWM of a process, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def idle_torch() -> int:
    """Peak of a process that imports torch and ends."""
    code = "import torch; print(next(int(x.split()[1]) for x in open('/proc/self/status') if 'VmHWM' in x) * 1024)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def engine(config: Path, out: Path) -> Run:
    """One merge."""
    run, said = watched([sys.executable, "-m", "tasks.engine", str(config), str(out), "--json-lines"], BYTECODE)
    report = json.loads(said.splitlines()[-1])
    shutil.rmtree(out)
    return run._replace(peak=max(run.peak, report["peak_rss_bytes"]), own=report["seconds"])


def start_up(config: Path, out: Path) -> float:
    """Seconds of a dry run."""
    run, _ = watched([sys.executable, "-m", "tasks.engine", str(config), str(out), "--dry-run"], BYTECODE)
    return run.seconds


def mergekit(python: Path, wanted: dict[str, Any], place: Path) -> Run:
    """One merge by mergekit, from start to end of its command."""
    config, out = place / "mergekit.yaml", place / "mergekit-out"
    config.write_text(json.dumps(wanted))
    command = [str(python.parent / "mergekit-yaml"), str(config), str(out), "--no-copy-tokenizer"]
    run, _ = watched(command, {**os.environ, "HF_HUB_OFFLINE": "1"})
    shutil.rmtree(out)
    return run


def measure(place: Path, options: argparse.Namespace) -> None:
    """Everything, a line for each method."""
    part, threads = 4 if options.quick else 1, len(os.sched_getaffinity(0))
    models = [write_model(place / name, child, part) for child, name in enumerate(("base", "instruct", "tuned"))]
    idle, methods = idle_torch(), options.methods or list(METHODS)
    floors: dict[tuple[str, int], list[float]] = {}
    runs: dict[str, list[Run]] = {}
    starts: list[float] = []
    for number in range(options.rounds + 1):
        for method in methods:
            wanted, read = recipe(method, models)
            config = place / f"{method}.json"
            config.write_text(json.dumps({**wanted, "instruct": str(models[1])}))
            took = []
            for count in (1, threads):
                make_ready(models)
                took.append(floor(read, place / "copy", count))
            make_ready(models)
            run = engine(config, place / "out")
            starts.append(start_up(config, place / "out"))
            if number:  # the first round compiles, and finds its memory
                for count, seconds in zip((1, threads), took, strict=True):
                    floors.setdefault((method, count), []).append(seconds)
                runs.setdefault(method, []).append(run)
    print(
        f"{platform.processor() or platform.machine()}, {threads} cores, {options.rounds} rounds, 1/{part} of the size"
    )
    print(f"idle import torch: {idle / 1e6:.0f} MB; start-up (--dry-run): {statistics.median(starts):.2f} s")
    columns = ["method", "floor, 1 thread", "floor, all", "engine", "x floor (1)", "x floor (all)", "aim", "command"]
    columns += ["CPU", "peak - idle", "mergekit"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for method in methods:
        one, many = (statistics.median(floors[method, count]) for count in (1, threads))
        ours = statistics.median(run.own for run in runs[method])
        command = statistics.median(run.seconds for run in runs[method])
        cpu = statistics.median(run.cpu for run in runs[method])
        peak = max(run.peak for run in runs[method]) - idle
        theirs = ""
        if options.mergekit and method != "language_graft":
            make_ready(models)
            run = mergekit(options.mergekit, recipe(method, models)[0], place)
            theirs = f"{run.seconds:.1f} s, {run.seconds / command:.1f} x, {(run.peak - idle) / 1e6:.0f} MB"
        print(
            f"| {method} | {one:.2f} s | {many:.2f} s | {ours:.2f} s | {ours / one:.2f} | {ours / many:.2f} "
            f"| {AIMS[method]} | {command:.2f} s | {cpu:.1f} s | {peak / 1e6:.0f} MB | {theirs} |",
            flush=True,
        )


def main() -> None:
    """Parse, measure in a temporary folder, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the layers and of the vocabulary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="where the models lie")
    parser.add_argument("--mergekit", type=Path, help="the python of an environment with mergekit 0.1.5")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.place, prefix="empelt-bench-") as folder:
        measure(Path(folder), options)


if __name__ == "__main__":
    main()
