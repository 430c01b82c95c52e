"""The most memory that a merge took, beside its seconds.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. What merges of the past took is not known and not made up: it stays empty there."""
    op.add_column("merges", sa.Column("peak_bytes", sa.BigInteger()))


def downgrade() -> None:
    """Refused: it would throw facts away."""
    raise NotImplementedError("facts are never deleted; to go back, restore a backup of the ledger")
