"""What an older version and its broker have left on their disks: see tests/data/upgrade/make.py."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, MetaData, Table, create_engine, inspect, text

from tests.data.upgrade.make import HERE, SUBSCRIBER, TOPICS
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber


class OlderVersion:
    """The archive of one migration, unpacked; its broker is not started yet."""

    def __init__(self, revision: str, directory: Path) -> None:
        directory.mkdir()
        with tarfile.open(HERE / f"{revision}.tar.xz") as archive:
            archive.extractall(directory, filter="data")
        self.database = directory / "arus.sqlite"
        #: What must still arrive, which handshakes are open, and where the numbers end.
        self.expected: dict[str, Any] = json.loads((directory / "expected.json").read_text())
        self.mosquitto = Mosquitto(directory / "mosquitto")
        shutil.copy(directory / "mosquitto.db", self.mosquitto.saved)

    def subscriber(self) -> Subscriber:
        """The durable subscriber; -R leaves out what is retained, which it is given as it subscribes again."""
        return Subscriber(self.mosquitto.port, TOPICS, client_id=SUBSCRIBER, args=("-R",))


def schema(url: str) -> dict[str, Any]:
    """The tables of a database with their columns, keys and indexes, in no order."""
    engine = create_engine(url)
    try:
        inspector = inspect(engine)
        return {
            table: {
                "columns": _sorted(
                    {**column, "type": str(column["type"])}
                    for column in inspector.get_columns(table)
                ),
                "key": inspector.get_pk_constraint(table),
                "indexes": _sorted(
                    # as text: a partial index's condition is an object that is equal to itself alone
                    {**index, "dialect_options": _as_text(index.get("dialect_options", {}))}
                    for index in inspector.get_indexes(table)
                ),
                "unique": _sorted(inspector.get_unique_constraints(table)),
                "references": _sorted(inspector.get_foreign_keys(table)),
                "checks": _sorted(inspector.get_check_constraints(table)),
            }
            for table in inspector.get_table_names()
        }
    finally:
        engine.dispose()


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of a database by table, in the order of their keys."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return {
                table.name: [
                    dict(row)
                    for row in connection.execute(
                        table.select().order_by(*table.primary_key.columns)
                    ).mappings()
                ]
                for table in _tables(engine)
            }
    finally:
        engine.dispose()


def copy_rows(source: str, target: str) -> None:
    """Copy all rows of a SQLite database into the same tables of a PostgreSQL database, as they are."""
    found = rows_as(source, target)
    # times are in UTC and do not say so
    engine = create_engine(target, connect_args={"options": "-c timezone=UTC"})
    try:
        with engine.begin() as connection:
            connection.execute(text("SET session_replication_role = replica"))  # in any order
            for table in _tables(engine):
                connection.execute(table.delete())
                if found[table.name]:
                    connection.execute(table.insert(), found[table.name])
                if (column := table.autoincrement_column) is not None:
                    connection.execute(
                        text(
                            f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'),"
                            f" max({column.name})) FROM {table.name}"
                        )
                    )
    finally:
        engine.dispose()


def rows_as(source: str, target: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of a database by table, with values of the types that another database has for them."""
    types, engine = create_engine(target), create_engine(source)
    try:
        with engine.connect() as connection:
            return {
                table.name: [dict(row) for row in connection.execute(table.select()).mappings()]
                for table in _tables(types)
            }
    finally:
        types.dispose()
        engine.dispose()


def _tables(engine: Engine) -> list[Table]:
    metadata = MetaData()
    metadata.reflect(engine)
    for table in metadata.tables.values():
        for column in table.columns:
            column.type = column.type.as_generic()
    return list(metadata.tables.values())


def _as_text(options: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}


def _sorted(items: Any) -> list[Any]:
    return sorted(items, key=repr)
