"""The log tells who made each change."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("arus_change", sa.Column("actor", sa.String(length=100)))


def downgrade() -> None:
    op.drop_column("arus_change", "actor")
