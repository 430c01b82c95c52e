"""What happens on the way to a Hub, each once: the real client, real HTTP, and what stands in the repository then."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, snapshot_download

from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.publication import MARKER
from tasks.publishing.publish import publish
from tasks.publishing.remote import Repository
from tests.local_hub.hub_fixtures import RunningHub, run_hub
from tests.publishing.conftest import TOKEN, Publisher, ended

KILLED_BEFORE_THE_TAG = """
import os, signal
from tasks.publishing.remote import Repository
Repository.tag = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
WEIGHTS = "model-00001-of-00002.safetensors"


def uploads(hub: RunningHub) -> list[str]:
    """Paths of all requests that change something."""
    seen = [one for one in hub.answered() if one["method"] not in ("GET", "HEAD")]
    asking = ("/preupload/", "/objects/batch", "/verify", "/validate-yaml")
    return [one["path"] for one in seen if not any(word in one["path"] for word in asking)]


def test_a_publication_is_one_private_repository_one_commit_and_one_tag(publisher: Publisher, tmp_path: Path) -> None:
    folder, marker = publisher.folder()
    done = publish(publisher.remote, folder, marker)
    assert (done.how, done.tag) == ("uploaded", "merge-ab12ab12ab12")
    assert done.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert publisher.commits() == [f"eu: artifact {marker.artifact[:12]}, merge-ab12ab12ab12"]
    assert publisher.tags() == {"merge-ab12ab12ab12": done.commit}
    info = publisher.api.model_info(publisher.repo_id)
    assert (info.private, info.sha) == (True, done.commit)
    there = snapshot_download(
        publisher.repo_id, revision=done.tag, endpoint=publisher.hub.endpoint, token=TOKEN, local_dir=tmp_path / "got"
    )
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert (Path(there) / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_publish_twice_is_one_repository_one_commit_one_tag(publisher: Publisher) -> None:
    folder, marker = publisher.folder()
    first = publish(publisher.remote, folder, marker)
    publisher.hub.pull("requests")
    again = publish(publisher.remote, folder, marker)
    assert (again.how, again.commit, again.bytes) == ("adopted", first.commit, 0)
    assert uploads(publisher.hub) == []
    assert len(publisher.commits()) == len(publisher.tags()) == 1


def test_crash_between_upload_and_tag_is_adopted_by_the_next_run(publisher: Publisher) -> None:
    folder, marker = publisher.folder()
    killed = publisher.run(folder, code=KILLED_BEFORE_THE_TAG)
    assert (killed.code, killed.event) == (-signal.SIGKILL, {})
    assert (len(publisher.commits()), publisher.tags()) == (1, {})
    publisher.hub.pull("requests")
    again = publisher.run(folder)
    assert (again.code, again.event["how"], again.event["bytes"]) == (0, "tagged", 0)
    assert [path.rpartition("/tag/")[2] for path in uploads(publisher.hub)] == [again.event["commit"]]
    assert publisher.tags() == {marker.tag: again.event["commit"]}
    assert len(publisher.commits()) == 1


def test_crash_before_the_commit_leaves_nothing_to_see_and_no_byte_is_sent_again(publisher: Publisher) -> None:
    folder, _ = publisher.folder(fill=3)
    code = """
import os, signal, tasks.publishing
from huggingface_hub import _commit_api
_commit_api._send_commit = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = publisher.run(folder, code=code)
    assert killed.code == -signal.SIGKILL
    assert (publisher.commits(), publisher.tags()) == ([], {})
    publisher.hub.pull("requests")
    assert publisher.run(folder).event["how"] == "uploaded"
    assert not [path for path in uploads(publisher.hub) if path.startswith("/lfs/")]


def test_two_workers_publish_at_once_and_there_is_one_commit_and_one_tag(publisher: Publisher) -> None:
    folder, marker = publisher.folder()
    wait = f"""
import time
while time.time() < {time.time() + 6}: time.sleep(0.005)
"""
    preload = "import tasks.publishing.publish, tasks.publishing.remote\n"
    workers = [publisher.start(folder, code=preload + wait) for _ in range(2)]
    results = [ended(worker) for worker in workers]
    assert [result.code for result in results] == [0, 0], [result.said for result in results]
    assert len({result.event["commit"] for result in results}) == 1
    assert len(publisher.commits()) == 1
    assert publisher.tags() == {marker.tag: results[0].event["commit"]}


def test_a_commit_that_comes_in_between_is_not_overwritten_unseen(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's commit of the same artifact, just before ours: ours is refused, theirs is adopted."""
    folder, marker = publisher.folder()
    real, raced = Repository.commit, []

    def commit(self: Repository, *given: object, **named: object) -> None:
        if not raced:
            raced.append(publish(publisher.remote, folder, marker))
        real(self, *given, **named)  # type: ignore[arg-type]

    def once(self: Repository, *given: object, **named: object) -> None:
        monkeypatch.setattr(Repository, "commit", real)
        commit(self, *given, **named)

    # The moment just before our commit cannot be met from outside; both commits are real.
    monkeypatch.setattr(Repository, "commit", once)
    done = publish(publisher.remote, folder, marker)
    assert done.commit == raced[0].commit
    assert len(publisher.commits()) == 1


def test_same_key_with_other_bytes_is_refused_with_both_digests(publisher: Publisher) -> None:
    folder, marker = publisher.folder(fill=1)
    first = publish(publisher.remote, folder, marker)
    other, others = publisher.folder(fill=2)
    publisher.hub.pull("requests")
    with pytest.raises(ModelRefused, match="nothing was written") as refusal:
        publish(publisher.remote, other, others)
    told = "\n".join(refusal.value.problems)
    assert f"artifact is {marker.artifact}, ours is {others.artifact}" in told
    for one in (marker, others):
        assert one.identity[WEIGHTS].sha256 in told
    assert (uploads(publisher.hub), publisher.tags()) == ([], {marker.tag: first.commit})


def test_an_untagged_commit_of_ours_with_other_bytes_is_never_tagged(publisher: Publisher) -> None:
    folder, _ = publisher.folder(fill=1)
    publisher.run(folder, code=KILLED_BEFORE_THE_TAG)
    other, others = publisher.folder(fill=2)
    with pytest.raises(ModelRefused, match="other bytes under merge-ab12ab12ab12"):
        publish(publisher.remote, other, others)
    assert publisher.tags() == {}


def test_a_tag_that_stands_on_a_foreign_commit_is_not_believed(publisher: Publisher) -> None:
    folder, marker = publisher.folder()
    publisher.api.create_repo(publisher.repo_id)
    publisher.api.create_tag(publisher.repo_id, tag=marker.tag)
    with pytest.raises(ModelRefused, match="has other bytes under") as refusal:
        publish(publisher.remote, folder, marker)
    assert f"{MARKER}: not there, or not to be read" in refusal.value.problems


@pytest.mark.parametrize("planted", ["README.md", WEIGHTS])
def test_a_repository_that_is_not_ours_is_refused_by_name(publisher: Publisher, planted: str) -> None:
    folder, marker = publisher.folder()
    publisher.api.create_repo(publisher.repo_id)
    operation = CommitOperationAdd(path_in_repo=planted, path_or_fileobj=b"somebody's")
    publisher.api.create_commit(publisher.repo_id, [operation], commit_message="theirs")
    publisher.hub.pull("requests")
    with pytest.raises(ModelRefused, match=f"{publisher.repo_id} at .* holds files and no {MARKER}"):
        publish(publisher.remote, folder, marker)
    assert (uploads(publisher.hub), publisher.commits(), publisher.tags()) == ([], ["theirs"], {})


def test_a_repository_of_another_target_is_refused_with_both_names(publisher: Publisher) -> None:
    publish(publisher.remote, *publisher.folder(target="ca", key="cd" * 32))
    folder, marker = publisher.folder(target="eu")
    with pytest.raises(ModelRefused, match=r"holds target 'ca' of family 'tiny', and not 'eu' of 'tiny'"):
        publish(publisher.remote, folder, marker)


def test_the_next_artifact_of_a_target_is_the_next_commit_and_takes_away_what_is_gone(publisher: Publisher) -> None:
    first, old = publisher.folder(fill=1)
    (first / "notes.txt").write_text("of the first one")
    publish(publisher.remote, first, old)
    assert "notes.txt" in publisher.api.list_repo_files(publisher.repo_id)
    second, new = publisher.folder(fill=2, key="cd" * 32)
    done = publish(publisher.remote, second, new)
    assert list(publisher.tags()) == [old.tag, new.tag]
    assert len(publisher.commits()) == 2
    there = publisher.api.list_repo_files(publisher.repo_id, revision=done.commit)
    assert set(there) == {p.relative_to(second).as_posix() for p in second.rglob("*") if p.is_file()} | {
        ".gitattributes"
    }


def test_an_edit_of_the_card_on_the_hub_is_left_as_it_is(publisher: Publisher) -> None:
    folder, marker = publisher.folder()
    first = publish(publisher.remote, folder, marker)
    edit = CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=b"---\nlicense: mit\n---\n# Better words\n")
    publisher.api.create_commit(publisher.repo_id, [edit], commit_message="better words")
    assert publish(publisher.remote, folder, marker).commit == first.commit
    assert publisher.commits()[0] == "better words"


@pytest.mark.parametrize(
    ("path", "status", "limit"),
    [
        ("/preupload/", 429, True),
        ("/lfs/", 503, False),
        ("/objects/batch", 429, False),
        ("/commit/main", 503, False),
        ("/api/repos/create", 429, True),
        ("/tag/", 503, False),
        ("/refs", 429, False),
        ("/validate-yaml", 503, False),
    ],
)
def test_429_and_503_during_an_upload_are_waited_out(publisher: Publisher, path: str, status: int, limit: bool) -> None:
    folder, marker = publisher.folder(fill=len(path))
    publisher.hub.pull("failures", status=status, count=1, path=path, retry_after=1, limit=limit)
    began = time.monotonic()
    done = publisher.run(folder)
    assert (done.code, done.event["how"]) == (0, "uploaded"), done.said
    assert time.monotonic() - began > 1  # as long as it was told to wait
    assert (len(publisher.commits()), list(publisher.tags())) == (1, [marker.tag])


def test_a_commit_whose_answer_was_lost_is_not_made_again(publisher: Publisher) -> None:
    """The Hub has committed, the client does not hear of it and asks again: it meets its own commit."""
    folder, marker = publisher.folder()
    code = """
import tasks.publishing
import huggingface_hub._commit_api as api
real = api.http_backoff
def twice(method, url, **named):
    answer = real(method, url, **named)
    return real(method, url, **named) if "/commit/" in url else answer
api.http_backoff = twice
"""
    done = publisher.run(folder, code=code)
    assert (done.code, len(publisher.commits())) == (0, 1), done.said
    assert publisher.tags() == {marker.tag: done.event["commit"]}


def test_a_hub_that_stays_away_is_an_error_of_its_own_and_leaves_nothing(publisher: Publisher) -> None:
    folder, _ = publisher.folder()
    publisher.hub.pull("failures", status=503, count=99, path="/refs")
    done = publisher.run(folder)
    assert (done.code, done.event["event"], done.event["kind"]) == (3, "error", "HubBusy")
    assert "HTTP 503" in done.event["message"]


def test_upload_path_with_xet_disabled_goes_by_plain_lfs(publisher: Publisher) -> None:
    folder, _ = publisher.folder(fill=9)
    assert publisher.run(folder, xet=False).code == 0
    asked = [one["path"] for one in publisher.hub.answered()]
    assert any(path.startswith("/lfs/") for path in asked)
    assert not [path for path in asked if "xet" in path]
    # The switch does something: with Xet asked for, this client asks for a Xet token, which no other Hub has.
    other, _ = publisher.folder(fill=10, key="cd" * 32)
    assert publisher.run(other, xet=True).code == 2
    assert [one["path"] for one in publisher.hub.answered() if "xet-write-token" in one["path"]]


def test_endpoint_with_a_path_prefix(tmp_path: Path, publisher_on: Callable[[RunningHub], Publisher]) -> None:
    prefix = "/artifactory/api/huggingfaceml/models"
    with run_hub(tmp_path / "hub", write_token=TOKEN, prefix=prefix) as hub:
        publisher = publisher_on(hub)
        folder, marker = publisher.folder()
        hub.pull("requests")
        killed = publisher.run(folder, code=KILLED_BEFORE_THE_TAG)
        assert killed.code == -signal.SIGKILL
        again = publisher.run(folder)
        assert (again.code, again.event["how"]) == (0, "tagged"), again.said
        assert publisher.tags() == {marker.tag: again.event["commit"]}
        assert all(one["path"].startswith(f"{prefix}/") for one in hub.answered())


def test_the_token_is_in_no_output_and_only_the_given_one_is_sent(publisher: Publisher) -> None:
    folder, _ = publisher.folder()
    publisher.hub.pull("failures", status=503, count=2, path="/objects/batch")
    said = [publisher.run(folder, code="import logging; logging.basicConfig(level=logging.DEBUG)").said]
    said.append(publisher.run(folder, token="hf_a-stranger-s-token").said)  # refused: it may not see it, nor make it
    assert "403" in said[1]
    for text in said:
        assert TOKEN not in text
        assert "hf_" not in text
    api = [one for one in publisher.hub.answered() if not one["path"].startswith("/lfs/")]
    assert {one["signed"] for one in api} == {True}


def test_without_a_token_nothing_is_sent_whatever_the_environment_holds(publisher: Publisher) -> None:
    folder, _ = publisher.folder()
    done = publisher.run(folder, token="")
    assert (done.code, done.event["kind"]) == (2, "InputError")
    assert "EMPELT_PUBLISH_TOKEN" in done.event["message"]
    assert publisher.hub.answered() == []
    with pytest.raises(InputError, match="no token for"):
        Repository(publisher.hub.endpoint, publisher.repo_id, "")
