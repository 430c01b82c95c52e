"""What became of each tuned base: added, updated, retired, packed, unpacked.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, then its trigger. Changes of the past are not known and not made up."""
    op.create_table(
        "base_changes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("change", sa.String(), nullable=False),
        sa.Column("repo_id", sa.String(), nullable=False),
        sa.Column("revision", sa.String()),
        sa.Column("digest", sa.String()),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_base_changes_family", "base_changes", ["family"])
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER base_changes_no_{verb.lower()} BEFORE {verb} ON base_changes "
                f"BEGIN SELECT RAISE(ABORT, 'facts are appended, never changed: {verb} on base_changes'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER base_changes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON base_changes "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    """Refused: it would throw facts away."""
    raise NotImplementedError("facts are never deleted; to go back, restore a backup of the ledger")
