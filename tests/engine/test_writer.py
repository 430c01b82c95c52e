"""The output appears whole or not at all: full disks, killed processes, and folders that are already there."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from tasks.engine.errors import DiskFull, WriteError
from tasks.engine.merge import TunedPaths, merge
from tasks.engine.recipe import Recipe
from tasks.engine.writer import OutputFolder

RECIPE = Recipe(method="linear")

MERGE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tasks.engine.command_file import read_merge_file
from tasks.engine.merge import merge_config
config, labels, *_ = read_merge_file(Path(sys.argv[1]))

def die(progress):
    if progress.done_bytes > progress.total_bytes // 2:
        os.kill(os.getpid(), signal.SIGKILL)

merge_config(config, Path(sys.argv[2]), on_progress=die, max_shard_bytes=2000, labels=labels)
"""


def test_a_disk_without_room_is_refused_before_anything_is_written(family, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 5_000, 5_000))
    with pytest.raises(DiskFull, match=r"out: needs \d+ bytes .* 5000 are free"):
        merge(RECIPE, **family.inputs, out=family.out)
    assert family.leftovers() == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs takes rights that this user lacks; the limit on file size stands in below")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(small_disk):
    def fill():
        with OutputFolder(small_disk / "out", 10_000) as folder:  # as if somebody else took the rest meanwhile
            folder.write("big", bytes(100_000))
            folder.commit()

    with pytest.raises(DiskFull, match=r"out/big: the file system filled up .* needs 10000 bytes"):
        fill()
    assert list(small_disk.iterdir()) == []


def test_a_whole_merge_on_a_small_disk_is_refused_with_both_numbers(family, small_disk):
    with OutputFolder(small_disk / "other", 0) as folder:
        folder.write("half", bytes(50_000))
        with pytest.raises(DiskFull, match=r"needs \d+ bytes .*, \d+ are free"):
            merge(RECIPE, **family.inputs, out=small_disk / "out")
    assert list(small_disk.iterdir()) == []


def test_a_limit_on_file_size_in_the_middle_leaves_nothing(family):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, old[1]))
    try:
        with pytest.raises(WriteError, match=r"out/model\.safetensors: cannot be written: File too large"):
            merge(RECIPE, **family.inputs, out=family.out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert family.leftovers() == []


def test_an_output_that_exists_is_never_touched(family):
    family.out.mkdir()
    (family.out / "precious").write_text("x")
    with pytest.raises(WriteError, match="exists already"):
        merge(RECIPE, **family.inputs, out=family.out)
    assert [path.name for path in family.out.iterdir()] == ["precious"]


def test_an_output_that_appears_during_the_merge_is_not_touched(family):
    def rival(progress):
        family.out.mkdir(exist_ok=True)

    with pytest.raises(WriteError, match="somebody else"):
        merge(RECIPE, **family.inputs, out=family.out, on_progress=rival)
    assert family.leftovers() == ["out"]
    assert list(family.out.iterdir()) == []


def test_a_parent_that_does_not_exist_is_refused(family):
    with pytest.raises(WriteError, match="parent folder"):
        merge(RECIPE, **family.inputs, out=family.root / "no" / "out")


def test_two_merges_into_one_folder_do_not_meet(family):
    with OutputFolder(family.out, 10), pytest.raises(WriteError, match="another process is writing it"):
        merge(RECIPE, **family.inputs, out=family.out)
    merge(RECIPE, **family.inputs, out=family.out)
    assert family.leftovers() == ["out"]


def test_a_progress_callback_that_raises_ends_the_merge_and_leaves_nothing(family):
    def cancel(progress):
        raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError, match="cancelled"):
        merge(RECIPE, **family.inputs, out=family.out, on_progress=cancel)
    assert family.leftovers() == []


def test_a_merge_killed_between_shards_leaves_no_output_and_the_next_one_is_clean(family):
    command = [sys.executable, "-c", MERGE_AND_DIE, str(family.config({"method": "linear"})), str(family.out)]
    died = subprocess.run(command, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not family.out.exists()
    (left,) = family.leftovers()
    assert left.startswith(".out.partial-")
    report = merge(RECIPE, **family.inputs, out=family.out)
    assert family.leftovers() == ["out"]
    assert report.files == merge(RECIPE, **family.inputs, out=family.root / "out-2").files


def test_memory_does_not_grow_with_the_model(tmp_path, checkpoint_writer, make_model):
    # Not this process's peak, which other tests have raised: the resident size after every block.
    def resident_above_start(elements, name):
        big = make_model(0) | {"big": torch.ones(elements, dtype=torch.bfloat16)}
        place = tmp_path / name
        base, instruct, eu = (checkpoint_writer(place / who, big, template="x") for who in ("base", "instruct", "eu"))
        del big
        before, during = resident(), []
        merge(
            Recipe(method="task_arithmetic"), base=base, instruct=instruct, tuned={"eu": TunedPaths(eu)},
            out=place / "out", on_progress=lambda progress: during.append(resident()), allow_foreign_parent=True,
        )  # fmt: skip
        return max(during) - before

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    resident_above_start(8 << 20, "warm")  # what torch and malloc keep once
    small, large = resident_above_start(8 << 20, "small"), resident_above_start(32 << 20, "large")
    assert large < small + (8 << 20), "inputs and output are 192 MB larger"
    assert large < 64 << 20
