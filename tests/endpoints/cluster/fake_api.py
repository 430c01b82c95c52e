"""Stands for a Kubernetes API server, over HTTP: the paths that we use, as their documentation says.

Server-side apply with field managers (who owns which leaf, 409 for another's unless forced, fields that are no longer
applied go), lists by label page by page, deletion with preconditions, finalizers and foreground propagation, access
reviews. Objects are checked strictly against the vendored schemas. ``faults`` are answered instead of the real thing.
"""

import copy
import json
import os
import re
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

SCHEMAS = json.loads((Path(__file__).parents[2] / "infra" / "schemas" / "kubernetes-1.37.json").read_text())
KINDS = {"deployments": ("apps/v1", "Deployment"), "services": ("v1", "Service"), "pods": ("v1", "Pod")}
FOREGROUND = "foregroundDeletion"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every leaf of an object; a list is one, as an atomic list is."""
    if isinstance(value, dict) and value:
        return {at: leaf for key, part in value.items() for at, leaf in leaves(part, (*path, key)).items()}
    return {path: value}


def put(target: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        target = target.setdefault(step, {})
    target[path[-1]] = copy.deepcopy(value)


def take(target: dict[str, Any], path: tuple[str, ...]) -> None:
    for step in path[:-1]:
        target = target.get(step, {})
    target.pop(path[-1], None)


def problems(manifest: dict[str, Any]) -> list[str]:
    """What the vendored schema says against an object."""
    schema = {"$ref": SCHEMAS["kinds"][f"{manifest['apiVersion']} {manifest['kind']}"], "$defs": SCHEMAS["$defs"]}
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    told = [jsonschema.exceptions.best_match([one]) for one in found]
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}"[:300] for one in told]


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str, causes: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.causes = code, reason, causes or []


class FakeApi:
    """Objects by (plural, name), of one namespace."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.owners: dict[tuple[str, str], dict[str, set[tuple[str, ...]]]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[dict[str, Any]] = []
        """method, path (a pattern), status, times, message, headers; or drop: the connection is closed."""
        self.forbidden: set[tuple[str, str]] = set()
        """(verb, resource) that this account may not."""
        self.finalizer = ""
        """Given to each new Deployment: its deletion never ends by itself."""
        self.version = 0
        self.addresses = 0
        self.page = 250
        app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "PATCH", "DELETE", "POST", "PUT"])])
        config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def start(self) -> str:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    def fault(
        self, method: str, path: str, status: int, *, times: int = 1, message: str = "made up", **headers: str
    ) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        fault = {"method": method, "path": path, "status": status, "times": times, "message": message}
        self.faults.append({**fault, "headers": named})

    def count(self, method: str, path: str = "") -> int:
        return sum(m == method and re.search(path, p) is not None for m, p, _ in self.asked)

    async def answer(self, request: Request) -> JSONResponse:
        method, path, query = request.method, request.url.path, dict(request.query_params)
        body = await request.body()
        with self.lock:
            self.asked.append((method, path, query))
            try:
                for fault in self.faults:
                    if fault["times"] and fault["method"] == method and re.search(fault["path"], path):
                        fault["times"] -= 1
                        if not fault["status"]:
                            request._receive.__self__.transport.abort()
                        status = {"kind": "Status", "code": fault["status"], "message": fault["message"]}
                        return JSONResponse(status, fault["status"] or 500, headers=fault["headers"])
                content = request.headers.get("content-type", "")
                found = self.dispatch(method, path, query, json.loads(body) if body else {}, content)
                return JSONResponse(found[1], found[0])
            except Refusal as refused:
                details = {"causes": refused.causes}
                told = {"kind": "Status", "code": refused.code, "reason": refused.reason, "message": str(refused)}
                return JSONResponse({**told, "details": details}, refused.code)

    def dispatch(self, method: str, path: str, query: dict[str, str], body: Any, content: str) -> tuple[int, Any]:
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" and method == "POST":
            asked = body["spec"]["resourceAttributes"]
            allowed = (asked["verb"], asked["resource"]) not in self.forbidden
            return 201, {**body, "status": {"allowed": allowed}}
        match = re.fullmatch(r"/(?:api/v1|apis/apps/v1)/namespaces/empelt/(\w+)(?:/([\w.-]+))?", path)
        if match is None or match[1] not in KINDS or path.startswith("/apis") != (match[1] == "deployments"):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        plural, name = match[1], match[2]
        verb = {"GET": "get" if name else "list", "PATCH": "patch", "DELETE": "delete"}[method]
        creates = method == "PATCH" and (plural, name) not in self.objects
        for needed in (verb, "create") if creates else (verb,):
            if (needed, plural) in self.forbidden:
                told = f'{plural} is forbidden: User "system:serviceaccount:empelt:empelt" cannot {needed} resource "{plural}"'
                raise Refusal(403, "Forbidden", told)
        if verb == "list":
            return 200, self.list(plural, query)
        if creates and query.get("fieldManager"):
            return 201, self.apply(plural, name, query, body, content)
        if (plural, name) not in self.objects:
            raise Refusal(404, "NotFound", f'{plural} "{name}" not found')
        if verb == "get":
            return 200, self.objects[plural, name]
        if verb == "delete":
            return 200, self.delete(plural, name, body)
        return 200, self.apply(plural, name, query, body, content)

    def list(self, plural: str, query: dict[str, str]) -> dict[str, Any]:
        wanted = dict(part.split("=") for part in filter(None, query.get("labelSelector", "").split(",")))
        found = [
            one
            for (kind, _), one in sorted(self.objects.items())
            if kind == plural and wanted.items() <= (one["metadata"].get("labels") or {}).items()
        ]
        begin, size = int(query.get("continue") or 0), min(self.page, int(query.get("limit") or 500))
        rest = str(begin + size) if begin + size < len(found) else ""
        shown = copy.deepcopy(found[begin : begin + size])
        for one in shown:  # as the real one: items of a list name no kind
            del one["kind"], one["apiVersion"]
        return {"kind": "List", "metadata": {"resourceVersion": str(self.version), "continue": rest}, "items": shown}

    def apply(self, plural: str, name: str, query: dict[str, str], body: Any, content: str) -> dict[str, Any]:
        if content != "application/apply-patch+yaml":
            raise Refusal(415, "UnsupportedMediaType", f"{content} is not what an apply is sent as")
        manager = query.get("fieldManager")
        if not manager:
            raise Refusal(400, "BadRequest", "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
        if (body.get("apiVersion"), body.get("kind")) != KINDS[plural] or body["metadata"].get("name") != name:
            raise Refusal(400, "BadRequest", "the object is not what the path names")
        if query.get("fieldValidation") == "Strict" and (wrong := problems(body)):
            raise Refusal(400, "BadRequest", "strict decoding error: " + "; ".join(wrong))
        key, wanted = (plural, name), leaves(body)
        before = self.objects.get(key)
        fresh = copy.deepcopy(before) if before else {}
        owners = self.owners.setdefault(key, {})
        taken = [
            (other, path)
            for other, paths in owners.items()
            for path in sorted(paths & wanted.keys())
            if other != manager and leaves(fresh).get(path) != wanted[path]
        ]
        if taken and query.get("force") != "true":
            causes = [{"message": f'conflict with "{who}"', "field": f".{'.'.join(at)}"} for who, at in taken]
            raise Refusal(409, "Conflict", f"Apply failed with {len(taken)} conflicts", causes)
        for other, path in taken:
            owners[other].discard(path)
        for path in owners.get(manager, set()) - wanted.keys():
            if not any(path in paths for other, paths in owners.items() if other != manager):
                take(fresh, path)
        for path, value in wanted.items():
            put(fresh, path, value)
        if before and plural == "deployments" and fresh["spec"]["selector"] != before["spec"]["selector"]:
            raise Refusal(422, "Invalid", "spec.selector: field is immutable")
        owners[manager] = set(wanted)
        if before is None:
            self.begin(plural, fresh)
        if before is None or fresh != before:
            is_other = before is None or fresh.get("spec") != before.get("spec")
            fresh["metadata"]["generation"] = fresh["metadata"].get("generation", 0) + is_other
            self.store(plural, name, fresh)
        return self.objects[key]

    def begin(self, plural: str, fresh: dict[str, Any]) -> None:
        fresh["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if plural == "services":
            self.addresses += 1
            fresh["spec"]["clusterIP"] = (
                f"127.{1 + os.getpid() % 250}.{self.addresses // 250}.{1 + self.addresses % 250}"
            )
        if plural == "deployments" and self.finalizer:
            fresh["metadata"]["finalizers"] = [self.finalizer]

    def store(self, plural: str, name: str, fresh: dict[str, Any]) -> None:
        self.version += 1
        fresh["metadata"]["resourceVersion"] = str(self.version)
        self.objects[plural, name] = fresh

    def delete(self, plural: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
        one = self.objects[plural, name]
        expected = (options.get("preconditions") or {}).get("uid")
        if expected and expected != one["metadata"]["uid"]:
            raise Refusal(409, "Conflict", f"the UID in the precondition ({expected}) does not match the UID in record")
        held = one["metadata"].setdefault("finalizers", [])
        if options.get("propagationPolicy") == "Foreground" and plural == "deployments" and FOREGROUND not in held:
            held.append(FOREGROUND)
        one["metadata"].setdefault("deletionTimestamp", now())
        self.version += 1
        self.release(plural, name)
        return one

    def release(self, plural: str, name: str, finalizer: str = "") -> None:
        """Take a finalizer off; an object that is being deleted goes with its last one."""
        one = self.objects.get((plural, name))
        if one is None:
            return
        held = one["metadata"].get("finalizers") or []
        if finalizer in held:
            held.remove(finalizer)
        if one["metadata"].get("deletionTimestamp") and not held:
            del self.objects[plural, name]
            self.owners.pop((plural, name), None)

    def edit(self, plural: str, name: str, path: tuple[str, ...], value: Any, *, manager: str = "kubectl") -> None:
        """What somebody does by hand."""
        with self.lock:
            one = copy.deepcopy(self.objects[plural, name])
            put(one, path, value)
            for paths in self.owners[plural, name].values():
                paths.discard(path)
            self.owners[plural, name].setdefault(manager, set()).add(path)
            self.store(plural, name, one)
