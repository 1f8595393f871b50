"""The running hours of equipment as they were entered."""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

INDEX = "ix_equipment_hours_equipment_id"


def upgrade() -> None:
    op.create_table(
        "equipment_hours",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("equipment_id", sa.String(length=36), nullable=False),
        sa.Column("hours", sa.Double(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["equipment_id"], ["equipment.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(INDEX, "equipment_hours", ["equipment_id", "id"])


def downgrade() -> None:
    op.drop_index(INDEX, "equipment_hours")
    op.drop_table("equipment_hours")
