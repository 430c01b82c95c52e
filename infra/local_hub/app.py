"""The HTTP face of the local Hub: what ``huggingface_hub`` 2.4.0 asks for when it lists, looks up and downloads.

Who may do what is decided in ``access``; what changes something is in ``writing``.

Over http on loopback the client recognises a missing repository, revision or file by the ``X-Error-Code`` header alone
(its reading of a bare 401 demands https), so every refusal carries one.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.local_hub.access import Access, Refusal
from infra.local_hub.answers import (
    INFO_DEFAULT,
    INFO_EXPAND,
    LIST_DEFAULT,
    LIST_EXPAND,
    LIST_FULL,
    commit_row,
    file_row,
    model_row,
    tree_rows,
)
from infra.local_hub.levers import Levers
from infra.local_hub.store import Commit, Repo, Store
from infra.local_hub.writing import Writing

PAGE_SIZE = 1000
SORT_KEYS = frozenset({"createdAt", "lastModified", "downloads", "likes", "trendingScore"})
Handler = Callable[[Request], Response]


def make_app(root: Path, page_size: int = PAGE_SIZE, write_token: str | None = None, prefix: str = "") -> ASGIApp:
    """The application over the store at ``root``; it reads the store anew on each request.

    Args:
        root: the store.
        page_size: rows per page of a listing.
        write_token: who sends it may write and sees everything; without one nobody writes.
        prefix: of every path, such as ``/artifactory/api/hf``, as mirrors have it; the levers stay at ``/admin``.
    """
    store = Store(root)
    access = Access(store, write_token)
    hub = _Hub(store, access, page_size)
    model = "/api/models/{ns}/{name}"
    routes = [
        Route("/", _on_thread(lambda _: PlainTextResponse("local Hub\n"))),
        Route("/api/whoami-v2", _on_thread(hub.who_am_i)),
        Route("/api/models", _on_thread(hub.list_models)),
        Route(model, _on_thread(hub.model_info)),
        Route(f"{model}/revision/{{rev:path}}", _on_thread(hub.model_info)),
        Route(f"{model}/tree/{{rev}}", _on_thread(hub.tree)),
        Route(f"{model}/tree/{{rev}}/{{path:path}}", _on_thread(hub.tree)),
        Route(f"{model}/paths-info/{{rev}}", hub.paths_info, methods=["POST"]),
        Route(f"{model}/refs", _on_thread(hub.refs)),
        Route(f"{model}/commits/{{rev}}", _on_thread(hub.commits)),
        Route(f"{model}/auth-check", _on_thread(hub.auth_check)),
        Route("/{ns}/{name}/resolve/{rev}/{path:path}", _on_thread(hub.resolve), methods=["GET", "HEAD"]),
        *Writing(store, access).routes(),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _answer_refusal})
    return Levers(_below(f"/{prefix.strip('/')}", app) if prefix else app, store)


def _below(prefix: str, app: ASGIApp) -> ASGIApp:
    """``app`` as if it were the root of what lies below ``prefix``: the addresses that it gives out have it too.

    Not a Mount: below one, Starlette's ``base_url`` leaves the prefix out, and uploads would go astray.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{prefix}/"):
            return await app({**scope, "root_path": prefix}, receive, send)
        if scope["type"] != "http" or scope["path"] == "/":  # the lifespan, and who asks whether we are up
            return await app(scope, receive, send)
        await PlainTextResponse("Not found", HTTPStatus.NOT_FOUND)(scope, receive, send)

    return answer


def _on_thread(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Handlers read files, so they leave the event loop to the transfers."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(handler, request)

    return endpoint


async def _answer_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))


class _Hub:
    """The reading handlers."""

    def __init__(self, store: Store, access: Access, page_size: int) -> None:
        self.store = store
        self.access = access
        self.page_size = page_size

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = self.store.commit(repo.repo_id, revision)
        if commit is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def who_am_i(self, request: Request) -> Response:
        """GET /api/whoami-v2: there are no accounts here; see ``access``."""
        user = self.access.user(request)
        if user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, None, "Invalid username or password.")
        return JSONResponse({"type": "user", "id": "0" * 24, "name": user, "orgs": [], "auth": {"type": "local"}})

    def list_models(self, request: Request) -> Response:
        """GET /api/models."""
        query = request.query_params
        properties = _expanded(request, LIST_EXPAND)
        if not properties:
            properties = LIST_FULL if _flag(query, "full") else LIST_DEFAULT
            properties += ("cardData",) if _flag(query, "cardData") else ()
            properties += ("config",) if _flag(query, "config") else ()
        sort = query.get("sort", "createdAt")
        if sort not in SORT_KEYS:
            raise Refusal(HTTPStatus.BAD_REQUEST, None, f"sort {sort!r} is none of {sorted(SORT_KEYS)}")
        rows: list[tuple[str, dict[str, Any]]] = []
        for repo_id in self.store.repo_ids():
            repo, commit = self.store.repo(repo_id), self.store.commit(repo_id, "main")
            if repo is None or commit is None or not self.access.sees(request, repo):
                continue
            if _listed(request, repo, commit):
                dates = {"createdAt": repo.created_at, "lastModified": commit.date}
                rows.append((dates.get(sort, ""), model_row(repo, commit, properties)))
        # The sort is stable, so equal dates stay in the order of ids.
        rows.sort(key=lambda row: row[0], reverse=True)
        return self._page(request, [row for _, row in rows])

    def model_info(self, request: Request) -> Response:
        """GET /api/models/ORG/NAME, and the same at a revision."""
        properties = _expanded(request, INFO_EXPAND) or INFO_DEFAULT
        repo = self.access.open(request)
        commit = self._commit(repo, request.path_params.get("rev", "main"))
        return JSONResponse(model_row(repo, commit, properties, blobs=_flag(request.query_params, "blobs")))

    def tree(self, request: Request) -> Response:
        """GET .../tree/REV and .../tree/REV/FOLDER."""
        repo = self.access.open(request)
        commit = self._commit(repo, request.path_params["rev"])
        under, query = request.path_params.get("path", ""), request.query_params
        history = self.store.history(repo.repo_id, commit.sha) if _flag(query, "expand") else []
        rows = tree_rows(commit, under, recursive=_flag(query, "recursive"), history=history)
        if rows is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{under} does not exist on {commit.sha}")
        return self._page(request, rows)

    async def paths_info(self, request: Request) -> Response:
        """POST .../paths-info/REV. The body is a form and not JSON; paths that are not there are left out."""
        form = parse_qs((await request.body()).decode())
        repo = self.access.open(request)
        commit = self._commit(repo, request.path_params["rev"])
        history = self.store.history(repo.repo_id, commit.sha) if form.get("expand", [""])[0].lower() == "true" else []
        found: list[dict[str, Any]] = []
        for path in form.get("paths", []):
            stored = commit.file(path)
            if stored is not None:
                found.append(file_row(stored, history))
            elif tree_rows(commit, path, recursive=False, history=[]) is not None:
                parent = path.rpartition("/")[0]
                siblings = tree_rows(commit, parent, recursive=False, history=[]) or []
                found += [row for row in siblings if row["path"] == path]
        return JSONResponse(found)

    def refs(self, request: Request) -> Response:
        """GET .../refs."""
        repo = self.access.open(request)
        refs = self.store.refs(repo.repo_id)
        branches = {"main": self._commit(repo, "main").sha} | refs["branches"]
        told = {
            kind: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": sha} for name, sha in found.items()]
            for kind, folder, found in (("branches", "heads", branches), ("tags", "tags", refs["tags"]))
        }
        return JSONResponse(told | {"converts": [], "pullRequests": []})

    def commits(self, request: Request) -> Response:
        """GET .../commits/REV, newest first."""
        repo = self.access.open(request)
        commit = self._commit(repo, request.path_params["rev"])
        return self._page(request, [commit_row(repo, c) for c in self.store.history(repo.repo_id, commit.sha)])

    def auth_check(self, request: Request) -> Response:
        """GET .../auth-check: whether the files may be read."""
        self.access.open(request, content=True)
        return PlainTextResponse("OK")

    def resolve(self, request: Request) -> Response:
        """GET or HEAD of one file. The real Hub redirects large files to a CDN; here they are served in place."""
        repo = self.access.open(request, content=True)
        commit = self._commit(repo, request.path_params["rev"])
        headers = {"X-Repo-Commit": commit.sha}
        path = request.path_params["path"]
        stored = commit.file(path)
        if stored is None:
            message = f"Entry not found: {path} on {commit.sha}"
            raise Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", message, **headers)
        etag = f'"{stored.sha256 if stored.lfs else stored.oid}"'
        headers["ETag"] = etag
        if stored.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(stored.size)}
        if etag in (tag.strip() for tag in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return FileResponse(self.store.blob_path(stored.sha256), headers=headers, media_type="application/octet-stream")

    def _page(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        """One page of ``rows``, with a Link to the next. ``limit`` is a page size, as on the real Hub."""
        query = request.query_params
        try:
            size = min(int(query.get("limit", self.page_size)), self.page_size)
            start = int(query.get("cursor", 0))
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, None, "limit and cursor are whole numbers") from error
        if size < 1 or start < 0:
            raise Refusal(HTTPStatus.BAD_REQUEST, None, "limit is at least 1 and cursor at least 0")
        headers: dict[str, str] = {}
        if start + size < len(rows):
            kept = [(key, value) for key, value in query.multi_items() if key != "cursor"]
            url = request.url.replace(query=urlencode([*kept, ("cursor", str(start + size))]))
            headers["Link"] = f'<{url}>; rel="next"'
        return JSONResponse(rows[start : start + size], headers=headers)


def _listed(request: Request, repo: Repo, commit: Commit) -> bool:
    """Whether the query asks for this repository. Filters are tags, and all of them must be there."""
    query = request.query_params
    if query.get("author", repo.repo_id.split("/")[0]) != repo.repo_id.split("/")[0]:
        return False
    if query.get("search", "").lower() not in repo.repo_id.lower():
        return False
    if "gated" in query and bool(repo.gated) != _flag(query, "gated"):
        return False
    asked = {*query.getlist("filter"), *query.getlist("pipeline_tag")}
    return asked <= set(model_row(repo, commit, ("tags",))["tags"])


def _expanded(request: Request, known: frozenset[str]) -> tuple[str, ...]:
    """The asked properties. An unknown one is refused, since a typing error would read as "not set"."""
    asked = tuple(dict.fromkeys(request.query_params.getlist("expand")))
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise Refusal(HTTPStatus.BAD_REQUEST, None, f"unknown expand {unknown}; expected some of {sorted(known)}")
    return asked


def _flag(query: Mapping[str, str], name: str) -> bool:
    """The client sends booleans as "true" and "false", and ``include_prs`` as 1."""
    return query.get(name, "").lower() in ("true", "1")
