"""The tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
        sa.Column("origin", sa.String(length=8), nullable=False),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=128), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("since_at", sa.BigInteger(), nullable=True),
        sa.Column("since_seq", sa.BigInteger(), nullable=True),
        sa.Column("since_epoch", sa.String(length=36), nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("item_limit", sa.BigInteger(), nullable=True),
        sa.Column("buckets", sa.Text(), nullable=True),
        sa.Column("wants_snapshot", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("mode", sa.String(length=12), nullable=True),
        sa.Column("high_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("position", sa.Text(), server_default="", nullable=False),
        sa.Column("published", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("digest", sa.String(length=64), server_default="", nullable=False),
        sa.Column("next_cursor", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_arus_catchup"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("arus_catchup", schema=None) as batch_op:
        batch_op.create_index("ix_arus_catchup_catchup_id", ["catchup_id", "entity"], unique=True)
        batch_op.create_index("ix_arus_catchup_request_id", ["request_id", "entity"], unique=True)
        batch_op.create_index("ix_arus_catchup_status", ["status", "id"], unique=False)

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
    with op.batch_alter_table("arus_change", schema=None) as batch_op:
        batch_op.create_index("ix_arus_change_lane", ["topic", "seq"], unique=True)
        batch_op.create_index("ix_arus_change_message_id", ["message_id"], unique=True)
        batch_op.create_index(
            "ix_arus_change_deleted",
            ["topic", "seq"],
            unique=False,
            sqlite_where=sa.text("operation = 'delete'"),
            postgresql_where=sa.text("operation = 'delete'"),
        )
        batch_op.create_index(
            "ix_arus_change_outcome",
            ["outcome", "id"],
            unique=False,
            sqlite_where=sa.text("outcome IS NOT NULL"),
            postgresql_where=sa.text("outcome IS NOT NULL"),
        )
        batch_op.create_index("ix_arus_change_row", ["entity", "row_id", "id"], unique=False)
        batch_op.create_index(
            "ix_arus_change_unnumbered",
            ["id"],
            unique=False,
            sqlite_where=sa.text("seq IS NULL AND outcome IS NULL"),
            postgresql_where=sa.text("seq IS NULL AND outcome IS NULL"),
        )

    op.create_table(
        "arus_conflict",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("conflict_id", sa.String(length=64), nullable=False),
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("row_id", sa.String(length=64), nullable=False),
        sa.Column("winner", sa.String(length=8), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("report", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arus_conflict"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("arus_conflict", schema=None) as batch_op:
        batch_op.create_index("ix_arus_conflict_conflict_id", ["conflict_id"], unique=True)

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
        "arus_follower",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("audit_seq", sa.BigInteger(), nullable=True),
        sa.Column("audit_equal", sa.Boolean(), nullable=True),
        sa.Column("audit_at", sa.BigInteger(), nullable=True),
        sa.Column("audit_detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_arus_follower"),
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
        "arus_link_event",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arus_link_event"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("arus_link_event", schema=None) as batch_op:
        batch_op.create_index("ix_arus_link_event_at", ["at"], unique=False)

    op.create_table(
        "arus_parked",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("topic_filter", sa.String(length=512), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("parked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arus_parked"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "arus_sample",
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("depth", sa.BigInteger(), nullable=False),
        sa.Column("published", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", name="pk_arus_sample"),
    )
    op.create_table(
        "arus_session",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pruned_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("complete_since", sa.BigInteger(), server_default="-1", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("owner_pid", sa.Integer(), nullable=True),
        sa.Column("owner_host", sa.String(length=255), nullable=True),
        sa.Column("owner_since", sa.BigInteger(), nullable=True),
        sa.Column("connected", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("connected_changed_at", sa.BigInteger(), nullable=True),
        sa.Column("protocol", sa.String(length=8), nullable=True),
        sa.Column("reconnect_attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("clean_start", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arus_session"),
    )
    op.create_table(
        "arus_subscription",
        sa.Column("topic_filter", sa.String(length=512), nullable=False),
        sa.Column("qos", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic_filter", name="pk_arus_subscription"),
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
    with op.batch_alter_table("crew", schema=None) as batch_op:
        batch_op.create_index("ix_crew_active_list", ["active", "created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_crew_department_list", ["department", "created_at", "id"], unique=False
        )
        batch_op.create_index("ix_crew_list", ["created_at", "id"], unique=False)
        batch_op.create_index("ix_crew_on_duty_list", ["on_duty", "created_at", "id"], unique=False)
        batch_op.create_index("ix_crew_rank_list", ["rank", "created_at", "id"], unique=False)

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
    with op.batch_alter_table("equipment", schema=None) as batch_op:
        batch_op.create_index(
            "ix_equipment_criticality_level_list",
            ["criticality_level", "created_at", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_equipment_is_active_list", ["is_active", "created_at", "id"], unique=False
        )
        batch_op.create_index("ix_equipment_list", ["created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_equipment_location_list", ["location", "created_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_equipment_manufacturer_list", ["manufacturer", "created_at", "id"], unique=False
        )
        batch_op.create_index("ix_equipment_type_list", ["type", "created_at", "id"], unique=False)

    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("route", sa.String(length=200), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("row_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", "route", name="pk_idempotency_keys"),
    )
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.create_index("ix_idempotency_keys_created_at", ["created_at"], unique=False)

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
    with op.batch_alter_table("alerts", schema=None) as batch_op:
        batch_op.create_index(
            "ix_alerts_acknowledged_list", ["acknowledged", "created_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_alerts_alert_type_list", ["alert_type", "created_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_alerts_equipment_id_list", ["equipment_id", "created_at", "id"], unique=False
        )
        batch_op.create_index("ix_alerts_list", ["created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_alerts_sensor_type_list", ["sensor_type", "created_at", "id"], unique=False
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
    with op.batch_alter_table("maintenance_schedules", schema=None) as batch_op:
        batch_op.create_index(
            "ix_maintenance_schedules_assigned_to_list",
            ["assigned_to", "created_at", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_maintenance_schedules_equipment_id_list",
            ["equipment_id", "created_at", "id"],
            unique=False,
        )
        batch_op.create_index("ix_maintenance_schedules_list", ["created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_maintenance_schedules_maintenance_type_list",
            ["maintenance_type", "created_at", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_maintenance_schedules_priority_list", ["priority", "created_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_maintenance_schedules_scheduled_date_list",
            ["scheduled_date", "created_at", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_maintenance_schedules_status_list", ["status", "created_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_maintenance_schedules_work_order_id_list",
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
    with op.batch_alter_table("work_orders", schema=None) as batch_op:
        batch_op.create_index(
            "ix_work_orders_assigned_crew_id_list",
            ["assigned_crew_id", "created_at", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_work_orders_equipment_id_list", ["equipment_id", "created_at", "id"], unique=False
        )
        batch_op.create_index("ix_work_orders_list", ["created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_work_orders_maintenance_type_list",
            ["maintenance_type", "created_at", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_work_orders_priority_list", ["priority", "created_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_work_orders_schedule_id_list", ["schedule_id", "created_at", "id"], unique=False
        )
        batch_op.create_index(
            "ix_work_orders_status_list", ["status", "created_at", "id"], unique=False
        )
        batch_op.create_index("uq_work_orders_wo_number", ["wo_number"], unique=True)
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
    with op.batch_alter_table("work_orders", schema=None) as batch_op:
        batch_op.drop_index("uq_work_orders_wo_number")
        batch_op.drop_index("ix_work_orders_status_list")
        batch_op.drop_index("ix_work_orders_schedule_id_list")
        batch_op.drop_index("ix_work_orders_priority_list")
        batch_op.drop_index("ix_work_orders_maintenance_type_list")
        batch_op.drop_index("ix_work_orders_list")
        batch_op.drop_index("ix_work_orders_equipment_id_list")
        batch_op.drop_index("ix_work_orders_assigned_crew_id_list")

    op.drop_table("work_orders")
    with op.batch_alter_table("maintenance_schedules", schema=None) as batch_op:
        batch_op.drop_index("ix_maintenance_schedules_work_order_id_list")
        batch_op.drop_index("ix_maintenance_schedules_status_list")
        batch_op.drop_index("ix_maintenance_schedules_scheduled_date_list")
        batch_op.drop_index("ix_maintenance_schedules_priority_list")
        batch_op.drop_index("ix_maintenance_schedules_maintenance_type_list")
        batch_op.drop_index("ix_maintenance_schedules_list")
        batch_op.drop_index("ix_maintenance_schedules_equipment_id_list")
        batch_op.drop_index("ix_maintenance_schedules_assigned_to_list")

    op.drop_table("maintenance_schedules")
    with op.batch_alter_table("alerts", schema=None) as batch_op:
        batch_op.drop_index("ix_alerts_sensor_type_list")
        batch_op.drop_index("ix_alerts_list")
        batch_op.drop_index("ix_alerts_equipment_id_list")
        batch_op.drop_index("ix_alerts_alert_type_list")
        batch_op.drop_index("ix_alerts_acknowledged_list")

    op.drop_table("alerts")
    op.drop_table("work_order_counters")
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.drop_index("ix_idempotency_keys_created_at")

    op.drop_table("idempotency_keys")
    with op.batch_alter_table("equipment", schema=None) as batch_op:
        batch_op.drop_index("ix_equipment_type_list")
        batch_op.drop_index("ix_equipment_manufacturer_list")
        batch_op.drop_index("ix_equipment_location_list")
        batch_op.drop_index("ix_equipment_list")
        batch_op.drop_index("ix_equipment_is_active_list")
        batch_op.drop_index("ix_equipment_criticality_level_list")

    op.drop_table("equipment")
    with op.batch_alter_table("crew", schema=None) as batch_op:
        batch_op.drop_index("ix_crew_rank_list")
        batch_op.drop_index("ix_crew_on_duty_list")
        batch_op.drop_index("ix_crew_list")
        batch_op.drop_index("ix_crew_department_list")
        batch_op.drop_index("ix_crew_active_list")

    op.drop_table("crew")
    op.drop_table("arus_subscription")
    op.drop_table("arus_session")
    op.drop_table("arus_sample")
    op.drop_table("arus_parked")
    with op.batch_alter_table("arus_link_event", schema=None) as batch_op:
        batch_op.drop_index("ix_arus_link_event_at")

    op.drop_table("arus_link_event")
    op.drop_table("arus_lane")
    op.drop_table("arus_follower")
    op.drop_table("arus_counter")
    with op.batch_alter_table("arus_conflict", schema=None) as batch_op:
        batch_op.drop_index("ix_arus_conflict_conflict_id")

    op.drop_table("arus_conflict")
    with op.batch_alter_table("arus_change", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_arus_change_unnumbered",
            sqlite_where=sa.text("seq IS NULL AND outcome IS NULL"),
            postgresql_where=sa.text("seq IS NULL AND outcome IS NULL"),
        )
        batch_op.drop_index("ix_arus_change_row")
        batch_op.drop_index("ix_arus_change_deleted")
        batch_op.drop_index(
            "ix_arus_change_outcome",
            sqlite_where=sa.text("outcome IS NOT NULL"),
            postgresql_where=sa.text("outcome IS NOT NULL"),
        )
        batch_op.drop_index("ix_arus_change_message_id")
        batch_op.drop_index("ix_arus_change_lane")

    op.drop_table("arus_change")
    with op.batch_alter_table("arus_catchup", schema=None) as batch_op:
        batch_op.drop_index("ix_arus_catchup_status")
        batch_op.drop_index("ix_arus_catchup_request_id")
        batch_op.drop_index("ix_arus_catchup_catchup_id")

    op.drop_table("arus_catchup")
