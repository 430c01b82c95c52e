"""What a gate's rule does when it is used 20,000 times: how often it passes a model at the margin, and an equal one.

Items are drawn with replacement from the outcomes of real pairs of models. What is true of the drawn model is set by
tilting: item ``i`` with difference ``d_i`` is drawn with a chance proportional to ``exp(t * d_i)``, and ``t`` is
chosen so that the mean difference is the margin (or 0). So disagreements, gains and text lengths stay those of real
models. The decision is the product's (``tasks.domain.findings.judged``), look by look; only the sums over drawn items
are done by numpy here, and a test holds them against ``tasks.domain.statistics``.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, norm, t

from tasks.domain.findings import judged
from tasks.domain.looks import WHOLE, Levels, Sequential, items_at
from tasks.domain.statistics import Difference, skewness
from tasks.domain.statistics_paired import power

OUTCOMES = Path(__file__).parent / "outcomes.json"
Floats = NDArray[np.float64]
ALLOWED = 0.055
"""The 99 % upper bound of the false-pass rate: alpha and .005."""
SLACK = 0.03
"""How much less than stated the measured power may be: three standard errors of 2,000 draws at a power of .8."""


class Pair(NamedTuple):
    """Differences of two models on real items."""

    deltas: Floats
    """In the metric's units times the item's weight; above 0 is better."""
    weights: Floats
    binary: bool
    """Whether they are of two models on right/wrong items."""


class Case(NamedTuple):
    """One use of the rule."""

    name: str
    pair: Pair
    n: int
    margin: float
    """The drop that is to be ruled out; 0 for superiority."""
    better: float = 0.0
    """The true difference at which power is measured."""
    cluster: int = 1
    """Items that share a passage, and with it, four times in five, the outcome of its first item."""
    looks: Sequential | None = None


class Found(NamedTuple):
    """What came out."""

    case: Case
    false_pass: float
    upper: float
    """Clopper and Pearson's one-sided 99 % bound of ``false_pass``."""
    power: float
    stated: float | None
    items: float
    """Share of the items that were asked, on the mean over both truths."""

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.upper <= ALLOWED and (self.stated is None or self.power >= self.stated - SLACK)


@cache
def outcomes() -> dict[str, dict[str, Any]]:
    """Model -> benchmark/metric -> right and wrong as a word of 1 and 0, or pairs of bits and bytes."""
    found: dict[str, dict[str, Any]] = json.loads(OUTCOMES.read_text("utf-8"))["models"]
    return found


def values(model: str, score: str) -> tuple[Floats, Floats]:
    """Values and weights of a model's items."""
    stored = outcomes()[model][score]
    if isinstance(stored, str):
        return np.array([float(mark) for mark in stored]), np.ones(len(stored))
    bits, weights = np.array(stored, dtype=float).T
    return bits, weights


def pair_of(score: str, **terms: str | tuple[float, str]) -> Pair:
    """The sum of ``factor * model`` over items: ``ours="v2 x eu", theirs=(-1.0, "instruct-v2")``."""
    parts = [(1.0, one) if isinstance(one, str) else one for one in terms.values()]
    sides = [(factor, *values(model, score)) for factor, model in parts]
    sign = -1.0 if score.endswith("bits_per_byte") else 1.0
    deltas = sign * np.sum([factor * found for factor, found, _ in sides], axis=0)
    plain = [factor for factor, _ in parts] == [1.0, -1.0] and bool(np.all(sides[0][2] == 1))
    return Pair(deltas, sides[0][2], plain)


def tilted(pair: Pair, mean: float) -> Floats:
    """The chance of each item to be drawn, so that the mean difference is ``mean``."""
    gaps = pair.deltas - mean * pair.weights
    scale = float(np.std(gaps)) or 1.0

    def chances(tilt: float) -> Floats:
        raw = tilt * gaps / scale
        weighed = np.exp(raw - raw.max())
        return np.asarray(weighed / weighed.sum())

    if gaps.min() >= 0 or gaps.max() <= 0:
        raise ValueError(f"no items on both sides of {mean:g}: such a model cannot be drawn from these")
    return chances(brentq(lambda tilt: float(chances(tilt) @ gaps), -60.0, 60.0, xtol=1e-12))


def simulate(case: Case, mean: float, draws: int, seed: int) -> tuple[int, float]:
    """How many of ``draws`` evaluations pass if the true difference is ``mean``, and the share of items asked."""
    generator = np.random.default_rng(seed)
    chances = tilted(case.pair, mean)
    levels = case.looks.levels if case.looks else (WHOLE,)
    passed, asked = 0, 0.0
    for _ in range(draws):
        drawn = _drawn(case, chances, generator)
        for look in levels:
            first = items_at(look.share, case.n)
            ok, _ = judged(difference_of(case, drawn[:first]), -case.margin, look)
            if ok is not None or look.is_last:
                passed, asked = passed + (ok is True), asked + first
                break
    return passed, asked / draws / case.n


def _drawn(case: Case, chances: Floats, generator: np.random.Generator) -> NDArray[np.int64]:
    drawn = generator.choice(len(chances), size=case.n, p=chances)
    if case.cluster > 1:
        firsts = np.repeat(drawn[:: case.cluster], case.cluster)[: case.n]
        return np.where(generator.random(case.n) < 0.8, firsts, drawn)
    return np.asarray(drawn)


def difference_of(case: Case, drawn: NDArray[np.int64]) -> Difference:
    """What ``tasks.domain.statistics`` says of these items, in order."""
    deltas, weights, n = case.pair.deltas[drawn], case.pair.weights[drawn], len(drawn)
    total = float(weights.sum())
    mean = float(deltas.sum()) / total
    residuals = deltas - mean * weights
    if case.cluster > 1:
        residuals = np.add.reduceat(residuals, np.arange(0, n, case.cluster))
    groups, is_table = len(residuals), case.pair.binary and case.cluster == 1
    correction = 1.0 if is_table else groups / (groups - 1) if groups > 1 else np.inf
    stderr = float(np.sqrt(correction * float(residuals @ residuals)) / total) if groups > 1 else np.inf
    table = (int((deltas > 0.5).sum()), int((deltas < -0.5).sum())) if is_table else None
    skew = 0.0 if is_table else skewness(residuals.tolist())
    return Difference(mean, stderr, n, True, groups if groups < n else 0, table, skew)


def stated_power(case: Case, levels: Levels) -> float | None:
    """The power that ``empelt gate lint`` states; None for clusters, which it does not know."""
    if case.cluster > 1:
        return None
    chances = tilted(case.pair, case.better)
    if case.pair.binary:
        disagree = float(chances @ (case.pair.deltas != 0))
        return power(case.n, case.margin, disagree, levels.to_pass, case.better)
    residuals = case.pair.deltas - case.better * case.pair.weights
    stderr = float(np.sqrt(chances @ residuals**2 / case.n)) / float(chances @ case.pair.weights)
    wide = t.ppf(1 - levels.to_pass, case.n - 1) * case.n / (case.n - 2)
    return float(norm.cdf((case.margin + case.better) / stderr - wide))


def play(case: Case, draws: int, seed: int = 1) -> Found:
    """One row of the table."""
    wrong, less = simulate(case, -case.margin, draws, seed)
    right, more = simulate(case, case.better, draws, seed + 1)
    last = case.looks.levels[-1] if case.looks else WHOLE
    upper = float(beta.ppf(0.99, wrong + 1, draws - wrong)) if wrong < draws else 1.0
    return Found(case, wrong / draws, upper, right / draws, stated_power(case, last), (less + more) / 2)


def cases() -> Iterator[Case]:
    """The uses of the rule in the shipped gates, and harder ones; each judged at once and in looks."""
    eu, gl = {"ours": "v2 x eu", "theirs": (-1.0, "instruct-v2")}, {"ours": "v2 x gl", "theirs": (-1.0, "instruct-v2")}
    kept_by = {"ours": "v2 x gl", "instruct": (-0.25, "instruct-v2"), "tuned": (-0.75, "gl")}
    most = {"ours": "v2 x eu", "instruct": (-0.15, "instruct-v2"), "tuned": (-0.85, "eu")}
    chat, choice, bits = "es_chat_short/strict", "gl_mc/acc", "eu_bpb/bits_per_byte"
    live = pair_of("eu_chat/strict", ours="v2 x eu", theirs=(-1.0, "v1 x eu"))
    single = (
        Case("answers, 80", pair_of(chat, **eu), 80, 0.145),
        Case("answers of the weaker merge, 80", pair_of(chat, **gl), 80, 0.145),
        Case("answers, 30", pair_of(chat, **gl), 30, 0.145),
        Case("answers, 250, narrow", pair_of(chat, **gl), 250, 0.08),
        Case("two releases, 300", live, 300, 0.10),
        Case("two releases, 1,500", live, 1500, 0.05),
        Case("superiority, 80", pair_of(chat, **gl), 80, 0.0, 0.10),
        Case("superiority, 300", live, 300, 0.0, 0.10),
        Case("kept gain, choices, 300", pair_of(choice, **kept_by), 300, 0.0, 0.05),
        Case("kept gain, choices, 60", pair_of(choice, **kept_by), 60, 0.0, 0.10),
        Case("kept gain, bits per byte, 100", pair_of(bits, **most), 100, 0.0, 0.02),
        Case("kept gain, bits per byte, 50", pair_of(bits, **most), 50, 0.0, 0.02),
        Case("passages of 5, 300", live, 300, 0.15, 0.0, 5),
        Case("passages of 10, 300", live, 300, 0.20, 0.0, 10),
    )
    for case in single:
        yield case
        yield case._replace(name=f"{case.name}, in looks", looks=Sequential())
    yield single[4]._replace(
        name="two releases, 300, in looks of O'Brien and Fleming",
        looks=Sequential(to_pass="obrien-fleming", to_reject="obrien-fleming"),
    )
