"""A publication: an artifact in a repository of a Hub, for people elsewhere. No channel depends on it.

One repository holds the artifacts of one target, one commit each. The tag of a merge key is set last, so it is the mark
that all of it is there. ``empelt.json`` in the repository says whose it is, and which files belong to the artifact.
"""

import json
from typing import Any, Literal, NamedTuple

from pydantic import AwareDatetime, ValidationError

from tasks.domain.keys import merge_key
from tasks.domain.licences import APART, Ancestor, Inherited, inherit, rules, titled
from tasks.domain.lineage import Lineage, fingerprint, matters
from tasks.domain.models import Digest, FileDigest, Noun, RepoId, Revision

MARKER = "empelt.json"
TAG_DIGITS = 12
"""Of a merge key in its tag; the whole key is in the marker."""
How = Literal["uploaded", "tagged", "adopted"]
"""What was still to do: all of it; only the tag, after a crash before it; nothing, since the tag was there."""


class Marker(Noun):
    """What ``empelt.json`` says: that a repository is ours, for which target, and what its head holds."""

    format: Literal[1] = 1
    family: str
    target: str
    merge_key: Digest
    artifact: Digest
    files: tuple[FileDigest, ...]
    """Of the artifact, without what describes it: the card, the licence, the bill of materials."""

    def text(self) -> str:
        """The file's content: the same for the same artifact."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"

    @property
    def tag(self) -> str:
        """The mark of completeness."""
        return f"merge-{self.merge_key[:TAG_DIGITS]}"

    @property
    def line(self) -> str:
        """What stands in the description of the commit, by which it is found again where the tag is missing."""
        return f"empelt-merge-key: {self.merge_key}"

    @property
    def identity(self) -> dict[str, FileDigest]:
        """Path -> file, of those that the artifact's digest is made of."""
        return {file.path: file for file in self.files if matters(file.path)}


def read_marker(content: bytes) -> Marker | None:
    """The marker that a file holds, or None if it is none, or one of a format that is not known here."""
    try:
        return Marker.model_validate_json(content)
    except ValidationError:
        return None


class Upload(Noun):
    """What is to be published: the artifact that a channel serves, and where to."""

    family: str
    target: str
    digest: Digest
    lineage: Lineage
    endpoint: str
    repo_id: RepoId
    private: bool
    accept: tuple[str, ...]

    @property
    def merge_key(self) -> Digest:
        """Of the artifact; its beginning is the tag."""
        return merge_key(self.lineage)

    @property
    def key(self) -> Digest:
        """Names this work: what its claim, attempts and hold are kept under."""
        place = {"endpoint": self.endpoint, "repo_id": self.repo_id}
        return fingerprint(kind="publication", merge=self.merge_key, artifact=self.digest, **place)

    @property
    def name(self) -> str:
        """``llama-tiny-instruct-v2 x eu to acme/llama-tiny-eu``."""
        return f"{self.lineage.ref_of('instruct').slug} x {self.target} to {self.repo_id}"


class Published(NamedTuple):
    """How one publication went."""

    commit: Revision
    tag: str
    how: How
    bytes: int
    """Of the files that were sent; 0 where everything was there."""
    seconds: float


class Publication(Noun):
    """A publication on record."""

    endpoint: str
    repo_id: RepoId
    merge_key: Digest
    digest: Digest
    family: str
    target: str
    commit: Revision
    tag: str
    how: How
    private: bool
    """As it was asked for; an existing repository keeps the visibility that it has."""
    bytes: int
    seconds: float
    flow_run_id: str | None
    at: AwareDatetime

    @property
    def url(self) -> str:
        """Where a person reads it."""
        return f"{self.endpoint}/{self.repo_id}/tree/{self.tag}"


def objections(repo_id: str, ancestors: list[Ancestor], accepted: tuple[str, ...]) -> list[str]:
    """Why a model made from ``ancestors`` must not be published as ``repo_id``; empty if nothing speaks against it.

    Args:
        repo_id: where it would be published.
        ancestors: every model that it was made from, with the licences that their cards state.
        accepted: licences that a person has read and accepts for this target, ``unknown`` among them. What no one can
            accept for others (no changed versions, terms that exclude each other) stays an objection.
    """
    found = inherit(ancestors)
    named = {one.licence: one.names for one in found.conditions}
    problems = [
        f"{key} ({names}): {why}"
        for key, names in named.items()
        if (why := _objection(key)) and (key not in accepted or _final(key))
    ]
    problems += [told for told in found.warnings if APART in told]
    owner, _, name = repo_id.partition("/")
    if titled(name, found.begins) != name:
        problems.append(
            f"a licence asks for a name that begins with {found.begins!r}, and {name!r} does not: name the repository "
            f"{owner}/{titled(name, found.begins)}"
        )
    return problems


def notice(found: Inherited, kept: str) -> str:
    """The NOTICE file: the lines that licences ask for, then what the instruct model's own one says; empty if none."""
    missing = [line for line in found.notices if line not in kept]
    return "\n".join([*missing, *([kept] if kept.strip() else [])]).rstrip("\n") + "\n" if missing or kept else ""


def _objection(key: str) -> str:
    terms = rules().get(key)
    if key == "unknown":
        return "its licence is not known, so nobody can say that it may be passed on"
    if terms is None:
        return "this licence is not among the rules"
    if _final(key):
        return "it does not let changed versions be passed on"
    if terms.non_commercial or terms.kind == "non-commercial":
        return "it rules out commercial use, so a person decides whether to pass it on"
    return ""


def _final(key: str) -> bool:
    """Whether nobody can accept it."""
    return key in rules() and rules()[key].kind == "no-derivatives"


def summary(done: Publication) -> dict[str, Any]:
    """The same as rows for people."""
    return {
        "repository": done.repo_id,
        "tag": done.tag,
        "commit": done.commit,
        "artifact": done.digest,
        "how": done.how,
        "bytes": done.bytes,
        "seconds": round(done.seconds, 1),
        "url": done.url,
    }
