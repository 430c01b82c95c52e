"""The writing half: what ``huggingface_hub`` 2.4.0 sends to create, commit, tag, rename, gate and delete models."""

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.local_hub.access import MEMBER, Access, Refusal
from infra.local_hub.commits import add_commit, in_utc, is_lfs, new_repo, store_file
from infra.local_hub.large_files import LargeFiles
from infra.local_hub.operations import CommitRefused, apply_operations
from infra.local_hub.store import Repo, Store, is_repo_id

REF = re.compile(r"[A-Za-z0-9][\w./-]{0,200}")
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
"""Content of the first commit of a new repository, as on the real Hub."""
CONFLICT = "A commit has happened since. Please refresh and try again."
Handler = Callable[[Request, Any], Response]


class Writing:
    """The handlers."""

    def __init__(self, store: Store, access: Access) -> None:
        self.store = store
        self.access = access
        self.large = LargeFiles(store, access)

    def routes(self) -> list[Route]:
        """Where they answer."""
        model = "/api/models/{ns}/{name}"
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/api/repos/create", self.create),
            ("POST", "/api/repos/move", self.move),
            ("DELETE", "/api/repos/delete", self.delete),
            ("PUT", f"{model}/settings", self.settings),
            ("POST", f"{model}/preupload/{{rev:path}}", self.preupload),
            ("POST", f"{model}/tag/{{rev:path}}", self.tag),
            ("DELETE", f"{model}/tag/{{rev:path}}", self.untag),
            ("POST", f"{model}/branch/{{rev:path}}", self.branch),
            ("DELETE", f"{model}/branch/{{rev:path}}", self.unbranch),
            ("POST", f"{model}/user-access-request/grant", self.grant),
            ("POST", f"{model}/commit/{{rev:path}}", self.commit),
            ("POST", "/{ns}/{name}.git/info/lfs/objects/batch", self.large.batch),
            ("POST", "/{ns}/{name}.git/info/lfs/verify", self.large.verify),
        ]
        routes = [Route(path, self._checked(handler), methods=[method]) for method, path, handler in table]
        routes.append(Route("/api/validate-yaml", validate_yaml, methods=["POST"]))
        routes.append(Route("/lfs/{sha256}", self.large.upload, methods=["PUT"]))
        return routes

    def _checked(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Every handler here is for those who may write, and works in a thread."""

        async def endpoint(request: Request) -> Response:
            self.access.check_writes(request)
            body = await request.body()
            try:
                lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            except ValueError as error:
                raise Refusal(HTTPStatus.BAD_REQUEST, None, f"the body is not JSON: {error}") from error
            ndjson = handler == self.commit
            return await run_in_threadpool(handler, request, lines if ndjson else _object(lines))

        return endpoint

    # --- repositories ------------------------------------------------------------------------------------------------
    def create(self, request: Request, asked: dict[str, Any]) -> Response:
        """POST /api/repos/create; a new repository has one commit, with .gitattributes."""
        repo_id = _repo_id(asked)
        url = f"{str(request.base_url).rstrip('/')}/{repo_id}"
        with self.store.locked(repo_id):
            if self.store.repo(repo_id) is not None:
                body = {"error": "You already created this model repo", "url": url}
                return JSONResponse(body, HTTPStatus.CONFLICT)
            date = in_utc(datetime.now(UTC))
            repo = new_repo(repo_id, date, private=asked.get("visibility") == "private")
            first = store_file(self.store, ".gitattributes", [GITATTRIBUTES])
            add_commit(self.store, repo, [first], message="initial commit", date=date)
        return JSONResponse({"url": url, "name": repo_id, "id": repo.internal_id})

    def delete(self, _request: Request, asked: dict[str, Any]) -> Response:
        """DELETE /api/repos/delete."""
        repo_id = _repo_id(asked)
        with self.store.locked(repo_id):
            self._existing(repo_id)
            self.store.delete(repo_id)
        return PlainTextResponse("OK")

    def move(self, _request: Request, asked: dict[str, Any]) -> Response:
        """POST /api/repos/move: rename, or hand over to another organisation."""
        old, new = str(asked.get("fromRepo")), str(asked.get("toRepo"))
        if wrong := [repo_id for repo_id in (old, new) if not is_repo_id(repo_id)]:
            raise Refusal(HTTPStatus.BAD_REQUEST, None, f"{' and '.join(map(repr, wrong))}: not ORG/NAME")
        with ExitStack() as turns:
            for repo_id in sorted({old, new}):  # in one order, so that two moves never wait for each other
                turns.enter_context(self.store.locked(repo_id))
            repo = self._existing(old)
            if self.store.repo(new) is not None:
                raise Refusal(HTTPStatus.CONFLICT, None, f"{new} is there already")
            self.store.move(repo, new)
        return PlainTextResponse("OK")

    def settings(self, request: Request, asked: dict[str, Any]) -> Response:
        """PUT .../settings: gated, and visibility. No date changes, as on the real Hub."""
        gated, visibility = asked.get("gated"), asked.get("visibility")
        if gated not in (None, False, "auto", "manual") or visibility not in (None, "public", "private"):
            raise Refusal(HTTPStatus.BAD_REQUEST, None, f"gated {gated!r} or visibility {visibility!r} is not known")
        repo = self.access.open(request)
        with self.store.locked(repo.repo_id):
            repo = self._existing(repo.repo_id)
            repo = repo if gated is None else replace(repo, gated=gated)
            repo = repo if visibility is None else replace(repo, private=visibility == "private")
            self.store.write_repo(repo)
        return JSONResponse({"private": repo.private, "gated": repo.gated})

    def grant(self, request: Request, asked: dict[str, Any]) -> Response:
        """POST .../user-access-request/grant: let a user into a gated model."""
        repo = self.access.open(request)
        with self.store.locked(repo.repo_id):
            repo = self._existing(repo.repo_id)
            self.store.write_repo(replace(repo, readers=(*repo.readers, str(asked.get("user")))))
        return JSONResponse({"user": str(asked.get("user"))})

    # --- commits and refs --------------------------------------------------------------------------------------------
    def preupload(self, request: Request, asked: dict[str, Any]) -> Response:
        """POST .../preupload/REV: which files go by LFS, and what is there under their names."""
        repo = self.access.open(request)
        present = self.store.commit(repo.repo_id, request.path_params["rev"])
        told = []
        for file in asked.get("files", []):
            path, size = str(file["path"]), int(file["size"])
            stored = present.file(path) if present else None
            # Of a large file the client compares the sha256, of a small one git's sha1.
            oid = None if stored is None else stored.sha256 if stored.lfs else stored.oid
            mode = "lfs" if is_lfs(path, size) else "regular"
            told.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": told})

    def commit(self, request: Request, lines: list[dict[str, Any]]) -> Response:
        """POST .../commit/BRANCH, one operation per line."""
        repo, branch = self.access.open(request), request.path_params["rev"].removeprefix("refs/heads/")
        header, operations = _split(lines)
        with self.store.locked(repo.repo_id):
            repo = self._existing(repo.repo_id)
            head = self.store.head(repo.repo_id, branch)
            present = self.store.commit(repo.repo_id, head) if head else None
            if present is None:
                raise Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {branch}")
            if header.get("parentCommit") not in (None, present.sha):
                raise Refusal(HTTPStatus.PRECONDITION_FAILED, None, CONFLICT)
            try:
                files = apply_operations(self.store, present, operations)
            except CommitRefused as refusal:
                status = HTTPStatus.NOT_FOUND if refusal.missing else HTTPStatus.BAD_REQUEST
                raise Refusal(status, "EntryNotFound" if refusal.missing else None, str(refusal)) from refusal
            message = "\n\n".join(filter(None, [header.get("summary"), header.get("description")]))
            date = in_utc(datetime.now(UTC))
            sha = add_commit(self.store, repo, files, message=message, date=date, branch=branch)
        url = f"{str(request.base_url).rstrip('/')}/{repo.repo_id}/commit/{sha}"
        return JSONResponse({"success": True, "commitOid": sha, "commitUrl": url})

    def tag(self, request: Request, asked: dict[str, Any]) -> Response:
        """POST .../tag/REV."""
        return self._new_ref(request, "tags", str(asked.get("tag")), request.path_params["rev"])

    def untag(self, request: Request, _asked: dict[str, Any]) -> Response:
        """DELETE .../tag/TAG."""
        return self._no_ref(request, "tags")

    def branch(self, request: Request, asked: dict[str, Any]) -> Response:
        """POST .../branch/NAME."""
        return self._new_ref(request, "branches", request.path_params["rev"], asked.get("startingPoint") or "main")

    def unbranch(self, request: Request, _asked: dict[str, Any]) -> Response:
        """DELETE .../branch/NAME."""
        return self._no_ref(request, "branches")

    def _new_ref(self, request: Request, kind: str, name: str, revision: str) -> Response:
        repo = self.access.open(request)
        if not REF.fullmatch(name) or ".." in name:
            raise Refusal(HTTPStatus.BAD_REQUEST, None, f"{name!r} is not a name for a ref")
        with self.store.locked(repo.repo_id):
            commit = self.store.commit(repo.repo_id, revision)
            if commit is None:
                raise Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
            if name == "main" or name in self.store.refs(repo.repo_id)[kind]:
                raise Refusal(HTTPStatus.CONFLICT, None, f"Reference already exists: {name}")
            self.store.set_ref(repo.repo_id, kind, name, commit.sha)
        return PlainTextResponse("OK")

    def _no_ref(self, request: Request, kind: str) -> Response:
        repo, name = self.access.open(request), request.path_params["rev"]
        with self.store.locked(repo.repo_id):
            if name not in self.store.refs(repo.repo_id)[kind]:
                raise Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {name}")
            self.store.set_ref(repo.repo_id, kind, name, None)
        return PlainTextResponse("OK")

    def _existing(self, repo_id: str) -> Repo:
        repo = self.store.repo(repo_id)
        if repo is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        return repo


async def validate_yaml(request: Request) -> Response:
    """POST /api/validate-yaml: whether a card's front matter parses. The client asks before it uploads."""
    content = str((await request.json()).get("content", ""))
    parts = re.split(r"^---[ \t]*$", content, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return JSONResponse({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        card = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, HTTPStatus.BAD_REQUEST)
    if not isinstance(card, dict):
        return JSONResponse({"errors": [{"message": "not a mapping"}], "warnings": []}, HTTPStatus.BAD_REQUEST)
    return JSONResponse({"errors": [], "warnings": []})


def _object(lines: list[Any]) -> dict[str, Any]:
    if len(lines) > 1 or not all(isinstance(line, dict) for line in lines):
        raise Refusal(HTTPStatus.BAD_REQUEST, None, "the body is not one JSON object")
    return lines[0] if lines else {}


def _split(lines: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The commit's header, and its operations."""
    if not lines or lines[0].get("key") != "header":
        raise Refusal(HTTPStatus.BAD_REQUEST, None, "the first line of a commit is its header")
    return lines[0]["value"], lines[1:]


def _repo_id(asked: dict[str, Any]) -> str:
    """ORG/NAME of a body; without an organisation it is the user's own."""
    if asked.get("type") not in (None, "model"):
        raise Refusal(HTTPStatus.BAD_REQUEST, None, f"type {asked['type']!r}: this Hub has models only")
    repo_id = f"{asked.get('organization') or MEMBER}/{asked.get('name')}"
    if not is_repo_id(repo_id):
        raise Refusal(HTTPStatus.BAD_REQUEST, None, f"{repo_id!r} is not ORG/NAME")
    return repo_id
