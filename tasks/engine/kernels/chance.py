"""Random numbers that depend on a key and a place, and on nothing else: no state, so no order of drawing.

The number of element i is a hash of (key, i); the key is a hash of seed, tensor and model. So a mask is the same for
any number of threads, any block size and any order, and one element's mask can be asked for alone. The rounds are
those of the 32-bit integer hash ``triple32`` (Chris Wellons, "Prospecting for Hash Functions", 2018), with the
second half of the key and the upper half of the place added between them.
"""

import hashlib
import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

KEY_BYTES = 8


def key_of(seed: int, tensor: str, model: int) -> np.uint64:
    """The key of one tensor of one model: the first 8 bytes of a sha256.

    Args:
        seed: Of the recipe.
        tensor: Its name.
        model: Place of the model among those that are merged, base excluded, from 0.
    """
    said = hashlib.sha256(f"{seed}\x00{tensor}\x00{model}".encode()).digest()
    return np.uint64(int.from_bytes(said[:KEY_BYTES], "little"))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def uniform(key: np.uint64, place: np.int64) -> np.float32:
    """A multiple of 2^-24 in [0, 1) for the element at this flat place."""
    share: np.float32 = _share(_hashed(np.uint32(place), np.uint32(key), _second(key, place)))
    return share


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def below(share: np.float32) -> np.uint32:
    """What the numbers of `fill_numbers` lie below where those of `uniform` lie below this share: in whole numbers."""
    return np.uint32(math.ceil(min(max(np.float64(share), 0.0), 1.0) * 2.0**24))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def fill_numbers(key: np.uint64, start: np.int64, out: NDArray[np.uint32]) -> None:
    """2^24 times `uniform` of the places start, start + 1, ... as uint32 [n]: comparing needs no float32."""
    first, second = np.uint32(key), _second(key, start)
    if (start >> 32) == ((start + out.shape[0]) >> 32):
        low = np.uint32(start)
        for i in range(out.shape[0]):
            out[i] = _hashed(np.uint32(low + np.uint32(i)), first, second)
    else:
        for i in range(out.shape[0]):
            out[i] = _hashed(np.uint32(start + i), first, _second(key, start + i))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def fill_uniform(key: np.uint64, start: np.int64, out: NDArray[np.float32]) -> None:
    """`uniform` of the places start, start + 1, ... into float32 [n].

    Where all of them have one upper half, which is nearly always, everything is done in 32 bits: twice as fast.
    """
    first, second = np.uint32(key), _second(key, start)
    if (start >> 32) == ((start + out.shape[0]) >> 32):
        low = np.uint32(start)
        for i in range(out.shape[0]):
            out[i] = _share(_hashed(np.uint32(low + np.uint32(i)), first, second))
    else:
        for i in range(out.shape[0]):
            out[i] = uniform(key, start + i)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _second(key: np.uint64, place: np.int64) -> np.uint32:
    """The second half of the key with the upper half of the place."""
    high = np.uint32(np.uint64(place) >> np.uint64(32))
    return np.uint32(np.uint32(key >> np.uint64(32)) ^ np.uint32(high * np.uint32(0x9E3779B9)))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _hashed(low: np.uint32, first: np.uint32, second: np.uint32) -> np.uint32:
    """24 bits."""
    # numba computes in 64 bits where two uint32 meet: every step is cut back to 32.
    h = np.uint32(low ^ first)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h + second)
    h = np.uint32(h * np.uint32(0x846CA68B))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x846CA68B))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return np.uint32(h >> np.uint32(8))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _share(number: np.uint32) -> np.float32:
    # Through a signed integer: there is no vector instruction from unsigned ones to float32 before AVX-512.
    return np.float32(np.int32(number)) * np.float32(2.0**-24)
