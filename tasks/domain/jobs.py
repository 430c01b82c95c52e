"""One unit of work of ``remerge_release``: this release, for this target. What it needs is all named by digest."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from pydantic import AwareDatetime, StringConstraints

from tasks.domain.errors import InputError
from tasks.domain.keys import job_key, merge_key
from tasks.domain.lineage import Lineage
from tasks.domain.models import Digest, ModelRef, Noun, Release

RELEASE_TEXT = r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_./-]*)?$"
ReleaseText = Annotated[str, StringConstraints(pattern=RELEASE_TEXT)]
"""``owner/name`` (its head), or ``owner/name@revision``: a sha, the beginning of one on record, a tag, a branch."""


class ClaimTicket(Noun):
    """Proof that the watch has claimed a job for one run. A run by hand has none and claims for itself."""

    job_key: Digest
    attempt: int
    fence: int


class Work(Protocol):
    """What can be claimed: a job, or an upload."""

    @property
    def key(self) -> Digest:
        """Names it."""
        ...

    @property
    def name(self) -> str:
        """The same for people."""
        ...


class Job(Noun):
    """A release, a target, and every model that goes into the merge."""

    release: Release
    target: str
    channel: str
    gate_digest: Digest
    lineage: Lineage
    search: Digest | None = None
    """Of the target's search as the catalog states it; None where there is none."""
    planned: Digest | None = None
    """merge_key of the recipe that the job began with, where the lineage has another one, which a search found."""

    def trying(self, recipe: Mapping[str, Any]) -> "Job":
        """The same job with another recipe: another merge, under the same key."""
        lineage = self.lineage.model_copy(update={"recipe": dict(recipe)})
        return self.model_copy(update={"lineage": lineage, "planned": self.planned or self.merge_key})

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.release.family

    @property
    def merge_key(self) -> Digest:
        """Names the merge: digests, target, recipe."""
        return merge_key(self.lineage)

    @property
    def key(self) -> Digest:
        """Names the job: the merge that it begins with, the gate that judges it, and the search if that is rejected."""
        return job_key(
            family=self.family,
            release=self.release.content_digest,
            target=self.target,
            merge=self.planned or self.merge_key,
            gate=self.gate_digest,
            search=self.search,
        )

    @property
    def name(self) -> str:
        """As people read it: ``llama-tiny-instruct-v2 x eu``."""
        return run_name(self.release.ref, self.target)

    def request(self, digest: Digest, generation: int, fence: int, reason: str) -> "PublishRequest":
        """What publishing the candidate ``digest`` asks for: the channel as it was when it was judged."""
        return PublishRequest(
            family=self.family,
            target=self.target,
            channel=self.channel,
            artifact_digest=digest,
            release=self.release.ref,
            expected_generation=generation,
            fence=fence,
            claim_key=self.key,
            reason=reason,
        )

    def refs(self) -> dict[str, ModelRef]:
        """Role -> ModelRef of everything that must be fetched."""
        return {i.role: i.ref for i in self.lineage.ingredients}


class Candidate(Noun):
    """A merged artifact that is up beside the live model, under a name of its own."""

    digest: Digest
    folder: str
    model: str
    """Name to ask the gateway for: ``eu@3f2a00112233``."""
    serving: dict[str, str]
    """Image, flags and device class, as they go into eval_key."""
    staged_at: AwareDatetime


class PublishRequest(Noun):
    """What ``publish_model`` is asked to make live."""

    family: str
    target: str
    channel: str
    artifact_digest: Digest
    release: ModelRef
    expected_generation: int
    """Of the channel when the candidate was judged; the switch is refused if it has moved."""
    fence: int | None = None
    claim_key: Digest | None = None
    reason: str = "by hand"


class Promoted(Noun):
    """How a promotion ended."""

    channel: str
    generation: int
    """Of the channel now."""
    release: ModelRef
    """What it was asked to serve."""
    refused: str = ""
    """Why it does not; empty if it does."""


def run_name(release: ModelRef, target: str) -> str:
    """The name of a flow run."""
    return f"{release.slug} x {target}"


def parse_release(text: str) -> tuple[str, str | None]:
    """Repository and revision of what a person typed; None where the head is meant.

    Raises:
        InputError: naming what was typed and what is expected.
    """
    if not re.search(RELEASE_TEXT, text):
        raise InputError(f"{text!r} names no release; write owner/name, or owner/name@<sha, tag or branch>")
    repo_id, _, revision = text.partition("@")
    return repo_id, revision or None
