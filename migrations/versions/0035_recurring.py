"""Recurring maintenance: intervals of days and running hours, and the equipment's running hours."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

INDEX = "ix_maintenance_schedules_previous_schedule_id"


def upgrade() -> None:
    op.add_column("equipment", sa.Column("running_hours", sa.Double()))
    for column in (
        sa.Column("interval_days", sa.Integer()),
        sa.Column("interval_hours", sa.Double()),
        sa.Column("due_hours", sa.Double()),
        sa.Column("previous_schedule_id", sa.String(length=36)),
    ):
        op.add_column("maintenance_schedules", column)
    op.create_index(INDEX, "maintenance_schedules", ["previous_schedule_id"])


def downgrade() -> None:
    op.drop_index(INDEX, "maintenance_schedules")
    for name in ("previous_schedule_id", "due_hours", "interval_hours", "interval_days"):
        op.drop_column("maintenance_schedules", name)
    op.drop_column("equipment", "running_hours")
