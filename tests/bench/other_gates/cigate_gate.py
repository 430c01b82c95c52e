"""What ``cigate`` decides; run by the interpreter that has it, cases on standard input.

Its axes are failures of a retrieval application. Each benchmark is registered as a deterministic axis, so that its
correction for a judge's errors is left out; marks are its predictions, the instruct parent's run is its baseline. It
has one tolerance for all axes, so it is run once for each allowed drop, and what one run blocks is blocked.
"""

import json
import sys
from typing import Any

from cigate.config import Config, GateConfig
from cigate.gate import baseline_from_run, evaluate_gate
from cigate.runner import RunResult
from cigate.taxonomy import AXIS_BY_KEY, Axis


def decide(case: dict[str, Any]) -> tuple[str, str]:
    """Its verdict: it blocks or lets through, nothing else."""
    drops: dict[float, list[str]] = {}
    for limit in case["limits"]:
        drops.setdefault(limit.get("max_drop", 0.0), []).append(limit["benchmark"])
        AXIS_BY_KEY[limit["benchmark"]] = Axis(limit["benchmark"], "a benchmark", "code")
    reasons, blocked = [], False
    for drop, axes in (drops or {0.0: []}).items():
        config = Config(axes=axes, gate=GateConfig(tolerance=drop))
        base, run = RunResult(axes, eval_preds=case["baseline"]), RunResult(axes, eval_preds=case["candidate"])
        try:
            report = evaluate_gate(run, config, baseline_from_run(base, config))
        except (ValueError, TypeError, ArithmeticError) as error:
            return "error", f"{type(error).__name__}: {error}"
        blocked |= report.regressed
        reasons += [f"{one.axis}: {one.reason}" for one in report.results]
    return "rejected" if blocked else "passed", "; ".join(reasons)


if __name__ == "__main__":
    json.dump({one["name"]: decide(one) for one in json.load(sys.stdin)}, sys.stdout)
