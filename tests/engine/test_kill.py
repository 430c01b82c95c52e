"""SIGKILL at random moments of a merge, signals that ask it to end, and several processes with one output folder."""

import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tasks.engine.errors import MergeError, WriteError
from tasks.engine.merge import merge_config
from tasks.engine.methods.table import TABLE
from tests.engine.folders import end_of, in_child, numbers, recipe_for, scratch, write_folder

LAYERS, SHAPE = 10, (1024, 2048)
"""40 MB of bfloat16 in each model."""
KILLS = 20
OPTIONS = {"journal_bytes": 1 << 20, "max_shard_bytes": 9_000_000}
"""Two tensors to a file, so that kills come between files as well."""


@pytest.fixture(scope="module")
def place():
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="module")
def models(place):
    """Base, and two tuned from it."""
    theta = numbers(SHAPE, 1)
    tuned = [np.zeros_like(theta), numbers(SHAPE, 2, 0.01), numbers(SHAPE, 3, 0.01)]

    def layers(delta):
        return {f"model.layers.{k}.mlp.up_proj.weight": np.roll(theta + delta, 97 * k) for k in range(LAYERS)}

    return [write_folder(place / f"model-{k}", layers(delta), "BF16") for k, delta in enumerate(tuned)]


@pytest.fixture
def out(place):
    yield place / "out"
    for left in [place / "out", *place.glob(".out*")]:
        shutil.rmtree(left, ignore_errors=True)


def recipe(models, method="ties", density=0.3):
    """Statistics first, then merging: a kill can come into either."""
    base, one, two = models
    return recipe_for(TABLE[method], base, one, [one, two], {"weight": 0.6, "density": density})


def leftovers(place):
    return sorted(path.name for path in place.glob(".out*"))


def is_whole(out, expected):
    """The folder has these files with these bytes and nothing else."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    return found == {name: digest.sha256 for name, digest in expected.items()}


def dying(share):
    """A listener to progress that ends its process when this share of the merge is done."""

    def die(progress):
        if progress.done_bytes >= share * progress.total_bytes:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def test_after_a_kill_there_is_nothing_or_everything_and_the_next_run_completes_it(models, place, out):
    config = recipe(models)
    expected = merge_config(config, out, **OPTIONS).files
    shutil.rmtree(out)
    began = time.monotonic()
    assert end_of(in_child(lambda: merge_config(config, out, **OPTIONS))) == 0
    whole_run = time.monotonic() - began
    assert is_whole(out, expected)
    shutil.rmtree(out)

    resumed, ends, chance = [], [], random.Random(20)
    for number in range(KILLS):
        moment = chance.random()
        if number % 2:  # by what is done, which a busy machine does not change
            child = in_child(lambda share=moment: merge_config(config, out, on_progress=dying(share), **OPTIONS))
        else:  # by the clock, which comes into everything before, between and after
            child = in_child(lambda: merge_config(config, out, **OPTIONS))
            time.sleep(moment * 1.05 * whole_run)
            os.kill(child, signal.SIGKILL)
        ends.append(end_of(child))
        assert not out.exists() or is_whole(out, expected)
        assert len(leftovers(place)) <= (0 if out.exists() else 1)
        if not out.exists() and number % 4:  # else the next one is killed on top of it
            report = merge_config(config, out, **OPTIONS)
            assert report.files == expected
            assert is_whole(out, expected)
            assert leftovers(place) == []
            resumed.append(report.resumed_bytes)
        shutil.rmtree(out, ignore_errors=True)
    assert set(ends) <= {0, -signal.SIGKILL}
    assert ends[1::2] == [-signal.SIGKILL] * (KILLS // 2)
    whole = sum(digest.size for digest in expected.values())
    assert 0 < max(resumed) <= whole
    assert len(set(resumed)) > 3


def killed_halfway(config, out):
    child = in_child(lambda: merge_config(config, out, on_progress=dying(0.5), **OPTIONS))
    assert end_of(child) == -signal.SIGKILL
    assert not out.exists()


def test_a_merge_by_another_recipe_removes_what_a_killed_one_left(models, place, out):
    killed_halfway(recipe(models), out)
    (left,) = leftovers(place)
    other = merge_config(recipe(models, density=0.31), out, **OPTIONS)
    assert (other.resumed_bytes, leftovers(place)) == (0, [])
    assert left.startswith(".out.partial-")


@pytest.mark.parametrize("change", ["touched", "replaced"])
def test_a_merge_of_other_inputs_does_not_go_on_with_what_a_killed_one_left(models, place, out, change):
    killed_halfway(recipe(models), out)
    shard = models[1] / "model.safetensors"
    if change == "replaced":
        shutil.copy2(shard, shard.with_suffix(".new"))
        shard.with_suffix(".new").rename(shard)
    else:
        os.utime(shard)
    report = merge_config(recipe(models), out, **OPTIONS)
    assert (report.resumed_bytes, leftovers(place)) == (0, [])


FIRST = "model-00001-of-00005.safetensors"


@pytest.mark.parametrize(
    ("journal", "believed"),
    [
        ("", 0),
        ("{", 0),
        ("[]\n", 0),
        ('{"file": 3}\n', 0),
        (f'{{"file": "{FIRST}", "bytes": 1e99}}\n', 0),
        (f'{{"file": "{FIRST}", "bytes": 9223372036854775807}}\n', 0),
        (f'{{"file": "{FIRST}", "bytes": 0}}\n{{"file": "{FIRST}", "byt', 0),
        ('{"file": "model-00009-of-00005.safetensors", "bytes": 100}\n', 0),
        (f'{{"file": "{FIRST}", "bytes": 1000000}}\n{{"file": "{FIRST}", "byt', 1_000_000),
    ],
)
def test_a_journal_that_was_cut_or_lies_is_not_believed(models, place, out, journal, believed):
    config = recipe(models, "task_arithmetic")
    expected = merge_config(config, out, **OPTIONS).files
    shutil.rmtree(out)
    killed_halfway(config, out)
    path = place / leftovers(place)[0] / "journal.jsonl"
    assert f'"file": "{FIRST}"' in path.read_text()
    path.write_text(journal)
    if not believed:
        for shard in path.parent.glob("*.safetensors"):  # as large as it is, and wrong in every byte
            size = shard.stat().st_size
            os.truncate(shard, 0)
            os.truncate(shard, size)
    report = merge_config(config, out, **OPTIONS)
    assert (report.resumed_bytes, report.files) == (believed, expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_asks_the_command_to_end_leaves_nothing(models, place, out, number, code):
    base, one, two = map(str, models)
    content = {
        "merge_method": "della",
        "base_model": base,
        "models": [{"model": name, "parameters": {"weight": 0.5}} for name in (one, two)],
        "parameters": {"density": 0.5},
        "instruct": one,
        "special_rows": "merge",
        "allow_foreign_parent": True,
    }
    (place / "merge.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "tasks.engine", str(place / "merge.json"), str(out), "--json-lines"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["event"] == "progress"
        assert len(leftovers(place)) == 1
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    assert (leftovers(place), out.exists()) == ([], False)


def test_while_one_process_writes_a_folder_another_one_is_refused(models, place, out):
    config = recipe(models)
    writing, told = os.pipe()
    going, go = os.pipe()

    def wait(progress, once=[]):  # noqa: B006
        if not once:
            once.append(True)
            os.write(told, b"x")
            os.read(going, 1)

    child = in_child(lambda: merge_config(config, out, on_progress=wait, **OPTIONS))
    assert select.select([writing], [], [], 60)[0], "the child has not begun"
    for other in (config, recipe(models, density=0.4)):
        with pytest.raises(WriteError, match=r"another process is writing it \(in .*/\.out\.partial-"):
            merge_config(other, out, **OPTIONS)
    os.write(go, b"x")
    assert end_of(child) == 0
    for descriptor in (writing, told, going, go):
        os.close(descriptor)
    with pytest.raises(WriteError, match="exists already"):
        merge_config(config, out, **OPTIONS)
    expected = merge_config(config, place / "out-2", **OPTIONS).files
    shutil.rmtree(place / "out-2")
    assert is_whole(out, expected)
    assert leftovers(place) == []


def test_of_processes_that_begin_at_once_one_writes_the_folder(models, place, out):
    config = recipe(models, "task_arithmetic")
    expected = merge_config(config, out, **OPTIONS).files
    shutil.rmtree(out)

    def attempt():
        try:
            merge_config(config, out, **OPTIONS)
        except MergeError as error:
            os._exit(2 if isinstance(error, WriteError) else 3)

    for _ in range(3):
        ends = [end_of(child) for child in [in_child(attempt) for _ in range(6)]]
        assert sorted(ends) == [0, 2, 2, 2, 2, 2]
        assert is_whole(out, expected)
        assert leftovers(place) == []
        shutil.rmtree(out)
