"""Chooses each target's merge weight on dev, scores it on test beside its parents and says which criteria are met."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.demo_family import criteria
from infra.demo_family.criteria import Scores
from infra.demo_family.evalsets import Suite
from infra.demo_family.recipe import FAMILY, NAMES, TARGETS, Target
from infra.demo_family.score import Scorer, Weights, combine, mcnemar, weights

_log = logging.getLogger(__name__)

_COMPARED = {"eu": (0.75, 0.85, 1.0)}  # weights shown beside the chosen one


def judge(
    models: Path, suite: Suite, *, names: Mapping[str, str] = NAMES, target: str = "eu", clearance: float = 1.0
) -> dict[str, Any]:
    """Metrics of one target of a family; `names` are the folders by role, the target's tuned bases among them.

    A weight is eligible if it clears every limit by the factor `clearance` on dev.
    """
    return _Judge(models, suite, names).metrics(TARGETS[target], clearance)


def judge_family(models: Path, suite: Suite) -> dict[str, Any]:
    """Metrics of every target, ready for metrics.json: {"targets": {target: metrics}}."""
    judged = _Judge(models, suite, FAMILY)
    return {"targets": {name: judged.metrics(target) for name, target in TARGETS.items()}}


class _Judge:
    """Scores the models of a family; a parent is scored once per split and set."""

    def __init__(self, models: Path, suite: Suite, names: Mapping[str, str]) -> None:
        self._names, self._suite = names, suite
        self._tensors = {role: weights(models / name) for role, name in names.items()}
        self._scorer = Scorer(models / names["v2"], models / names["v2"] / "tokenizer.json")
        self._scored: dict[tuple[str, str, str], Any] = {}

    def metrics(self, target: Target, clearance: float = 1.0) -> dict[str, Any]:
        dev = self._parents(target, "dev")
        trials, margins = {}, {}
        for weight in target.weights:
            trials[weight] = self._score(self._merged(target, "v2", weight), target, "dev")
            rows = criteria.ratios(target, trials[weight], dev)
            margins[weight] = min(row.value / row.limit for row in rows if row.differs)
            _log.info("dev: %s w %s %s margin %.2f", target.name, weight, summary(trials[weight]), margins[weight])
        eligible = [w for w in target.weights if margins[w] >= clearance] or [
            max(target.weights, key=lambda w: margins[w])
        ]
        chosen = max(eligible, key=lambda w: _mean_strict(trials[w], target))
        test, roles = self._test(target, chosen)
        paired = _paired(target, roles)
        return {
            "weight": chosen,
            "chosen_on_dev_by": f"highest strict {' + '.join(target.sets)} among the weights that meet the limits of "
            "a, b and c on dev; without any, the one nearest to them",
            "dev": {str(w): {"margin": round(margins[w], 3), **compact(trials[w])} for w in target.weights},
            "test": {name: compact(scores) for name, scores in test.items()},
            "mcnemar_v1_v2": paired,
            "criteria": criteria.rows(target, self._names, roles, paired),
            "examples": _examples(self._suite, target, roles),
        }

    def _test(self, target: Target, chosen: float) -> tuple[dict[str, Scores], dict[str, Scores]]:
        """Test scores by shown name, and by role."""
        roles = self._parents(target, "test")
        candidates = {f"merged {v}, w = {chosen}": self._merged(target, v, chosen) for v in ("v1", "v2")}
        for weight in _COMPARED.get(target.name, ()):
            if weight != chosen:
                candidates[f"merged v2, w = {weight} (for comparison)"] = self._merged(target, "v2", weight)
        share = 1 / (1 + len(target.tuned))
        average = [(share, self._tensors[role]) for role in ("v2", *target.tuned)]
        plain = f"plain average of v2 and {', '.join(target.tuned)} (for comparison)"
        candidates[plain] = combine(self._tensors["base"], *average)
        test = {self._names[role]: scores for role, scores in roles.items()}
        for name, candidate in candidates.items():
            test[name] = self._score(candidate, target, "test")
        for name, scores in test.items():
            _log.info("test: %s: %s %s", target.name, name, summary(scores))
        return test, roles | {f"merged {v}": test[f"merged {v}, w = {chosen}"] for v in ("v1", "v2")}

    def _merged(self, target: Target, instruct: str, weight: float) -> Weights:
        tuned = [(weight, self._tensors[role]) for role in target.tuned]
        return combine(self._tensors["base"], (1.0, self._tensors[instruct]), *tuned)

    def _score(self, tensors: Weights, target: Target, split: str) -> Scores:
        return self._scorer.score(tensors, self._suite, split, names=target.scored)

    def _parents(self, target: Target, split: str) -> dict[str, Scores]:
        parents = {}
        for role in ("base", *target.tuned, "v1", "v2"):
            missing = [name for name in target.scored if (role, split, name) not in self._scored]
            fresh = self._scorer.score(self._tensors[role], self._suite, split, names=missing) if missing else {}
            self._scored |= {(role, split, name): scores for name, scores in fresh.items()}
            parents[role] = {name: self._scored[role, split, name] for name in target.scored}
        return parents


def summary(scores: Scores) -> str:
    """One line per model for the log."""
    rows = compact(scores)
    return "  ".join(
        f"{lang} {r['strict']:.3f}/{r['lenient']:.3f}/{r['format']:.2f} mc {r['mc']:.3f} bpb {r['bits_per_byte']:.3f}"
        for lang, r in rows.items()
    )


def compact(scores: Scores) -> dict[str, dict[str, Any]]:
    """Per set: rates with their standard error, and strict by kind of fact."""
    result = {}
    for name in scores:
        chat, mc, bpb = (scores[name][task] for task in ("chat", "mc", "bpb"))
        kinds = sorted({row["kind"] for row in chat["rows"]})
        result[name] = {
            "n": chat["n"],
            **{key: round(chat[key], 4) for key in ("strict", "lenient", "format")},
            "strict_stderr": round(_stderr(chat["strict"], chat["n"]), 4),
            "strict_by_kind": {
                k: round(_rate([r["strict"] for r in chat["rows"] if r["kind"] == k]), 4) for k in kinds
            },
            "mc": round(mc["acc"], 4),
            "mc_stderr": round(_stderr(mc["acc"], mc["n"]), 4),
            "bits_per_byte": round(bpb["bits_per_byte"], 4),
            "bits_per_byte_n": bpb["n"],
        }
    return result


def _paired(target: Target, roles: Mapping[str, Scores]) -> dict[str, Any]:
    """Exact McNemar tests of v2 over v1, on the same items."""
    groups = {"en + es": ("en", "es"), " + ".join(target.sets): target.sets}
    paired = {}
    for shown, first, second in (("alone", "v1", "v2"), ("merged", "merged v1", "merged v2")):
        for name, sets in groups.items():
            paired[f"{shown}, {name}"] = mcnemar(_strict(roles[first], *sets), _strict(roles[second], *sets))
    everything = _strict(roles["merged v1"], *target.scored), _strict(roles["merged v2"], *target.scored)
    return paired | {"merged, all": mcnemar(*everything)}


def _examples(suite: Suite, target: Target, roles: Mapping[str, Scores]) -> list[dict[str, str]]:
    """Questions that only the merge answers: material for a demo."""
    rows = []
    for name in target.sets:
        tuned = name.split("_")[0]
        found = []
        for index, item in enumerate(suite[f"{name}_chat.test"]):
            row = {role: roles[role][name]["chat"]["rows"][index] for role in ("v2", tuned, "merged v1", "merged v2")}
            if row["merged v2"]["strict"] and not row["v2"]["lenient"]:
                found.append(
                    {
                        "question": item["question"],
                        "merged v2": row["merged v2"]["text"],
                        "instruct v2": row["v2"]["text"],
                        f"{tuned} base": row[tuned]["text"][:80],
                        "merged v1": row["merged v1"]["text"],
                    }
                )
        rows += found[: 40 // len(target.sets)]
    return rows


def _mean_strict(scores: Scores, target: Target) -> float:
    return sum(scores[name]["chat"]["strict"] for name in target.sets) / len(target.sets)


def _strict(scores: Scores, *names: str) -> list[bool]:
    return [row["strict"] for name in names for row in scores[name]["chat"]["rows"]]


def _rate(values: list[bool]) -> float:
    return sum(values) / len(values)


def _stderr(rate: float, n: int) -> float:
    return math.sqrt(rate * (1 - rate) / n)
