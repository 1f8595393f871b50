"""Refused rows have a table; a held change knows the row that it waits for; a vessel and
a dead letter know more of themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_refused",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("row_key", sa.String(length=64), nullable=False),
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("refused_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("vessel_id", "entity", "row_key"),
    )
    # A change that is held already is tried once, and then knows what it waits for.
    op.add_column("arus_held", sa.Column("waits_for", sa.Text(), server_default="", nullable=False))
    op.add_column("arus_held", sa.Column("tries", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "arus_held", sa.Column("next_at", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "arus_vessel",
        sa.Column("proven", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.execute("UPDATE arus_vessel SET proven = true")
    op.add_column(
        "arus_parked",
        sa.Column("vessel_id", sa.String(length=64), server_default="", nullable=False),
    )
    op.create_index("ix_arus_parked_filter", "arus_parked", ["topic_filter", "vessel_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_arus_parked_filter", table_name="arus_parked")
    op.drop_column("arus_parked", "vessel_id")
    op.drop_column("arus_vessel", "proven")
    for name in ("next_at", "tries", "waits_for"):
        op.drop_column("arus_held", name)
    op.drop_table("arus_refused")
