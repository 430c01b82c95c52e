"""Pushing: whole commits, stable shas, and a server that sees them without a restart."""

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from infra.local_hub.push import PushRefused, push_folder
from tests.local_hub.hub_fixtures import REPOSITORY, WHEN, RunningHub, TinyModel, run_hub


def _push(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.local_hub", "push", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)


def test_the_push_command_makes_a_release_visible_at_once(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path
) -> None:
    folder = TinyModel().write(tmp_path / "m")
    assert list(api.list_models(author=org)) == []
    asked = ("--root", str(hub.root), "--repo", f"{org}/m", "--from", str(folder), "--message", "v1", "--date", WHEN)
    done = _push(*asked)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = api.list_models(author=org, expand=["sha"])
    assert row.sha == done.stdout.strip()


def test_the_same_pushes_give_the_same_shas_in_another_store(tmp_path: Path) -> None:
    first, second = TinyModel().write(tmp_path / "a"), TinyModel(fill=1).write(tmp_path / "b")
    shas = [
        [
            push_folder(root, "lab/m", first, "one", WHEN),
            push_folder(root, "lab/m", second, "two", "2026-11-21T10:00:00+01:00"),
        ]
        for root in (tmp_path / "hub1", tmp_path / "hub2")
    ]
    assert shas[0] == shas[1]
    assert shas[0][0] != shas[0][1]


def test_pushing_what_is_there_makes_no_commit(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "m")
    sha = hub.push(f"{org}/m", folder)
    assert hub.push(f"{org}/m", folder, "again", "2026-11-22T09:00:00Z") == sha
    assert len(api.list_repo_commits(f"{org}/m")) == 1


def test_an_update_in_place_keeps_the_id_and_the_old_revision(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path
) -> None:
    old = hub.push(f"{org}/m", TinyModel(fill=1).write(tmp_path / "a"))
    before = api.model_info(f"{org}/m")
    new = hub.push(f"{org}/m", TinyModel(fill=2).write(tmp_path / "b"), when="2026-11-21T09:00:00Z")
    after, pinned = api.model_info(f"{org}/m"), api.model_info(f"{org}/m", revision=old)
    assert (after.sha, pinned.sha) == (new, old)
    assert new != old
    assert after._id == before._id == pinned._id  # type: ignore[attr-defined]
    assert after.created_at == before.created_at
    assert after.last_modified is not None
    assert before.last_modified is not None
    assert after.last_modified > before.last_modified


def test_a_reader_sees_whole_commits_only(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    folders = [TinyModel(fill=n, others={"n.txt": b"%d" % n}).write(tmp_path / str(n)) for n in range(6)]
    pushed: list[str] = []

    def push_all() -> None:
        pushed.extend(
            hub.push(f"{org}/m", folder, when=f"2026-11-{n + 1:02d}T00:00:00Z") for n, folder in enumerate(folders)
        )

    hub.push(f"{org}/m", folders[5], when="2026-10-01T00:00:00Z")
    pusher = threading.Thread(target=push_all)
    pusher.start()
    seen: dict[str, set[str]] = {}
    while pusher.is_alive():
        info = api.model_info(f"{org}/m", files_metadata=True)
        files = ",".join(f"{s.rfilename}:{s.blob_id}" for s in info.siblings or ())
        seen.setdefault(str(info.sha), set()).add(files)
    pusher.join()
    # One sha, one set of files, each time it was looked at.
    assert all(len(states) == 1 for states in seen.values())
    assert api.model_info(f"{org}/m").sha == pushed[-1]
    assert not [path.name for path in (hub.root / "blobs").iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_pushed_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good, root = TinyModel().write(tmp_path / "good"), tmp_path / "hub"
    for repo_id, folder, when, named in (
        ("lab/m", tmp_path / "none", WHEN, "none"),
        ("lab/m", tmp_path / "empty", WHEN, "no files"),
        ("../m", good, WHEN, "../m"),
        ("lab", good, WHEN, "'lab'"),
        ("lab/m", good, "yesterday", "yesterday"),
        ("lab/m", good, "2026-11-20T09:00:00", "time zone"),
    ):
        with pytest.raises(PushRefused, match=re.escape(named)):
            push_folder(root, repo_id, folder, when=when)
    assert not root.exists()
    refused = _push("--root", str(root), "--repo", "lab", "--from", str(good))
    assert (refused.returncode, "PushRefused: 'lab'" in refused.stderr) == (2, True)


def test_files_that_the_client_and_git_leave_behind_are_not_pushed(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path
) -> None:
    hub.push(f"{org}/m", TinyModel(others={".cache/x": b"x", ".git/HEAD": b"x"}).write(tmp_path / "m"))
    assert not [path for path in api.list_repo_files(f"{org}/m") if path.startswith((".cache", ".git"))]


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "infra.local_hub", "--root", str(tmp_path / "hub"), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert done.returncode == 2
    assert done.stderr.startswith(f"AddressInUse: the local Hub cannot listen on 127.0.0.1:{port}")


def test_sigterm_ends_the_hub_with_code_0_and_frees_the_port(tmp_path: Path) -> None:
    with run_hub(tmp_path / "hub") as hub:
        hub.process.send_signal(signal.SIGTERM)
        assert hub.process.wait(timeout=10) == 0
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", hub.port))
