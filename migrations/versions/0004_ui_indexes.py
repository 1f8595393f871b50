"""Indexes for the orders that the pages sort long lists by."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_work_orders_planned_start_date_list": ["planned_start_date", "created_at", "id"],
    "ix_work_orders_pressing": ["status", "priority", "created_at", "id"],
}


def upgrade() -> None:
    with op.batch_alter_table("work_orders") as batch_op:
        for name, columns in INDEXES.items():
            batch_op.create_index(name, columns, unique=False)


def downgrade() -> None:
    with op.batch_alter_table("work_orders") as batch_op:
        for name in INDEXES:
            batch_op.drop_index(name)
