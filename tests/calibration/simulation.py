"""What a gate's rule does when it is used 20,000 times: how often it passes a model at the margin, and an equal one.

Items are drawn with replacement from the outcomes of real pairs of models. What is true of the drawn model is set by
tilting: item ``i`` with difference ``d_i`` is drawn with a chance proportional to ``exp(t * d_i)``, and ``t`` is
chosen so that the mean difference is the margin (or 0). So disagreements, gains and text lengths stay those of real
models. The decision is the product's (``tasks.domain.findings.judged``), look by look, asked once about all draws that
say the same; only the drawing and the sums over drawn items are done by numpy, for thousands of evaluations at once,
and a test holds them against ``tasks.domain.statistics``.
"""

import json
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta

from tasks.domain.findings import judged
from tasks.domain.looks import WHOLE, Levels, Sequential, items_at
from tasks.domain.statistics import Difference, kurtosis, skewness
from tasks.domain.statistics_paired import power
from tasks.domain.statistics_power import power_of

OUTCOMES = Path(__file__).parent / "outcomes.json"
Floats = NDArray[np.float64]
Columns = list[NDArray[Any]]
"""Of many evaluations at once: items won and lost where those say it all, else mean, standard error and skewness."""
PASSED, REJECTED, UNDECIDED = 1, 0, -1
AT_ONCE = 5000
"""Evaluations; 300 items of each, as positions and as differences, are 100 MB."""
SEED = 1
COPIED = 0.8
"""Chance that an item of a passage has its first item's outcome."""
RECORD = 300_000
"""Items from which power is stated: so many that what is seen of a shorter record's own noise is none of it."""
ALLOWED = 0.055
"""The 99 % upper bound of the false-pass rate: alpha and .005."""
SLACK = 0.03
"""How much less than stated the measured power may be: the formula's error with 30 clusters is .02."""
DRAWS = 100_000
"""Evaluations of each truth. With 20,000 a rule that passes .0512 at the margin could not be told from .055."""


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
    stated: float
    items: float
    """Share of the items that were asked, on the mean over both truths."""

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.upper <= ALLOWED and self.power >= self.stated - SLACK


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
    passed, asked = 0, 0
    for first in range(0, draws, AT_ONCE):
        more = _played(case, mean, min(AT_ONCE, draws - first), generator)
        passed, asked = passed + more[0], asked + more[1]
    return passed, asked / draws / case.n


def _played(case: Case, mean: float, draws: int, generator: np.random.Generator) -> tuple[int, int]:
    """``simulate`` of as many as fit into memory at once: how many passed, and how many items were asked in all."""
    passed, asked, going = 0, 0, np.arange(draws)
    for look, seen in _looks(case, mean, draws, generator):
        first = items_at(look.share, case.n)
        verdicts = _verdicts(case, [column[going] for column in seen], first, look)
        ended = np.full(len(going), look.is_last) | (verdicts != UNDECIDED)
        passed, asked = passed + int((verdicts[ended] == PASSED).sum()), asked + first * int(ended.sum())
        going = going[~ended]
    return passed, asked


def _looks(case: Case, mean: float, draws: int, generator: np.random.Generator) -> Iterator[tuple[Levels, Columns]]:
    """Each look, and what its items say in each of ``draws`` evaluations."""
    chances = tilted(case.pair, mean)
    levels = case.looks.levels if case.looks else (WHOLE,)
    if case.cluster > 1:
        drawn = _drawn(case, chances, draws, generator)
        for look in levels:
            yield look, by_cluster(case, drawn[:, : items_at(look.share, case.n)])
        return
    # Items that say the same are one kind: what counts is how many of each kind there are.
    rows = np.column_stack([case.pair.deltas, case.pair.weights]).round(9)
    kinds, kind_of = np.unique(rows, axis=0, return_inverse=True)
    shares = np.bincount(kind_of.ravel(), chances, len(kinds))
    counts, before = np.zeros((draws, len(kinds)), dtype=np.int64), 0
    for look in levels:
        first = items_at(look.share, case.n)
        counts = counts + generator.multinomial(first - before, shares / shares.sum(), size=draws)
        before = first
        yield look, by_count(case, kinds, counts)


def _drawn(case: Case, chances: Floats, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    drawn = generator.choice(len(chances), size=(draws, case.n), p=chances)
    firsts = np.repeat(drawn[:, :: case.cluster], case.cluster, axis=1)[:, : case.n]
    return np.where(generator.random(drawn.shape) < COPIED, firsts, drawn)


def by_count(case: Case, kinds: Floats, counts: NDArray[np.int64]) -> Columns:
    """What is known of each evaluation, a row of ``counts``, from how many items of each kind it has."""
    deltas, weights = kinds.T
    if case.pair.binary:
        return [counts @ (deltas > 0.5), counts @ (deltas < -0.5)]
    n, total = counts.sum(axis=1), counts @ weights
    mean = counts @ deltas / total
    residuals = deltas[None, :] - mean[:, None] * weights[None, :]
    return _shape(mean, total, n, *((counts * residuals**power).sum(axis=1) for power in (2, 3)))


def by_cluster(case: Case, drawn: NDArray[np.int64]) -> Columns:
    """What is known of each evaluation, a row of ``drawn`` items of which each ``case.cluster`` share a passage."""
    deltas, weights = case.pair.deltas[drawn], case.pair.weights[drawn]
    total = weights.sum(axis=1)
    mean = deltas.sum(axis=1) / total
    groups = np.add.reduceat(deltas - mean[:, None] * weights, np.arange(0, drawn.shape[1], case.cluster), axis=1)
    count = np.full(len(drawn), groups.shape[1])
    return _shape(mean, total, count, *((groups**power).sum(axis=1) for power in (2, 3)))


def _shape(mean: Floats, total: Floats, units: NDArray[np.int64], squares: Floats, cubes: Floats) -> Columns:
    with np.errstate(divide="ignore", invalid="ignore"):
        stderr = np.where(units > 1, np.sqrt(units / (units - 1.0) * squares) / total, np.inf)
        skew = np.where(squares > 0, cubes / units / (squares / units) ** 1.5 / np.sqrt(units), 0.0)
    return [mean, stderr, skew]


def difference_of(case: Case, row: Sequence[float], n: int) -> Difference:
    """``tasks.domain.statistics`` of one evaluation of ``n`` items, from a row of the columns."""
    if case.pair.binary and case.cluster == 1:
        won, lost = (int(count) for count in row)
        share, apart = (won + lost) / n, (won - lost) / n
        return Difference(apart, math.sqrt(max(share - apart**2, 0.0) / n), n, True, table=(won, lost))
    mean, stderr, skew = (float(value) for value in row)
    return Difference(mean, stderr, n, True, -(-n // case.cluster) if case.cluster > 1 else 0, skew=skew)


def _verdicts(case: Case, columns: Columns, n: int, look: Levels) -> NDArray[np.int64]:
    """The product's word on each evaluation; it is asked once about those that say the same."""
    rows, which = np.unique(np.column_stack(columns).round(12), axis=0, return_inverse=True)
    marks = {True: PASSED, False: REJECTED, None: UNDECIDED}
    said = [marks[judged(difference_of(case, row, n), -case.margin, look)[0]] for row in rows]
    return np.array(said, dtype=np.int64)[which.ravel()]


def stated_power(case: Case, levels: Levels) -> float:
    """The power that ``empelt gate lint`` states from a long record of the models that are judged."""
    chances = tilted(case.pair, case.better)
    if case.pair.binary and case.cluster == 1:
        disagree = float(chances @ (case.pair.deltas != 0))
        return power(case.n, case.margin, disagree, levels.to_pass, case.better)
    drawn = _drawn(case._replace(n=RECORD), chances, 1, np.random.default_rng(0))[0]
    residuals = case.pair.deltas[drawn] - case.better * case.pair.weights[drawn]
    groups = np.add.reduceat(residuals, np.arange(0, RECORD, case.cluster))
    stderr = float(np.sqrt(groups @ groups)) / float(case.pair.weights[drawn].sum())
    clusters = len(groups) if case.cluster > 1 else 0
    shape = {"skew": skewness(groups.tolist()), "kurtosis": kurtosis(groups.tolist())}
    record = Difference(case.better, stderr, RECORD, True, clusters, **shape)
    return power_of(record, case.n, case.margin + case.better, levels.to_pass)


def play(case: Case, draws: int, seed: int = SEED) -> Found:
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
