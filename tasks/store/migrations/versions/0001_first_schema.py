"""The first schema: facts that refuse to change, claims, channels, and what should be served.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FACTS = (
    *("releases", "repo_states", "artifacts", "merges", "fetches", "evaluations", "scores"),
    *("verdicts", "job_ends", "holds", "attempts", "promotions"),
)


def upgrade() -> None:
    """Create all tables, then the triggers that make facts append-only."""
    op.create_table(
        "agents",
        sa.Column("agent", sa.String(), primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("fence", sa.Integer(), primary_key=True),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("job_key", "attempt", name="uq_attempts_job_attempt"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "evaluations",
        sa.Column("eval_key", sa.String(), primary_key=True),
        sa.Column("artifact_digest", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_evaluations_artifact_digest", "evaluations", ["artifact_digest"])
    op.create_table(
        "fetches",
        sa.Column("repo_id", sa.String(), primary_key=True),
        sa.Column("revision", sa.String(), primary_key=True),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_holds_key", "holds", ["key"])
    op.create_table(
        "instances",
        sa.Column("agent", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("status", sa.JSON(), nullable=False),
    )
    op.create_table(
        "job_ends",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("artifact_digest", sa.String()),
        sa.Column("flow_run_id", sa.String()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_job_ends_job_key", "job_ends", ["job_key"])
    op.create_table(
        "releases",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("repo_id", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("content_digest", sa.String(), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("family", "content_digest", name="uq_releases_family_digest"),
    )
    op.create_index("ix_releases_content_digest", "releases", ["content_digest"])
    op.create_table(
        "repo_states",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("repo_id", sa.String(), nullable=False),
        sa.Column("internal_id", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("content_digest", sa.String()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_repo_states_repo_id", "repo_states", ["repo_id"])
    op.create_table(
        "staged",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("owner", sa.String(), primary_key=True),
        sa.Column("repo_id", sa.String()),
        sa.Column("revision", sa.String()),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("extra", sa.JSON(), nullable=False),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("verdict_key", sa.String(), nullable=False),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_verdicts_family_target", "verdicts", ["family", "target"])
    op.create_index("ix_verdicts_verdict_key", "verdicts", ["verdict_key"])
    op.create_table(
        "claims",
        sa.Column("job_key", sa.String(), primary_key=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), sa.ForeignKey("attempts.fence"), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("lease_seconds", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("description", sa.JSON(), nullable=False),
    )
    op.create_table(
        "merges",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("merge_key", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), sa.ForeignKey("artifacts.digest"), nullable=False),
        sa.Column("lineage", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_merges_digest", "merges", ["digest"])
    op.create_index("ix_merges_merge_key", "merges", ["merge_key"])
    op.create_table(
        "promotions",
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("generation", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("artifact_digest", sa.String(), nullable=False),
        sa.Column("previous_digest", sa.String()),
        sa.Column("repo_id", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("flow_run_id", sa.String()),
        sa.Column("claim_key", sa.String()),
        sa.Column("fence", sa.Integer(), sa.ForeignKey("attempts.fence")),
        sa.Column("extra", sa.JSON(), nullable=False),
    )
    op.create_table(
        "scores",
        sa.Column("eval_key", sa.String(), sa.ForeignKey("evaluations.eval_key"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("benchmark", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("stderr", sa.Float(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("higher_is_better", sa.Boolean(), nullable=False),
        sa.Column("items", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "channels",
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("acknowledged_generation", sa.Integer(), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["channel", "generation"], ["promotions.channel", "promotions.generation"]),
    )
    if op.get_bind().dialect.name == "sqlite":
        for fact in FACTS:
            for verb in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {fact}_no_{verb.lower()} BEFORE {verb} ON {fact} "
                    f"BEGIN SELECT RAISE(ABORT, 'facts are appended, never changed: {verb} on {fact}'); END"
                )
    else:
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'facts are appended, never changed: % on %', TG_OP, TG_TABLE_NAME; END $$"
        )
        for fact in FACTS:
            op.execute(
                f"CREATE TRIGGER {fact}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {fact} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )


def downgrade() -> None:
    """Refused: it would throw the facts away."""
    raise NotImplementedError("the first schema is never undone: it would delete every fact")
