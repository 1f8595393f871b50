"""Over which fields a follower compares a vessel's rows, what one side lacks, and vessels that were renamed."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_compared",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("fields", sa.Text(), nullable=True),
        sa.Column("difference", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("vessel_id", "entity"),
    )
    op.create_table(
        "arus_handed_over",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("receiver", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("vessel_id"),
    )
    op.create_index(
        "ix_arus_row_claims",
        "arus_row",
        ["owner", "vessel_id", "entity"],
        unique=False,
        sqlite_where=sa.text("owner <> ''"),
        postgresql_where=sa.text("owner <> ''"),
    )


def downgrade() -> None:
    op.drop_index("ix_arus_row_claims", table_name="arus_row")
    op.drop_table("arus_handed_over")
    op.drop_table("arus_compared")
