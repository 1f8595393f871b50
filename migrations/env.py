"""How Flask-Migrate runs the migrations: all or nothing, and one process at a time."""

from typing import Any, Literal

from alembic import context
from alembic.util import CommandError
from flask import current_app
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from extensions.database import UtcDateTime
from extensions.upgrades import finish_upgrade

#: Names our advisory lock among those of one PostgreSQL database.
UPGRADE_LOCK = 7_263_001


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our own types as what they are in the database: a migration must outlive our code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def begin(connection: Connection) -> None:
    """Begin the transaction of the whole upgrade, alone."""
    if connection.dialect.name == "sqlite":
        # A table is altered by making it anew, which must not look like deleting its rows.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        # The driver begins a transaction by itself for rows only, not for tables.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({UPGRADE_LOCK})")


def opened(engine: Engine) -> Connection:
    """Open a connection, and begin the transaction of the whole upgrade.

    :raises CommandError: the database can't be used; Flask-Migrate reports it in one line.
    """
    try:
        connection = engine.connect()
        begin(connection)
    except OperationalError as error:
        says = " ".join(str(error.orig).split())
        raise CommandError(
            f"the database can't be used ({says}); look into it with: flask --app wsgi sync doctor"
        ) from error
    return connection


def run() -> None:
    """Run the migrations on the application's database."""
    extension = current_app.extensions["migrate"]
    with opened(extension.db.engine) as connection:
        context.configure(
            connection=connection,
            target_metadata=extension.db.metadata,
            render_item=render_item,
            transactional_ddl=True,
            **extension.configure_args,
        )
        migrations = context.get_context()
        with context.begin_transaction():
            context.run_migrations()
        after = set(migrations.get_current_heads())
        connection.commit()
        # Back into the pool as every other connection is.
        connection.invalidate()
    # Also where nothing was migrated: the process that did it may have ended before these steps.
    if has_destination() and after == set(context.script.get_heads()):
        finish_upgrade()


def has_destination() -> bool:
    """Whether a command runs that goes to a revision: `upgrade`, and not `check` or `current`."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


run()
