"""Rows in the tables that belong to no vessel: somebody has added them, or they were deleted and are back.

All tables are read, but only the keys. So that an audit of one vessel does not cost as much as the whole copy, one
reading serves all audits whose digest was received before it began, and readings take a tenth of the time at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Dialect,
    Engine,
    LargeBinary,
    String,
    Uuid,
    cast,
    exists,
    not_,
    select,
    type_coerce,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType, TypeEngine

from arus.database import is_of_a_value, reading, transaction
from arus.errors import LogUnavailableError
from arus.follower import sql
from arus.follower.rows import Copy
from arus.follower.sql.build import TABLES
from arus.logs import get_logger
from arus.protocol.digests import bucket_of

logger = get_logger(__name__)

#: Keys per query.
CHUNK = 1000
#: Orphans that one reading finds in a table; further ones are found by the next.
MAX_ORPHANS = 10_000
#: How many times as long as a reading took the next one waits.
_REST = 10
#: Seconds before a reading that failed is repeated.
_RETRY = 10.0

#: Ids of rows, by entity.
Orphaned = Mapping[str, Sequence[str]]


def find_orphans(
    connection: Connection, copies: Mapping[str, Copy], stopping: threading.Event
) -> Orphaned:
    """Return the rows of all tables that belong to no vessel.

    :param connection: reads in one snapshot of the database.
    """
    return {entity: _of_table(connection, copy, stopping) for entity, copy in copies.items()}


def _of_table(connection: Connection, copy: Copy, stopping: threading.Event) -> list[str]:
    if isinstance(copy.key_column.type, String):
        return _without_owner(connection, copy)
    return _one_by_one(connection, copy, stopping)


def _without_owner(connection: Connection, copy: Copy) -> list[str]:
    """Have the database find them: a hundred thousand keys take it a fraction of a second."""
    key, entity, row = _key(copy), copy.registration.entity, TABLES.row
    is_owned = exists().where(
        row.c.entity == entity,
        row.c.row_id == key,
        not_(row.c.deleted),
        row.c.owner == "",
        row.c.version >= 0,
    )
    statement = select(key).where(not_(is_owned)).limit(MAX_ORPHANS)
    try:
        found = connection.execute(statement).scalars().all()
    except DBAPIError as error:
        if not is_of_a_value(error):
            raise
        # Some are no UTF-8.
        as_bytes = statement.with_only_columns(cast(key, LargeBinary))
        found = connection.execute(as_bytes).scalars().all()
    return _not_proposed(connection, entity, [_text(one) for one in found])


def _key(copy: Copy) -> Any:
    """Return the key as an attribute of the model: of a table of several classes, it selects the model's rows alone."""
    return getattr(copy.registration.model, copy.registration.key)


def _text(key: Any) -> str:
    """Return a key as an id that can be named; SQLite may store bytes in a column of texts."""
    return key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)


def _not_proposed(connection: Connection, entity: str, row_ids: list[str]) -> list[str]:
    """Leave out rows that were proposed: each is its vessel's soon."""
    found: list[str] = []
    for begin in range(0, len(row_ids), CHUNK):
        wanted = {"entity": entity, "row_ids": row_ids[begin : begin + CHUNK]}
        proposed = set(connection.execute(sql.comparison.PROPOSED, wanted).scalars())
        found += [row_id for row_id in wanted["row_ids"] if row_id not in proposed]
    return found


def _one_by_one(connection: Connection, copy: Copy, stopping: threading.Event) -> list[str]:
    """Compare the keys here: as texts, which the database may write in another way."""
    key, kind, dialect = _key(copy), copy.key_column.type, connection.dialect
    if dialect.name == "sqlite":
        key = type_coerce(key, NullType())  # as it is stored
    statement = select(key).order_by(key).limit(CHUNK)
    entity = copy.registration.entity
    found: list[str] = []
    page = statement
    while not stopping.is_set() and len(found) < MAX_ORPHANS:
        keys = connection.execute(page).scalars().all()
        if not keys:
            break
        ids = {_text(one): _id_of(one, kind, dialect) for one in keys}
        found += [stored for stored, row_id in ids.items() if row_id is None]
        wanted = {"entity": entity, "row_ids": [one for one in ids.values() if one is not None]}
        owned = set(connection.execute(sql.comparison.OWNED, wanted).scalars())
        orphans = [row_id for row_id in wanted["row_ids"] if row_id not in owned]
        found += _not_proposed(connection, entity, orphans)
        if len(keys) < CHUNK:
            break
        page = statement.where(key > keys[-1])
    return found


def _id_of(stored: Any, kind: TypeEngine[Any], dialect: Dialect) -> str | None:
    """Return the id of a key; None if SQLite has stored it as the sync never would: another row may have this id."""
    if dialect.name != "sqlite":
        return str(stored)
    kind = kind.dialect_impl(dialect)
    read, write = kind.result_processor(dialect, None), kind.bind_processor(dialect)
    try:
        key = stored if read is None else read(stored)
        is_usual = not isinstance(kind, Uuid) or write is None or write(key) == stored
    except Exception:  # noqa: BLE001  # the type may be the application's
        return None
    return str(key) if is_usual else None


def adopt(connection: Connection, vessel_id: str, copy: Copy, row_ids: Sequence[str]) -> None:
    """Record orphans as a vessel's, so that the sweep at the end of its repair deletes them.

    Must not be called in a transaction.
    """
    # Others can't be recorded: a person has to delete them.
    valid = [row_id for row_id in row_ids if copy.takes_id(row_id)]
    for start in range(0, len(valid), CHUNK):
        ids = valid[start : start + CHUNK]
        key = {"vessel_id": vessel_id, "entity": copy.registration.entity}
        with transaction(connection):
            known = set(connection.execute(sql.comparison.KNOWN, {**key, "row_ids": ids}).scalars())
            adopted = [
                {**key, "row_id": row_id, "bucket": bucket_of(row_id)}
                for row_id in ids
                if row_id not in known
            ]
            if adopted:
                connection.execute(sql.comparison.ADOPT, adopted)


class Orphans:
    """Reads the tables' keys in a thread, for all audits together; the loops of partitions share one."""

    def __init__(
        self, engine: Engine, copies: Mapping[str, Copy], stopping: threading.Event
    ) -> None:
        self._engine = engine
        self._copies = copies
        self._stopping = stopping
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = False
        #: Monotonic seconds: when the last reading began, and before which none begins.
        self._began = 0.0
        self._not_before = 0.0
        self._found: Orphaned | None = None

    def since(self, moment: float) -> Orphaned | None:
        """Return what a reading that began after `moment` (monotonic seconds) has found; None if there was none yet.

        Then one is started as soon as possible.
        """
        with self._lock:
            if self._is_running:
                return None
            if self._found is not None and self._began >= moment:
                return self._found
            self._wanted = True
            return None

    def step(self) -> None:
        """Start a reading that is wanted and due."""
        if not self._wanted:
            return
        with self._lock:
            now = time.monotonic()
            if not self._wanted or self._is_running or now < self._not_before:
                return
            self._wanted = False
            self._began, self._found = now, None
            self._thread = threading.Thread(target=self._read, name="arus orphans", daemon=True)
            self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for a running reading."""
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _read(self) -> None:
        try:
            with reading(self._engine) as connection:
                found = find_orphans(connection, self._copies, self._stopping)
        except LogUnavailableError as error:
            logger.warning("[MQTT Reliable Sync] orphan rows can't be looked for: %s", error)
        except Exception:  # the models are the application's
            logger.exception("[MQTT Reliable Sync] orphan rows can't be looked for")
        else:
            now = time.monotonic()
            self._found, self._not_before = found, now + _REST * (now - self._began)
            return
        self._not_before = time.monotonic() + _RETRY
