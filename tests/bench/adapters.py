"""Adapters of several ranks on the demo family: energy kept, scores, and what the demo's gate says of each.

    python tests/bench/adapters.py --language eu --ranks 16 32 64
    python tests/bench/adapters.py --language eu --ranks 64 128 256 --dense

Each rank is extracted, served by a real vLLM and measured with the gate's own benchmarks, beside the full merge; the
parents' scores are those that ship. By default one instance serves the instruct model with all adapters. ``--dense``
adds each adapter to the weights and serves the sums one after another: the same numbers but for rounding, and faster by
far, since vLLM's adapters on a CPU gather both factors anew for every token. Behind a score, "no" is a check that failed
and "?" one that is undecided.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
import yaml
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tasks.domain.gate import parse_gate  # noqa: E402
from tasks.domain.models import Evaluation  # noqa: E402
from tasks.domain.verdict import judge  # noqa: E402
from tasks.endpoints.launcher_client import LauncherClient, LauncherProcess  # noqa: E402
from tasks.endpoints.profile import ServingProfile  # noqa: E402
from tasks.engine.adapter import extract  # noqa: E402
from tasks.engine.command_file import read_merge_file  # noqa: E402
from tasks.engine.merge import merge_configs  # noqa: E402
from tasks.harness.child import measure  # noqa: E402

FAMILY = ROOT / "infra/demo_family"
INSTRUCT = FAMILY / "models/llama-tiny-instruct-v2"
GATE = ROOT / "deployments/catalog/gates/demo-language.yaml"
PORT = 18450
BASE_MODEL = "instruct"


def benchmarks(language: str) -> list[str]:
    """What the gate asks for."""
    return [f"{language}_{kind}" for kind in ("chat", "mc", "bpb", "text")] + ["en_chat_short", "es_chat_short"]


def config_of(folder: Path, language: str, weight: float) -> Path:
    """The catalog's merge of roles, as a file."""
    models = FAMILY / "models"
    content = {
        "recipe": {"method": "task_arithmetic", "tuned_weight": weight},
        "base": str(models / "llama-tiny"),
        "instruct": str(INSTRUCT),
        "tuned": {language: {"path": str(models / f"{language}_llama-tiny")}},
    }
    path = folder / "merge.json"
    path.write_text(json.dumps(content))
    return path


def dense(adapter: Path, out: Path) -> None:
    """The instruct model with an adapter added to its weights; the output layer apart from the embeddings."""
    shutil.copytree(INSTRUCT, out)
    weights = {name: tensor.float() for name, tensor in load_file(INSTRUCT / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    factors = {name: tensor.float() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    for name, tensor in factors.items():
        own = name.removeprefix("base_model.model.")
        if own.endswith("lora_A.weight"):
            weights[own.replace("lora_A.", "")] += factors[name.replace("lora_A", "lora_B")] @ tensor
        elif own.endswith("lora_embedding_A"):
            weights[own.replace("lora_embedding_A", "weight")] += (factors[name[:-1] + "B"] @ tensor).T
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False, "dtype": "float32"}))


@contextmanager
def served(client: LauncherClient, model: Path, name: str, adapters: Mapping[str, str]) -> Iterator[str]:
    """One instance; yields the address of its API."""
    profile = ServingProfile(max_num_seqs=32, kv_mib=128, shutdown_timeout_seconds=5)
    flags = (*profile.flags(), "--max-num-batched-tokens", "512")
    began = time.monotonic()
    modules = [{"name": adapter, "path": path} for adapter, path in adapters.items()]
    asked: dict[str, Any] = {"flags": list(flags), "env": {}, "adapters": modules}
    client._ask({"op": "start", "name": name, "model": str(model), "served_names": [name], "port": PORT, **asked})
    address = f"http://127.0.0.1:{PORT}"
    while True:
        if not client.list()[name].alive:
            raise SystemExit(f"{name} ended; see {client.list()[name].log}")
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.5)
    print(f"{name} answers after {time.monotonic() - began:.1f} s", file=sys.stderr)
    try:
        yield f"{address}/v1"
    finally:
        client.stop(name)


def scored(folder: Path, address: str, model: str, language: str) -> tuple[Evaluation, float]:
    """Scores of one served model, and the seconds that it took."""
    out, began = folder / f"{model}.json", time.monotonic()
    found = measure(base_url=address, model=model, folder=INSTRUCT, benchmarks=benchmarks(language), out=out)
    return Evaluation(eval_key="0" * 64, artifact_digest="0" * 64, scores=found.scores), time.monotonic() - began


def parent(name: str) -> Evaluation:
    """The scores of a parent that ship with the family."""
    rows = json.loads((FAMILY / f"evaluations/{name}.json").read_text(encoding="utf-8"))
    found = [Evaluation.model_validate(row) for row in rows]
    return found[0].model_copy(update={"scores": tuple(score for one in found for score in one.scores), "facts": {}})


def tell(name: str, language: str, evaluation: Evaluation, seconds: float, kept: float | None) -> None:
    """One row."""
    gate = parse_gate(yaml.safe_load(GATE.read_text(encoding="utf-8")), str(GATE)).expanded([language])
    parents = {"instruct": parent(INSTRUCT.name), f"tuned:{language}": parent(f"{language}_llama-tiny")}
    verdict = judge(gate, evaluation, parents, None)
    marks = {True: "", False: " no", None: " ?"}
    cells = ["unscored" if row.score is None else f"{row.score:.3f}{marks[row.ok]}" for row in verdict.rows]
    share = "" if kept is None else f"{kept:.1%}"
    print(f"| {name} | {share} | {' | '.join(cells)} | {verdict.outcome} | {seconds:.0f} |", flush=True)


def main() -> None:
    """Extract, serve, measure, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--language", default="eu", choices=["eu", "ca", "gl"])
    parser.add_argument("--weight", type=float, default=1.0, help="of the language, as the catalog has it")
    parser.add_argument("--ranks", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--carry", default="input", choices=["layers", "input", "all"])
    parser.add_argument("--dense", action="store_true", help="add each adapter to the weights instead of serving it")
    parser.add_argument("--full", action="store_true", help="the full merge too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="em-") as name:
        folder = Path(name)
        file = read_merge_file(config_of(folder, options.language, options.weight))
        kept = {}
        for rank in options.ranks:
            kept[f"r{rank}"] = extract(file, folder / f"r{rank}", rank, carried=options.carry).kept
        launcher = LauncherProcess(
            ROOT / ".venv-serving/bin/python",
            ROOT / "infra/serving/launcher.py",
            folder / "l.sock",
            folder / "logs",
            arguments=("--die-with-parent",),
        )
        launcher.start()
        launcher.wait()
        try:
            heads = ("model", "energy kept", *_columns(options.language), "verdict", "s")
            print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
            if options.full:
                merge_configs({folder / "full": file.config}, labels=file.labels, base=file.base)
                with served(launcher.client, folder / "full", "full", {}) as address:
                    tell("full merge", options.language, *scored(folder, address, "full", options.language), None)
            if options.dense:
                for rank, share in kept.items():
                    dense(folder / rank, folder / f"dense-{rank}")
                    with served(launcher.client, folder / f"dense-{rank}", rank, {}) as address:
                        tell(rank, options.language, *scored(folder, address, rank, options.language), share)
            elif kept:
                paths = {rank: str(folder / rank) for rank in kept}
                with served(launcher.client, INSTRUCT, BASE_MODEL, paths) as address:
                    for rank, share in kept.items():
                        tell(rank, options.language, *scored(folder, address, rank, options.language), share)
        finally:
            launcher.client.shutdown()


def _columns(language: str) -> list[str]:
    gate = parse_gate(yaml.safe_load(GATE.read_text(encoding="utf-8")), str(GATE)).expanded([language])
    return [f"{check.benchmark} {check.metric}" for check in gate.checks]


if __name__ == "__main__":
    main()
