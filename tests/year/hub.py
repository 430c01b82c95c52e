"""The simulated Hub, and a source that speaks the real protocol over it, with the real client's calls counted.

In process: a year over HTTP would take days, and the HTTP half (paging, headers, errors, time-outs) is tested against
the local Hub. What is kept of it is what a watch feels: how many calls each question takes, the Hub's limits for each
window of five minutes, its failures, and that it answers about the present only.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha1
from pathlib import Path
from random import Random
from typing import NoReturn

from tasks.domain.errors import HubUnavailable, ModelRefused
from tasks.domain.models import FileDigest, ModelRef
from tasks.sources.calls import Calls
from tasks.sources.failures import AccessRefused, HubBusy, with_retries
from tasks.sources.headers import Header, Tensor
from tasks.sources.protocol import RepoState, SourceFile
from tests.year.clock import START, Clock
from tests.year.contents import SHAPE, SHARD_BYTES, SHARDS, Content, tensor_names, values
from tests.year.events import Event
from tests.year.outages import Outage

LIMITS = {"api": 500, "resolvers": 3000}
"""Calls of an address without a token in each window, the strictest of the Hub's published limits."""
WINDOW_SECONDS = 300
ROWS_PER_PAGE = 500
CALL_SECONDS = 0.1
HEADER_BYTES = 4096
"""Where the tensors of a simulated shard begin."""


@dataclass
class Repository:
    """One repository as the Hub has it."""

    key: str
    name: str
    created_at: datetime
    private: bool
    gated: bool
    disabled: bool = False
    commits: list[tuple[datetime, str, Content]] = field(default_factory=list)
    row: RepoState | None = None
    """As listed, until something changes."""

    def commit(self, at: datetime, content: Content) -> None:
        sha = sha1(f"{self.key}/{len(self.commits)}".encode()).hexdigest()
        self.commits.append((at, sha, content))
        self.row = None

    def state(self) -> RepoState:
        """Its row in a listing."""
        if self.row is None:
            at, sha, content = self.commits[-1]
            self.row = RepoState(
                repo_id=self.name,
                internal_id=self.key,
                sha=sha,
                last_modified=at,
                created_at=self.created_at,
                private=self.private,
                gated=self.gated,
                disabled=self.disabled,
                tags=tuple(f"base_model:{parent}" for parent in content.parents),
                architectures=(content.architecture,),
                parameters=8_000_000_000,
            )
        return self.row


class SimulatedHub:
    """All repositories as they are now."""

    def __init__(self) -> None:
        self.by_key: dict[str, Repository] = {}
        self.by_name: dict[str, Repository] = {}
        self.organisations: dict[str, set[str]] = {}

    def apply(self, event: Event) -> None:
        """Let one thing happen."""
        if event.kind == "create":
            assert event.content is not None
            found = Repository(event.key, event.name, event.at, event.private, event.gated)
            found.commit(event.at, event.content)
            self.by_key[event.key] = found
            self._name(found, event.name)
            return
        repository = self.by_key[event.key]
        repository.row = None
        if event.kind == "commit":
            assert event.content is not None
            repository.commit(event.at, event.content)
        elif event.kind == "open":
            repository.private = False
        elif event.kind == "disable":
            repository.disabled = True
        elif event.kind == "grant":
            repository.gated = False
        elif event.kind in ("rename", "delete"):
            del self.by_name[repository.name]
            self.organisations[repository.name.split("/")[0]].discard(event.key)
            if event.kind == "rename":
                self._name(repository, event.name)

    def _name(self, repository: Repository, name: str) -> None:
        repository.name = name
        self.by_name[name] = repository
        self.organisations.setdefault(name.split("/")[0], set()).add(repository.key)

    def listed(self, organisation: str) -> list[Repository]:
        """What anybody sees of an organisation."""
        keys = sorted(self.organisations.get(organisation, ()))
        return [self.by_key[key] for key in keys if not self.by_key[key].private]


class SimulatedSource:
    """The protocol of ``tasks.sources`` over a simulated Hub."""

    endpoint = "https://hub.simulated"

    def __init__(self, hub: SimulatedHub, clock: Clock, rng: Random, outages: Iterable[Outage] = ()) -> None:
        self._hub, self._clock, self._rng = hub, clock, rng
        self._outages = list(outages)
        self.calls = Calls(signed=False)
        self.asked: Counter[str] = Counter()
        """Calls by what was asked."""
        self.windows: Counter[tuple[str, int]] = Counter()
        self.failures: Counter[str] = Counter()
        self.before_call: Callable[[], None] | None = None
        """Called before each call: a crash, or another watch that comes in between."""

    # --- the protocol ------------------------------------------------------------------------------------------------
    def list_organisation(self, organisation: str) -> list[RepoState]:
        """A call for each page; nothing of a private repository."""
        rows = [repository.state() for repository in self._hub.listed(organisation)]
        self._call("api", "listing", pages=max(1, -(-len(rows) // ROWS_PER_PAGE)))
        return sorted(rows, key=lambda row: row.repo_id)

    def state(self, repo_id: str) -> RepoState:
        self._call("api", "model_info")
        return self._find(repo_id).state()

    def resolve(self, repo_id: str, revision: str | None = None) -> ModelRef:
        self._call("api", "model_info")
        return ModelRef(repo_id=repo_id, revision=revision or self._find(repo_id).state().sha)

    def files(self, ref: ModelRef) -> list[SourceFile]:
        self._call("api", "tree")
        found = [
            SourceFile(
                path=blob.path,
                size=SHARD_BYTES if blob.weights else len(blob.data),
                sha256=blob.sha256 if blob.weights else None,
                blob_id=blob.blob_id,
            )
            for blob in self._content(ref).blobs
        ]
        return sorted(found, key=lambda file: file.path)

    def read_small(self, ref: ModelRef, path: str, max_bytes: int) -> bytes:
        return self._read(ref, path, "file")

    def read_header(self, ref: ModelRef, path: str) -> Header:
        self._read(ref, path, "header")
        names = [name for name in tensor_names() if SHARDS[name.startswith("model.layers.1")] == path]
        size = 2 * SHAPE[0] * SHAPE[1]
        starts = {name: HEADER_BYTES + place * size for place, name in enumerate(names)}
        return Header(path, {name: Tensor("BF16", SHAPE) for name in names}, starts)

    def read_range(self, ref: ModelRef, path: str, start: int, count: int) -> bytes:
        self._read(ref, path, "range")
        names = [name for name in tensor_names() if SHARDS[name.startswith("model.layers.1")] == path]
        place, within = divmod(start - HEADER_BYTES, 2 * SHAPE[0] * SHAPE[1])
        seeds = self._content(ref).by_path[path].weights
        return values(seeds, names[place])[within : within + count]

    def fetch(self, ref: ModelRef, into: Path, *, paths: Sequence[str] | None = None) -> tuple[FileDigest, ...]:
        raise NotImplementedError("no job of the simulation downloads a model")

    # --- inside ------------------------------------------------------------------------------------------------------
    def _find(self, repo_id: str) -> Repository:
        found = self._hub.by_name.get(repo_id)
        if found is None or found.private:
            raise ModelRefused(f"{repo_id}: the simulated Hub has no such repository, or it is private")
        return found

    def _content(self, ref: ModelRef) -> Content:
        found = self._find(ref.repo_id)
        return next(content for _, sha, content in reversed(found.commits) if sha == ref.revision)

    def _read(self, ref: ModelRef, path: str, what: str) -> bytes:
        self._call("resolvers", what)
        if self._find(ref.repo_id).gated:
            raise AccessRefused(f"{path} of {ref}: gated at the simulated Hub (HTTP 403). Accept the licence there.")
        blob = self._content(ref).by_path.get(path)
        if blob is None:
            raise ModelRefused(f"{path} of {ref}: the simulated Hub has no such file (HTTP 404)")
        return blob.data

    def _call(self, bucket: str, what: str, pages: int = 1) -> None:
        for _ in range(pages):
            with_retries(lambda: self._answer(bucket, what))

    def _answer(self, bucket: str, what: str) -> None:
        """Count one call, and fail if the Hub does: by an outage, or because its window is used up."""
        if self.before_call is not None:
            self.before_call()
        self._clock.sleep(CALL_SECONDS)
        now = self._clock.at
        self.calls.asked(bucket)
        self.asked[what] += 1
        seconds = int((now - START).total_seconds())
        self.windows[bucket, seconds // WINDOW_SECONDS] += 1
        if self.windows[bucket, seconds // WINDOW_SECONDS] > LIMITS[bucket]:
            self._fail("429", WINDOW_SECONDS - seconds % WINDOW_SECONDS, what)
        for outage in self._outages:
            if outage.begins <= now < outage.ends and self._rng.random() < 0.6:
                self._fail(outage.kind, min(300.0, (outage.ends - now).total_seconds()), what)

    def _fail(self, kind: str, wait: float, what: str) -> NoReturn:
        self.failures[kind] += 1
        if kind == "429":
            raise HubBusy(f"{what}: the simulated Hub answered HTTP 429; it asks to come back in {wait:.0f} s", wait)
        if kind == "5xx":
            raise HubBusy(f"{what}: the simulated Hub answered HTTP 503", None)
        self._clock.sleep(30)
        raise HubUnavailable(f"{what}: no answer from the simulated Hub within 30 s")
