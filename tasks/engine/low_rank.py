"""The nearest matrix of a given rank: a truncated singular value decomposition, as two factors.

The best approximation of a matrix in the Frobenius norm keeps its largest singular values (Eckart and Young, 1936).
Matrices whose shorter side is at most `EXACT_SIDE` are decomposed exactly (LAPACK, float64); larger ones by a seeded
random projection with power iterations (Halko, Martinsson and Tropp, SIAM Review 2011, arXiv 0909.4061, algorithms 4.4
and 5.1). What is discarded is known exactly in both cases, since the result is a projection of the matrix itself; a
random projection may discard more than the best one would.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]

EXACT_SIDE = 1024
"""Up to this shorter side LAPACK takes seconds; the cost grows with its square."""
OVERSAMPLING = 16
"""Columns beyond the rank. Halko et al. ask for 5 to 10."""
POWER_ITERATIONS = 4
"""Deltas of training have slowly falling singular values; the test measures what is lost against the exact one."""


class Factors(NamedTuple):
    """``up @ down`` is the approximation. Both have the square roots of the singular values, so neither is tiny."""

    up: NDArray[np.float64]
    """[rows, rank]; columns beyond the matrix' own rank are 0."""
    down: NDArray[np.float64]
    """[rank, columns]."""
    singular: NDArray[np.float64]
    """The singular values kept, falling, at most ``rank``."""
    energy: float
    """Sum of squares of all elements of the matrix: of all its singular values."""
    exact: bool
    """False: from the random projection."""

    @property
    def kept(self) -> float | None:
        """Share of the energy in the factors, 0 to 1; None for a matrix of zeros."""
        if not self.energy:
            return None
        return min(1.0, float(np.sum(np.square(self.singular)) / self.energy))


def factorize(matrix: Matrix, rank: int, *, seed: int = 0, exact_side: int = EXACT_SIDE) -> Factors:
    """Two factors of the nearest matrix of this rank.

    The same matrix, rank, seed and number of BLAS threads give the same bits on one machine. Signs are fixed: of each
    column of ``up``, the element that is largest by magnitude, the first of equals, is positive.

    Args:
        matrix: [rows, columns], finite.
        rank: 1 or more. Beyond the shorter side there is nothing to keep, and the factors are filled up with zeros.
        seed: Of the random projection.
        exact_side: Matrices whose shorter side is longer than this go by the random projection.
    """
    energy = float(np.sum(np.square(matrix, dtype=np.float64)))
    count = min(rank, *matrix.shape)
    exact = min(matrix.shape) <= exact_side or count + OVERSAMPLING >= min(matrix.shape)
    left, singular, right = _exact(matrix) if exact else _projected(matrix, count, seed)
    left, singular, right = left[:, :count], singular[:count], right[:count]
    largest = np.argmax(np.abs(left), axis=0)
    signs = np.where(left[largest, np.arange(count)] < 0, -1.0, 1.0)
    roots = np.sqrt(singular)
    up, down = np.zeros((matrix.shape[0], rank)), np.zeros((rank, matrix.shape[1]))
    up[:, :count] = left * (signs * roots)
    down[:count] = right * (signs * roots)[:, None]
    return Factors(up, down, singular, energy, exact)


def _exact(matrix: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    left, singular, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return left, singular, right


def _projected(
    matrix: Matrix, count: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The matrix between an orthonormal basis of its dominant columns; the products with it stay in its own type."""
    drawn = np.random.Generator(np.random.PCG64(seed))
    start = drawn.standard_normal((matrix.shape[1], count + OVERSAMPLING)).astype(matrix.dtype)
    basis = np.linalg.qr(matrix @ start).Q
    for _ in range(POWER_ITERATIONS):
        across = np.linalg.qr(matrix.T @ basis).Q
        basis = np.linalg.qr(matrix @ across).Q
    left, singular, right = np.linalg.svd((basis.T @ matrix).astype(np.float64), full_matrices=False)
    return basis.astype(np.float64) @ left, singular, right
