"""The checks of the database: reachable, migrated, durable, undamaged."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import URL, Connection, inspect
from sqlalchemy.exc import DBAPIError

from arus.database import database_file, is_sqlite
from arus.outbox import sql

from .finding import Finding, Verdict, one_line
from .vessel import Vessel

MIGRATE = "flask db upgrade"
NEWER = "a newer version of the application has migrated it: install that one again"


def check_database(vessel: Vessel) -> Iterator[Finding]:
    """Check that the database can be used, is migrated and durable."""
    url = vessel.engine.url
    file = database_file(url)
    if file is not None and not file.exists():
        # Connecting would create an empty one.
        says = f"there is no file {file}"
        yield Finding("database", Verdict.FAIL, says, MIGRATE)
        return
    try:
        with vessel.engine.connect() as connection:
            yield _migrated(vessel, connection)
            yield _durable(connection)
    except DBAPIError as error:
        yield Finding(
            "database",
            Verdict.FAIL,
            f"{shown(url)} can't be used: {one_line(error.orig)}",
            "check DATABASE_URL, and that the database server runs or the file is not damaged",
        )


def shown(url: URL) -> str:
    """Return the address of a database without credentials, which may be in its query too."""
    return (url if is_sqlite(url) else url.set(query={})).render_as_string()


def _migrated(vessel: Vessel, connection: Connection) -> Finding:
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for name in vessel.tables.__struct_fields__:
        table = getattr(vessel.tables, name)
        if table.name not in there:
            return Finding("database", Verdict.FAIL, f"there is no table {table.name}", MIGRATE)
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        if missing := [column.name for column in table.columns if column.name not in columns]:
            return Finding(
                "database", Verdict.FAIL, f"{table.name} lacks {', '.join(missing)}", MIGRATE
            )
    if vessel.migrations is not None and "alembic_version" in there:
        from alembic.script import ScriptDirectory

        found = set(connection.execute(sql.database.MIGRATIONS).scalars())
        scripts = ScriptDirectory(str(vessel.migrations))
        wanted = set(scripts.get_heads())
        if found != wanted:
            known = {script.revision for script in scripts.walk_revisions()}
            return Finding(
                "database",
                Verdict.FAIL,
                f"it is at migration {', '.join(sorted(found)) or 'none'},"
                f" not at {', '.join(sorted(wanted))}",
                MIGRATE if found <= known else NEWER,
            )
    return Finding("database", Verdict.OK, f"{shown(connection.engine.url)} is migrated")


def _durable(connection: Connection) -> Finding:
    """Check that a commit is on the disk before it returns."""
    if connection.dialect.name == "sqlite":
        journal = str(connection.exec_driver_sql(sql.database.JOURNAL_MODE).scalar())
        synchronous = int(connection.exec_driver_sql(sql.database.SYNCHRONOUS).scalar() or 0)
        if synchronous < 2:
            return Finding(
                "durability",
                Verdict.FAIL,
                f"PRAGMA synchronous is {synchronous}: a power cut can lose committed changes",
                "set PRAGMA synchronous = FULL on each of the application's connections",
            )
        if journal != "wal":
            return Finding(
                "durability",
                Verdict.WARN,
                f"journal_mode is {journal}: readers and writers wait for each other",
                "PRAGMA journal_mode = WAL, on a local disk",
            )
        return Finding("durability", Verdict.OK, "WAL, synchronous FULL")
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if connection.exec_driver_sql(sql.database.show(name)).scalar() == "off"
    ]
    if off:
        return Finding(
            "durability",
            Verdict.FAIL,
            f"{', '.join(off)} {'is' if len(off) == 1 else 'are'} off: a power cut can lose"
            " committed changes",
            "switch it on in postgresql.conf and reload the server",
        )
    return Finding(
        "durability", Verdict.OK, "fsync, full_page_writes and synchronous_commit are on"
    )


def check_integrity(vessel: Vessel) -> Iterator[Finding]:
    """Check a SQLite file for damage; reads all of it."""
    if not is_sqlite(vessel.engine.url):
        return
    try:
        with vessel.engine.connect() as connection:
            said = str(connection.exec_driver_sql(sql.database.QUICK_CHECK).scalar())
    except DBAPIError as error:
        said = one_line(error.orig)
    if said == "ok":
        yield Finding("integrity", Verdict.OK, "the database file is not damaged")
    else:
        yield Finding(
            "integrity",
            Verdict.FAIL,
            f"the database file is damaged: {one_line(said)}",
            "stop the server, keep a copy, then: sqlite3 FILE .recover | sqlite3 NEW",
        )
