"""Other vessels on the same prefix are known to the vessel and to the follower; a follower knows its subscriptions."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("arus_session", sa.Column("neighbour", sa.String(length=64)))
    op.add_column("arus_session", sa.Column("neighbour_at", sa.BigInteger()))
    op.add_column("arus_follow_link", sa.Column("filters", sa.Text()))
    op.add_column("arus_follow_link", sa.Column("refused", sa.Text()))


def downgrade() -> None:
    for name in ("refused", "filters"):
        op.drop_column("arus_follow_link", name)
    for name in ("neighbour_at", "neighbour"):
        op.drop_column("arus_session", name)
