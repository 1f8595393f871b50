"""A catch-up knows who asked for it, and how much of it its receiver has reported as received."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("arus_catchup", sa.Column("consumer", sa.String(length=64)))
    op.add_column("arus_catchup", sa.Column("requester", sa.String(length=72)))
    op.add_column("arus_catchup", sa.Column("receive_window", sa.BigInteger()))
    op.add_column(
        "arus_catchup",
        sa.Column("received", sa.BigInteger(), server_default="0", nullable=False),
    )


def downgrade() -> None:
    for name in ("received", "receive_window", "requester", "consumer"):
        op.drop_column("arus_catchup", name)
