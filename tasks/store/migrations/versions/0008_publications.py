"""What was published to a Hub: repository, commit and tag.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, then its trigger. No version before this one has published anything."""
    op.create_table(
        "publications",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("repo_id", sa.String(), nullable=False),
        sa.Column("merge_key", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("commit", sa.String(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("how", sa.String(), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("flow_run_id", sa.String()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("endpoint", "repo_id", "merge_key", name="uq_publications_place_merge"),
    )
    op.create_index("ix_publications_digest", "publications", ["digest"])
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER publications_no_{verb.lower()} BEFORE {verb} ON publications "
                f"BEGIN SELECT RAISE(ABORT, 'facts are appended, never changed: {verb} on publications'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER publications_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON publications "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    """Refused: it would throw facts away."""
    raise NotImplementedError("facts are never deleted; to go back, restore a backup of the ledger")
