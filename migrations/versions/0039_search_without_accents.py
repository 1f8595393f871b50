"""Search keys have texts without accents too: those with other letters than ASCII's are made again after the upgrade."""

from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

TABLES = ("alerts", "crew", "equipment", "maintenance_schedules", "work_orders")


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    bytes_of = "length(CAST(search_key AS BLOB))" if is_sqlite else "octet_length(search_key)"
    for table in TABLES:
        op.execute(f"UPDATE {table} SET search_key = NULL WHERE {bytes_of} > length(search_key)")  # noqa: S608  # names of ours


def downgrade() -> None:
    """The keys of the later version serve the earlier one as well."""
