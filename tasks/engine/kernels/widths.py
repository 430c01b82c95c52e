"""Between the types that weights are stored in and float32, in which everything is computed.

bfloat16 is the upper half of a float32, so widening is a shift and exact; narrowing is the only rounding of a merge, to
the nearest, ties to even.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from .bits import to_bits, to_float

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITE = np.uint32(0x7F800000)
_ROUNDED_UP = np.uint32(0x7F7F8000)
"""The smallest magnitude that is no number any more once it is rounded to bfloat16."""
_INFINITE_BF16 = np.uint16(0xFF00)
"""Of bfloat16 without its sign, one place to the left."""
_SIXTEEN, _ONE, _HALF = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)

# Whether all are finite is asked of the largest magnitude. It is cut back to its type at every step: numba would go on
# in 64 bits, where half as many fit into a register (0.34 ns an element for narrowing, and 0.10 so; 0.083 and 0.012
# for looking).


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def widen_bf16(stored: NDArray[np.uint16], out: NDArray[np.float32]) -> bool:
    """bfloat16 as uint16 [n] to float32 [n]; returns whether all are finite."""
    top = np.uint32(0)
    for i in range(stored.shape[0]):
        bits = np.uint32(np.uint32(stored[i]) << _SIXTEEN)
        top = np.uint32(max(top, np.uint32(bits & _MAGNITUDE)))
        out[i] = to_float(bits)
    return bool(top < _INFINITE)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def narrow_bf16(values: NDArray[np.float32], out: NDArray[np.uint16]) -> bool:
    """float32 [n] to bfloat16 as uint16 [n], to the nearest, ties to even; returns whether all results are finite."""
    top = np.uint32(0)
    for i in range(values.shape[0]):
        bits = to_bits(values[i])
        top = np.uint32(max(top, np.uint32(bits & _MAGNITUDE)))
        out[i] = np.uint16(np.uint32(bits + _HALF + ((bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)
    return bool(top < _ROUNDED_UP)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def is_finite(values: NDArray[np.float32]) -> bool:
    """Whether float32 [n] has neither NaN nor Inf."""
    top = np.uint32(0)
    for i in range(values.shape[0]):
        top = np.uint32(max(top, np.uint32(to_bits(values[i]) & _MAGNITUDE)))
    return bool(top < _INFINITE)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def is_finite_bf16(stored: NDArray[np.uint16]) -> bool:
    """Whether bfloat16 as uint16 [n] has neither NaN nor Inf."""
    top = np.uint16(0)
    for i in range(stored.shape[0]):
        top = np.uint16(max(top, np.uint16(stored[i] << _ONE)))
    return bool(top < _INFINITE_BF16)


def put(values: NDArray[np.float32], out: NDArray[Any]) -> bool:
    """float32 [n] into float32 or bfloat16 as uint16 [n]; returns whether all results are finite. For kernels."""
    raise NotImplementedError("kernels call it; elsewhere use narrow_bf16, or a copy")


@overload(put)
def _put(values, out):  # type: ignore[no-untyped-def]  # numba compares the annotations with those of a lambda
    if out.dtype == types.uint16:
        return lambda values, out: narrow_bf16(values, out)
    return lambda values, out: _copy(values, out)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _copy(values: NDArray[np.float32], out: NDArray[np.float32]) -> bool:
    out[:] = values
    return bool(is_finite(out))


def load() -> None:
    """Have numba ready, which its first kernel takes half a second for: at the start, and not in the middle of work."""
    is_finite_bf16(np.zeros(1, np.uint16))
