"""What a follower waits for before it deletes many rows, and whether it is ahead of its vessel; a vessel's repairs say
which changes they stand for, and when its epoch began."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ADDED = (
    ("arus_position", "sweep", sa.Text),
    ("arus_vessel", "ahead_of", sa.BigInteger),
    ("arus_catchup", "covers", sa.Text),
    ("arus_session", "claimed_at", sa.BigInteger),
)


def upgrade() -> None:
    for table, name, kind in ADDED:
        op.add_column(table, sa.Column(name, kind()))


def downgrade() -> None:
    for table, name, _ in reversed(ADDED):
        op.drop_column(table, name)
