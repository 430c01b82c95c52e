"""What the pipeline talks about: models, releases, artifacts, scores, promotions. All frozen.

The words are those of the vocabulary table in ARCHITECTURE.md; one word has one meaning in code, docs and UI.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

RepoId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Noun(BaseModel):
    """Base of every value object: frozen, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRef(Noun):
    """One exact state of one repository: never a branch, since branches move."""

    repo_id: RepoId
    revision: Revision

    @property
    def slug(self) -> str:
        """The repository's own name, for run names: ``llama-tiny-instruct-v2``."""
        return self.repo_id.split("/", 1)[1]

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision[:12]}"


class Release(Noun):
    """A new instruct ModelRef, seen at a source."""

    family: str
    ref: ModelRef
    content_digest: Digest
    """Of the files that matter; a README-only commit changes the revision and not this."""
    released_at: datetime
    """When the source says that it last changed, or the last watch that did not find it if that was later; orders
    releases of one family."""
    seen_at: datetime


class FileDigest(Noun):
    """A file inside a model folder."""

    path: str
    sha256: Digest
    size: int
    """Bytes."""


class Artifact(Noun):
    """An immutable folder named by its content digest."""

    digest: Digest
    folder: str
    """Absolute path on this host."""
    files: tuple[FileDigest, ...]

    @property
    def short(self) -> str:
        """The first 12 digits, as in ``eu@3f2a...`` model names."""
        return self.digest[:12]


class Item(Noun):
    """The outcome of one question of one benchmark, kept so that verdicts can be re-judged without a GPU."""

    item_id: str
    value: float
    """1/0 for right or wrong; for bits per byte the item's negative log2-likelihood in bits."""
    weight: float = 1.0
    """Bytes of the item's text for bits per byte, its instructions for ``followed``, else 1.

    The score is sum(value) / sum(weight).
    """
    answer: str = ""
    """What the model said, or the choice that it found likeliest, cut to 200 characters; empty for bits per byte."""
    cluster: str = ""
    """The passage or exam that the item shares with others, which are right or wrong together; "" for none."""


class Score(Noun):
    """What lm-eval found for one benchmark on one model."""

    benchmark: str
    metric: Literal["acc", "strict", "lenient", "bits_per_byte", "in_language", "followed", "share", "norm", "again"]
    """The last three are no benchmark's: of an examination (``tasks.domain.examination``), and of A/A (``repeats``)."""
    value: float
    stderr: float
    n: int
    higher_is_better: bool = True
    items: tuple[Item, ...] = ()

    @model_validator(mode="after")
    def _n_counts_items(self) -> "Score":
        if self.items and self.n != len(self.items):
            raise ValueError(f"{self.benchmark}: n is {self.n} but {len(self.items)} items are listed")
        return self


class Evaluation(Noun):
    """Scores of one model: of one benchmark where it is stored, since a model is measured once; of all where judged."""

    eval_key: Digest
    artifact_digest: Digest
    scores: tuple[Score, ...]
    facts: dict[str, str] = Field(default_factory=dict)
    """What went into eval_key, readable: lm-eval version, serving image and flags, suite digest, template."""

    def score(self, benchmark: str) -> Score | None:
        """The score of ``benchmark``, or None: unscored is not 0."""
        return next((s for s in self.scores if s.benchmark == benchmark), None)


class ChannelState(Noun):
    """What a served name points at now."""

    channel: str
    generation: int
    """+1 for each switch."""
    artifact_digest: Digest
    release: ModelRef
    target: str
    family: str
    switched_at: datetime
    previous_digest: Digest | None = None
    acknowledged_generation: int = 0
    """The newest generation that the gateway has said it routes by."""
