"""What searches for a recipe heard of each candidate, and what they chose.

Revision ID: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, then their triggers."""
    op.create_table(
        "hearings",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("artifact_digest", sa.String(), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "searches",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("job_key", sa.String(), nullable=False),
        sa.Column("chosen", sa.String()),
        sa.Column("tried", sa.JSON(), nullable=False),
        sa.Column("said", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_searches_chosen", "searches", ["chosen"])
    for table in ("hearings", "searches"):
        if op.get_bind().dialect.name == "sqlite":
            for verb in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'facts are appended, never changed: {verb} on {table}'); END"
                )
        else:
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )


def downgrade() -> None:
    """Refused: it would throw facts away."""
    raise NotImplementedError("facts are never deleted; to go back, restore a backup of the ledger")
