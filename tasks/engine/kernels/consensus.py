"""From the masked deltas of several models to one: their sum, or the sum of those that agree with the majority's
sign.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_TILE = 2048
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_NOTHING = np.float32(1e-8)
"""A sum of weights below this divides by 1 instead."""


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_all(
    base: NDArray[np.float32],
    deltas: NDArray[np.float32],
    weights: NDArray[np.float32],
    factor: np.float32,
    out: NDArray[np.float32],
) -> None:
    """``out = base + factor * sum_k weights[k] * deltas[k]``.

    The sum is kept with a minus sign and taken from the base, which gives the same number: -0.0 - 0.0 is -0.0, while
    -0.0 + 0.0 is not, and where there is no delta the base stays bit for bit.

    Args:
        base: [n].
        deltas: [models, n].
        weights: [models].
        factor: lambda, divided by the sum of the weights where the merge is normalised.
        out: [n].
    """
    n = base.shape[0]
    total = np.empty(_TILE, np.float32)
    for start in range(0, n, _TILE):
        stop = min(start + _TILE, n)
        for i in range(stop - start):
            total[i] = _ZERO
        for k in range(deltas.shape[0]):
            delta, weight = deltas[k, start:stop], weights[k]
            for i in range(stop - start):
                total[i] -= weight * delta[i]
        _add(base[start:stop], total, factor, out[start:stop])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_agreeing(
    base: NDArray[np.float32],
    deltas: NDArray[np.float32],
    weights: NDArray[np.float32],
    factor: np.float32,
    normalize: bool,
    out: NDArray[np.float32],
) -> None:
    """``out = base + factor * sum of the weighted deltas that agree / sum of their weights`` (TIES, section 3).

    The elected sign of an element is that of the sum of its weighted deltas, plus where that is 0. A delta of 0 agrees
    with nobody, so that trimmed elements do not dilute the mean. (Yadav et al., NeurIPS 2023, arXiv 2306.01708.)

    Args:
        base: [n].
        deltas: [models, n], trimmed.
        weights: [models].
        factor: lambda.
        normalize: Divide by the weights of those that agree; else do not divide.
        out: [n].
    """
    n, models = base.shape[0], deltas.shape[0]
    weighted = np.empty((models, _TILE), np.float32)
    elected = np.empty(_TILE, np.float32)
    total = np.empty(_TILE, np.float32)
    divisor = np.empty(_TILE, np.float32)
    for start in range(0, n, _TILE):
        stop = min(start + _TILE, n)
        length = stop - start
        for i in range(length):
            elected[i] = _ZERO
            total[i] = _ZERO
            divisor[i] = _ZERO
        for k in range(models):
            delta, row, weight = deltas[k, start:stop], weighted[k], weights[k]
            for i in range(length):
                row[i] = weight * delta[i]
                elected[i] += row[i]
        for k in range(models):
            row, weight = weighted[k], weights[k]
            for i in range(length):
                agrees = ((row[i] > _ZERO) & (elected[i] >= _ZERO)) | ((row[i] < _ZERO) & (elected[i] < _ZERO))
                total[i] -= row[i] if agrees else _ZERO
                divisor[i] += weight if agrees else _ZERO
        if normalize:
            for i in range(length):
                total[i] /= divisor[i] if abs(divisor[i]) >= _NOTHING else _ONE
        _add(base[start:stop], total, factor, out[start:stop])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add(base: NDArray[np.float32], total: NDArray[np.float32], factor: np.float32, out: NDArray[np.float32]) -> None:
    """``out = base - factor * total``, so that a total of 0 leaves even -0.0 as it is, whatever the factor's sign."""
    if factor >= _ZERO:
        for i in range(base.shape[0]):
            out[i] = base[i] - factor * total[i]
    else:
        for i in range(base.shape[0]):
            out[i] = base[i] - abs(factor) * (_ZERO - total[i])
