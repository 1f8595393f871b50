"""A table as it was at one number of the log, read in pieces while it goes on changing.

The rows at `high_seq` are those of the table now, without the ones that were created later, and with the ones
that were deleted later: these come as deletes, from the log. So what is announced is what comes, to the row,
whatever is written meanwhile; a row that was changed comes as it is now, with its newer version.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    String,
    cast,
    exists,
    func,
    inspect,
    literal,
    select,
    text,
)
from sqlalchemy.orm import Session

from .database import translated
from .digest import bucket_of
from .errors import CatchupError
from .message import Operation, now_ms
from .registry import Registration, mere_row

logger = logging.getLogger(__name__)

#: A limit above any count.
NO_LIMIT = 2**62
#: Keys in one statement.
_IN = 500

# Unnumbered entries get a number above any that is known.
_MOVED = text(
    "SELECT id, seq, previous_seq, message_id, topic, qos, entity, operation, row_id, version,"
    " committed_at, data FROM arus_change WHERE topic = :topic AND seq > :after AND entity = :entity"
    " ORDER BY seq"
)
# Of all entities: asked for one, SQLite would go through all that the log has of it.
_MOVED_UNNUMBERED = text(
    "SELECT id, seq, previous_seq, message_id, topic, qos, entity, operation, row_id, version,"
    " committed_at, data FROM arus_change WHERE seq IS NULL AND outcome IS NULL ORDER BY id"
)


@dataclass(slots=True)
class Item:
    """A row on its way to a receiver."""

    row_id: str
    version: int
    operation: Operation
    committed_at: int
    data: bytes
    #: Numbers and id of the change, where the item is one of the log.
    seq: int | None = None
    previous_seq: int = 0
    message_id: str | None = None


@dataclass(slots=True)
class Moved:
    """What has happened to a table's rows above a number."""

    #: Rows that did not exist at that number.
    born: set[str] = field(default_factory=set)
    #: Rows that existed then and no longer do, with their deletion.
    died: dict[str, Item] = field(default_factory=dict)
    #: All numbered entries up to here are in it.
    upto: int = 0

    def note(self, row: Any) -> None:
        """Take the next entry of the log."""
        operation = Operation(row["operation"])
        row_id = row["row_id"]
        if operation is Operation.CREATE and row_id not in self.died:
            self.born.add(row_id)
        elif operation is Operation.CREATE:
            del self.died[row_id]  # it is back
        elif operation is Operation.DELETE and row_id not in self.born:
            self.died[row_id] = Item(
                row_id, row["version"], operation, row["committed_at"], bytes(row["data"])
            )

    def copy(self) -> Moved:
        """Return another one to try entries on that have no number yet."""
        return Moved(set(self.born), dict(self.died), self.upto)


class SnapshotReader:
    """Reads one registered table as it was at `high_seq`.

    :param engine: from `arus.database.open_engine`.
    :param context: what the model's schema may need around it (an application context).
    :param buckets: only rows in these; all when empty.
    """

    def __init__(
        self,
        engine: Engine,
        context: Callable[[], AbstractContextManager[Any]],
        registration: Registration,
        *,
        high_seq: int,
        buckets: Collection[int] = (),
    ) -> None:
        self._engine = engine
        self._context = context
        self._registration = registration
        self._buckets = frozenset(buckets)
        self._moved = Moved(upto=high_seq)
        self._key = getattr(registration.model, registration.key)

    def count(self, after: str | None = None, limit: int = NO_LIMIT) -> int:
        """Return how many rows there were behind a position, or `limit` where there were at least so many."""
        beyond = () if after is None else (self._key > self._typed(after),)
        with reading(self._engine) as connection:
            moved = self._look(connection)
            died = len(self._died_between(connection, moved, after, None))
            if self._buckets:
                statement = select(self._key).where(*beyond).execution_options(yield_per=1_000)
                ids = (str(key) for (key,) in connection.execute(statement))
                wanted = (i for i in ids if self._wanted(i) and i not in moved.born)
                return min(limit, died + sum(1 for _ in islice(wanted, limit)))
            born = self._born_still_there(connection, moved.born, beyond)
            enough = select(self._key).where(*beyond).limit(limit + born).subquery()
            rows = int(connection.execute(select(func.count()).select_from(enough)).scalar_one())
            return min(limit, died + rows - born)

    def read(self, after: str | None, limit: int) -> tuple[list[Item], str | None]:
        """Return the next rows and the position behind them; None where there are no more.

        :param after: the position behind the last piece, None for the first.
        """
        with reading(self._engine) as connection, self._context():
            moved = self._look(connection)
            session = Session(connection)
            statement = select(self._registration.model).order_by(self._key).limit(limit)
            if after is not None:
                statement = statement.where(self._key > self._typed(after))
            rows = session.scalars(statement).all()
            last = (
                _position(getattr(rows[-1], self._registration.key)) if len(rows) == limit else None
            )
            items = [
                self._item(row)
                for row in rows
                if (row_id := self._registration.row_id(row)) not in moved.born
                and self._wanted(row_id)
            ]
            items += self._died_between(connection, moved, after, last)
            session.expunge_all()
        return items, last

    def _look(self, connection: Connection) -> Moved:
        """Take what has moved since the last look; what has no number yet counts for this look alone."""
        registration = self._registration
        wanted = {"topic": registration.topic, "entity": registration.entity}
        for row in connection.execute(_MOVED, {**wanted, "after": self._moved.upto}).mappings():
            self._moved.note(row)
            self._moved.upto = row["seq"]
        unnumbered = connection.execute(_MOVED_UNNUMBERED).mappings()
        rows = [row for row in unnumbered if row["entity"] == registration.entity]
        if not rows:
            return self._moved
        moved = self._moved.copy()
        for row in rows:
            moved.note(row)
        return moved

    def _born_still_there(
        self, connection: Connection, row_ids: Collection[str], beyond: Iterable[Any]
    ) -> int:
        keys = [self._registration.typed_key(row_id) for row_id in row_ids]
        found = 0
        for start in range(0, len(keys), _IN):
            here = self._key.in_(keys[start : start + _IN])
            found += connection.execute(select(func.count()).where(here, *beyond)).scalar_one()
        return found

    def _died_between(
        self, connection: Connection, moved: Moved, after: str | None, last: str | None
    ) -> list[Item]:
        """Return the deleted rows whose keys lie behind `after` and not behind `last`.

        The database compares: a collation orders strings otherwise than Python does.
        """
        died = [item for item in moved.died.values() if self._wanted(item.row_id)]
        return [
            item
            for item in died
            if (after is None or self._is_above(connection, item, after))
            and (last is None or not self._is_above(connection, item, last))
        ]

    def _is_above(self, connection: Connection, item: Item, position: str) -> bool:
        key = self._literal(self._registration.typed_key(item.row_id))
        other = self._literal(self._typed(position))
        return bool(connection.execute(select(key > other)).scalar())

    def _item(self, row: Any) -> Item:
        registration = self._registration
        version = getattr(row, registration.version)
        row_id = registration.row_id(row)
        try:
            data = registration.serialise(row)
        except Exception as error:  # noqa: BLE001  # the schema is the application's
            logger.error(  # noqa: TRY400  # the reason says it all
                "[MQTT Reliable Sync] %s %s can't be serialised: the catch-up lacks it (%s: %s)",
                registration.entity,
                row_id,
                type(error).__name__,
                error,
            )
            data = mere_row(registration, row_id, version)
        operation = Operation.CREATE if version == 1 else Operation.UPDATE
        return Item(row_id, version, operation, now_ms(), data)

    def _wanted(self, row_id: str) -> bool:
        return not self._buckets or bucket_of(row_id) in self._buckets

    def _typed(self, position: str) -> Any:
        try:
            key = self._registration.typed_key(json.loads(position))
            if isinstance(key, int) and abs(key) >= NO_LIMIT:
                raise ValueError("larger than any database's integer")
            return key
        except (ValueError, TypeError) as error:
            # Whoever asked has made it up.
            entity = self._registration.entity
            raise CatchupError(f"{position[:80]} is no key of {entity}") from error

    def _literal(self, key: Any) -> Any:
        return cast(literal(key, self._key.type), self._key.type)


def _position(key: Any) -> str:
    return json.dumps(str(key))


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Read in one transaction that sees one moment of the database, and writes nothing."""
    with translated(), engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        connection.exec_driver_sql(
            "BEGIN" if sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        )
        try:
            yield connection
        finally:
            connection.exec_driver_sql("ROLLBACK")


def unlogged_rows(connection: Connection, registrations: Iterable[Registration]) -> bool:
    """Whether a table holds a row of which the log has no entry: it was there before the log."""
    for registration in registrations:
        key = inspect(registration.model).primary_key[0]
        change = registration.model.metadata.tables["arus_change"]
        logged = exists().where(
            change.c.entity == registration.entity, change.c.row_id == cast(key, String)
        )
        if connection.execute(select(key).where(~logged).limit(1)).first() is not None:
            return True
    return False
