"""Large files by plain LFS (HF_HUB_DISABLE_XET=1): batch, upload, verify.

The batch answers a signed address, since the client sends its token nowhere but to the Hub's own API; what arrives
there is kept only if its sha256 is the one announced.
"""

import hashlib
import hmac
import secrets
import time
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from infra.local_hub.access import Access, Refusal
from infra.local_hub.operations import DIGEST
from infra.local_hub.store import Store

UPLOAD_SECONDS = 3600
"""How long a signed address of an upload is good for."""


class LargeFiles:
    """The handlers; who may call them was checked before."""

    def __init__(self, store: Store, access: Access) -> None:
        self.store = store
        self.access = access
        self._secret = secrets.token_bytes(32)

    def batch(self, request: Request, asked: dict[str, Any]) -> Response:
        """POST ORG/NAME.git/info/lfs/objects/batch: where to put what is not there yet."""
        repo = self.access.open(request)
        base, objects = str(request.base_url).rstrip("/"), []
        for wanted in asked.get("objects", []):
            sha256, size = str(wanted.get("oid")), int(wanted.get("size", -1))
            told: dict[str, Any] = {"oid": sha256, "size": size}
            if not DIGEST.fullmatch(sha256) or size < 0:
                told["error"] = {"code": 422, "message": "oid is a sha256 and size a count of bytes"}
            elif not self.store.blob_path(sha256).exists():
                until = int(time.time()) + UPLOAD_SECONDS
                signed = f"until={until}&signature={self._signature(sha256, until)}"
                told["actions"] = {
                    "upload": {"href": f"{base}/lfs/{sha256}?{signed}"},
                    "verify": {"href": f"{base}/{repo.repo_id}.git/info/lfs/verify"},
                }
            objects.append(told)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def upload(self, request: Request) -> Response:
        """PUT to a signed address. Chunks are hashed as they come, and kept if they are what was announced."""
        sha256, query = request.path_params["sha256"], request.query_params
        until = int(query["until"]) if query.get("until", "").isdigit() else 0
        good = hmac.compare_digest(query.get("signature", ""), self._signature(sha256, until))
        if not good or until < time.time():
            raise Refusal(HTTPStatus.FORBIDDEN, None, "the address of this upload is not signed, or not any more")
        with self.store.new_blob() as blob:
            async for chunk in request.stream():
                blob.write(chunk)
            if blob.sha256 != sha256:
                message = f"the bytes are those of {blob.sha256} and not of {sha256}; nothing was kept"
                raise Refusal(HTTPStatus.BAD_REQUEST, None, message)
            blob.keep()
        return PlainTextResponse("OK")

    def verify(self, request: Request, asked: dict[str, Any]) -> Response:
        """POST ORG/NAME.git/info/lfs/verify: whether an upload arrived whole."""
        self.access.open(request)
        sha256, size = str(asked.get("oid")), asked.get("size")
        blob = self.store.blob_path(sha256)
        if not DIGEST.fullmatch(sha256) or not blob.exists() or blob.stat().st_size != size:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, None, f"{sha256} of {size} bytes is not there")
        return PlainTextResponse("OK")

    def _signature(self, sha256: str, until: int) -> str:
        return hmac.new(self._secret, f"{sha256} {until}".encode(), hashlib.sha256).hexdigest()
