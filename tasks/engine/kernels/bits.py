"""The bits of a float32 as an integer and back, without a copy: what vectorises where a ``view`` of an array does not.

And `widened`, by which every kernel reads float32 and bfloat16 alike: a block of bfloat16 is never written out in
float32, which would be twice the bytes through the caches.
"""

from typing import Any

from numba import types
from numba.extending import intrinsic


def _bitcast(result: Any, argument: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], context.get_value_type(result))

    return result(argument), generate


@intrinsic  # type: ignore[untyped-decorator]
def to_float(typing: Any, bits: Any) -> Any:
    """The float32 whose bits these are (uint32)."""
    return _bitcast(types.float32, types.uint32)


@intrinsic  # type: ignore[untyped-decorator]
def to_bits(typing: Any, value: Any) -> Any:
    """The bits of a float32, as uint32."""
    return _bitcast(types.uint32, types.float32)


@intrinsic  # type: ignore[untyped-decorator]
def widened(typing: Any, stored: Any) -> Any:
    """The float32 that a stored number is: itself, or bfloat16 (uint16), which is the upper half of one."""
    if stored not in (types.float32, types.uint16):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if stored == types.float32:
            return values[0]
        word = context.get_value_type(types.uint32)
        upper = builder.shl(builder.zext(values[0], word), word(16))
        return builder.bitcast(upper, context.get_value_type(types.float32))

    return types.float32(stored), generate
