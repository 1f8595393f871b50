"""The tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_change",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("message_id", sa.String(length=40), nullable=False),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=128), nullable=False),
        sa.Column("qos", sa.SmallInteger(), nullable=False),
        sa.Column("operation", sa.String(length=6), nullable=False),
        sa.Column("row_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("committed_at", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("previous_seq", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=12), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_arus_change"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_arus_change_lane", "arus_change", ["topic", "seq"], unique=True)
    op.create_index("ix_arus_change_message_id", "arus_change", ["message_id"], unique=True)
    op.create_index(
        "ix_arus_change_outcome",
        "arus_change",
        ["outcome", "id"],
        unique=False,
        sqlite_where=sa.text("outcome IS NOT NULL"),
        postgresql_where=sa.text("outcome IS NOT NULL"),
    )
    op.create_index("ix_arus_change_row", "arus_change", ["entity", "row_id", "id"], unique=False)
    op.create_index(
        "ix_arus_change_unnumbered",
        "arus_change",
        ["id"],
        unique=False,
        sqlite_where=sa.text("seq IS NULL AND outcome IS NULL"),
        postgresql_where=sa.text("seq IS NULL AND outcome IS NULL"),
    )
    op.create_table(
        "arus_catchup",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("catchup_id", sa.String(length=36), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=128), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("after_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("high_seq", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("published", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("digest", sa.String(length=64), server_default="", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arus_catchup"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_arus_catchup_catchup_id", "arus_catchup", ["catchup_id"], unique=True)
    op.create_index("ix_arus_catchup_status", "arus_catchup", ["status", "id"], unique=False)
    op.create_table(
        "arus_counter",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("entity_type", sa.String(length=64), nullable=False),
        sa.Column("operation", sa.String(length=6), nullable=False),
        sa.Column("qos", sa.String(length=1), nullable=False),
        sa.Column("value", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", "entity_type", "operation", "qos", name="pk_arus_counter"),
    )
    op.create_table(
        "arus_lane",
        sa.Column("topic", sa.String(length=128), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sent_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("received_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("acked_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("received_above", sa.Text(), server_default="[]", nullable=False),
        sa.Column("acked_above", sa.Text(), server_default="[]", nullable=False),
        sa.Column("depth", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("topic", name="pk_arus_lane"),
    )
    op.create_table(
        "arus_session",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("owner_pid", sa.Integer(), nullable=True),
        sa.Column("owner_host", sa.String(length=255), nullable=True),
        sa.Column("owner_since", sa.BigInteger(), nullable=True),
        sa.Column("connected", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("connected_changed_at", sa.BigInteger(), nullable=True),
        sa.Column("protocol", sa.String(length=8), nullable=True),
        sa.Column("reconnect_attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("clean_start", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arus_session"),
    )
    op.create_table(
        "crew",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("rank", sa.String(length=100), nullable=True),
        sa.Column("department", sa.String(length=100), nullable=True),
        sa.Column("email", sa.String(length=254), nullable=True),
        sa.Column("phone", sa.String(length=50), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("on_duty", sa.Boolean(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_crew"),
    )
    op.create_index("ix_crew_active_list", "crew", ["active", "created_at", "id"], unique=False)
    op.create_index(
        "ix_crew_department_list", "crew", ["department", "created_at", "id"], unique=False
    )
    op.create_index("ix_crew_list", "crew", ["created_at", "id"], unique=False)
    op.create_index("ix_crew_on_duty_list", "crew", ["on_duty", "created_at", "id"], unique=False)
    op.create_index("ix_crew_rank_list", "crew", ["rank", "created_at", "id"], unique=False)
    op.create_table(
        "equipment",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("manufacturer", sa.String(length=100), nullable=True),
        sa.Column("model", sa.String(length=100), nullable=True),
        sa.Column("serial_number", sa.String(length=100), nullable=True),
        sa.Column("location", sa.String(length=100), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("criticality_level", sa.String(length=20), nullable=True),
        sa.Column("specifications", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_equipment"),
    )
    op.create_index(
        "ix_equipment_criticality_level_list",
        "equipment",
        ["criticality_level", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_equipment_is_active_list", "equipment", ["is_active", "created_at", "id"], unique=False
    )
    op.create_index("ix_equipment_list", "equipment", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_equipment_location_list", "equipment", ["location", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_equipment_manufacturer_list",
        "equipment",
        ["manufacturer", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_equipment_type_list", "equipment", ["type", "created_at", "id"], unique=False
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("route", sa.String(length=200), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("row_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", "route", name="pk_idempotency_keys"),
    )
    op.create_index(
        "ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False
    )
    op.create_table(
        "work_order_counters",
        sa.Column("year", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("year", name="pk_work_order_counters"),
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("equipment_id", sa.String(length=36), nullable=False),
        sa.Column("sensor_type", sa.String(length=100), nullable=False),
        sa.Column("alert_type", sa.String(length=20), nullable=False),
        sa.Column("message", sa.String(length=1000), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("acknowledged", sa.Boolean(), nullable=False),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.String(length=200), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["equipment_id"], ["equipment.id"], name="fk_alerts_equipment_id_equipment"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index(
        "ix_alerts_acknowledged_list", "alerts", ["acknowledged", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_alerts_alert_type_list", "alerts", ["alert_type", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_alerts_equipment_id_list", "alerts", ["equipment_id", "created_at", "id"], unique=False
    )
    op.create_index("ix_alerts_list", "alerts", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_alerts_sensor_type_list", "alerts", ["sensor_type", "created_at", "id"], unique=False
    )
    op.create_table(
        "maintenance_schedules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("equipment_id", sa.String(length=36), nullable=False),
        sa.Column("scheduled_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("maintenance_type", sa.String(length=50), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("estimated_duration", sa.Integer(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("assigned_to", sa.String(length=200), nullable=True),
        sa.Column("work_order_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["equipment_id"],
            ["equipment.id"],
            name="fk_maintenance_schedules_equipment_id_equipment",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_maintenance_schedules"),
    )
    op.create_index(
        "ix_maintenance_schedules_assigned_to_list",
        "maintenance_schedules",
        ["assigned_to", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_maintenance_schedules_equipment_id_list",
        "maintenance_schedules",
        ["equipment_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_maintenance_schedules_list", "maintenance_schedules", ["created_at", "id"], unique=False
    )
    op.create_index(
        "ix_maintenance_schedules_maintenance_type_list",
        "maintenance_schedules",
        ["maintenance_type", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_maintenance_schedules_priority_list",
        "maintenance_schedules",
        ["priority", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_maintenance_schedules_scheduled_date_list",
        "maintenance_schedules",
        ["scheduled_date", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_maintenance_schedules_status_list",
        "maintenance_schedules",
        ["status", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_maintenance_schedules_work_order_id_list",
        "maintenance_schedules",
        ["work_order_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "work_orders",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("wo_number", sa.String(length=20), nullable=False),
        sa.Column("equipment_id", sa.String(length=36), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("maintenance_type", sa.String(length=50), nullable=True),
        sa.Column("assigned_crew_id", sa.String(length=36), nullable=True),
        sa.Column("estimated_hours", sa.Double(), nullable=True),
        sa.Column("actual_hours", sa.Double(), nullable=True),
        sa.Column("planned_start_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("planned_end_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("schedule_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["assigned_crew_id"], ["crew.id"], name="fk_work_orders_assigned_crew_id_crew"
        ),
        sa.ForeignKeyConstraint(
            ["equipment_id"], ["equipment.id"], name="fk_work_orders_equipment_id_equipment"
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["maintenance_schedules.id"],
            name="fk_work_orders_schedule_id_maintenance_schedules",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_work_orders"),
    )
    op.create_index(
        "ix_work_orders_assigned_crew_id_list",
        "work_orders",
        ["assigned_crew_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_work_orders_equipment_id_list",
        "work_orders",
        ["equipment_id", "created_at", "id"],
        unique=False,
    )
    op.create_index("ix_work_orders_list", "work_orders", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_work_orders_maintenance_type_list",
        "work_orders",
        ["maintenance_type", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_work_orders_priority_list",
        "work_orders",
        ["priority", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_work_orders_schedule_id_list",
        "work_orders",
        ["schedule_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_work_orders_status_list", "work_orders", ["status", "created_at", "id"], unique=False
    )
    op.create_index("uq_work_orders_wo_number", "work_orders", ["wo_number"], unique=True)
    # The two tables refer to each other; SQLite can only add the reference by making the table anew.
    with op.batch_alter_table("maintenance_schedules") as batch:
        batch.create_foreign_key(
            "fk_maintenance_schedules_work_order_id_work_orders",
            "work_orders",
            ["work_order_id"],
            ["id"],
        )


def downgrade() -> None:
    with op.batch_alter_table("maintenance_schedules") as batch:
        batch.drop_constraint(
            "fk_maintenance_schedules_work_order_id_work_orders", type_="foreignkey"
        )
    for table in (
        "work_orders",
        "maintenance_schedules",
        "alerts",
        "work_order_counters",
        "idempotency_keys",
        "equipment",
        "crew",
        "arus_session",
        "arus_lane",
        "arus_counter",
        "arus_change",
        "arus_catchup",
    ):
        op.drop_table(table)
