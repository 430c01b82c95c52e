"""Turns: what keeps two watches apart no longer adds an attempt for each of them.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and end the claim by which watches were kept apart: it would take up a place of the window."""
    op.create_table(
        "turns",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
    op.execute("UPDATE claims SET ended_at = lease_until WHERE job_key = 'watch-hub' AND ended_at IS NULL")


def downgrade() -> None:
    """Refused, as every way back: an older version would not know what later migrations have added."""
    raise NotImplementedError("a ledger is not taken back to an older schema; restore a backup of it")
