"""The copy of a database on which a drill works: always a SQLite file."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import Engine, MetaData, create_engine, event, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from arus.database import database_file, is_sqlite
from arus.errors import DrillError
from arus.ops.backup import back_up

#: Bytes of free disk beside what the copies need.
_SPARE = 200 * 2**20
#: Rows that are copied at a time.
_BATCH = 1000


def copy_database(engine: Engine, metadata: MetaData, copy: Path) -> None:
    """Copy a database to a new file.

    SQLite is copied page by page; of another database the tables of `metadata` are, row by row, as they are at one moment.

    :raises DrillError: there is no room, or the database can't be copied.
    """
    if is_sqlite(engine.url):
        file = database_file(engine.url)
        if file is None or not file.is_file():
            raise DrillError(f"there is no database file {file or 'of a database in memory'}")
        _check_room(copy.parent, file.stat().st_size)
        back_up(file, copy)
        return
    try:
        with engine.connect() as connection:
            size = connection.scalar(select(func.pg_database_size(func.current_database())))
        _check_room(copy.parent, size or 0)
        _copy_rows(engine, metadata, copy)
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise DrillError(
            f"the database can't be copied to SQLite for the drill: {reason}"
        ) from error


def _check_room(directory: Path, size: int) -> None:
    needed = 4 * size + _SPARE
    if shutil.disk_usage(directory).free < needed:
        raise DrillError(
            f"{directory} has too little room for copies: {needed // 2**20} MB are needed; set TMPDIR to another disk"
        )


def _copy_rows(engine: Engine, metadata: MetaData, copy: Path) -> None:
    target = create_engine(f"sqlite:///{copy}")

    @event.listens_for(target, "connect")
    def _quicken(connection: object, _record: object) -> None:
        # The tables may refer to each other in a circle; and nobody needs this file after a crash.
        for pragma in ("foreign_keys = OFF", "synchronous = OFF"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]  # of sqlite3

    try:
        metadata.create_all(target)
        source = engine.connect().execution_options(
            isolation_level="REPEATABLE READ", stream_results=True
        )
        with source, target.begin() as written:
            for table in metadata.tables.values():
                for rows in source.execute(select(table)).mappings().partitions(_BATCH):
                    written.execute(insert(table), [dict(row) for row in rows])
    finally:
        target.dispose()
