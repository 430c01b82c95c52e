"""Artifacts: whole or not there, read-only, and every altered byte is found."""

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tasks.domain.errors import DiskFull, InputError, ModelRefused
from tasks.domain.lineage import content_digest
from tasks.store.artifacts import ArtifactStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store", headroom_bytes=0)


def tree(store):
    """Everything that the store holds, scratch left out."""
    return sorted(
        p.relative_to(store.root).as_posix() for room in ("artifacts", "manifests") for p in _under(store, room)
    )


def _under(store, room):
    return (store.root / room).rglob("*")


def test_a_folder_becomes_an_artifact_named_by_its_contents(store, make_model):
    made = make_model(weights=b"w" * 1000, **{"README.md": b"a card"})
    artifact = store.adopt(made)
    assert not made.exists()
    assert artifact.digest == content_digest(artifact.files)
    assert artifact.folder == str(store.root / "artifacts" / artifact.digest)
    assert [(f.path, f.size) for f in artifact.files] == [
        ("README.md", 6),
        ("config.json", 2),
        ("model.safetensors", 1000),
    ]
    assert artifact.files[2].sha256 == hashlib.sha256(b"w" * 1000).hexdigest()
    assert store.get(artifact.digest) == artifact == store.verify(artifact.digest)
    assert store.digests() == [artifact.digest]
    assert sorted(os.listdir(artifact.folder)) == ["README.md", "config.json", "model.safetensors"]


def test_the_manifest_lists_files_outside_the_digest_too(store, make_model):
    artifact = store.adopt(make_model(**{"README.md": b"a card"}))
    manifest = json.loads((store.root / "manifests" / f"{artifact.digest}.json").read_text())
    assert [entry["path"] for entry in manifest["files"]] == ["README.md", "config.json", "model.safetensors"]
    assert manifest["digest"] == artifact.digest


def test_what_is_stored_is_read_only_folders_in_it_too(store, make_model):
    made = make_model()
    (made / "original").mkdir()
    (made / "original" / "params.json").write_text("{}")
    folder = Path(store.adopt(made).folder)
    modes = {p.relative_to(folder).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in (folder, *folder.rglob("*"))}
    assert modes.pop(".") == modes.pop("original") == 0o555
    assert set(modes.values()) == {0o444}


def test_the_same_contents_again_are_dropped_and_the_first_stays(store, make_model):
    first = store.adopt(make_model("one", **{"README.md": b"first card"}))
    again = make_model("two", **{"README.md": b"second card"})
    assert store.adopt(again) == first
    assert not again.exists()
    assert (Path(first.folder) / "README.md").read_bytes() == b"first card"
    store.verify(first.digest)


def test_processes_that_adopt_the_same_contents_at_once_store_it_once(store, make_model):
    fork = multiprocessing.get_context("fork")
    folders = [make_model(f"m{n}", weights=b"w" * 100_000, **{"README.md": b"card %d" % n}) for n in range(4)]
    children = [fork.Process(target=store.adopt, args=(folder,)) for folder in folders]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
    assert [child.exitcode for child in children] == [0] * 4
    (digest,) = store.digests()
    store.verify(digest)
    assert not any(folder.exists() for folder in folders)


def test_verify_names_every_altered_file_with_both_hashes(store, make_model):
    artifact = store.adopt(make_model(**{"tokenizer.json": b"{}", "README.md": b"card"}))
    folder = Path(artifact.folder)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "model.safetensors").write_bytes(b"weighty")
    (folder / "tokenizer.json").unlink()
    (folder / "chat_template.jinja").write_bytes(b"say yes")
    with pytest.raises(ModelRefused) as refused:
        store.verify(artifact.digest)
    recorded = {f.path: f.sha256 for f in artifact.files}
    sha = {body: hashlib.sha256(body).hexdigest() for body in (b"weighty", b"say yes")}
    assert refused.value.problems == (
        f"chat_template.jinja: not recorded; found with sha256 {sha[b'say yes']}, 7 bytes",
        f"model.safetensors: sha256 is {sha[b'weighty']} (7 bytes), recorded {recorded['model.safetensors']} (7 bytes)",
        f"tokenizer.json: missing; recorded with sha256 {recorded['tokenizer.json']}, 2 bytes",
    )
    assert artifact.digest in str(refused.value)


def test_a_manifest_altered_together_with_its_file_is_found_by_the_digest(store, make_model):
    artifact = store.adopt(make_model())
    weights, manifest = (
        Path(artifact.folder) / "model.safetensors",
        store.root / "manifests" / f"{artifact.digest}.json",
    )
    other = b"WEIGHTS"
    for path in (weights, manifest):
        path.chmod(0o644)
    weights.write_bytes(other)
    recorded = next(f.sha256 for f in artifact.files if f.path == weights.name)
    manifest.write_text(manifest.read_text().replace(recorded, hashlib.sha256(other).hexdigest()))
    with pytest.raises(ModelRefused, match=r"its files have the content digest [0-9a-f]{64}: the manifest was changed"):
        store.verify(artifact.digest)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc", "", "A" * 64])
def test_what_is_not_in_the_store_is_refused_by_name(store, digest):
    assert not store.has(digest)
    for look in (store.get, store.verify):
        with pytest.raises(ModelRefused) as refused:
            look(digest)
        assert repr(digest) in str(refused.value)


def test_links_and_special_files_are_refused_all_at_once_and_nothing_is_stored(store, make_model):
    made = make_model()
    (made / "tokenizer.json").symlink_to("/etc/passwd")
    os.mkfifo(made / "pipe")
    with pytest.raises(ModelRefused) as refused:
        store.adopt(made)
    assert refused.value.problems == ("pipe: neither a file nor a folder", "tokenizer.json: a link to /etc/passwd")
    assert tree(store) == []
    assert made.exists()


def test_a_folder_without_weights_is_refused_and_stays(store, make_model):
    made = make_model()
    (made / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match=r"no \*.safetensors among the files"):
        store.adopt(made)
    assert tree(store) == []
    assert made.exists()


def test_what_is_stored_cannot_be_adopted_again_from_inside_the_store(store, make_model):
    artifact = store.adopt(make_model())
    with pytest.raises(InputError, match="is in the store already"):
        store.adopt(Path(artifact.folder))
    with pytest.raises(ModelRefused, match="is not a folder"):
        store.adopt(store.root / "scratch" / "never-made")
    assert store.verify(artifact.digest) == artifact


def test_scratch_gives_the_same_folder_to_go_on_in_and_refuses_other_places(store):
    path = store.scratch("merge-1")
    (path / "half").write_text("done")
    assert store.scratch("merge-1") == path
    assert (path / "half").read_text() == "done"
    for name in ("../artifacts", "", ".hidden", "a/b"):
        with pytest.raises(InputError, match="cannot name a scratch folder"):
            store.scratch(name)


def test_only_scratch_that_nobody_wrote_to_lately_is_swept(store):
    old, busy = store.scratch("old"), store.scratch("busy")
    for folder in (old, busy):
        (folder / "part").write_text("")
        (folder / "inner").mkdir()
    for path in (old / "part", old / "inner", old, busy / "inner", busy):
        os.utime(path, (1, 1))
    (old / "inner").chmod(0o555)
    assert store.sweep_scratch(timedelta(hours=1)) == [old]
    assert not old.exists()
    assert busy.exists()


def test_reserving_more_than_there_is_names_what_is_needed_and_what_is_free(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path / "store", headroom_bytes=100 << 20)
    usage = namedtuple("usage", "total used free")(1000 << 20, 700 << 20, 300 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    store.reserve(200 << 20)
    with pytest.raises(DiskFull) as refused:
        store.reserve(250 << 20)
    for part in ("300.0 MiB free", "250.0 MiB are needed", "100.0 MiB that stay free", "room for 50.0 MiB"):
        assert part in str(refused.value)


def on_a_disk_of_one_mib(tmp_path, code):
    """Run ``code`` where ``disk`` is a real file system of 1 MiB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o size=1m tmpfs "{disk}" || exit 77; exec "$0" -c "$1" "{disk}" "{tmp_path}"'
    head = """
        import sys
        from pathlib import Path
        from tasks.domain.errors import DiskFull
        from tasks.store.artifacts import ArtifactStore
        disk, elsewhere = map(Path, sys.argv[1:])
        store = ArtifactStore(disk / "store", headroom_bytes=0)
        def kept():
            return [str(p) for room in ("artifacts", "manifests") for p in (store.root / room).iterdir()]
    """
    full = textwrap.dedent(head) + textwrap.dedent(code)
    ran = subprocess.run(
        [*namespace, "sh", "-c", script, sys.executable, full],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip(f"a file system of our own cannot be mounted here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr


def test_a_disk_that_is_full_when_a_folder_is_adopted_keeps_nothing_of_it(tmp_path):
    on_a_disk_of_one_mib(
        tmp_path,
        """
        made = store.scratch("merge")
        (made / "model.safetensors").write_bytes(b"weights")
        filler = store.root / "filler"
        try:
            with filler.open("wb", buffering=0) as out:
                while out.write(b"x" * 4096):
                    pass
        except OSError:
            pass
        try:
            store.adopt(made)
        except DiskFull as full:
            assert "has no room" in str(full) and "0.0 MiB are free" in str(full), full
        else:
            raise AssertionError("it was adopted")
        assert kept() == [] and (made / "model.safetensors").read_bytes() == b"weights"
        assert [p.name for p in (store.root / "scratch").iterdir()] == ["merge"]
        filler.unlink()
        store.verify(store.adopt(made).digest)
        """,
    )


def test_a_folder_on_another_disk_is_copied_whole_or_not_at_all(tmp_path):
    on_a_disk_of_one_mib(
        tmp_path,
        """
        large, small = elsewhere / "large", elsewhere / "small"
        for folder, size in ((large, 3 << 20), (small, 1000)):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"w" * size)
        try:
            store.adopt(large)
        except DiskFull as full:
            assert "3.0 MiB are needed" in str(full), full
        else:
            raise AssertionError("it was adopted")
        assert kept() == [] and list((store.root / "scratch").iterdir()) == []
        assert (large / "model.safetensors").stat().st_size == 3 << 20
        store.reserve = lambda needed: None  # the disk fills up after we looked
        try:
            store.adopt(large)
        except DiskFull as full:
            assert "3.0 MiB were needed" in str(full), full
        else:
            raise AssertionError("it was adopted")
        assert kept() == [] and list((store.root / "scratch").iterdir()) == [] and large.exists()
        store.verify(store.adopt(small).digest)
        assert not small.exists()
        """,
    )


def test_a_process_killed_while_it_adopts_leaves_all_or_nothing(store, make_model):
    fork = multiprocessing.get_context("fork")
    for n, seconds in enumerate((0, 0.002, 0.01, 0.03)):
        made = make_model(f"m{n}", weights=b"%d" % n * 3_000_000)
        child = fork.Process(target=store.adopt, args=(made,))
        child.start()
        child.join(seconds)
        child.kill()
        child.join(10)
        for digest in store.digests():
            store.verify(digest)
        if made.exists():
            store.verify(store.adopt(made).digest)
    assert len(store.digests()) == 4


def test_scratch_of_a_process_that_is_gone_is_dropped_and_that_of_a_living_one_is_kept(tmp_path):
    store = ArtifactStore(tmp_path / "store")
    mine, kept = store.scratch("mine"), store.scratch("elsewhere")
    other_host = tmp_path / "store" / "owners" / "elsewhere.json"
    other_host.write_text(json.dumps(["another-host", 1, 1.0]))
    code = "import sys; from pathlib import Path; from tasks.store.artifacts import ArtifactStore\n"
    code += "(ArtifactStore(Path(sys.argv[1])).scratch('left') / 'half').write_text('x')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], check=True)
    left = tmp_path / "store" / "scratch" / "left"
    assert (left / "half").exists()
    assert store.drop_orphans() == [left]
    assert (left.exists(), mine.exists(), kept.exists()) == (False, True, True)
    mine.rmdir()
    assert store.drop_orphans() == []
    assert sorted(path.stem for path in (tmp_path / "store" / "owners").iterdir()) == ["elsewhere"]


def test_a_step_of_the_clock_does_not_take_scratch_from_a_living_process(tmp_path, step_clock):
    store = ArtifactStore(tmp_path / "store")
    mine = store.scratch("mine")
    step_clock(3600)
    assert store.drop_orphans() == []
    before = [socket.gethostname(), os.getpid(), psutil.Process().create_time() - 3600]
    (tmp_path / "store" / "owners" / "mine.json").write_text(json.dumps(before))  # as earlier versions wrote it
    assert store.drop_orphans() == []
    assert mine.is_dir()
