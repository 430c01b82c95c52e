"""Looking at an evaluation before all of it is there: when, with how much error each time, and when to give up.

The items of a benchmark are asked in the order of a seeded permutation, and judged after given shares of them. Each
look spends a part of the 5 % of error that a gate has; the parts are fixed in the gate's file before any item is
asked, and add up to no more than the whole. That is a union bound: it holds for every test, exact ones and those of
clusters among them, where boundaries computed from a normal process would not. What it costs is small: after
``obrien-fleming`` the last look of (.10, .35, 1) keeps .0491 of .05.

    to_pass     the error spent on passing: a false pass publishes a worse model
    to_reject   the error spent on rejecting: a false rejection withholds a good one
    futility    the chance of passing with all items below which the rest is not asked. Not binding: the other two hold
                whether or not it is obeyed, and it can only make a pass rarer.

Sources: O'Brien and Fleming, Biometrics 35, 1979, p. 549; Pocock, Biometrika 64, 1977, p. 191; spending functions: Lan
and DeMets, Biometrika 70, 1983, p. 659; predictive power: Spiegelhalter, Freedman and Blackburn, Controlled Clinical
Trials 7, 1986, p. 8; exact bounds of a share: Clopper and Pearson, Biometrika 26, 1934, p. 404.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from tasks.domain.models import Noun, Score
from tasks.domain.statistics import Difference, Interval, mean_and_stderr
from tasks.domain.statistics_pooled import Pooled

ALPHA = 0.05
"""One-sided error of each check."""
_Z = NormalDist()

Spending = Literal["obrien-fleming", "pocock"] | tuple[float, ...]


def spent(how: Spending, looks: Sequence[float], alpha: float = ALPHA) -> tuple[float, ...]:
    """The error that each look may make, in all at most ``alpha``."""
    if not isinstance(how, str):
        return tuple(how)
    if how == "pocock":
        total = [alpha * math.log(1 + (math.e - 1) * share) for share in looks]
    else:
        total = [2 * (1 - _Z.cdf(_Z.inv_cdf(1 - alpha / 2) / math.sqrt(share))) for share in looks]
    return tuple(now - before for now, before in zip(total, [0.0, *total], strict=False))


class Levels(NamedTuple):
    """How sure a look has to be of what it says."""

    to_pass: float = ALPHA
    to_reject: float = ALPHA
    share: float = 1.0
    """Of the items that are there by then."""
    last_to_pass: float = ALPHA
    """``to_pass`` of the last look."""
    futility: float = 0.0

    @property
    def is_last(self) -> bool:
        """Whether no more items will come."""
        return self.share >= 1


WHOLE = Levels()
"""All items, looked at once."""


class Sequential(Noun):
    """When an evaluation is looked at, and what that spends."""

    looks: tuple[float, ...] = (0.10, 0.35, 1.0)
    """Shares of the items of each benchmark."""
    to_pass: Spending = (0.0, 0.01, 0.04)
    to_reject: Spending = (0.01, 0.01, 0.03)
    futility: float = Field(default=0.01, ge=0, lt=0.5)
    """Chance of passing below which the rest is not asked; 0 never gives up."""

    @property
    def levels(self) -> tuple[Levels, ...]:
        """What each look may say, in order."""
        passing, rejecting = spent(self.to_pass, self.looks), spent(self.to_reject, self.looks)
        return tuple(
            Levels(to_pass, to_reject, share, passing[-1], self.futility)
            for to_pass, to_reject, share in zip(passing, rejecting, self.looks, strict=True)
        )

    @model_validator(mode="after")
    def _adds_up(self) -> "Sequential":
        rising = all(a < b for a, b in pairwise(self.looks))
        if len(self.looks) < 2 or not rising or not 0 < self.looks[0] or self.looks[-1] != 1:
            raise ValueError(f"looks are {self.looks}: give two or more rising shares of which the last is 1")
        for name, how in (("to_pass", self.to_pass), ("to_reject", self.to_reject)):
            if isinstance(how, str):
                continue
            if len(how) != len(self.looks):
                raise ValueError(
                    f"{name} has {len(how)} levels and there are {len(self.looks)} looks; give one for each"
                )
            if min(how) < 0 or how[-1] <= 0 or math.fsum(how) > ALPHA + 1e-9:
                raise ValueError(
                    f"{name} spends {math.fsum(how):g} in {how}: at most {ALPHA:g} in all, none below 0, and some last"
                )
        return self


def items_at(share: float, n: int) -> int:
    """How many of ``n`` items are there after ``share`` of them."""
    return min(n, max(1, math.ceil(share * n - 1e-9)))


def cut_to(theirs: Score, ours: Score) -> Score:
    """``theirs`` on the items that ``ours`` has, where it has more; as it is where it lacks one or stores none."""
    wanted = {item.item_id for item in ours.items}
    kept = tuple(item for item in theirs.items if item.item_id in wanted)
    if not wanted or len(kept) < len(wanted) or len(kept) == len(theirs.items):
        return theirs
    value, stderr = mean_and_stderr(kept)
    return theirs.model_copy(
        update={"items": kept, "n": len(kept), "value": value, "stderr": stderr if math.isfinite(stderr) else 0.0}
    )


def chance_to_pass(difference: Difference | Pooled, limit: float, levels: Levels) -> float:
    """Predictive power: how likely all items show a difference above ``limit``, as far as these say.

    Under a flat prior the last score is normal with mean ``z / sqrt(t)`` and variance ``(1 - t) / t``, ``z`` being the
    score at share ``t``.
    """
    z, t = difference.standard(limit), levels.share
    if t >= 1 or not math.isfinite(z):
        return float(z > 0)
    return _Z.cdf((z - _Z.inv_cdf(1 - levels.last_to_pass) * math.sqrt(t)) / math.sqrt(1 - t))


def exact_share(successes: int, n: int, below: float, above: float) -> Interval:
    """Clopper and Pearson's bounds: the share is under the interval with at most ``below``, over it with ``above``."""
    return Interval(_clopper(successes, n, below), 1 - _clopper(n - successes, n, above))


def _clopper(successes: int, n: int, alpha: float) -> float:
    """The greatest share under which as many successes or more are less likely than ``alpha``."""
    if successes <= 0 or alpha <= 0:
        return 0.0
    low, high = 0.0, successes / n
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(successes, n, middle) <= alpha else (low, middle)
    return low


def _tail(successes: int, n: int, share: float) -> float:
    if share <= 0:
        return 0.0
    log, rest = math.log(share), math.log1p(-share) if share < 1 else -math.inf
    if share >= 1:
        return 1.0
    ways = math.lgamma(n + 1)
    return math.fsum(
        math.exp(ways - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log + (n - k) * rest)
        for k in range(successes, n + 1)
    )


class Stop(Noun):
    """Where a sequential evaluation ended, and what that saved."""

    look: int
    """1 for the first."""
    of: int
    share: float
    requests: tuple[int, ...]
    """HTTP requests of each look that was taken; 0 for one whose scores were on record."""
    planned: int
    """HTTP requests of the candidate's whole evaluation."""
    items: Mapping[str, int] = Field(default_factory=dict)
    """Benchmark to the items that were asked."""

    @property
    def sentence(self) -> str:
        """For people."""
        taken = " + ".join(str(count) for count in self.requests)
        saved = 1 - sum(self.requests) / self.planned if self.planned else 0.0
        ended = "with all items" if self.look == self.of else f"with {self.share:.0%} of the items"
        return (
            f"Decided at look {self.look} of {self.of}, {ended}: {taken} of {self.planned} requests, {saved:.0%} saved"
        )
