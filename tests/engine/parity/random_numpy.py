"""The random masks of the engine, written a second time: in numpy, to feed mergekit and to check the kernels.

A number depends on (seed, tensor name, index of the model, place of the element) and on nothing else, so neither threads
nor the order of tensors change a mask.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_LOW = np.uint64(0xFFFFFFFF)
_MIX = ((16, 0x7FEB352D), (15, 0x846CA68B))  # the two rounds of lowbias32 (Ellis, "hash-prospector", 2018)


def key_of(seed: int, tensor: str, model_index: int) -> int:
    """The 64-bit key of one tensor of one model.

    Args:
        seed: of the recipe.
        tensor: its name in the checkpoint.
        model_index: place of the model among the non-base models, in the order of the recipe, from 0.
    """
    digest = hashlib.sha256(f"{seed}\x00{tensor}\x00{model_index}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def uniform(seed: int, tensor: str, model_index: int, size: int, start: int = 0) -> NDArray[np.float32]:
    """One number in [0, 1) for each flat place of a tensor, from `start` on: float32, multiples of 2**-24."""
    key = np.uint64(key_of(seed, tensor, model_index))
    place = np.arange(size, dtype=np.uint64) + np.uint64(start)
    low, high = (place & _LOW).astype(np.uint32), (place >> np.uint64(32)).astype(np.uint32)
    mixed = low ^ np.uint32(key & _LOW)
    (first, first_factor), (second, second_factor) = _MIX
    mixed ^= mixed >> np.uint32(first)
    mixed *= np.uint32(first_factor)
    mixed ^= mixed >> np.uint32(second)
    mixed += np.uint32(key >> np.uint64(32)) ^ (high * np.uint32(0x9E3779B9))
    mixed *= np.uint32(second_factor)
    mixed ^= mixed >> np.uint32(first)
    mixed *= np.uint32(first_factor)
    mixed ^= mixed >> np.uint32(second)
    mixed *= np.uint32(second_factor)
    mixed ^= mixed >> np.uint32(first)
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def kept(
    seed: int, tensor: str, model_index: int, probabilities: NDArray[np.float32] | np.float32, size: int
) -> NDArray[np.bool_]:
    """Which flat elements stay: those whose number is below their probability, both as float32."""
    return uniform(seed, tensor, model_index, size) < np.asarray(probabilities, dtype=np.float32)
