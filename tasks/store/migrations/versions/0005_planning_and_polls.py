"""Indexes for what every watch asks, and a table that counts watches.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_repo_states_internal_id", "repo_states", "internal_id"),
    ("ix_repo_states_content_digest", "repo_states", "content_digest"),
    ("ix_repo_states_at", "repo_states", "at"),
    ("ix_attempts_owner", "attempts", "owner"),
    ("ix_promotions_claim_key", "promotions", "claim_key"),
    ("ix_verdicts_job_key", "verdicts", "job_key"),
    ("ix_claims_lease_until", "claims", "lease_until"),
)


def upgrade() -> None:
    """Make the indexes and the table; no row changes. Watches of the past are not counted."""
    op.create_table(
        "polls",
        sa.Column("family", sa.String(), primary_key=True),
        sa.Column("polls", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("good_at", sa.DateTime(timezone=True)),
        sa.Column("failed_at", sa.DateTime(timezone=True)),
        sa.Column("failure", sa.String(), nullable=False),
    )
    for name, table, column in INDEXES:
        op.create_index(name, table, [column])


def downgrade() -> None:
    """Refused, as every way back: an older version would not know what later migrations have added."""
    raise NotImplementedError("a ledger is not taken back to an older schema; restore a backup of it")
