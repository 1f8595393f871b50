"""The log keeps what a person is told about a proof that the database was restored."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

ADDED = (("epoch_note", sa.Text), ("epoch_noted_at", sa.BigInteger))


def upgrade() -> None:
    for name, kind in ADDED:
        op.add_column("arus_session", sa.Column(name, kind()))


def downgrade() -> None:
    for name, _ in reversed(ADDED):
        op.drop_column("arus_session", name)
