"""Who may see, read and write what, and the refusals that the client turns into exceptions of its own.

Without a write token the Hub has readers only, and whoever sends any token is its one local user. With one, whoever
sends it is a member of every organisation; other tokens are those of strangers: ``hf_NAME`` is the user NAME.
"""

import hmac
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from infra.local_hub.store import Repo, Store

MEMBER = "local"
"""Name of the user who may do everything."""


class Refusal(HTTPException):
    """An answer that the client turns into an exception of its own."""

    def __init__(self, status: HTTPStatus, code: str | None, message: str, **headers: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        super().__init__(status, message, {"X-Error-Message": message, **named, **headers})


@dataclass(frozen=True)
class Access:
    """The rules; only these decide."""

    store: Store
    write_token: str | None

    def user(self, request: Request) -> str | None:
        """Who is asking; None without a token."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            return None
        if self.write_token is None or hmac.compare_digest(token.encode(), self.write_token.encode()):
            return MEMBER
        return token.removeprefix("hf_")

    def sees(self, request: Request, repo: Repo) -> bool:
        """Whether the repository is there for the caller."""
        return not repo.private or self.user(request) == MEMBER

    def reads(self, request: Request, repo: Repo) -> bool:
        """Whether the caller may have its files: "auto" lets in whoever is signed in, "manual" who was let in."""
        user = self.user(request)
        return not repo.gated or user == MEMBER or (user is not None and (repo.gated == "auto" or user in repo.readers))

    def open(self, request: Request, *, content: bool = False) -> Repo:
        """The repository of the path, if the caller may see it (``content``: may have its files).

        Raises:
            Refusal: it is not there for the caller; or a redirect, where it has another name now.
        """
        repo_id = "{ns}/{name}".format(**request.path_params)
        repo = self.store.repo(repo_id)
        if repo is None and (new_id := self.store.moved_to(repo_id)):
            now_called = self.store.repo(new_id)
            if now_called is not None and self.sees(request, now_called):
                raise Refusal(HTTPStatus.TEMPORARY_REDIRECT, None, f"moved to {new_id}", Location=_at(request, new_id))
        if repo is None or not self.sees(request, repo):
            # The real Hub answers 401 to a stranger, who is not to learn whether the repository is there.
            status = HTTPStatus.UNAUTHORIZED if self.user(request) is None else HTTPStatus.NOT_FOUND
            raise Refusal(status, "RepoNotFound", "Repository not found")
        if repo.disabled:
            raise Refusal(HTTPStatus.FORBIDDEN, None, "Access to this resource is disabled.")
        if content and not self.reads(request, repo):
            raise Refusal(HTTPStatus.FORBIDDEN, "GatedRepo", f"Access to model {repo.repo_id} is restricted")
        return repo

    def check_writes(self, request: Request) -> None:
        """Refuse whoever may not write.

        Raises:
            Refusal: no token, another token, or a Hub that takes no writes.
        """
        if self.write_token is None:
            raise Refusal(HTTPStatus.FORBIDDEN, None, "This Hub is read only: it was started without a write token")
        user = self.user(request)
        if user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, None, "Invalid username or password.")
        if user != MEMBER:
            raise Refusal(HTTPStatus.FORBIDDEN, None, f"{user} has no write access here")


def _at(request: Request, new_id: str) -> str:
    """The same address under the new name, relative: the client follows nothing else."""
    old, raw = "{ns}/{name}".format(**request.path_params), request.scope.get("raw_path", b"").decode()
    path = (raw or quote(request.url.path)).replace(old, new_id, 1)
    return f"{path}?{request.url.query}" if request.url.query else path
