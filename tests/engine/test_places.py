"""Where a merge cannot be written or read: full disks, closed folders, outputs that are there already."""

import os
import resource
import subprocess
from pathlib import Path

import pytest

from tasks.engine.errors import CheckpointError, DiskFull, WriteError
from tasks.engine.merge import merge_config, merge_configs
from tests.engine.folders import end_of, in_child
from tests.engine.refusals import SINGLE

NOBODY = 65534


def mounted(folder, size):
    """Whether a file system of this size could be put there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture
def small_disk(root):
    """A file system with room for one merge and little more."""
    folder = root / "disk"
    folder.mkdir()
    if not mounted(folder, "1500k"):
        pytest.skip("mounting a tmpfs takes rights that this user lacks; a limit on file size stands in below")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_during_the_merge_leaves_nothing(place, small_disk):
    def fill(progress):
        with (small_disk / "ballast").open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass

    # Which file it is depends on when the first word of progress comes: on a busy machine all weights may be written.
    full = r"model(-0000\d-of-00004)?\.safetensors(\.index\.json)?: the file system filled up"
    with pytest.raises(DiskFull, match=full):
        merge_config(place.recipe(), small_disk / "out", max_shard_bytes=300_000, on_progress=fill)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_disk_that_is_too_small_for_two_outputs_leaves_neither(place, small_disk):
    configs = {small_disk / "out-1": place.recipe(), small_disk / "out-2": place.recipe("ties")}
    with pytest.raises(DiskFull, match=r"out-1.*out-2: need \d+ bytes together"):
        merge_configs(configs)
    assert list(small_disk.iterdir()) == []


def test_a_limit_on_file_size_ends_the_merge_and_leaves_nothing(place):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(WriteError, match=r"out/model\.safetensors: cannot be written: File too large"):
            merge_config(place.recipe(), place.out)

    before = place.files()
    assert end_of(in_child(limited)) == 0
    assert place.files() == before


def test_an_output_that_exists_in_any_form_is_not_touched(place):
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")):
        make(place.out)
        place.refused(WriteError, f"{place.out}: exists already", "never overwrites")
        place.out.rmdir() if place.out.is_dir() else place.out.unlink()


def test_an_output_whose_parent_is_missing_or_no_folder_is_refused(place):
    (place.root / "file").touch()
    for parent in (place.root / "none" / "at" / "all", place.root / "file"):
        with pytest.raises(WriteError, match=f"{parent / 'out'}: its parent folder {parent} does not exist"):
            merge_config(place.recipe(), parent / "out")


def as_nobody(work):
    """Do this as a user without rights: root is stopped by no mode."""

    def with_less():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()

    return end_of(in_child(with_less))


@pytest.fixture
def open_place(place):
    """Others may read it."""
    for path in [place.root, *place.root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


def test_an_output_folder_that_may_not_be_written_is_refused(open_place):
    (open_place.root / "closed").mkdir(mode=0o555)

    def refused():
        with pytest.raises(WriteError, match=r"closed/out: cannot be written: Permission denied"):
            merge_config(open_place.recipe(), open_place.root / "closed" / "out")

    assert as_nobody(refused) == 0
    assert list((open_place.root / "closed").iterdir()) == []


@pytest.mark.parametrize("name", [SINGLE, "config.json", "generation_config.json", "tokenizer.json"])
def test_an_input_that_may_not_be_read_is_refused(open_place, name):
    (open_place.root / "writable").mkdir()
    (open_place.root / "writable").chmod(0o777)
    path = open_place.one / name
    path.write_text("{}") if not path.exists() else None
    path.chmod(0)

    def refused():
        with pytest.raises(CheckpointError, match=f"one/{name}: cannot be read: Permission denied"):
            merge_config(open_place.recipe(), open_place.root / "writable" / "out")

    assert as_nobody(refused) == 0
    assert list((open_place.root / "writable").iterdir()) == []


def test_of_several_outputs_none_appears_when_one_place_is_taken(place):
    configs = {place.root / f"out-{number}": place.recipe() for number in (1, 2)}
    (place.root / "out-2").mkdir()
    with pytest.raises(WriteError, match="out-2: exists already"):
        merge_configs(configs)
    assert not (place.root / "out-1").exists()
    (place.root / "out-2").rmdir()
    with pytest.raises(WriteError, match="out-2: was created by somebody else"):
        merge_configs(configs, on_progress=lambda progress: (place.root / "out-2").mkdir(exist_ok=True))
    assert sorted(path.name for path in place.root.glob("*out*")) == ["out-2"]
    assert list((place.root / "out-2").iterdir()) == []


def test_on_a_disk_the_room_of_every_file_is_taken_before_the_work(place, tmp_path):
    if subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout.strip() == "tmpfs":
        pytest.skip("temporary files lie in memory here, where nothing is taken beforehand")
    found = []

    def look(progress):
        if not found:
            (partial,) = tmp_path.glob(".out.partial-*")
            found.extend((path.stat().st_size, path.stat().st_blocks * 512) for path in partial.glob("*.safetensors"))

    merge_config(place.recipe(), tmp_path / "out", max_shard_bytes=300_000, on_progress=look)
    assert len(found) == 4
    assert all(taken >= size for size, taken in found)
