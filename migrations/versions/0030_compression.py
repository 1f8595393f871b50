"""Messages may be compressed: the vessel's dictionaries, where each is used, and a follower's copies."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_dictionary",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("checked_at", sa.BigInteger(), nullable=False),
        sa.Column("created_seq", sa.BigInteger(), nullable=False),
        sa.Column("acknowledged", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("retired_at", sa.BigInteger()),
        sa.Column("retired_seq", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arus_dictionary")),
    )
    op.create_table(
        "arus_compressed",
        sa.Column("topic", sa.String(length=128), nullable=False),
        sa.Column("from_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("dictionary", sa.BigInteger()),
        sa.PrimaryKeyConstraint("topic", "from_seq", name=op.f("pk_arus_compressed")),
    )
    op.create_table(
        "arus_follow_dictionary",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("vessel_id", "id", name=op.f("pk_arus_follow_dictionary")),
    )


def downgrade() -> None:
    for table in ("arus_follow_dictionary", "arus_compressed", "arus_dictionary"):
        op.drop_table(table)
