"""Headers are believed only where they describe the file exactly. Attacks on the format are refused by name."""

import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.errors import ModelRefused
from tasks.sources.headers import MAX_HEADER_BYTES, Tensor, header_length, parse_header

A = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}


def parse(entries: dict[str, Any] | bytes, data_bytes: int = 12) -> dict[str, Tensor]:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return parse_header(raw, 8 + len(raw) + data_bytes, "m.safetensors", "m.safetensors of lab/m").tensors


def test_a_sound_header_tells_dtypes_and_shapes() -> None:
    b = {"dtype": "F32", "shape": [], "data_offsets": [12, 16]}
    found = parse({"__metadata__": {"format": "pt"}, "b": b, "a": A}, 16)
    assert found == {"a": Tensor("BF16", (2, 3)), "b": Tensor("F32", ())}


@pytest.mark.parametrize(
    ("entries", "data_bytes", "told"),
    [
        ({"a": A}, 11, "truncated"),
        ({"a": A}, 13, "longer than its header says"),
        ({"a": A | {"data_offsets": [0, 10]}}, 10, "needs 12 bytes but data_offsets give 10"),
        ({"a": A, "b": A}, 12, "starts at byte 0 of the data but the tensor before it ends at 12"),
        ({"a": A | {"data_offsets": [4, 16]}}, 16, "starts at byte 4"),
        ({"a": A | {"dtype": "Q9"}}, 12, "Q9"),
        ({"a": A | {"shape": [-2, -3]}}, 12, "(-2, -3)"),
        ({"a": 3}, 12, "entry 3"),
        (b'{"a": 1, "a": 2}', 0, "double key 'a'"),
        (b"[]", 0, "not an object"),
        (b"{", 0, "not sound JSON"),
        (b"[" * 100_000, 0, "not sound JSON"),
    ],
)
def test_an_unsound_header_is_refused_by_name(entries: dict[str, Any] | bytes, data_bytes: int, told: str) -> None:
    with pytest.raises(ModelRefused, match=r"m\.safetensors of lab/m") as refusal:
        parse(entries, data_bytes)
    assert told in str(refusal.value)


def test_a_huge_or_missing_length_is_refused() -> None:
    assert header_length(struct.pack("<Q", 77), "m") == 77
    for first in (b"", b"1234567", struct.pack("<Q", MAX_HEADER_BYTES + 1)):
        with pytest.raises(ModelRefused):
            header_length(first, "m")


@given(st.binary(max_size=200))
def test_no_bytes_are_a_crash(raw: bytes) -> None:
    with contextlib.suppress(ModelRefused):
        parse(raw, 0)
