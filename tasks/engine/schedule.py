"""Which block is next: statistics of tensors ahead while blocks of earlier ones are written, in the order of the files.

Writing goes strictly from tensor to tensor, since files are hashed from front to back; reading for statistics may run
ahead by a few tensors, so that threads do not wait for each other at the end of every small one.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .methods.operation import BLOCK_ELEMENTS, Operation, Stage

AHEAD = 4
"""Tensors in work at once."""

Range = tuple[int, int]


class Work(NamedTuple):
    """What the schedule needs to know of one tensor: its operations, one for each output."""

    elements: int
    width: int
    operations: tuple[Operation, ...]


class Task(NamedTuple):
    """One block to be measured, or merged."""

    tensor: int
    """Which tensor, counted in the order of writing."""
    number: int
    """Which block of the stage; for merged blocks, which of the whole merge."""
    start: int
    stop: int
    stages: tuple[Stage | None, ...] | None
    """For each operation what it asks for; None for the whole: merge the block."""
    first: bool
    """Not every element of every source of this tensor has been read, and looked at, before."""


def ranges(elements: int, width: int, *, by_row: bool) -> list[Range]:
    """Elements [start, stop) of the blocks of a tensor: whole rows, unless a row is longer than a block and may be cut.

    So the blocks, by which sums are added up, hardly depend on what else is merged at the same time.
    """
    size = BLOCK_ELEMENTS
    if width and (by_row or width <= BLOCK_ELEMENTS):
        size = max(1, BLOCK_ELEMENTS // width) * width
    return [(start, min(start + size, elements)) for start in range(0, elements, size)]


class _Turn:
    """A tensor in work."""

    def __init__(self, number: int, work: Work) -> None:
        self.number, self.work = number, work
        self.by_row = any(operation.by_row for operation in work.operations)
        self.stages: tuple[Stage | None, ...] | None = ()
        self.todo: list[Range] = []
        self.next = 0
        self.open = 0
        self.first = True
        self.results: list[Any] = []

    def begin_stage(self) -> None:
        """Ask the operations what they need; when nothing, the blocks are to be merged."""
        everything = ranges(self.work.elements, self.work.width, by_row=self.by_row)
        stages = tuple(operation.stage() if everything else None for operation in self.work.operations)
        wanted = [stage for stage in stages if stage is not None]
        if not wanted:
            self.stages, self.todo = None, everything
        else:
            # Operations that ask for different ranges take turns.
            first = wanted[0].ranges
            self.stages = tuple(s if s is not None and s.ranges == first else None for s in stages)
            self.todo = everything if first is None else list(first)
        self.next, self.open = 0, len(self.todo)
        self.results = [None] * len(self.todo)

    def settle(self) -> None:
        """Hand the figures of a finished stage to the operations."""
        assert self.stages is not None
        for place, (operation, stage) in enumerate(zip(self.work.operations, self.stages, strict=True)):
            if stage is not None:
                operation.settle(stage, [result[place] for result in self.results])
        asked = [op for op, stage in zip(self.work.operations, self.stages, strict=True) if stage and not stage.ranges]
        seen = {source for operation in asked for source in operation.sources}
        if all(seen.issuperset(operation.sources) for operation in self.work.operations):
            self.first = False


class Schedule:
    """Hands out tasks to threads. `next` waits when everything that is left depends on what others are doing."""

    def __init__(self, works: Callable[[int], Work], count: int) -> None:
        """Take a function that makes the work of tensor 0, 1, ... count - 1, when its turn comes."""
        self._works, self._count = works, count
        self._turns: list[_Turn] = []
        self._begun = self._merged = 0
        self._stopped = False
        self._changed = threading.Condition()

    def tasks(self) -> Iterator[Task]:
        """Tasks for one thread, until there are no more."""
        while (task := self._next()) is not None:
            yield task

    def _next(self) -> Task | None:
        with self._changed:
            while not self._stopped:
                task = self._take()
                if task is not None:
                    return task
                if self._begin_tensor():
                    continue
                if not self._turns and self._begun == self._count:
                    return None
                self._changed.wait()
            return None

    def _take(self) -> Task | None:
        for place, turn in enumerate(self._turns):
            if turn.next == len(turn.todo) or (turn.stages is None and place > 0):
                continue
            start, stop = turn.todo[turn.next]
            turn.next += 1
            if turn.stages is not None:
                return Task(turn.number, turn.next - 1, start, stop, turn.stages, turn.first)
            task = Task(turn.number, self._merged, start, stop, None, turn.first)
            self._merged += 1
            if turn.next == len(turn.todo):
                self._turns.remove(turn)
                self._changed.notify_all()
            return task
        return None

    def _begin_tensor(self) -> bool:
        """Take one more tensor in, if there is room and one is left."""
        if len(self._turns) >= AHEAD or self._begun == self._count:
            return False
        turn = _Turn(self._begun, self._works(self._begun))
        self._begun += 1
        turn.begin_stage()
        if turn.todo:
            self._turns.append(turn)
        return True

    def measured(self, task: Task, result: Any) -> None:
        """Take the figures of one block; the thread that brings the last one does the settling."""
        with self._changed:  # a list that loses a tensor while it is gone through passes another one over
            turn = next(turn for turn in self._turns if turn.number == task.tensor)
            turn.results[task.number] = result
            turn.open -= 1
            if turn.open:
                return
        turn.settle()
        with self._changed:
            turn.begin_stage()
            self._changed.notify_all()

    def stop(self) -> None:
        """No more tasks for anybody."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
