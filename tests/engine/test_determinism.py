"""The same inputs give the same bytes: whatever the threads, after a kill, beside other outputs, from other shards."""

import gc
import hashlib
import os
import random
import shutil
import signal

import pytest

from tasks.engine.merge import merge_config, merge_configs
from tasks.engine.methods.operation import Operation
from tasks.engine.methods.table import TABLE
from tasks.engine.schedule import AHEAD
from tests.engine.folders import (
    ODD_SHAPES,
    end_of,
    in_child,
    model_count,
    recipe_for,
    scratch,
    stated,
    tensors,
    write_folder,
)
from tests.engine.parity.golden import read_folder

ROLES = ("base", "instruct", "one", "two")
JOURNAL_BYTES = 1 << 15


@pytest.fixture(scope="module")
def place():
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="module")
def folders(place):
    """Four models in one file each."""
    return [write_folder(place / role, tensors(seed), "BF16") for seed, role in enumerate(ROLES)]


@pytest.fixture
def out(place):
    yield place / "out"
    for left in place.glob("*out*"):
        shutil.rmtree(left)


def busy(method, base, instruct, one, two, **more):
    """A recipe in which nothing is at its default."""
    spec = TABLE[method]
    return recipe_for(spec, base, instruct, [one, two][: model_count(spec)], stated(spec, busy=True), **more)


def digests(config, out, **options):
    """What a merge wrote, by file; nothing stays."""
    files = merge_config(config, out, **options).files
    shutil.rmtree(out)
    return files


@pytest.mark.parametrize("method", TABLE)
def test_one_thread_many_threads_and_a_merge_that_was_killed_give_the_same_bytes(method, folders, out):
    config = busy(method, *folders)
    expected = digests(config, out, threads=1)
    assert digests(config, out, threads=2) == expected
    assert digests(config, out, threads=7) == expected
    moment = random.Random(method).uniform(0.3, 0.9)

    def die(progress):
        if progress.done_bytes >= moment * progress.total_bytes:
            os.kill(os.getpid(), signal.SIGKILL)

    killed = in_child(lambda: merge_config(config, out, threads=2, on_progress=die, journal_bytes=JOURNAL_BYTES))
    assert end_of(killed) == -signal.SIGKILL
    assert not out.exists()
    resumed = merge_config(config, out, threads=3, journal_bytes=JOURNAL_BYTES)
    assert resumed.files == expected
    weights = expected["model.safetensors"].size
    assert moment * weights - JOURNAL_BYTES < resumed.resumed_bytes <= weights
    content = (out / "model.safetensors").read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == expected["model.safetensors"]


@pytest.mark.parametrize("method", TABLE)
def test_the_seed_is_what_changes_a_random_method_and_no_other(method, folders, out):
    found = [digests(busy(method, *folders, seed=seed), out)["model.safetensors"] for seed in (0, 1, 2)]
    assert len(set(found)) == (3 if TABLE[method].random else 1)


@pytest.mark.parametrize("method", TABLE)
def test_a_tensor_does_not_depend_on_the_others_nor_on_where_it_lies(method, folders, place, out):
    names = [name for name in ODD_SHAPES if ".rows." not in name or name.endswith("tall")]
    parts = [
        write_folder(
            place / f"part-out-{role}", {n: t for n, t in tensors(seed).items() if n in names}, "BF16", shards=seed + 1
        )
        for seed, role in enumerate(ROLES)
    ]
    merge_config(busy(method, *folders), out)
    merge_config(busy(method, *parts), place / "out-2", max_shard_bytes=2_000)
    whole, part = read_folder(out), read_folder(place / "out-2")
    assert len(list((place / "out-2").glob("*.safetensors"))) > 3
    assert list(part) == [name for name in whole if name in names]
    assert all(part[name].stored.tobytes() == whole[name].stored.tobytes() for name in part)


TOGETHER = ("model_stock", "ties", "della", "nuslerp", "task_arithmetic", "dare_ties", "breadcrumbs")
"""They merge the same models and ask for different readings of them, in blocks and in whole rows."""


def test_outputs_of_one_reading_are_those_of_readings_of_their_own_and_go_on_after_a_kill(folders, place, out):
    configs = {place / f"out-{method}": busy(method, *folders) for method in TOGETHER}
    expected = {path: digests(config, out) for path, config in configs.items()}
    together = merge_configs(configs)
    assert {path: report.files for path, report in together.items()} == expected
    for path in configs:
        shutil.rmtree(path)

    def die(progress):
        if progress.done_bytes >= 0.8 * progress.total_bytes:
            os.kill(os.getpid(), signal.SIGKILL)

    killed = in_child(lambda: merge_configs(configs, on_progress=die, journal_bytes=JOURNAL_BYTES))
    assert end_of(killed) == -signal.SIGKILL
    assert not any(path.exists() for path in configs)
    resumed = merge_configs(configs, journal_bytes=JOURNAL_BYTES)
    assert {path: report.files for path, report in resumed.items()} == expected
    assert all(report.resumed_bytes > 0 for report in resumed.values())


def test_progress_grows_to_the_whole_and_no_further(folders, out):
    for threads in (1, 4):
        told = []
        report = merge_config(busy("ties", *folders), out, threads=threads, on_progress=told.append)
        shutil.rmtree(out)
        done = [progress.done_bytes for progress in told]
        assert done == sorted(done)
        assert done[-1] == told[-1].total_bytes == report.files["model.safetensors"].size


def test_operations_are_let_go_with_their_masks_when_their_tensor_is_written(place, out):
    # Their masks and buffers are as large as the model: kept, memory would grow with it.
    shapes = {f"model.layers.{layer}.mlp.up_proj.weight": (30, 40) for layer in range(16)}
    models = [write_folder(place / f"out-small-{k}", tensors(k, shapes), "BF16") for k in range(4)]

    def operations():
        return sum(issubclass(type(found), Operation) for found in gc.get_objects())

    gc.collect()
    before, alive = operations(), []
    merge_config(
        busy("della", *models), out, threads=1, on_progress=lambda progress: alive.append(operations() - before)
    )
    assert len(alive) == len(shapes)
    assert max(alive) <= AHEAD + 2
