"""What is found about one check: whether each of its limits is met, in a sentence with numbers.

Before the last look (``tasks.domain.looks``) what is not decided yet is undecided, and a check that would hardly pass
with all items fails: no floor, no drop and no gain is then shown to be met by a part of them unless that look may say
so.

A limit that cannot be asked on this slice (a gain to keep, where the parents do not differ) is *not gated*: that is no
failure, and no success either.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from tasks.domain.gate import Check, Rule
from tasks.domain.looks import WHOLE, Levels, chance_to_pass, cut_to, exact_share
from tasks.domain.models import Score
from tasks.domain.statistics import (
    Difference,
    is_binary,
    paired_contrast,
    paired_difference,
    unpaired_contrast,
    unpaired_difference,
)
from tasks.domain.statistics_pooled import Pooled

_WORDS: dict[str, dict[bool | None, str]] = {
    "drop": {
        True: "a drop of {} is ruled out",
        False: "more than the allowed drop of {}",
        None: "a drop of {} can be neither shown nor ruled out with these items",
    },
    "gain": {
        True: "more than {} better",
        False: "not more than {} better",
        None: "a gain of more than {} can be neither shown nor ruled out with these items",
    },
}

ENOUGH_GROUPS = 30
"""Clusters, or items at an early look, without which nothing is decided but by exact tests."""
ENOUGH_APART = 3.0
"""Standard errors by which the tuned parent must be better than the instruct parent for a gain to be judged."""


class Finding(NamedTuple):
    """One limit, looked at."""

    ok: bool | None
    """None: undecided."""
    text: str
    gated: bool = True


def compare(check: Check, ours: Score, theirs: Score) -> Difference:
    """How much better ``ours`` is than ``theirs``: positive is better, whatever the metric's direction.

    On the items that both have, where ``theirs`` was asked more of them.
    """
    theirs = cut_to(theirs, ours)
    paired = bool(ours.items) and bool(theirs.items)
    found = paired_difference(ours.items, theirs.items) if paired else unpaired_difference(ours, theirs)
    return found if check.higher_is_better else found.mirrored()


def kept_gain(check: Check, share: float, candidate: Score, instruct: Score, tuned: Score) -> Difference:
    """How far ``candidate`` is above ``instruct + share * (tuned - instruct)``: positive is better."""
    instruct, tuned = cut_to(instruct, candidate), cut_to(tuned, candidate)
    terms = ((1.0, candidate), (share - 1.0, instruct), (-share, tuned))
    if all(score.items for _, score in terms):
        found = paired_contrast([(factor, score.items) for factor, score in terms])
    else:
        found = unpaired_contrast(terms)
    return found if check.higher_is_better else found.mirrored()


def findings(
    check: Check, rule: Rule, score: Score, parents: Mapping[str, Score | None], levels: Levels = WHOLE
) -> list[Finding]:
    """Each limit of ``check``, looked at; ``parents`` by role, None where one is unscored."""
    if not math.isfinite(score.value):
        return [Finding(False, f"the score is {score.value}, which is not a number to judge")]
    found = [*_limits(check, score, levels)]
    asked = [(role, "drop", drop) for role, drop in sorted(check.max_drop.items())]
    for role, what, limit in [*asked, *((role, "gain", gain) for role, gain in sorted(check.min_gain.items()))]:
        theirs = parents.get(check.parent(role, parents))
        if theirs is None:
            found.append(Finding(False, f"parent {role} is unscored, so the {what} against it is unknown"))
            continue
        gain, words = compare(check, score, theirs), _WORDS[what]
        said = f"{score.value:.3f} against {role} {cut_to(theirs, score).value:.3f} ("
        found.append(_against(said, -limit if what == "drop" else limit, rule, gain, words, levels))
    if check.keep_gain is not None:
        found.append(_gain(check, check.keep_gain, rule, score, parents, levels))
    if levels.is_last and score.n < check.min_items and any(f.gated for f in found):
        found.insert(0, Finding(None, f"only {score.n} items were scored, {check.min_items} are needed to decide"))
    if not check.decides:
        return [Finding(True, f"advisory: {f.text}", gated=False) for f in found]
    return found


def _limits(check: Check, score: Score, levels: Levels) -> list[Finding]:
    """Floor and ceiling: with all items the point value decides, before that what bounds at the look's levels say."""
    found = []
    if check.floor is not None:
        ok: bool | None = score.value >= check.floor
        if not levels.is_last:
            low, high = _bounds(score, levels.to_pass, levels.to_reject)
            ok = True if low >= check.floor else False if high < check.floor else None
        said = {True: "at least", False: "below", None: "not yet told from"}[ok]
        found.append(Finding(ok, f"{score.value:.3f} is {said} the floor {check.floor:g}"))
    if check.ceiling is not None:
        ok = score.value <= check.ceiling
        if not levels.is_last:
            low, high = _bounds(score, levels.to_reject, levels.to_pass)
            ok = True if high <= check.ceiling else False if low > check.ceiling else None
        said = {True: "within", False: "above", None: "not yet told from"}[ok]
        found.append(Finding(ok, f"{score.value:.3f} is {said} the ceiling {check.ceiling:g}"))
    return found


def _bounds(score: Score, below: float, above: float) -> tuple[float, float]:
    """Bounds of the true score: it is under the first, or over the second, with at most so much error."""
    if score.items and is_binary(score.items) and not any(item.cluster for item in score.items):
        return exact_share(round(score.value * score.n), score.n, below, above)
    own = Difference(score.value, score.stderr, score.n, paired=False)
    return own.lower(1 - below), own.upper(1 - above)


def _gain(
    check: Check, share: float, rule: Rule, ours: Score, parents: Mapping[str, Score | None], levels: Levels
) -> Finding:
    instruct, tuned = parents.get("instruct"), parents.get(check.parent("tuned", parents))
    if instruct is None or tuned is None:
        missing = "instruct" if instruct is None else "tuned"
        return Finding(False, f"parent {missing} is unscored, so the gain to keep is unknown")
    apart = compare(check, tuned, instruct).in_stderrs
    if abs(apart) < ENOUGH_APART:
        said = f"not gated: the parents differ by {abs(apart):.1f} standard errors, {ENOUGH_APART:g} are needed"
        return Finding(True, said, gated=False)
    if apart < 0:
        said = f"not gated: the tuned parent is worse than the instruct parent by {-apart:.1f} standard errors"
        return Finding(True, said, gated=False)
    margin = kept_gain(check, share, ours, instruct, tuned)
    from_, to = cut_to(instruct, ours).value, cut_to(tuned, ours).value
    kept = f"{(ours.value - from_) / (to - from_):.1%}" if to != from_ else "none"
    said = f"{ours.value:.3f} keeps {kept} of the gain from {from_:.3f} to {to:.3f}"
    if rule == "point":
        ok = margin.mean >= -1e-9
        return Finding(ok, f"{said}, {'at least' if ok else 'less than'} the {share:.0%} asked for")
    said += f" (margin to {share:.0%}: {_told(margin, 0.0, levels)})"
    above, words = judged(margin, 0.0, levels)
    ends: dict[bool | None, str] = {
        True: f"at least the {share:.0%} asked for",
        False: f"less than the {share:.0%} asked for",
    }
    return Finding(above, f"{said}, {words or ends.get(above, _UNCLEAR)}")


_UNCLEAR = "which can be neither shown nor ruled out with these items"


def judged(difference: Difference | Pooled, limit: float, levels: Levels) -> tuple[bool | None, str]:
    """Whether ``difference`` is above ``limit``, and in words why it was given up, if it was."""
    # The spread of a few clusters, or of a few sums of three marks, is hardly known: they decide nothing by a part.
    if (
        difference.table is None
        and difference.degrees + 1 < ENOUGH_GROUPS
        and (difference.clusters or not levels.is_last)
    ):
        return None, ""
    if levels.to_pass > 0 and difference.lower(1 - levels.to_pass, limit) > limit:
        return True, ""
    if levels.to_reject > 0 and difference.upper(1 - levels.to_reject, limit) < limit:
        return False, ""
    chance = chance_to_pass(difference, limit, levels) if not levels.is_last else 1.0
    if chance < levels.futility:
        return False, f"given up: with all items it would pass with a chance of {chance:.2%}"
    return None, ""


def _told(difference: Difference, limit: float, levels: Levels) -> str:
    """``+0.012, 95 % bounds -0.010 to +0.030, paired, n=300``."""
    low, high = difference.lower(1 - levels.to_pass, limit), difference.upper(1 - levels.to_reject, limit)
    sure = sorted({1 - levels.to_pass, 1 - levels.to_reject})
    words = " and ".join(f"{100 * confidence:.4g}" for confidence in sure)
    how = "paired" if difference.paired else "not paired"
    grouped = f" in {difference.clusters} clusters" if difference.clusters else ""
    return f"{difference.mean:+.3f}, {words} % bounds {low:+.3f} to {high:+.3f}, {how}, n={difference.n}{grouped}"


def _against(
    said: str, limit: float, rule: Rule, gain: Difference, words: Mapping[bool | None, str], levels: Levels
) -> Finding:
    """Whether a difference is above ``limit``, in a sentence that begins with ``said``."""
    amount = f"{abs(limit):g}"
    # 1e-9: 0.90 - 0.95 is -0.04999999999999993 in floats, and a limit met exactly is met.
    if rule == "point":
        ok = gain.mean >= limit - 1e-9
        allowed = f"allowed drop of {amount}" if limit <= 0 else f"asked gain of {amount}"
        return Finding(ok, f"{said}{gain.mean:+.3f}), {'within' if ok == (limit <= 0) else 'more than'} the {allowed}")
    above, given_up = judged(gain, limit, levels)
    return Finding(above, f"{said}{_told(gain, limit, levels)}), {given_up or words[above].format(amount)}")
