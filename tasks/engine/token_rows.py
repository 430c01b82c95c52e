"""Rows of embeddings and heads when the tokenizers differ: matched by token, as the policy `match_tokens` asks for.

A row means its token. So a model with another vocabulary is read row by row in the order of the instruct model's ids.
Where any model of the merge lacks a token, and for the rows behind the last token, there is no delta to speak of: all
models are read as the instruct model there, and the row comes back as its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .header import TensorSpec

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MatchedRows:
    """One tensor of one model, its rows in the order of the instruct model's ids."""

    spec: TensorSpec
    rows: Rows
    """[rows of the instruct model] row of this model, or -1 for the instruct model's own."""
    instruct: TensorSpec
    """The same tensor of the instruct model."""

    @property
    def dtype(self) -> str:
        """No type that a reader takes bytes of."""
        return "rows"

    @property
    def begin(self) -> int:
        """As in `TensorSpec`."""
        return self.spec.begin

    @property
    def end(self) -> int:
        """As in `TensorSpec`."""
        return self.spec.end

    def pieces(self, start: int, stop: int) -> Iterator[tuple[TensorSpec, int, int, int]]:
        """Where elements [start, stop) of the instruct model's shape lie.

        Yields:
            The tensor to read from, its first element, and [first, last) of the elements asked for, from `start`.
        """
        width = self.instruct.shape[1]
        place = start
        while place < stop:
            row, column = divmod(place, width)
            last = row
            while (last + 1) * width < stop and self._follows(last):
                last += 1
            end = min((last + 1) * width, stop)
            own = int(self.rows[row])
            spec, first = (self.instruct, row) if own < 0 else (self.spec, own)
            yield spec, first * width + column, place - start, end - start
            place = end

    def _follows(self, row: int) -> bool:
        """Whether the next row lies behind this one in the same tensor."""
        here, there = int(self.rows[row]), int(self.rows[row + 1])
        return here < 0 and there < 0 if here < 0 or there < 0 else there == here + 1


def match_rows(
    ours: Mapping[int, str], height: int, others: Sequence[Mapping[int, str]], heights: Sequence[int]
) -> list[Rows]:
    """For each other model the row of every token of the instruct model; -1 everywhere where one of them lacks it.

    Args:
        ours: The instruct model's map id -> token.
        height: Rows of its embeddings, padding included.
        others: The maps of the other models.
        heights: Rows of their embeddings: an id without a row is a token that the model lacks.
    """
    found = np.full((len(others), height), -1, np.int64)
    for place, theirs in enumerate(others):
        row_of = {token: number for number, token in theirs.items() if number < heights[place]}
        for number, token in ours.items():
            if number < height:
                found[place, number] = row_of.get(token, -1)
    found[:, (found < 0).any(axis=0)] = -1
    return list(found)


def matched(specs: Sequence[TensorSpec], rows: Sequence[Rows]) -> tuple[TensorSpec | MatchedRows, ...]:
    """The sources of one tensor, the instruct model first and as it is; rows are those of the others."""
    instruct, *others = specs
    return (instruct, *(MatchedRows(spec, own, instruct) for spec, own in zip(others, rows, strict=True)))
