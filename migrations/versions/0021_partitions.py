"""The vessels of a follower can be divided into partitions, which several processes share."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A follower's counters have the number of the partition there.
    with op.batch_alter_table("arus_counter") as table:
        table.alter_column(
            "qos",
            existing_type=sa.String(length=1),
            type_=sa.String(length=4),
            existing_nullable=False,
        )
    op.create_table(
        "arus_partitioning",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arus_partitioning")),
    )
    op.create_table(
        "arus_partition",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("taken", sa.BigInteger(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_arus_partition")),
    )
    op.create_table(
        "arus_vessel_partition",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("placed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("vessel_id", name=op.f("pk_arus_vessel_partition")),
    )
    op.create_table(
        "arus_unused_session",
        sa.Column("client_id", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("client_id", name=op.f("pk_arus_unused_session")),
    )


def downgrade() -> None:
    for name in ("unused_session", "vessel_partition", "partition", "partitioning"):
        op.drop_table(f"arus_{name}")
    op.execute("DELETE FROM arus_counter WHERE name LIKE 'follow%' AND qos <> ''")
    with op.batch_alter_table("arus_counter") as table:
        table.alter_column(
            "qos",
            existing_type=sa.String(length=4),
            type_=sa.String(length=1),
            existing_nullable=False,
        )
