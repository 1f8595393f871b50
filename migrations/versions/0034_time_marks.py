"""Up to which number all changes were committed at or before which time: for catch-ups since a time."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_time_mark",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("highest_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_arus_time_mark")),
    )
    op.create_index("ix_arus_time_mark_highest_at", "arus_time_mark", ["highest_at", "seq"])


def downgrade() -> None:
    op.drop_table("arus_time_mark")
