"""What happens on the way from a Hub, each once: the real client, real HTTP, and what is left on disk and on record."""

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import doors
from tasks.domain.errors import DiskFull, HubUnavailable, ModelRefused
from tasks.domain.models import Digest, ModelRef
from tasks.hub import fetch_model
from tasks.settings import settings
from tasks.sources.calls import Usage
from tasks.sources.failures import HubBusy
from tasks.sources.hub import HubSource
from tasks.sources.parentage import nearest_parent
from tasks.sources.room import reserved
from tests.local_hub.hub_fixtures import REPOSITORY, RunningHub, TinyModel, run_hub, trained
from tests.tasks.lab import FAMILY, TOKEN, Lab, lab_on

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def on_record(lab: Lab) -> tuple[ModelRef, Digest]:
    """A release that was recognised, and is not fetched yet."""
    lab.push("instruct-v1")
    lab.settle()
    (release,) = doors.open_ledger().releases(FAMILY)
    return release.ref, release.content_digest


def usage(bucket: str) -> Usage:
    source = doors.open_source()
    return next(one for one in source.calls.poll(source.endpoint).usage if one.bucket == bucket)


def waited() -> float:
    return doors.open_source().calls.waited_seconds


def test_429_with_t_2_is_waited_out_and_counted(lab: Lab) -> None:
    sha = lab.push("instruct-v1")
    lab.watch()
    before = waited()
    lab.hub.pull("failures", status=429, count=1, path="/api/models$", retry_after=2, limit=True)
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]
    assert waited() - before == 2
    assert (usage("api").limit, usage("api").window_seconds, usage("api").left) == (500, 300, 0)
    assert usage("api").stated_by == "told by the source"
    assert lab.holds() == {}


def test_503_burst_is_outlived_by_the_next_watch(lab: Lab) -> None:
    sha = lab.push("instruct-v1")
    lab.watch()
    lab.hub.pull("failures", status=503, count=3, path="/resolve/")
    with pytest.raises(HubBusy, match="HTTP 503"):
        lab.watch()
    assert (doors.open_ledger().releases(FAMILY), lab.holds()) == ([], {})
    assert list(lab.watch().values()) == [f"instruct-v1@{sha}"]


CALLS: dict[str, Callable[[HubSource, ModelRef, Path], object]] = {
    "list": lambda source, ref, _: source.list_organisation(ref.repo_id.split("/")[0]),
    "state": lambda source, ref, _: source.state(ref.repo_id),
    "resolve": lambda source, ref, _: source.resolve(ref.repo_id),
    "files": lambda source, ref, _: source.files(ref),
    "file": lambda source, ref, _: source.read_small(ref, "config.json", 10_000),
    "header": lambda source, ref, _: source.read_header(ref, FIRST),
    "range": lambda source, ref, _: source.read_range(ref, FIRST, 10, 10),
    "fetch": lambda source, ref, into: source.fetch(ref, into / "there", paths=["config.json"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_that_hangs_is_given_up_and_tried_again(lab: Lab, tmp_path: Path, name: str) -> None:
    ref = ModelRef(repo_id=lab.repo("instruct-v1"), revision=lab.push("instruct-v1"))
    source = HubSource(lab.hub.endpoint, timeout_seconds=0.5)
    lab.hub.pull("failures", fault="silent", seconds=5, path="/resolve/" if name == "fetch" else "")
    lab.hub.pull("requests")
    assert CALLS[name](source, ref, tmp_path)
    # A download is the client's own: it gives up after the time that we name, and tries again by itself.
    assert source.calls.refused == (0 if name == "fetch" else 1)
    asked = [(seen["method"], seen["path"]) for seen in lab.hub.answered()]
    assert len(asked) > len(set(asked))  # the same once more


def test_a_poll_states_its_calls_against_the_published_limits(lab: Lab) -> None:
    lab.push("instruct-v1")
    lab.hub.pull("requests")
    lab.settle()
    asked = [seen["path"] for seen in lab.hub.answered()]
    api, files = usage("api"), usage("resolvers")
    assert (api.calls, files.calls) == (
        sum(path.startswith("/api/") for path in asked),
        sum("/resolve/" in path for path in asked),
    )
    assert api.calls + files.calls == len(asked)
    assert (api.limit, files.limit, api.left) == (500, 3000, None)
    told = f"{api.calls} api calls, {100 * api.calls / 500:.1f} % of 500 per 300 s (published for an address without "
    assert api.sentence == f"{told}an account)"
    lab.hub.pull("requests")
    lab.watch()  # with nothing new, one organisation is one call
    assert [seen["path"] for seen in lab.hub.answered()] == ["/api/models"]


def test_the_lineage_probe_reads_less_than_a_megabyte_of_weights_of_any_size(lab: Lab) -> None:
    """Matrices of 3 MB each here; of an 8 B model the samples are as many bytes, and the headers under 100 kB each."""
    shapes = {f"model.layers.{n}.mlp.down_proj.weight": (512, 3072) for n in range(6)}
    big = TinyModel(tensors=shapes, fill=60)
    refs = [
        ModelRef(repo_id=lab.repo(name), revision=lab.push(name, model=big)) for name in ("base-big", "instruct-v7")
    ]
    lab.hub.pull("requests")
    proof = nearest_parent(HubSource(lab.hub.endpoint), refs[1], [refs[0]])
    assert proof.distance == 0
    assert sum(2 * 512 * 3072 for _ in shapes) > 15_000_000
    assert sum(seen["bytes"] for seen in lab.hub.answered()) < 1_000_000
    assert proof.bytes_read < 200_000


def test_truncated_shard_on_the_way_is_asked_for_again(lab: Lab) -> None:
    ref, digest = on_record(lab)
    lab.hub.pull("failures", fault="cut", at=300, path=f"{SECOND}$")
    assert fetch_model.fn("instruct", ref, digest) == digest
    assert doors.open_store().verify(digest).digest == digest


def test_truncated_shard_at_the_hub_is_refused_before_a_download(lab: Lab) -> None:
    sizes: list[int] = []

    def truncate(folder: Path) -> None:
        sizes.append((folder / SECOND).stat().st_size)
        os.truncate(folder / SECOND, sizes[0] - 100)

    sha = lab.push("instruct-v1", change=truncate)
    assert lab.settle() == {}
    told = f"truncated: {sizes[0] - 100} bytes, but its header describes {sizes[0]}"
    assert told in lab.holds()[f"instruct-v1@{sha}"]


def test_flipped_byte_on_the_way_is_asked_for_once_more(lab: Lab) -> None:
    ref, digest = on_record(lab)
    lab.hub.pull("failures", fault="flip", at=500, path=f"{FIRST}$")
    lab.hub.pull("requests")
    assert fetch_model.fn("instruct", ref, digest) == digest
    assert [seen["method"] for seen in lab.hub.answered() if seen["path"].endswith(FIRST)] == ["HEAD", "GET"] * 2


def test_flipped_byte_that_stays_is_refused_with_both_sha256_and_nothing_is_kept(lab: Lab) -> None:
    ref, digest = on_record(lab)
    lab.hub.pull("failures", fault="flip", at=500, path=f"{FIRST}$", count=9)
    with pytest.raises(ModelRefused, match="none is kept") as refusal:
        fetch_model.fn("instruct", ref, digest)
    (problem,) = refusal.value.problems
    assert re.fullmatch(rf"{FIRST}: sha256 is [0-9a-f]{{64}}, but the source lists [0-9a-f]{{64}}", problem)
    assert doors.open_store().digests() == []
    assert not list(settings().store.rglob("*.safetensors"))


def test_a_download_goes_on_with_the_files_that_had_arrived(lab: Lab) -> None:
    ref, digest = on_record(lab)
    lab.hub.pull("failures", status=503, count=99, path=f"{SECOND}$")
    with pytest.raises(HubUnavailable):
        fetch_model.fn("instruct", ref, digest)
    assert doors.open_store().digests() == []
    lab.hub.pull("failures")
    lab.hub.pull("requests")
    assert fetch_model.fn("instruct", ref, digest) == digest
    fetched = {Path(seen["path"]).name for seen in lab.hub.answered() if "/resolve/" in seen["path"]}
    assert SECOND in fetched
    assert FIRST not in fetched
    assert [path.name for path in (settings().store / "scratch").iterdir()] == []


def test_a_file_that_was_damaged_while_a_download_waited_is_asked_for_again(lab: Lab) -> None:
    ref, digest = on_record(lab)
    lab.hub.pull("failures", status=503, count=99, path=f"{SECOND}$")
    with pytest.raises(HubUnavailable):
        fetch_model.fn("instruct", ref, digest)
    lab.hub.pull("failures")
    (kept,) = settings().store.rglob(FIRST)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert fetch_model.fn("instruct", ref, digest) == digest
    assert doors.open_store().verify(digest).digest == digest


def test_a_shard_that_the_store_has_is_not_downloaded_again(lab: Lab) -> None:
    ref, digest = on_record(lab)
    fetch_model.fn("instruct", ref, digest)

    def second_shard_only(folder: Path) -> None:
        other = lab.folder(TinyModel(values=trained(1, steps=9)))
        (folder / SECOND).write_bytes((other / SECOND).read_bytes())

    lab.push("instruct-v1", change=second_shard_only, minutes_ago=90)
    lab.settle()
    new = doors.open_ledger().releases(FAMILY)[-1]
    lab.hub.pull("requests")
    assert fetch_model.fn("instruct", new.ref, new.content_digest) == new.content_digest != digest
    fetched = {Path(seen["path"]).name for seen in lab.hub.answered() if "/resolve/" in seen["path"]}
    assert SECOND in fetched
    assert FIRST not in fetched
    places = [Path(doors.open_store().verify(one).folder) / FIRST for one in (digest, new.content_digest)]
    assert places[0].samefile(places[1])


def test_disk_reservation_refusal_names_what_is_promised_to_others(lab: Lab) -> None:
    ref, digest = on_record(lab)
    store = doors.open_store()
    free = store.free_bytes()
    with reserved(store.root / "room", free * 100 // 110 - (1 << 24), store.scratch("another"), "another model"):
        # Less than what the first one was promised is left, though the disk has all of it still.
        big = json.loads((lab.hub.root / "repos" / ref.repo_id / "commits" / f"{ref.revision}.json").read_text())
        for file in big["files"]:
            file["size"] = 1 << 27 if file["path"] == FIRST else file["size"]
        forged = ModelRef(repo_id=ref.repo_id, revision="f" * 40)
        path = lab.hub.root / "repos" / ref.repo_id / "commits" / f"{forged.revision}.json"
        path.write_text(json.dumps(big | {"sha": forged.revision}))
        with pytest.raises(DiskFull) as wait:
            fetch_model.fn("instruct", forged, digest)
    assert re.search(r"needs \d+ bytes .* has \d+ free, of which \d+ are promised to other work", str(wait.value))
    assert "nothing of it was written" in str(wait.value)
    assert not list(settings().store.rglob("*.safetensors"))
    assert lab.holds() == {}  # it is a wait, not a refusal
    assert fetch_model.fn("instruct", ref, digest) == digest  # the other one is done


def test_a_promise_ends_with_the_process_that_it_was_made_to(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from tasks.sources.room import reserved
        with reserved(Path(sys.argv[1]) / "room", 1000, Path(sys.argv[1]), "a model"):
            print("reserved", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "reserved\n"
        assert len(list((tmp_path / "room").iterdir())) == 1
        holder.kill()
    with reserved(tmp_path / "room", 10, tmp_path, "another"):
        assert len(list((tmp_path / "room").iterdir())) == 1  # the other note was taken away


def test_two_workers_that_want_one_model_download_it_once(lab: Lab) -> None:
    ref, digest = on_record(lab)
    lab.hub.pull("failures", fault="silent", seconds=1, path=f"{FIRST}$", count=1)
    lab.hub.pull("requests")
    found: list[Digest] = []
    workers = [threading.Thread(target=lambda: found.append(fetch_model.fn("instruct", ref, digest))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert found == [digest, digest]
    assert [seen["method"] for seen in lab.hub.answered() if seen["path"].endswith(FIRST)] == ["HEAD", "GET"]


def test_endpoint_with_a_path_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "/artifactory/api/huggingfaceml/models"
    with run_hub(tmp_path / "hub", "--page-size", "2", write_token=TOKEN, prefix=prefix) as hub:
        with lab_on(hub, tmp_path, monkeypatch, settle_seconds=3600) as lab:
            hub.pull("requests")
            ref, digest = on_record(lab)
            assert fetch_model.fn("instruct", ref, digest) == digest
            lab.api.move_repo(ref.repo_id, lab.repo("instruct-v2"))  # the redirect has the prefix as well
            assert doors.open_source().state(ref.repo_id).repo_id == lab.repo("instruct-v2")
            assert lab.holds() == {}
        assert all(seen["path"].startswith(f"{prefix}/") for seen in hub.answered())


def test_a_token_that_was_not_given_is_never_sent(tmp_path: Path, lab_hub: RunningHub, lab: Lab) -> None:
    """Neither that of a token file in HOME, nor that of the environment: they may be for another endpoint."""
    on_record(lab)
    home = tmp_path / "somebody"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_in-the-home")
    code = """
        import sys
        from huggingface_hub import get_token
        from prefect.logging import disable_run_logger
        from tasks.doors import open_source
        from tasks.hub import fetch_model, find_releases
        from tasks.domain.models import ModelRef
        print(get_token())
        with disable_run_logger():
            found = find_releases.fn("tiny", True)
            assert found, "no release"
            fetch_model.fn("instruct", found[0].ref, found[0].content_digest)
            open_source().resolve(found[0].ref.repo_id)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    for given, signed in ((None, {False}), ("hf_given", {True})):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
        environment |= {"EMPELT_HOME": str(tmp_path / f"home-{given}"), "EMPELT_SETTLE_SECONDS": "0"}
        environment |= {"HF_TOKEN": "hf_in-the-environment"} if given is None else {"EMPELT_HUB_TOKEN": given}
        lab_hub.pull("requests")
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        # The client itself would take it: this is what must not happen.
        assert done.stdout.strip() == ("hf_in-the-environment" if given is None else "hf_in-the-home")
        asked = lab_hub.answered()
        assert {seen["method"] for seen in asked} == {"GET", "HEAD"}
        assert {seen["signed"] for seen in asked} == signed
