"""Adapters of the demo family on one real vLLM, by the product's own way: made, stored, served, asked by name, judged.

    python tests/bench/shared_adapters.py --languages eu gl --rank 32

Each language's adapter is made by the engine's program as a merge job does it, adopted by a store, and made live on its
channel; the agent then starts one instance that holds all of them. Each is asked through the gateway under its pinned
name, with the gate's benchmarks in their short forms, and judged by the demo's gate for those, with the parents' scores
that ship. What had no time within ``--seconds`` is unscored, and fails the gate.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tasks.domain.adapters import base_name  # noqa: E402
from tasks.domain.gate import Gate, parse_gate  # noqa: E402
from tasks.domain.models import Evaluation, ModelRef, Score  # noqa: E402
from tasks.domain.verdict import judge  # noqa: E402
from tasks.endpoints.agent import Agent  # noqa: E402
from tasks.endpoints.launcher_client import LauncherProcess  # noqa: E402
from tasks.endpoints.placement import GIB, Device  # noqa: E402
from tasks.endpoints.profile import ServingProfile  # noqa: E402
from tasks.harness.child import measure  # noqa: E402
from tasks.store.artifacts import ArtifactStore  # noqa: E402
from tasks.store.ledger import Ledger  # noqa: E402

MODELS = ROOT / "infra/demo_family/models"
SCORES = ROOT / "infra/demo_family/evaluations"
CATALOG = ROOT / "deployments/catalog"
INSTRUCT = "llama-tiny-instruct-v2"
PORT = 18460


def made(store: ArtifactStore, folder: Path, language: str, rank: int, instruct: str) -> str:
    """The adapter's digest; by the program that a merge job runs, with the catalog's recipe."""
    catalog = yaml.safe_load((CATALOG / "llama-tiny.yaml").read_text(encoding="utf-8"))
    tuned = {language: {"path": str(MODELS / f"{language}_llama-tiny")}}
    roles = {"base": str(MODELS / "llama-tiny"), "instruct": str(MODELS / INSTRUCT), "tuned": tuned}
    config, out = folder / f"{language}.json", folder / language
    config.write_text(json.dumps({"recipe": catalog["targets"][language]["recipe"], **roles}))
    asked = [str(config), str(out), "--rank", str(rank), "--base-name", base_name(instruct)]
    command = [sys.executable, "-m", "tasks.engine.adapt", *asked]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    artifact = store.adopt(out)
    size = sum(file.size for file in artifact.files if file.path.endswith(".safetensors"))
    kept = f"{report['adapter']['kept']:.1%} of the energy"
    print(f"{language}: rank {rank}, {size / 1e6:.1f} MB, {kept}, artifact {artifact.short}", flush=True)
    return artifact.digest


def gate_for(language: str) -> Gate:
    """The demo's gate, asking the short forms."""
    path = CATALOG / "gates/demo-language.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    items = {"chat": 80, "mc": 60, "bpb": 50, "text": 25}
    for check in data["checks"]:
        if not check["benchmark"].endswith("_short"):
            check["min_items"] = items[check["benchmark"].rpartition("_")[2]]
            check["benchmark"] += "_short"
    return parse_gate(data, str(path)).expanded([language])


def parent(name: str) -> Evaluation:
    """The scores of a parent that ship with the family."""
    found = [Evaluation.model_validate(row) for row in json.loads((SCORES / f"{name}.json").read_text())]
    scores: dict[tuple[str, str], Score] = {(s.benchmark, s.metric): s for one in found for s in one.scores}
    return found[0].model_copy(update={"scores": tuple(scores.values()), "facts": {}})


def judged(language: str, digest: str, folder: Path, until: float) -> None:
    """Measure one adapter through the gateway, and say what the gate says."""
    gate, scores, began = gate_for(language), [], time.monotonic()
    model, out = f"{language}@{digest[:12]}", folder / "score.json"
    for benchmark in gate.benchmarks:
        if time.monotonic() > until:
            break
        told = {"base_url": f"http://127.0.0.1:{PORT}/v1", "model": model, "folder": MODELS / INSTRUCT, "out": out}
        scores += measure(**told, benchmarks=[benchmark]).scores
        shown = ", ".join(f"{one.metric} {one.value:.3f}" for one in scores if one.benchmark == benchmark)
        print(f"  {model} {benchmark}: {shown} ({time.monotonic() - began:.0f} s)", flush=True)
    measured = Evaluation(eval_key="0" * 64, artifact_digest=digest, scores=tuple(scores))
    parents = {"instruct": parent(INSTRUCT), f"tuned:{language}": parent(f"{language}_llama-tiny")}
    verdict = judge(gate, measured, parents, None)
    for row in verdict.rows:
        value = "unscored" if row.score is None else f"{row.score:.3f}"
        print(f"  | {row.benchmark} | {value} | {'passed' if row.ok else 'not passed'} |")
    print(f"{model}: {verdict.outcome}", flush=True)


def main() -> None:
    """Make, serve, ask, judge; ends with how many instances answered for how many channels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--languages", nargs="+", default=["eu", "gl"])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which nothing more is measured")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="em-") as name:
        folder = Path(name)
        store, ledger = ArtifactStore(folder / "store"), Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
        copy = folder / "instruct"
        copy.mkdir()
        for file in (MODELS / INSTRUCT).iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        instruct = store.adopt(copy).digest
        digests = {lang: made(store, folder, lang, options.rank, instruct) for lang in options.languages}
        for language, digest in digests.items():
            told = {"release": ModelRef(repo_id="lab/v2", revision="2" * 40), "target": language, "family": "demo"}
            ledger.switch_channel(language, digest=digest, expected_generation=0, **told)
        serve(folder, store, ledger, lambda: [judged(one, digests[one], folder, until) for one in digests])


def serve(folder: Path, store: ArtifactStore, ledger: Ledger, work: object) -> None:
    """Run gateway and agent while ``work`` is done."""
    routes, setup = folder / "g/routes.json", folder / "setup.json"
    setup.write_text(json.dumps({"routes": str(routes), "port": PORT, "limits": {"hold_seconds": 5.0}}))
    start = [sys.executable, str(ROOT / "tests/endpoints/start_gateway.py"), str(setup)]
    gateway = subprocess.Popen(start, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    python, script = ROOT / ".venv-serving/bin/python", ROOT / "infra/serving/launcher.py"
    launcher = LauncherProcess(python, script, folder / "l.sock", folder / "logs", arguments=("--die-with-parent",))
    agent = Agent(
        name="local",
        state=ledger,
        launcher=launcher,
        artifacts=store,
        run_folder=folder / "run",
        routes=routes,
        gateway=f"http://127.0.0.1:{PORT}",
        devices=[Device("cpu", "cpu", 32 * GIB)],
        profile=ServingProfile(max_num_seqs=32, kv_mib=128, extra=("--max-num-batched-tokens", "512")),
    )
    stop, began = threading.Event(), time.monotonic()
    running = threading.Thread(target=agent.run, args=(stop,))
    running.start()
    try:
        while not all(one.acknowledged_generation for one in ledger.channels()):
            time.sleep(0.5)
            if not running.is_alive() or time.monotonic() - began > 600:
                raise SystemExit(f"nothing is served: {[one.reason for one in ledger.instances()]}")
        alive = [one for one in launcher.client.list().values() if one.alive]
        names = [one["id"] for one in httpx.get(f"http://127.0.0.1:{PORT}/v1/models").json()["data"]]
        print(f"{len(alive)} instance(s) after {time.monotonic() - began:.0f} s; answering: {', '.join(names)}")
        work()  # type: ignore[operator]
    finally:
        stop.set()
        running.join(30)
        launcher.client.shutdown()
        gateway.terminate()
        gateway.wait(30)


if __name__ == "__main__":
    main()
