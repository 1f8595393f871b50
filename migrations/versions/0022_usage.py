"""The bytes sent on each day, and what the data budget holds back."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_usage",
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "kind"),
    )
    op.add_column("arus_session", sa.Column("held_until", sa.BigInteger()))
    op.add_column("arus_session", sa.Column("catchups_until", sa.BigInteger()))
    op.add_column(
        "arus_sample", sa.Column("sent", sa.BigInteger(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("arus_sample", "sent")
    op.drop_column("arus_session", "catchups_until")
    op.drop_column("arus_session", "held_until")
    op.drop_table("arus_usage")
