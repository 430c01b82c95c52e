"""What ``mlflow.validate_evaluation_results`` decides; run by the interpreter that has it, cases on standard input.

It compares point values. Its changes against a baseline ask for improvement and know no allowed drop, so every limit is
a threshold that is worked out here: the baseline's score less the allowed drop, the floor, the share of the gain.
"""

import json
import sys
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import EvaluationResult, MetricThreshold


def threshold(case: dict[str, Any], limit: dict[str, Any]) -> float:
    """The least score that is let through."""
    means = {side: sum(marks) / len(marks) for side, marks in sides(case, limit["benchmark"]).items()}
    least = [limit["floor"]] if "floor" in limit else []
    if "max_drop" in limit:
        least.append(means["baseline"] - limit["max_drop"])
    if "keep_gain" in limit:
        least.append(means["baseline"] + limit["keep_gain"] * (means["tuned"] - means["baseline"]))
    return float(max(least))


def sides(case: dict[str, Any], benchmark: str) -> dict[str, list[float]]:
    """The marks of the models that a threshold is worked out from."""
    return {side: case[side][benchmark] for side in ("baseline", "tuned") if benchmark in case[side]}


def decide(case: dict[str, Any]) -> tuple[str, str]:
    """Its verdict: passed if it raises nothing."""
    thresholds = {
        one["benchmark"]: MetricThreshold(threshold=threshold(case, one), greater_is_better=True)
        for one in case["limits"]
    }
    metrics = {name: sum(marks) / len(marks) for name, marks in case["candidate"].items()}
    try:
        mlflow.validate_evaluation_results(thresholds, EvaluationResult(metrics=metrics, artifacts={}, run_id="none"))
    except mlflow.models.evaluation.validation.ModelValidationFailedException as error:
        return "rejected", str(error)
    except (MlflowException, TypeError, ValueError) as error:
        return "error", str(error)
    return "passed", "no exception"


if __name__ == "__main__":
    json.dump({one["name"]: decide(one) for one in json.load(sys.stdin)}, sys.stdout)
