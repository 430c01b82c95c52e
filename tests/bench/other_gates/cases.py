"""The same stored results for every gate: marks of the demo family's models, and what is to be asked of a candidate.

Marks are of ``tests/calibration/outcomes.json``; what a case changes in them is written beside it. The instruct parent
is what all gates compare with, since that is the one baseline that each of them can have.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

OUTCOMES = Path(__file__).parents[2] / "calibration/outcomes.json"
SCORES = {"eu_chat": "strict", "en_chat_short": "strict", "es_chat_short": "strict", "eu_mc": "acc"}
MARGIN = 0.145
LIMITS: tuple[dict[str, Any], ...] = (
    {"benchmark": "eu_chat", "metric": "strict", "floor": 0.35, "min_items": 300},
    {"benchmark": "en_chat_short", "metric": "strict", "floor": 0.7, "max_drop": MARGIN, "min_items": 80},
    {"benchmark": "es_chat_short", "metric": "strict", "floor": 0.7, "max_drop": MARGIN, "min_items": 80},
    {"benchmark": "eu_mc", "metric": "acc", "keep_gain": 0.75, "min_items": 300},
)
"""The right/wrong checks of the demo's gate for Basque; ``max_drop`` against the instruct parent."""

Marks = dict[str, list[float]]


class Case(NamedTuple):
    """One candidate, judged."""

    name: str
    candidate: Marks
    wanted: tuple[str, ...]
    """What a gate that knows its own uncertainty may say."""
    limits: tuple[dict[str, Any], ...] = LIMITS
    look: int | None = None
    """Of the sequential gate; None for a gate that looks once."""

    def given(self) -> dict[str, Any]:
        """What an adapter gets, as JSON: parents cut to the items that the candidate was asked."""
        sides = {"baseline": marks_of("instruct-v2"), "tuned": marks_of("eu")}
        asked = {name: len(marks) for name, marks in self.candidate.items()}
        cut = {side: {name: of[: asked.get(name)] for name, of in model.items()} for side, model in sides.items()}
        return {**self._asdict(), **cut}


def marks_of(model: str) -> Marks:
    """Benchmark to 1 for right and 0 for wrong, of what is stored of a model."""
    stored = json.loads(OUTCOMES.read_text("utf-8"))["models"][model]
    found = {name: stored.get(f"{name}/{metric}") for name, metric in SCORES.items()}
    return {name: [float(mark) for mark in word] for name, word in found.items() if word is not None}


def spoiled(marks: list[float], baseline: list[float], drop: float) -> list[float]:
    """``marks`` with right answers made wrong, every third of them first, until they are ``drop`` below ``baseline``."""
    out, most = list(marks), round(sum(baseline) - drop * len(baseline))
    right = [k for k, mark in enumerate(marks) if mark]
    for k in [*right[::3], *right[1::3], *right[2::3]]:
        if sum(out) <= most:
            break
        out[k] = 0.0
    return out


def cases() -> list[Case]:
    """All of them."""
    good, instruct, tuned = marks_of("v2 x eu"), marks_of("instruct-v2"), marks_of("eu")
    es = "es_chat_short"
    worse = {**good, es: spoiled(good[es], instruct[es], 2 * MARGIN)}
    few = {name: spoiled(good[name][:30], instruct[name][:30], 0.1) for name in ("en_chat_short", es)}
    few = {**{name: marks[:30] for name, marks in good.items()}, **few}
    gone = {name: marks for name, marks in good.items() if name != es}
    always_first = {**{name: [0.0] * len(marks) for name, marks in good.items()}, "eu_mc": first_is_right()}
    return [
        Case("good candidate", good, ("passed",)),
        Case("worse by twice the margin", worse, ("rejected",)),
        Case("worse by .1, 30 items", few, ("undecided",)),
        Case("a benchmark is missing", gone, ("rejected", "undecided", "error")),
        Case("one NaN among the marks", {**good, es: [math.nan, *good[es][1:]]}, ("rejected", "undecided", "error")),
        Case("no benchmark is gated", good, ("error", "undecided"), limits=()),
        Case("always the same answer", always_first, ("rejected", "error")),
        Case("the instruct parent itself", instruct, ("rejected",)),
        Case("the tuned base itself", tuned, ("rejected", "undecided", "error")),
        Case("good, 10 % of the items", part(good, 0.10), ("undecided",), look=1),
        Case("good, 35 % of the items", part(good, 0.35), ("undecided", "passed"), look=2),
        Case("twice the margin, 35 %", part(worse, 0.35), ("rejected", "undecided"), look=2),
    ]


def part(marks: Marks, share: float) -> Marks:
    """The first ``share`` of each benchmark's items, as they are in the order of the seeded permutation."""
    return {name: of[: max(1, math.ceil(share * len(of)))] for name, of in marks.items()}


def first_is_right() -> list[float]:
    """Marks of a model that always takes the first choice, on the items of ``eu_mc``."""
    from tasks.harness.suite import load

    rows = load("eu_mc", items=300, choices=3)["test"]
    return [float(row["answer"] == 0) for row in rows]
