"""Jobs by name, approvals, and when each generation became visible; all three refuse to change.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FACTS = ("jobs", "approvals", "acknowledgements")


def upgrade() -> None:
    """Create the tables, then their triggers. Acknowledgements of the past are not known and not made up."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("repo_id", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("release_digest", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_jobs_job_key", "jobs", ["job_key"])
    op.create_index("ix_jobs_release", "jobs", ["family", "target", "release_digest"])
    op.create_table(
        "approvals",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("artifact_digest", sa.String(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("flow_run_id", sa.String()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_approvals_job_key", "approvals", ["job_key"])
    op.create_table(
        "acknowledgements",
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("generation", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for fact in FACTS:
            for verb in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {fact}_no_{verb.lower()} BEFORE {verb} ON {fact} "
                    f"BEGIN SELECT RAISE(ABORT, 'facts are appended, never changed: {verb} on {fact}'); END"
                )
    else:
        for fact in FACTS:
            op.execute(
                f"CREATE TRIGGER {fact}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {fact} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )


def downgrade() -> None:
    """Refused: it would throw facts away."""
    raise NotImplementedError("facts are never deleted; to go back, restore a backup of the ledger")
