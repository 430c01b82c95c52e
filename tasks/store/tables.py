"""The ledger's tables. ``FACTS`` are append-only, and triggers of the migrations refuse anything else.

Only these move: claims, turns, channels (the pointer), staged, canaries, instances, agents, polls. A test compares
this file with what the migrations make, so change both.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from tasks.store.columns import Utc

metadata = MetaData()

# --- facts -----------------------------------------------------------------------------------------------------------
releases = Table(
    "releases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("family", String, nullable=False),
    Column("repo_id", String, nullable=False),
    Column("revision", String, nullable=False),
    Column("content_digest", String, nullable=False, index=True),
    Column("released_at", Utc, nullable=False),
    Column("seen_at", Utc, nullable=False),
    # The same files under a new commit or a new name are not a new release.
    UniqueConstraint("family", "content_digest", name="uq_releases_family_digest"),
)
repo_states = Table(
    "repo_states",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("repo_id", String, nullable=False, index=True),
    Column("internal_id", String, nullable=False),
    Column("revision", String, nullable=False),
    Column("content_digest", String),
    Column("at", Utc, nullable=False),
)
watches = Table(
    "watches",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("family", String, nullable=False, index=True),
    Column("rule", String, nullable=False),
    Column("at", Utc, nullable=False),
)
artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", String, primary_key=True),
    Column("total_bytes", BigInteger, nullable=False),
    Column("files", JSON, nullable=False),
    Column("at", Utc, nullable=False),
)
merges = Table(
    "merges",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("merge_key", String, nullable=False, index=True),
    Column("digest", String, ForeignKey("artifacts.digest"), nullable=False, index=True),
    Column("lineage", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at", Utc, nullable=False),
    Column("peak_bytes", BigInteger),
)
fetches = Table(
    "fetches",
    metadata,
    Column("repo_id", String, primary_key=True),
    Column("revision", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("at", Utc, nullable=False),
)
evaluations = Table(
    "evaluations",
    metadata,
    Column("eval_key", String, primary_key=True),
    Column("artifact_digest", String, nullable=False, index=True),
    Column("facts", JSON, nullable=False),
    Column("at", Utc, nullable=False),
)
scores = Table(
    "scores",
    metadata,
    Column("eval_key", String, ForeignKey("evaluations.eval_key"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("benchmark", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("value", Float, nullable=False),
    Column("stderr", Float, nullable=False),
    Column("n", Integer, nullable=False),
    Column("higher_is_better", Boolean, nullable=False),
    Column("items", LargeBinary, nullable=False),
)
verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("verdict_key", String, nullable=False, index=True),
    Column("job_key", String, nullable=False),
    Column("family", String, nullable=False),
    Column("target", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("at", Utc, nullable=False),
)
job_ends = Table(
    "job_ends",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_key", String, nullable=False, index=True),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("artifact_digest", String),
    Column("flow_run_id", String),
    Column("at", Utc, nullable=False),
)
holds = Table(
    "holds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False, index=True),
    Column("held", Boolean, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", Utc, nullable=False),
)
base_changes = Table(
    "base_changes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("family", String, nullable=False, index=True),
    Column("language", String, nullable=False),
    Column("change", String, nullable=False),
    Column("repo_id", String, nullable=False),
    Column("revision", String),
    Column("digest", String),
    Column("details", JSON, nullable=False),
    Column("at", Utc, nullable=False),
)
attempts = Table(
    "attempts",
    metadata,
    Column("fence", Integer, primary_key=True),
    Column("job_key", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("at", Utc, nullable=False),
    UniqueConstraint("job_key", "attempt", name="uq_attempts_job_attempt"),
    sqlite_autoincrement=True,  # a fence is never given out twice
)
promotions = Table(
    "promotions",
    metadata,
    Column("channel", String, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("artifact_digest", String, nullable=False),
    Column("previous_digest", String),
    Column("repo_id", String, nullable=False),
    Column("revision", String, nullable=False),
    Column("target", String, nullable=False),
    Column("family", String, nullable=False),
    Column("at", Utc, nullable=False),
    Column("reason", String, nullable=False),
    Column("flow_run_id", String),
    Column("claim_key", String),
    Column("fence", Integer, ForeignKey("attempts.fence")),
    Column("extra", JSON, nullable=False),
)
jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_key", String, nullable=False, index=True),
    Column("family", String, nullable=False),
    Column("target", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("repo_id", String, nullable=False),
    Column("revision", String, nullable=False),
    Column("release_digest", String, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("at", Utc, nullable=False),
)
approvals = Table(
    "approvals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_key", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    Column("artifact_digest", String, nullable=False),
    Column("request", JSON, nullable=False),
    Column("by", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("flow_run_id", String),
    Column("at", Utc, nullable=False),
)
acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("channel", String, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("at", Utc, nullable=False),
)
publications = Table(
    "publications",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("endpoint", String, nullable=False),
    Column("repo_id", String, nullable=False),
    Column("merge_key", String, nullable=False),
    Column("digest", String, nullable=False, index=True),
    Column("family", String, nullable=False),
    Column("target", String, nullable=False),
    Column("commit", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("how", String, nullable=False),
    Column("private", Boolean, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("flow_run_id", String),
    Column("at", Utc, nullable=False),
    UniqueConstraint("endpoint", "repo_id", "merge_key", name="uq_publications_place_merge"),
)
reference_outputs = Table(
    "reference_outputs",
    metadata,
    Column("key", String, primary_key=True),
    Column("artifact_digest", String, nullable=False, index=True),
    Column("facts", JSON, nullable=False),
    Column("answers", JSON, nullable=False),
    Column("at", Utc, nullable=False),
)
audits = Table(
    "audits",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("channel", String, nullable=False, index=True),
    Column("generation", Integer, nullable=False),
    Column("artifact_digest", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("said", String, nullable=False),
    Column("problems", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at", Utc, nullable=False),
)

hearings = Table(
    "hearings",
    metadata,
    Column("key", String, primary_key=True),
    Column("artifact_digest", String, nullable=False),
    Column("found", JSON, nullable=False),
    Column("at", Utc, nullable=False),
)
searches = Table(
    "searches",
    metadata,
    Column("key", String, primary_key=True),
    Column("job_key", String, nullable=False),
    Column("chosen", String, index=True),
    Column("tried", JSON, nullable=False),
    Column("said", String, nullable=False),
    Column("at", Utc, nullable=False),
)
promotion_steps = Table(
    "promotion_steps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("channel", String, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("step", String, nullable=False),
    Column("ended", String, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("said", String, nullable=False),
    Column("figures", JSON, nullable=False),
    Column("flow_run_id", String),
    Column("at", Utc, nullable=False),
)

FACTS = (
    *("releases", "repo_states", "artifacts", "merges", "fetches", "evaluations", "scores"),
    *("verdicts", "job_ends", "holds", "attempts", "promotions"),
    *("jobs", "approvals", "acknowledgements", "watches", "base_changes", "publications"),
    *("reference_outputs", "audits", "promotion_steps"),
    *("hearings", "searches"),
)

# --- what moves ------------------------------------------------------------------------------------------------------
claims = Table(
    "claims",
    metadata,
    Column("job_key", String, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, ForeignKey("attempts.fence"), nullable=False),
    Column("owner", String, nullable=False),
    Column("lease_seconds", Float, nullable=False),
    Column("lease_until", Utc, nullable=False),
    Column("ended_at", Utc),
    Column("description", JSON, nullable=False),
)
turns = Table(
    "turns",
    metadata,
    Column("name", String, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("owner", String, nullable=False),
    Column("lease_until", Utc, nullable=False),
    Column("ended_at", Utc),
)
channels = Table(
    "channels",
    metadata,
    Column("channel", String, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("acknowledged_generation", Integer, nullable=False),
    Column("acknowledged_at", Utc),
    # The pointer is a generation; what it points at is the promotion of that generation.
    ForeignKeyConstraint(["channel", "generation"], ["promotions.channel", "promotions.generation"]),
)
staged = Table(
    "staged",
    metadata,
    Column("digest", String, primary_key=True),
    Column("channel", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("repo_id", String),
    Column("revision", String),
    Column("wanted_at", Utc, nullable=False),
    Column("lease_until", Utc, nullable=False),
    Column("extra", JSON, nullable=False),
)
canaries = Table(
    "canaries",
    metadata,
    Column("channel", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("weight", Float, nullable=False),
    Column("languages", JSON, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("at", Utc, nullable=False),
    Column("lease_until", Utc, nullable=False),
)
instances = Table(
    "instances",
    metadata,
    Column("agent", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("status", JSON, nullable=False),
)
agents = Table(
    "agents",
    metadata,
    Column("agent", String, primary_key=True),
    Column("seen_at", Utc, nullable=False),
)
polls = Table(
    "polls",
    metadata,
    Column("family", String, primary_key=True),
    Column("polls", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("good_at", Utc),
    Column("failed_at", Utc),
    Column("failure", String, nullable=False),
)

Index("ix_verdicts_family_target", verdicts.c.family, verdicts.c.target)
for _column in (
    *(repo_states.c.internal_id, repo_states.c.content_digest, repo_states.c.at, attempts.c.owner),
    *(promotions.c.claim_key, verdicts.c.job_key, claims.c.lease_until),
):
    Index(f"ix_{_column.table.name}_{_column.name}", _column)
Index("ix_promotion_steps_channel", promotion_steps.c.channel, promotion_steps.c.generation)
Index("ix_jobs_release", jobs.c.family, jobs.c.target, jobs.c.release_digest)
