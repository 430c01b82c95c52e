"""What ``nel gate`` (NVIDIA NeMo Evaluator) decides; run by the interpreter that has it, cases on standard input.

Each benchmark becomes a bundle and its ``results.jsonl``, one reward an item; a drop becomes ``max_drop``. It has one
baseline, here the instruct parent, and neither floors nor gains: of a gain it is asked that nothing is lost. Direction,
confidence (two-sided 95 %) and the least of 10 paired items are its own. The command itself is run, in this process:
its modules take seconds to load.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from nemo_evaluator.cli.gate import gate_cmd

WORDS = {0: "passed", 1: "rejected", 2: "undecided"}


def bundles(folder: Path, model: dict[str, list[float]]) -> None:
    """Writes what its runs leave behind."""
    folder.mkdir()
    for name, marks in model.items():
        place = folder / name
        place.mkdir()
        mean = sum(marks) / len(marks)
        scores = {"mean_reward": {"value": mean}}
        (place / f"eval-{name}.json").write_text(json.dumps({"benchmark": {"name": name, "scores": scores}}))
        rows = ({"problem_idx": k, "repeat": 0, "reward": mark} for k, mark in enumerate(marks))
        (place / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def decide(case: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Its verdict, and its reasons."""
    for side in ("baseline", "candidate"):
        bundles(folder / side, case[side])
    limits = {limit["benchmark"]: limit for limit in case["limits"]}
    policy = {
        "version": 1,
        "defaults": {"tier": "advisory", "metric": "mean_reward"},
        "benchmarks": {
            name: {"tier": "critical", "max_drop": limit.get("max_drop", 0.0), "metric": "mean_reward"}
            for name, limit in limits.items()
        },
    }
    (folder / "policy.yaml").write_text(json.dumps(policy))
    report = folder / "report.json"
    asked = [folder / "baseline", folder / "candidate", "-p", folder / "policy.yaml", "-o", report, "--no-report"]
    done = CliRunner().invoke(gate_cmd, [str(part) for part in asked])
    if not report.exists():
        return "error", (done.output.strip().splitlines() or [repr(done.exception)])[-1]
    found = json.loads(report.read_text())
    reasons = [
        *found["verdict_reasons"],
        *(r for b in found["benchmarks"] if b["status"] != "PASS" for r in b["reasons"]),
    ]
    return WORDS.get(done.exit_code, f"exit {done.exit_code}"), f"{found['verdict']}: {'; '.join(reasons)}"


if __name__ == "__main__":
    answers = {}
    for one in json.load(sys.stdin):
        with tempfile.TemporaryDirectory() as scratch:
            answers[one["name"]] = decide(one, Path(scratch))
    json.dump(answers, sys.stdout)
