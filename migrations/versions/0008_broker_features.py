"""What a broker supports: the highest QoS, retained messages; how the connections of vessel and follower stand."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("arus_broker", sa.Column("max_qos", sa.SmallInteger))
    op.add_column("arus_broker", sa.Column("max_qos_at", sa.BigInteger))
    op.add_column(
        "arus_broker",
        sa.Column("retains", sa.Boolean, nullable=False, server_default=sa.text("true")),
    )
    op.add_column("arus_session", sa.Column("stalled_since", sa.BigInteger))
    op.add_column("arus_session", sa.Column("obstacle", sa.Text))
    op.create_table(
        "arus_follow_link",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("connected", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("arus_follow_link")
    op.drop_column("arus_session", "obstacle")
    op.drop_column("arus_session", "stalled_since")
    op.drop_column("arus_broker", "retains")
    op.drop_column("arus_broker", "max_qos_at")
    op.drop_column("arus_broker", "max_qos")
