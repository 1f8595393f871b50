"""An index for each order that the pages sort a long list by."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = "ix_work_orders_planned_start_date_list"


def upgrade() -> None:
    with op.batch_alter_table("work_orders") as batch_op:
        batch_op.create_index(NAME, ["planned_start_date", "created_at", "id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("work_orders") as batch_op:
        batch_op.drop_index(NAME)
