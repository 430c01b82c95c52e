"""Complete listings of a family's organisations, by which a repository that was opened late is dated.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, then its trigger. Watches of the past are not known and not made up."""
    op.create_table(
        "watches",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_watches_family", "watches", ["family"])
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER watches_no_{verb.lower()} BEFORE {verb} ON watches "
                f"BEGIN SELECT RAISE(ABORT, 'facts are appended, never changed: {verb} on watches'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER watches_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON watches "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    """Refused: it would throw facts away."""
    raise NotImplementedError("facts are never deleted; to go back, restore a backup of the ledger")
