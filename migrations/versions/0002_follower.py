"""What a follower keeps; a copy of several vessels holds their work order numbers side by side."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_vessel",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("past_epochs", sa.Text(), server_default="[]", nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("above", sa.Text(), server_default="[]", nullable=False),
        sa.Column("head_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("online", sa.Boolean(), nullable=True),
        sa.Column("pending", sa.BigInteger(), nullable=True),
        sa.Column("heard_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=True),
        sa.Column("audit", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("vessel_id", name=op.f("pk_arus_vessel")),
    )
    op.create_table(
        "arus_position",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=128), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("beyond", sa.Text(), server_default="[]", nullable=False),
        sa.Column("need", sa.String(length=12), server_default="", nullable=False),
        sa.Column("buckets", sa.Text(), server_default="[]", nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("mark", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("vessel_id", "topic", name=op.f("pk_arus_position")),
    )
    op.create_table(
        "arus_row",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("row_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("hash", sa.String(length=64), server_default="", nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("mark", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("vessel_id", "entity", "row_id", name=op.f("pk_arus_row")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "arus_held",
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("row_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("operation", sa.String(length=6), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("mark", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("vessel_id", "entity", "row_id", name=op.f("pk_arus_held")),
    )
    with op.batch_alter_table("work_orders", schema=None) as batch_op:
        batch_op.drop_index("uq_work_orders_wo_number")
        batch_op.create_index("ix_work_orders_wo_number", ["wo_number"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("work_orders", schema=None) as batch_op:
        batch_op.drop_index("ix_work_orders_wo_number")
        batch_op.create_index("uq_work_orders_wo_number", ["wo_number"], unique=True)
    for table in ("arus_held", "arus_row", "arus_position", "arus_vessel"):
        op.drop_table(table)
