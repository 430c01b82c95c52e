"""The bits of a float32 as an integer and back, without a copy: what vectorises where a ``view`` of an array does
not.
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
