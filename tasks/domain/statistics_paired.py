"""Two models on the same right/wrong items: which differences their disagreements rule out, and which they could.

``won`` items only the first model has right, ``lost`` items only the second, of ``n``: the difference of the shares is
``d = (won - lost) / n``. The statistic against a difference ``limit`` is Tango's score (Statistics in Medicine 17,
1998, p. 891): ``(won - lost - n * limit) / sqrt(n * v)``, with the variance ``v`` as it would be if the difference were
``limit``. It stays right where few items disagree, or none: 300 equal answers rule out a drop of .0090 and not, as
a normal interval of width 0 would have it, any drop at all.

Below ``EXACT_BELOW`` items its critical value is exact and unconditional (Hsueh, Liu and Chen, Biometrics 57, 2001,
p. 478): the smallest one that every chance of disagreement keeps at the stated level, over all tables of ``n`` items.
Conditioning on the disagreements (McNemar's exact test) serves no limit but 0, and loses power there.

Power is stated for two equally good models that disagree on a share of items (Nam, Biometrics 53, 1997, p. 1422).
Standard library only, since the domain imports nothing heavy; tests hold it against scipy.
"""

import math
from functools import lru_cache
from statistics import NormalDist

EXACT_BELOW = 300
"""Items from which on the score's normal distribution is used; Bowyer 2025 (arXiv 2503.01747) names a few hundred."""
_NUISANCE_POINTS = (40, 6000)
"""Chances of disagreement that are tried: the first, and the second by the number of items if that is more."""
_BETWEEN_POINTS = 0.995
"""Share of alpha asked for at those points: between two of them it may be a little greater."""
_NEGLIGIBLE = 40.0
"""Natural logarithm below the most likely table from which on tables are left out: 45,000 of them are 2e-13."""


def score(won: float, lost: float, n: int, limit: float = 0.0) -> float:
    """Tango's statistic of ``(won - lost) / n`` against ``limit``; large where the difference is above it."""
    if limit > 0:  # seen from the other model, so that the difference asked about is never above 0
        return -score(lost, won, n, -limit)
    margin = -limit
    least = least_share(won, lost, n, margin)
    variance = n * (2 * least + margin * (1 - margin))
    return 0.0 if variance <= 0 else (won - lost + n * margin) / math.sqrt(variance)


def least_share(won: float, lost: float, n: int, margin: float) -> float:
    """The likeliest share that only the first model has right, if the second's is greater by ``margin``."""
    b = (won + lost) * (1 - margin) - 2 * margin * (n - lost)
    return max(0.0, (b + math.sqrt(b * b + 8 * n * won * margin * (1 - margin))) / (4 * n))


def critical(n: int, limit: float, alpha: float) -> float:
    """The score from which on a difference of at most ``limit`` is refused with at most ``alpha`` of error.

    ``inf`` where no table of ``n`` items can do that, as with ``alpha`` 0.
    """
    if not 0 <= alpha < 0.5 or not -1 < limit < 1 or n < 1:
        raise ValueError(
            f"n {n}, limit {limit:g} and alpha {alpha:g}: expected n >= 1, -1 < limit < 1, 0 <= alpha < .5"
        )
    if alpha == 0:
        return math.inf
    return _exact_critical(n, round(limit, 6), round(alpha, 9)) if n < EXACT_BELOW else NormalDist().inv_cdf(1 - alpha)


@lru_cache(maxsize=4096)
def _exact_critical(n: int, limit: float, alpha: float) -> float:
    # Only tables that could be refused: those above the limit, best first. n = 299 takes half a second, 80 a thirtieth.
    tables = sorted(
        (
            (score(won, lost, n, limit), _ways(n, won, lost), won, lost)
            for won in range(n + 1)
            for lost in range(n - won + 1)
            if won - lost > n * limit
        ),
        reverse=True,
    )
    margin, worst, alpha = abs(limit), -math.inf, alpha * _BETWEEN_POINTS
    points = max(_NUISANCE_POINTS[0], _NUISANCE_POINTS[1] // n)
    for point in range(points + 1):
        least = (1 - margin) / 2 * math.sin(math.pi / 2 * point / points) ** 2
        won_share, lost_share = (least + margin, least) if limit > 0 else (least, least + margin)
        worst = max(worst, _critical_at(tables, n, won_share, lost_share, alpha))
    return worst


def _ways(n: int, won: int, lost: int) -> float:
    """Natural logarithm of the number of ways to get a table."""
    return math.lgamma(n + 1) - math.lgamma(won + 1) - math.lgamma(lost + 1) - math.lgamma(n - won - lost + 1)


def _log(share: float) -> float:
    return math.log(share) if share > 1e-300 else -1e9  # times a count of 0 it is 0, times any other it is negligible


def _critical_at(
    tables: list[tuple[float, float, int, int]], n: int, won_share: float, lost_share: float, alpha: float
) -> float:
    """The smallest score of ``tables``, best first, whose tail is at most ``alpha`` under one pair of shares."""
    same = _log(1 - won_share - lost_share)
    log_won, log_lost, always = _log(won_share) - same, _log(lost_share) - same, n * same
    tail, level, above = 0.0, math.inf, math.inf
    for value, ways, won, lost in tables:
        if value < level - 1e-12:
            level, above = value, level
        likelihood = ways + won * log_won + lost * log_lost + always
        if likelihood > -_NEGLIGIBLE:
            tail += math.exp(likelihood)
            if tail > alpha:
                return above
    return level


def bound(won: float, lost: float, n: int, threshold: float) -> float:
    """The greatest difference that is refused: the lower bound of ``d`` whose score is ``threshold``; -1 at least."""
    low, high = -1.0 + 1e-9, 1.0 - 1e-9
    if math.isinf(threshold) or score(won, lost, n, low) < threshold:
        return -1.0
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (middle, high) if score(won, lost, n, middle) >= threshold else (low, middle)
    return low


def power(n: int, margin: float, discordance: float, alpha: float = 0.05, gain: float = 0.0) -> float:
    """The chance that ``n`` items rule out a drop of ``margin``, the true difference being ``gain``.

    Below ``EXACT_BELOW`` items the sum over all tables, from there on normal. ``discordance`` is the share of items on
    which the models disagree, never less than ``gain``.
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"n {n} and discordance {discordance:g}: expected n >= 1 and a share")
    discordance = max(discordance, abs(gain))
    threshold = critical(n, -margin, alpha)
    won_share = (discordance + gain) / 2
    if n < EXACT_BELOW:
        return _exact_power(n, -margin, threshold, won_share, discordance - won_share)
    # The score's own variance at the limit, with the shares that this truth would be taken for there.
    least = least_share(n * won_share, n * (discordance - won_share), n, margin)
    at_limit = math.sqrt((2 * least + margin * (1 - margin)) / n)
    spread = math.sqrt(max(discordance - gain * gain, 1e-12) / n)
    return NormalDist().cdf((gain + margin - threshold * at_limit) / spread)


def _exact_power(n: int, limit: float, threshold: float, won_share: float, lost_share: float) -> float:
    same = _log(1 - won_share - lost_share)
    log_won, log_lost, always, total = _log(won_share) - same, _log(lost_share) - same, n * same, 0.0
    for won in range(n + 1):
        for lost in range(n - won + 1):
            likelihood = _ways(n, won, lost) + won * log_won + lost * log_lost + always
            if likelihood > -_NEGLIGIBLE and score(won, lost, n, limit) >= threshold:
                total += math.exp(likelihood)
    return min(1.0, total)


def detectable(n: int, discordance: float, alpha: float = 0.05, chance: float = 0.8) -> float:
    """The minimum detectable effect: the smallest drop that ``n`` items rule out with ``chance`` for equal models.

    To .001, from above; 1.0 where none is. Sought from the normal value on, since each step costs an exact test.
    """
    quantiles = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(chance)
    step = max(1, math.floor(1000 * quantiles * math.sqrt(max(discordance, 1 / n) / n)))
    enough = _rules_out(n, step, discordance, alpha, chance)
    while enough and step > 1 and _rules_out(n, step - 1, discordance, alpha, chance):
        step -= 1
    while not enough and step < 999:
        step += 1
        enough = _rules_out(n, step, discordance, alpha, chance)
    return step / 1000 if enough else 1.0


def _rules_out(n: int, thousandths: int, discordance: float, alpha: float, chance: float) -> bool:
    return power(n, thousandths / 1000, discordance, alpha) >= chance


def items_needed(margin: float, discordance: float, alpha: float = 0.05, chance: float = 0.8) -> int:
    """How many items rule out a drop of ``margin`` with ``chance`` if the models are equally good, in fifties."""
    if margin <= 0:
        raise ValueError(f"margin {margin:g}: equal models cannot be shown to differ by nothing")
    low, high = 1, 20_000
    while low < high:
        middle = (low + high) // 2
        found = power(50 * middle, margin, discordance, alpha) >= chance
        low, high = (low, middle) if found else (middle + 1, high)
    return 50 * low
