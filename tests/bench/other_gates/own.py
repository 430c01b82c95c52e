"""What this gate decides on the same marks: the domain's ``judge``, the checks as a gate file has them."""

from typing import Any

from tasks.domain.errors import PipelineError
from tasks.domain.gate import Gate, parse_gate
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.statistics import mean_and_stderr
from tasks.domain.verdict import judge
from tests.bench.other_gates.cases import Marks


def evaluation(marks: Marks, metrics: dict[str, str], digest: str) -> Evaluation:
    """Marks as the ledger stores them."""
    scores = []
    for name, of in marks.items():
        items = tuple(Item(item_id=f"i{k}", value=mark) for k, mark in enumerate(of))
        value, stderr = mean_and_stderr(items)
        stored = {"benchmark": name, "metric": metrics[name], "value": value, "stderr": stderr}
        scores.append(Score.model_validate({**stored, "n": len(items), "items": items}))
    return Evaluation(eval_key=digest * 64, artifact_digest=digest * 64, scores=tuple(scores))


def gate_of(limits: tuple[dict[str, Any], ...], *, sequential: bool) -> Gate:
    """The gate file's content, read as a gate file is."""
    checks = [
        {**one, "critical": True, **({"max_drop": {"instruct": one["max_drop"]}} if "max_drop" in one else {})}
        for one in limits
    ]
    return parse_gate({"name": "same", "checks": checks, **({"sequential": {}} if sequential else {})}, "gate")


def decide(case: dict[str, Any]) -> tuple[str, str]:
    """Its verdict, and its reasons."""
    metrics = {"eu_chat": "strict", "en_chat_short": "strict", "es_chat_short": "strict", "eu_mc": "acc"}
    try:
        gate = gate_of(case["limits"], sequential=case["look"] is not None)
        ours, instruct, tuned = (
            evaluation(case[side], metrics, digest) for side, digest in zip(CASE_SIDES, "abc", strict=True)
        )
        looks = {} if gate.sequential is None else {"levels": gate.sequential.levels[case["look"] - 1]}
        verdict = judge(gate, ours, {"instruct": instruct, "tuned": tuned}, None, **looks)
    except PipelineError as error:
        return "error", str(error)
    return verdict.outcome, " ".join(verdict.reasons)


CASE_SIDES = ("candidate", "baseline", "tuned")
