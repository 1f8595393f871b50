"""Texts have keys for searches and lists; schedules refer to the person by id.

The keys of present rows are completed by the application, before its first search.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

#: The texts of each table that its search key is made of, and those that have a key of their own.
TEXTS = {
    "equipment": (
        ("name", "type", "manufacturer", "model", "serial_number", "location"),
        ("name", "type", "location", "manufacturer"),
    ),
    "crew": (
        ("name", "rank", "department", "email", "phone", "notes"),
        ("name", "rank", "department"),
    ),
    "alerts": (("message", "sensor_type", "acknowledged_by"), ("sensor_type",)),
    "work_orders": (
        ("wo_number", "reason", "description", "maintenance_type"),
        ("maintenance_type",),
    ),
    "maintenance_schedules": (
        ("maintenance_type", "description", "assigned_to"),
        ("maintenance_type", "assigned_to"),
    ),
}
#: Indexes of lists in the order of texts, which the keys' indexes replace.
REPLACED = {
    "equipment": ("type", "location", "manufacturer"),
    "crew": ("rank", "department"),
    "alerts": ("sensor_type",),
    "work_orders": ("maintenance_type",),
    "maintenance_schedules": ("maintenance_type", "assigned_to"),
}
FOREIGN_KEY = "fk_maintenance_schedules_assigned_crew_id_crew"


def upgrade() -> None:
    with op.batch_alter_table("maintenance_schedules") as batch_op:
        batch_op.add_column(sa.Column("assigned_crew_id", sa.String(length=36)))
        batch_op.create_foreign_key(FOREIGN_KEY, "crew", ["assigned_crew_id"], ["id"])
        batch_op.create_index(
            "ix_maintenance_schedules_assigned_crew_id_list",
            ["assigned_crew_id", "created_at", "id"],
        )
    op.create_index(
        "ix_work_orders_planned_end_date_list",
        "work_orders",
        ["planned_end_date", "created_at", "id"],
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # By code points: the keys are made for it.
    collation = None if is_sqlite else "C"
    for table, (texts, keyed) in TEXTS.items():
        op.add_column(table, sa.Column("search_key", sa.Text(collation=collation)))
        for text in keyed:
            op.add_column(table, sa.Column(f"{text}_key", sa.String(500, collation=collation)))
            op.create_index(
                f"ix_{table}_{text}_key_list", table, [f"{text}_key", "created_at", "id"]
            )
        for text in REPLACED[table]:
            op.drop_index(f"ix_{table}_{text}_list", table_name=table)
        where = sa.text("search_key IS NULL")
        op.create_index(
            f"ix_{table}_without_keys",
            table,
            ["search_key"],
            sqlite_where=where,
            postgresql_where=where,
        )
        for statement in triggers(table, texts, is_sqlite=is_sqlite):
            op.execute(statement)


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, (_texts, keyed) in TEXTS.items():
        op.execute(f"DROP TRIGGER {table}_stale_keys{'' if is_sqlite else f' ON {table}'}")
        op.drop_index(f"ix_{table}_without_keys", table_name=table)
        for text in REPLACED[table]:
            op.create_index(f"ix_{table}_{text}_list", table, [text, "created_at", "id"])
        for text in keyed:
            op.drop_index(f"ix_{table}_{text}_key_list", table_name=table)
            op.drop_column(table, f"{text}_key")
        op.drop_column(table, "search_key")
    if not is_sqlite:
        op.execute("DROP FUNCTION empty_search_key()")
    op.drop_index("ix_work_orders_planned_end_date_list", table_name="work_orders")
    with op.batch_alter_table("maintenance_schedules") as batch_op:
        batch_op.drop_index("ix_maintenance_schedules_assigned_crew_id_list")
        batch_op.drop_constraint(FOREIGN_KEY, type_="foreignkey")
        batch_op.drop_column("assigned_crew_id")


def triggers(table: str, texts: tuple[str, ...], *, is_sqlite: bool) -> tuple[str, ...]:
    """Return the statements that make a change of a text empty the search key, unless it comes with a new one."""
    names = ", ".join(texts)
    if is_sqlite:
        changed = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in texts)
        return (
            (
                f"CREATE TRIGGER {table}_stale_keys AFTER UPDATE OF {names} ON {table}"  # noqa: S608  # names of ours
                f" WHEN NEW.search_key = OLD.search_key AND ({changed})"
                f" BEGIN UPDATE {table} SET search_key = NULL WHERE id = NEW.id; END"
            ),
        )
    changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in texts)
    return (
        (
            "CREATE OR REPLACE FUNCTION empty_search_key() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.search_key := NULL; RETURN NEW; END $$"
        ),
        (
            f"CREATE TRIGGER {table}_stale_keys BEFORE UPDATE OF {names} ON {table} FOR EACH ROW"
            f" WHEN (NEW.search_key = OLD.search_key AND ({changed}))"
            " EXECUTE FUNCTION empty_search_key()"
        ),
    )
