"""The steps of work orders."""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("work_orders", sa.Column("steps", sa.JSON()))


def downgrade() -> None:
    op.drop_column("work_orders", "steps")
