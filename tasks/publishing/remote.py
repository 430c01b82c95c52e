"""One repository of a Hub: what stands in it, and the three calls that change it, with an explicit token.

What is read is read by ``HubSource``. Calls that the client makes once are repeated here a few times; those of an
upload (asking how, the bytes, the commit) it repeats itself, five times, after as long as the Hub asks for.
"""

import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils._http import default_client_factory  # it has no public name (2.4.0)

from tasks.domain.errors import HubUnavailable, InputError, ModelRefused
from tasks.domain.models import ModelRef
from tasks.domain.publication import MARKER, Marker, read_marker
from tasks.sources.failures import translated, with_retries
from tasks.sources.hub import HubSource
from tasks.sources.protocol import SourceFile

Answer = TypeVar("Answer")
CommitOperation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

CONNECT_SECONDS, ANSWER_SECONDS = 30.0, 120.0
"""To reach the Hub; for an answer to begin, and between two parts of one. A commit may take the Hub 60 s."""
MARKER_BYTES = 1 << 20
"""Of ``empelt.json``: 100 bytes for each file of the artifact."""
FIRST_FILES = frozenset({".gitattributes"})
"""What a Hub itself puts into a new repository."""


class Moved(Exception):
    """Somebody else has committed since the repository was looked at."""


class State(NamedTuple):
    """A repository as it is now."""

    head: str
    """Sha of its main branch."""
    tags: dict[str, str]
    """Tag -> sha of its commit."""


def set_time_outs() -> None:
    """Give every request of the client in this process a time-out; by default it has none. For a process of its own."""

    def bounded() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        return client

    set_client_factory(bounded)


class Repository:
    """One repository, which need not be there yet."""

    def __init__(self, endpoint: str, repo_id: str, token: str) -> None:
        """Remember whom to ask; nothing is sent yet.

        Args:
            endpoint: of the Hub; a path prefix is kept.
            repo_id: ``owner/name``.
            token: that may write there. An empty one is refused: none is ever taken from elsewhere.
        """
        if not token:
            raise InputError(f"no token for {endpoint}: set EMPELT_PUBLISH_TOKEN to one that may write {repo_id}")
        self.repo_id = repo_id
        self._source = HubSource(endpoint, token)
        self.endpoint = self._source.endpoint
        self._api = HfApi(endpoint=self.endpoint, token=token)

    # --- what stands there -------------------------------------------------------------------------------------------
    def state(self) -> State | None:
        """Head and tags; None if there is no such repository, or none that this token may see."""

        def ask() -> State | None:
            with translated(self.repo_id, self.endpoint):
                try:
                    refs = self._api.list_repo_refs(self.repo_id)
                except RepositoryNotFoundError:
                    return None
            head = next((ref.target_commit for ref in refs.branches if ref.name == "main"), None)
            if head is None:
                raise ModelRefused(f"{self.repo_id}: {self.endpoint} tells of no branch main; publish to another one")
            return State(head, {ref.name: ref.target_commit for ref in refs.tags})

        return with_retries(ask)

    def files(self, sha: str) -> dict[str, SourceFile]:
        """Path -> file at a commit."""
        return {file.path: file for file in self._source.files(self._at(sha))}

    def marker(self, sha: str) -> Marker | None:
        """The marker at a commit, or None if there is none, or none that can be read."""
        if MARKER not in self.files(sha):
            return None
        return read_marker(self._source.read_small(self._at(sha), MARKER, MARKER_BYTES))

    def commit_with(self, line: str) -> str | None:
        """The newest commit of main whose description holds ``line``, or None."""

        def ask() -> str | None:
            with translated(self.repo_id, self.endpoint):
                for commit in self._api.list_repo_commits(self.repo_id):
                    if line in commit.message:
                        return commit.commit_id
            return None

        return with_retries(ask)

    # --- what changes it ---------------------------------------------------------------------------------------------
    def create(self, *, private: bool) -> None:
        """Make the repository; nothing happens if somebody was quicker."""

        def ask() -> None:
            with translated(self.repo_id, self.endpoint):
                visibility = "private" if private else "public"
                self._api.create_repo(self.repo_id, visibility=visibility, exist_ok=True)  # type: ignore[arg-type]

        with_retries(ask)

    def commit(
        self, folder: Path, paths: Sequence[str], gone: Sequence[str], *, on: str, title: str, more: str
    ) -> None:
        """Make ``paths`` of ``folder`` the content of main, as one commit: all large files first, then all at once.

        Args:
            folder: holds the files.
            paths: of the files, relative, with ``/``.
            gone: paths that are there and are to go.
            on: the head that this was planned on; the Hub refuses the commit on any other.
            title: first line of the commit.
            more: its description.

        Raises:
            Moved: the head is another one by now. Nothing was committed.
        """
        operations: list[CommitOperation] = [
            *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path) for path in paths),
            *(CommitOperationDelete(path_in_repo=path, is_folder=False) for path in gone),
        ]

        def ask() -> None:
            with translated(self.repo_id, self.endpoint):
                self._send(
                    lambda: self._api.create_commit(
                        self.repo_id, operations, commit_message=title, commit_description=more, parent_commit=on
                    )
                )

        with_retries(ask)

    def tag(self, name: str, sha: str, message: str) -> None:
        """Set a tag; one of that name that is there already stays as it is."""

        def ask() -> None:
            with translated(self.repo_id, self.endpoint):
                self._api.create_tag(self.repo_id, tag=name, revision=sha, tag_message=message, exist_ok=True)

        with_retries(ask)

    def _at(self, sha: str) -> ModelRef:
        return ModelRef(repo_id=self.repo_id, revision=sha)

    def _send(self, call: Callable[[], Answer]) -> Answer:
        """``call`` with the client's two wrappings taken off: a thread's RuntimeError, and a ValueError of a card."""
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code == HTTPStatus.PRECONDITION_FAILED:
                raise Moved(f"{self.repo_id} has another head than when it was looked at") from error
            raise
        except RuntimeError as error:
            if isinstance(error.__cause__, HfHubHTTPError | httpx2.HTTPError | OSError):
                raise error.__cause__ from error
            raise
        except json.JSONDecodeError as error:  # what it got for its question whether the card is sound was no JSON
            raise HubUnavailable(f"{self.repo_id}: {self.endpoint} did not answer JSON: {error}") from error
        except ValueError as error:
            raise InputError(f"{self.repo_id}: {self.endpoint} does not take the card: {error}") from error
