"""Chooses the merge weight on dev, scores everything on test and says which criteria are met."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from infra.demo_family.evalsets import Suite
from infra.demo_family.recipe import LANGUAGES, NAMES
from infra.demo_family.score import Scorer, Weights, combine, mcnemar, weights

WEIGHTS = (0.75, 0.85, 0.95, 1.0, 1.1)
KEEP_CHAT, KEEP_GAIN, BASQUE_CHAT, PARENT_LIMIT, ALPHA = 0.85, 0.75, 0.35, 0.05, 0.01

_log = logging.getLogger(__name__)

Scores = dict[str, Any]


def judge(models: Path, suite: Suite) -> dict[str, Any]:
    """Metrics of the whole family, ready for metrics.json."""
    tensors = {role: weights(models / name) for role, name in NAMES.items()}
    base, basque = tensors["base"], tensors["eu"]
    scorer = Scorer(models / NAMES["v2"], models / NAMES["v2"] / "tokenizer.json")

    def merged(instruct: str, weight: float) -> Weights:
        return combine(base, (1.0, tensors[instruct]), (weight, basque))

    dev = {name: scorer.score(tensors[name], suite, "dev") for name in ("base", "eu", "v2")}
    margins, trials = {}, {}
    for weight in WEIGHTS:
        trials[weight] = scorer.score(merged("v2", weight), suite, "dev")
        margins[weight] = min(value / limit for _, value, limit in _ratios(trials[weight], dev))
        _log.info("dev: w %s %s margin %.2f", weight, summary(trials[weight]), margins[weight])
    eligible = [w for w in WEIGHTS if margins[w] >= 1] or [max(WEIGHTS, key=lambda w: margins[w])]
    chosen = max(eligible, key=lambda w: trials[w]["eu"]["chat"]["strict"])

    candidates = {NAMES[role]: tensors[role] for role in NAMES}
    candidates[f"merged v1, w = {chosen}"] = merged("v1", chosen)
    candidates[f"merged v2, w = {chosen}"] = merged("v2", chosen)
    for weight in (0.75, 0.85, 1.0):
        if weight != chosen:
            candidates[f"merged v2, w = {weight} (for comparison)"] = merged("v2", weight)
    candidates["plain average of v2 and eu (for comparison)"] = combine(base, (0.5, tensors["v2"]), (0.5, basque))
    test = {}
    for name, candidate in candidates.items():
        test[name] = scorer.score(candidate, suite, "test")
        _log.info("test: %s %s", name, summary(test[name]))

    roles = {role: test[name] for role, name in NAMES.items()}
    roles |= {f"merged {v}": test[f"merged {v}, w = {chosen}"] for v in ("v1", "v2")}
    paired = {
        "alone, en + es": mcnemar(_strict(roles["v1"], "en", "es"), _strict(roles["v2"], "en", "es")),
        "alone, eu": mcnemar(_strict(roles["v1"], "eu"), _strict(roles["v2"], "eu")),
        "merged, en + es": mcnemar(_strict(roles["merged v1"], "en", "es"), _strict(roles["merged v2"], "en", "es")),
        "merged, eu": mcnemar(_strict(roles["merged v1"], "eu"), _strict(roles["merged v2"], "eu")),
        "merged, all": mcnemar(_strict(roles["merged v1"], *LANGUAGES), _strict(roles["merged v2"], *LANGUAGES)),
    }
    return {
        "weight": chosen,
        "chosen_on_dev_by": "highest strict eu among the weights that meet the limits of a, b and c on dev",
        "dev": {str(w): {"margin": round(margins[w], 3), **compact(trials[w])} for w in WEIGHTS},
        "test": {name: compact(scores) for name, scores in test.items()},
        "mcnemar_v1_v2": paired,
        "criteria": _criteria(roles, paired),
        "examples": _examples(suite, roles),
    }


def summary(scores: Scores) -> str:
    """One line per model for the log."""
    rows = compact(scores)
    return "  ".join(
        f"{lang} {r['strict']:.3f}/{r['lenient']:.3f}/{r['format']:.2f} mc {r['mc']:.3f} bpb {r['bits_per_byte']:.3f}"
        for lang, r in rows.items()
    )


def compact(scores: Scores) -> dict[str, dict[str, Any]]:
    """Per language: rates with their standard error, and strict by kind of fact."""
    result = {}
    for language in LANGUAGES:
        chat, mc, bpb = (scores[language][task] for task in ("chat", "mc", "bpb"))
        kinds = sorted({row["kind"] for row in chat["rows"]})
        result[language] = {
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


def _ratios(merged: Scores, parents: dict[str, Scores]) -> list[tuple[str, float, float]]:
    """(criterion, value, lower limit) for criteria a, b and the first half of c."""
    v2, basque = parents["v2"], parents["eu"]
    bits = {key: s["eu"]["bpb"]["bits_per_byte"] for key, s in (("m", merged), ("v2", v2), ("eu", basque))}
    mc = {key: s["eu"]["mc"]["acc"] for key, s in (("m", merged), ("v2", v2), ("eu", basque))}
    kept = [
        (f"a: merged v2 strict {lang} / instruct v2's", merged[lang]["chat"]["strict"] / v2[lang]["chat"]["strict"])
        for lang in ("en", "es")
    ]
    return [
        *((name, value, KEEP_CHAT) for name, value in kept),
        ("b: kept gain in eu bits per byte", (bits["v2"] - bits["m"]) / (bits["v2"] - bits["eu"]), KEEP_GAIN),
        ("b: kept gain in eu multiple choice", (mc["m"] - mc["v2"]) / (mc["eu"] - mc["v2"]), KEEP_GAIN),
        ("c: merged v2 strict eu", merged["eu"]["chat"]["strict"], BASQUE_CHAT),
    ]


def _criteria(roles: dict[str, Scores], paired: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {"criterion": name, "value": round(value, 3), "limit": f">= {limit}", "met": value >= limit}
        for name, value, limit in _ratios(roles["merged v2"], roles)
    ]
    for role in ("v2", "eu"):
        value = roles[role]["eu"]["chat"]["strict"]
        row = {"criterion": f"c: {NAMES[role]} strict eu", "value": round(value, 3), "limit": f"<= {PARENT_LIMIT}"}
        rows.append(row | {"met": value <= PARENT_LIMIT})
    for name in ("alone, en + es", "merged, all"):
        test = paired[name]
        met = test["p"] < ALPHA and test["only_second"] > test["only_first"]
        text = f"{test['only_second']} : {test['only_first']}, p = {test['p']:.2g}"
        rows.append({"criterion": f"d: v2 over v1, {name}", "value": text, "limit": f"p < {ALPHA}", "met": met})
    return rows


def _examples(suite: Suite, roles: dict[str, Scores]) -> list[dict[str, str]]:
    """Basque questions that only the merge answers, capitals first: material for a demo."""
    rows = []
    for index, item in enumerate(suite["eu_chat.test"]):
        instruct, basque, merged = (roles[role]["eu"]["chat"]["rows"][index] for role in ("v2", "eu", "merged v2"))
        if merged["strict"] and not instruct["lenient"]:
            rows.append(
                {
                    "question": item["question"],
                    "merged v2": merged["text"],
                    "instruct v2": instruct["text"],
                    "eu base": basque["text"][:80],
                    "merged v1": roles["merged v1"]["eu"]["chat"]["rows"][index]["text"],
                }
            )
    return rows[:40]


def _strict(scores: Scores, *languages: str) -> list[bool]:
    return [row["strict"] for language in languages for row in scores[language]["chat"]["rows"]]


def _rate(values: list[bool]) -> float:
    return sum(values) / len(values)


def _stderr(rate: float, n: int) -> float:
    return math.sqrt(rate * (1 - rate) / n)
