"""What brokers speak and take; when something was acknowledged last, and why the link is not up."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_broker",
        sa.Column("address", sa.String(512), primary_key=True),
        sa.Column("version", sa.String(8)),
        sa.Column("version_at", sa.BigInteger),
        sa.Column("handshakes", sa.BigInteger),
        sa.Column("handshakes_size", sa.BigInteger),
        sa.Column("handshakes_at", sa.BigInteger),
        sa.Column("lowers_qos", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.add_column("arus_lane", sa.Column("acked_at", sa.BigInteger))
    op.add_column("arus_session", sa.Column("reason", sa.Text))


def downgrade() -> None:
    op.drop_column("arus_session", "reason")
    op.drop_column("arus_lane", "acked_at")
    op.drop_table("arus_broker")
