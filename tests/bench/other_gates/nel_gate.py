"""What ``nel gate`` (NVIDIA NeMo Evaluator) decides; run by the interpreter that has it, cases on standard input.

Each benchmark becomes a bundle and its ``results.jsonl``, one reward an item; a drop becomes ``max_drop``. It has one
baseline, here the instruct parent, and neither floors nor gains: of a gain it is asked that nothing is lost. Direction,
confidence (two-sided 95 %) and the least of 10 paired items are its own. The command itself is run, with ``--strict``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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
    nel = Path(sys.executable).with_name("nel")
    report = folder / "report.json"
    asked = [nel, "gate", folder / "baseline", folder / "candidate", "-p", folder / "policy.yaml", "-o", report]
    done = subprocess.run([str(part) for part in (*asked, "--no-report")], capture_output=True, text=True, check=False)
    if not report.exists():
        return "error", (done.stderr.strip().splitlines() or ["no report"])[-1]
    found = json.loads(report.read_text())
    reasons = [
        *found["verdict_reasons"],
        *(r for b in found["benchmarks"] if b["status"] != "PASS" for r in b["reasons"]),
    ]
    return WORDS.get(done.returncode, f"exit {done.returncode}"), f"{found['verdict']}: {'; '.join(reasons)}"


if __name__ == "__main__":
    answers = {}
    for one in json.load(sys.stdin):
        with tempfile.TemporaryDirectory() as scratch:
            answers[one["name"]] = decide(one, Path(scratch))
    json.dump(answers, sys.stdout)
