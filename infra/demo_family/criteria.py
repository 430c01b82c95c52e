"""What a merge of the demo family has to reach to be honest and useful, as rows of value and limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.demo_family.recipe import Target

KEEP_CHAT, KEEP_GAIN, LANGUAGE_CHAT, PARENT_LIMIT, ALPHA = 0.85, 0.75, 0.35, 0.05, 0.01
STANDARD_ERRORS = 3  # parents that differ by less are not compared: there is no gain to keep

Scores = dict[str, Any]  # set -> task -> outcome, of one model


@dataclass(frozen=True)
class Ratio:
    """One lower limit; `differs` is False where the parents are too near for it to mean anything."""

    name: str
    value: float
    limit: float
    differs: bool = True


def ratios(target: Target, merged: Scores, parents: Mapping[str, Scores]) -> list[Ratio]:
    """Criteria a and b, and the first half of c."""
    v2 = parents["v2"]
    found = [
        Ratio(
            f"a: merged v2 strict {lang} / instruct v2's",
            merged[lang]["chat"]["strict"] / v2[lang]["chat"]["strict"],
            KEEP_CHAT,
        )
        for lang in ("en", "es")
    ]
    for name in target.sets:
        tuned = parents[name.split("_")[0]]
        found += [_bits(name, merged[name], v2[name], tuned[name]), _choices(name, merged[name], v2[name], tuned[name])]
        found.append(Ratio(f"c: merged v2 strict {name}", merged[name]["chat"]["strict"], LANGUAGE_CHAT))
    return found


def rows(
    target: Target, names: Mapping[str, str], roles: Mapping[str, Scores], paired: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every criterion as {criterion, value, limit, met}; `met` is None where the parents do not differ."""
    result = [
        {
            "criterion": ratio.name,
            "value": round(ratio.value, 3),
            "limit": f">= {ratio.limit}",
            "met": ratio.value >= ratio.limit if ratio.differs else None,
        }
        for ratio in ratios(target, roles["merged v2"], roles)
    ]
    for name in target.sets:
        for role in ("v2", name.split("_")[0]):
            value = roles[role][name]["chat"]["strict"]
            row = {"criterion": f"c: {names[role]} strict {name}", "value": round(value, 3)}
            result.append(row | {"limit": f"<= {PARENT_LIMIT}", "met": value <= PARENT_LIMIT})
    for name in ("alone, en + es", "merged, all"):
        test = paired[name]
        met = test["p"] < ALPHA and test["only_second"] > test["only_first"]
        text = f"{test['only_second']} : {test['only_first']}, p = {test['p']:.2g}"
        result.append({"criterion": f"d: v2 over v1, {name}", "value": text, "limit": f"p < {ALPHA}", "met": met})
    return result


def _bits(name: str, merged: Scores, v2: Scores, tuned: Scores) -> Ratio:
    """Share of the tuned base's gain in bits per byte that the merge keeps."""
    bits = [scores["bpb"]["bits_per_byte"] for scores in (merged, v2, tuned)]
    sizes = v2["bpb"]["bytes"]
    gains = [a - b for a, b in zip(v2["bpb"]["bits"], tuned["bpb"]["bits"], strict=True)]
    rate = sum(gains) / sum(sizes)
    residual = sum((gain - rate * size) ** 2 for gain, size in zip(gains, sizes, strict=True))
    error = math.sqrt(residual * len(sizes) / (len(sizes) - 1)) / sum(sizes)
    value = _share(bits[1] - bits[0], bits[1] - bits[2])
    return Ratio(f"b: kept gain in {name} bits per byte", value, KEEP_GAIN, rate >= STANDARD_ERRORS * error)


def _choices(name: str, merged: Scores, v2: Scores, tuned: Scores) -> Ratio:
    """Share of the tuned base's gain in multiple choice that the merge keeps."""
    gains = [int(b) - int(a) for a, b in zip(v2["mc"]["correct"], tuned["mc"]["correct"], strict=True)]
    rate = sum(gains) / len(gains)
    error = math.sqrt(sum((gain - rate) ** 2 for gain in gains) / (len(gains) * (len(gains) - 1)))
    value = _share(merged["mc"]["acc"] - v2["mc"]["acc"], tuned["mc"]["acc"] - v2["mc"]["acc"])
    return Ratio(f"b: kept gain in {name} multiple choice", value, KEEP_GAIN, rate >= STANDARD_ERRORS * error)


def _share(kept: float, gain: float) -> float:
    return kept / gain if gain else 0.0
