"""Which block is next: every one exactly once, statistics before merging, merging in the order of the files."""

import sys
import threading
import time
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engine.methods.operation import Operation, Stage
from tasks.engine.schedule import AHEAD, Schedule, Work, ranges
from tests.engine.folders import BLOCK_ELEMENTS


class Asking(Operation):
    """Asks for some readings before it can be applied, and checks what it is told."""

    def __init__(self, *stages, by_row=False):
        super().__init__([0])
        self.by_row = by_row
        self.left = list(stages)
        self.settled = []

    def stage(self):
        return self.left[0] if self.left else None

    def settle(self, stage, results):
        assert stage is self.left.pop(0)
        self.settled.append((stage.name, results))


class Log:
    """What threads were given to do, in the order in which they were given it."""

    def __init__(self):
        self.measured = defaultdict(list)
        self.merged = []
        self.lock = threading.Lock()


def run(works, threads, pause=0.0):
    """Do all tasks of these works, a measured block giving its own range."""
    schedule, log = Schedule(works.__getitem__, len(works)), Log()
    errors = []

    def work():
        try:
            for task in schedule.tasks():
                time.sleep(pause)
                with log.lock:
                    if task.stages is None:
                        assert not any(operation.left for operation in works[task.tensor].operations)
                        log.merged.append(task)
                    else:
                        names = tuple(stage and stage.name for stage in task.stages)
                        log.measured[task.tensor, names].append((task.start, task.stop))
                if task.stages is not None:
                    schedule.measured(task, [(task.start, task.stop) for _ in task.stages])
        except BaseException as error:
            errors.append(error)
            schedule.stop()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers), "a thread waits for ever"
    assert not errors, errors
    return log


def tiles(found, elements):
    return [0, *(stop for _, stop in found)] == [*(start for start, _ in found), elements] or (
        not found and not elements
    )


@settings(deadline=None)
@given(st.integers(0, 5 * BLOCK_ELEMENTS), st.integers(1, 2 * BLOCK_ELEMENTS), st.booleans())
def test_blocks_cover_a_tensor_and_rows_are_not_cut(height, width, by_row):
    elements = height // width * width
    found = ranges(elements, width, by_row=by_row)
    assert tiles(found, elements)
    limit = max(BLOCK_ELEMENTS, width) if by_row else BLOCK_ELEMENTS
    assert all(0 < stop - start <= limit for start, stop in found)
    assert not by_row or all(start % width == 0 == stop % width for start, stop in found)


def various():
    """Tensors of all sizes, with nothing, one or several things to be known first."""
    size = BLOCK_ELEMENTS
    sample = Stage("sample", [(0, 5), (9, 12)])
    return [
        Work(elements, width, operations)
        for _ in range(6)
        for elements, width, operations in [
            (0, 8, (Asking(Stage("all")),)),
            (3 * size + 7, 1, (Asking(),)),
            (1, 1, (Asking(Stage("all"), Stage("again")),)),
            (2 * size, 64, (Asking(sample, Stage("all")), Asking(Stage("all")))),
            (0, 0, (Asking(),)),
            (5 * (size // 2 + 1), size // 2 + 1, (Asking(Stage("all"), by_row=True), Asking())),
        ]
    ]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_every_block_is_measured_once_then_merged_once_in_order(threads):
    works = various()
    log = run(works, threads)
    for number, work in enumerate(works):
        by_row = any(operation.by_row for operation in work.operations)
        whole = ranges(work.elements, work.width, by_row=by_row)
        assert [(task.start, task.stop) for task in log.merged if task.tensor == number] == whole or threads > 1
        assert sorted((task.start, task.stop) for task in log.merged if task.tensor == number) == whole
        for operation in work.operations:
            for name, results in operation.settled:
                assert results == ([(0, 5), (9, 12)] if name == "sample" else whole)
            assert not operation.left or not work.elements
        for (tensor, _), found in log.measured.items():
            assert tensor != number or len(set(found)) == len(found)
    in_order = sorted(log.merged, key=lambda task: task.number)
    assert [task.number for task in in_order] == list(range(len(in_order)))
    assert all((a.tensor, a.start) < (b.tensor, b.start) for a, b in pairwise(in_order))


def test_operations_that_ask_for_different_elements_take_turns():
    work = Work(100, 10, (Asking(Stage("sample", [(0, 5)]), Stage("all")), Asking(Stage("all"))))
    log = run([work], 1)
    assert list(log.measured) == [(0, ("sample", None)), (0, ("all", "all"))]


def test_only_a_few_tensors_are_begun_before_the_first_is_merged():
    begun = []

    def work(number):
        begun.append(number)
        return Work(10, 10, (Asking(Stage("all")),))

    schedule = Schedule(work, 100)
    waiting = [next(schedule.tasks()) for _ in range(AHEAD)]
    assert begun == [task.tensor for task in waiting] == list(range(AHEAD))
    later = threading.Thread(target=lambda: waiting.append(next(schedule.tasks())), daemon=True)
    later.start()
    later.join(0.2)
    assert later.is_alive(), "there is nothing to do until one of the others is done"
    schedule.measured(waiting[0], [None])
    later.join(10)
    assert (waiting[-1].tensor, waiting[-1].stages) == (0, None)


def test_a_stop_wakes_whoever_waits():
    schedule = Schedule(lambda number: Work(10, 10, (Asking(Stage("all")),)), 1)
    assert next(schedule.tasks()).stages is not None
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(list(schedule.tasks())), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    schedule.stop()
    for thread in threads:
        thread.join(10)
    assert ended == [[], [], []]


class Meddling(int):
    """A tensor's number that lets another thread in while it is being looked for."""

    meddle = staticmethod(lambda: None)

    def __eq__(self, other):
        self.meddle()
        return int(self) == other

    __hash__ = int.__hash__


def test_a_tensor_that_leaves_while_another_is_looked_for_hides_nothing():
    works = [Work(10, 10, (Asking(Stage("all")),)) for _ in range(2)]
    schedule, taken = Schedule(works.__getitem__, 2), []
    first, second = (next(schedule.tasks()) for _ in range(2))
    schedule.measured(first, [None])
    other = threading.Thread(target=lambda: taken.append(next(schedule.tasks())), daemon=True)

    def take_the_first_tensors_last_block():
        Meddling.meddle = staticmethod(lambda: None)
        other.start()
        other.join(0.3)

    Meddling.meddle = staticmethod(take_the_first_tensors_last_block)
    schedule.measured(second._replace(tensor=Meddling(1)), [None])
    other.join(10)
    assert [task.tensor for task in [*taken, *schedule.tasks()]] == [0, 1]


def test_threads_that_change_at_every_step_do_not_lose_a_tensor():
    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(10):
            works = [Work(5, 5, (Asking(Stage("all"), Stage("again")),)) for _ in range(60)]
            log = run(works, 6)
            assert sorted(task.tensor for task in log.merged) == list(range(60))
    finally:
        sys.setswitchinterval(kept)
