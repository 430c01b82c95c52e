"""A Hub as a source: the real one, a mirror, or the local one. Only the endpoint differs.

Look-ups are repeated a few times and have time-outs; downloads are the client's own, with our hashes over the result.
"""

import json
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx2
from huggingface_hub import HfApi, ModelInfo, get_session, hf_hub_download, hf_hub_url, hf_raise_for_status
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from tasks.domain.errors import HubUnavailable, InputError, ModelRefused
from tasks.domain.models import FileDigest, ModelRef
from tasks.sources.calls import Calls
from tasks.sources.download import download, nowhere
from tasks.sources.failures import translated, with_retries
from tasks.sources.headers import MAX_HEADER_BYTES, Header, header_length, parse_header
from tasks.sources.protocol import At, RepoState, SourceFile

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

FIRST_BYTES = 100_000
"""One request of this size holds 97 % of the headers on the Hub whole."""
LISTINGS = 64
"""Listings that are kept: looking over one release asks for those of two models six times."""


class HubSource:
    """Models of one Hub endpoint."""

    def __init__(self, endpoint: str, token: str | None = None, timeout_seconds: float = 30) -> None:
        """Remember whom to ask; nothing is sent yet.

        Args:
            endpoint: such as ``https://huggingface.co`` or ``http://127.0.0.1:8787``; a path prefix is kept.
            token: for gated and private models. None sends none, whatever the home folder holds.
            timeout_seconds: for each answer to begin, and between two of its parts.
        """
        if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc:
            raise InputError(f"endpoint {endpoint!r} is not a URL; expected such as https://huggingface.co")
        self.endpoint = endpoint.rstrip("/")
        self.timeout_seconds = timeout_seconds
        self._token: str | bool = token if token else False
        self._api = HfApi(endpoint=self.endpoint, token=self._token)
        self.calls = Calls(signed=bool(token))
        self._listings: dict[ModelRef, list[SourceFile]] = {}

    def __repr__(self) -> str:
        return f"HubSource({self.endpoint!r})"

    def list_organisation(self, organisation: str) -> list[RepoState]:
        """Every model of one organisation, sorted by repository id.

        Rows of other organisations are dropped whatever the server says, case included: look-alike names are how fake
        releases are spread.
        """
        what = f"models of {organisation}"
        rows = self._pages("/api/models", {"author": organisation, "expand": _LISTED}, what)
        infos = [ModelInfo(**row) for row in rows]  # type: ignore[no-untyped-call]
        states = [self._state_of(info) for info in infos if info.id.startswith(f"{organisation}/")]
        return sorted(states, key=lambda state: state.repo_id)

    def state(self, repo_id: str) -> RepoState:
        """One repository as it is now."""
        return self._state_of(self._info(repo_id, None, _LISTED))

    def resolve(self, repo_id: str, revision: str | None = None) -> ModelRef:
        """The exact state that a branch, tag or sha means now; ``main`` if none is given."""
        sha = self._info(repo_id, revision, ["sha"]).sha
        if sha is None:
            raise InputError(f"{repo_id}: {self.endpoint} tells no sha; it cannot be pinned, so it is not used")
        return ModelRef(repo_id=repo_id, revision=sha)

    def files(self, ref: ModelRef) -> list[SourceFile]:
        """Every file at that state, sorted by path. It never changes, so it is asked for once."""
        if ref in self._listings:
            return list(self._listings[ref])
        rows = self._pages(f"/api/models/{ref.repo_id}/tree/{ref.revision}", {"recursive": "true"}, str(ref))
        found = [RepoFile(**row) for row in rows if row.get("type") == "file"]  # type: ignore[no-untyped-call]
        files = [
            SourceFile(
                path=file.path,
                size=file.lfs.size if file.lfs else file.size,
                sha256=file.lfs.sha256 if file.lfs else None,
                blob_id=file.blob_id,
            )
            for file in found
        ]
        while len(self._listings) >= LISTINGS:
            self._listings.pop(next(iter(self._listings)))
        self._listings[ref] = sorted(files, key=lambda file: file.path)
        return list(self._listings[ref])

    def read_small(self, ref: ModelRef, path: str, max_bytes: int) -> bytes:
        """The whole of one file."""
        content, total = self._try(lambda: self._read(ref, path, max_bytes, None))
        if total > max_bytes:
            raise ModelRefused(f"{path} of {ref}: {total} bytes; at most {max_bytes} were expected")
        return content

    def read_header(self, ref: ModelRef, path: str) -> Header:
        """The header of one safetensors file, by one or two ranged requests."""
        where = f"{path} of {ref}"
        content, total = self._try(lambda: self._read(ref, path, FIRST_BYTES, (0, FIRST_BYTES)))
        length = header_length(content, where)
        if 8 + length > total:
            raise ModelRefused(f"{where}: truncated: {total} bytes, but its header alone has {length}")
        if 8 + length > len(content):
            content, _ = self._try(lambda: self._read(ref, path, MAX_HEADER_BYTES + 8, (0, 8 + length)))
        if len(content) < 8 + length:
            raise HubUnavailable(f"{where}: {self.endpoint} sent {len(content)} of {8 + length} bytes of the header")
        return parse_header(content[8 : 8 + length], total, path, where)

    def read_range(self, ref: ModelRef, path: str, start: int, count: int) -> bytes:
        """A part of one file, by one ranged request."""
        content, _ = self._try(lambda: self._read(ref, path, count, (start, start + count)))
        if len(content) != count:
            raise HubUnavailable(
                f"{path} of {ref}: {self.endpoint} sent {len(content)} of {count} bytes from byte {start} on"
            )
        return content

    def fetch(
        self,
        ref: ModelRef,
        into: Path,
        *,
        paths: Sequence[str] | None = None,
        at_hand: At = nowhere,
        room: Path | None = None,
    ) -> tuple[FileDigest, ...]:
        """Download what a model needs into the new folder ``into``; see ``Source.fetch``."""

        def bring(file: SourceFile, folder: Path) -> None:
            def ask() -> None:
                self.calls.asked("resolvers", 2)  # its length and hash, then its bytes
                with translated(f"{file.path} of {ref}", self.endpoint):
                    hf_hub_download(
                        ref.repo_id,
                        file.path,
                        revision=ref.revision,
                        local_dir=folder,
                        endpoint=self.endpoint,
                        token=self._token,
                        etag_timeout=self.timeout_seconds,
                    )

            self._try(ask)

        return download(self.files(ref), ref, into, bring=bring, paths=paths, at_hand=at_hand, room=room)

    def _try(self, call: Callable[[], Answer]) -> Answer:
        return with_retries(call, self.calls)

    def _info(self, repo_id: str, revision: str | None, expand: list[str]) -> ModelInfo:
        def ask() -> ModelInfo:
            self.calls.asked("api")
            with translated(f"{repo_id}@{revision}" if revision else repo_id, self.endpoint):
                return self._api.model_info(
                    repo_id, revision=revision, expand=cast(Any, expand), timeout=self.timeout_seconds
                )

        return self._try(ask)

    def _state_of(self, info: ModelInfo) -> RepoState:
        told = {"sha": info.sha, "lastModified": info.last_modified, "createdAt": info.created_at}
        missing = [name for name, value in told.items() if value is None]
        if missing or info.sha is None or info.last_modified is None or info.created_at is None:
            raise InputError(
                f"{info.id}: {self.endpoint} does not tell {', '.join(missing)}. A watch needs them; "
                "use an endpoint that answers expand= in listings."
            )
        return RepoState(
            repo_id=info.id,
            internal_id=str(getattr(info, "_id", "")),
            sha=info.sha,
            last_modified=info.last_modified,
            created_at=info.created_at,
            private=bool(info.private),
            gated=bool(info.gated),
            disabled=bool(info.disabled),
            tags=tuple(info.tags or ()),
            architectures=tuple(map(str, (info.config or {}).get("architectures") or ())),
            parameters=info.safetensors.total if info.safetensors else None,
        )

    def _pages(self, path: str, params: dict[str, Any], what: str) -> list[dict[str, Any]]:
        """All rows of a paged listing."""
        rows: list[dict[str, Any]] = []
        url: str | None = f"{self.endpoint}{quote(path)}"
        asked: dict[str, Any] | None = params
        while url is not None:
            response = self._try(lambda url=url, asked=asked: self._get(url, asked, what))  # type: ignore[misc]
            try:
                rows += response.json()
            except (json.JSONDecodeError, TypeError) as error:
                raise InputError(f"{what}: {self.endpoint} did not answer a JSON list; is it a Hub?") from error
            # The next page's address holds the query already.
            url, asked = response.links.get("next", {}).get("url"), None
            if url is not None and urlsplit(url)[:2] != urlsplit(self.endpoint)[:2]:
                raise InputError(f"{what}: {self.endpoint} sends us on to {url}; the token is not taken there")
        return rows

    def _get(self, url: str, params: dict[str, Any] | None, what: str) -> httpx2.Response:
        self.calls.asked("api")
        with translated(what, self.endpoint):
            response = get_session().get(url, params=params, headers=self._headers(), timeout=self.timeout_seconds)
            self.calls.answered(response.headers)
            self.calls.read(len(response.content))
            hf_raise_for_status(response)
            return response

    def _read(self, ref: ModelRef, path: str, most: int, span: tuple[int, int] | None) -> tuple[bytes, int]:
        """Up to ``most`` bytes of a file, or those of ``span``; and the file's size in all."""
        # Uncompressed, since else Content-Length is not the file's size.
        headers = self._headers() | {"Accept-Encoding": "identity"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        url = hf_hub_url(ref.repo_id, path, revision=ref.revision, endpoint=self.endpoint)
        self.calls.asked("resolvers")
        with (
            translated(f"{path} of {ref}", self.endpoint),
            get_session().stream("GET", url, headers=headers, timeout=self.timeout_seconds) as response,
        ):
            self.calls.answered(response.headers)
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            if span is not None and span[0] > 0 and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise ModelRefused(
                    f"{path} of {ref}: {self.endpoint} sends whole files only (HTTP {response.status_code} to a "
                    "Range); weights are sampled by ranged reads, so use an endpoint that serves them"
                )
            content = bytearray()
            # A server may ignore Range and send 16 GB: stop reading when there is enough.
            for chunk in response.iter_bytes(65536):
                content += chunk
                if len(content) > most:
                    break
            self.calls.read(len(content))
            whole = response.headers.get("Content-Range", "").rpartition("/")[2]
            total = whole or response.headers.get("Content-Length") or str(len(content))
            return bytes(content[:most]), int(total)

    def _headers(self) -> dict[str, str]:
        return dict(build_hf_headers(token=self._token))


_LISTED = ["sha", "lastModified", "createdAt", "tags", "gated", "disabled", "private", "config", "safetensors"]
