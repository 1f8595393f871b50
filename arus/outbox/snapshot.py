"""A table as it was at one number of the log, read in chunks while it goes on changing.

The rows at `high_seq` are the current rows of the table, without those created later, and with those deleted later:
these are sent as deletes, from the log. So exactly the announced rows are sent, whatever is written meanwhile; a row
that was changed is sent in its current state, with its newer version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection, Engine, cast, func, literal, select
from sqlalchemy.exc import ProgrammingError, StatementError

from arus.database import Reader, is_of_a_value, reading
from arus.errors import CatchupError
from arus.escapes import escaped
from arus.logs import get_logger
from arus.protocol.digests import bucket_of
from arus.protocol.entries import Operation
from arus.protocol.times import now_ms
from arus.registry import Registration, mere_row

from . import sql
from .row_versions import versions_of
from .table_rows import load_rows

logger = get_logger(__name__)

#: A limit above any count.
NO_LIMIT = 2**62
#: Keys in one statement.
_IN = 500
#: Maximum lengths of a position and of a cause in the reason why a catch-up fails.
_MAX_POSITION, _MAX_CAUSE = 80, 200


class Item(Struct):
    """A row to send to a receiver."""

    row_id: str
    version: int
    operation: Operation
    committed_at: int
    data: bytes
    #: Numbers and id of the change, if the item is from the log.
    seq: int | None = None
    previous_seq: int = 0
    message_id: str | None = None


class Moved(Struct):
    """The rows of a table that were created or deleted after a number."""

    #: Rows that did not exist at that number.
    born: set[str] = field(default_factory=set)
    #: Rows that existed then and no longer do, with their deletion.
    died: dict[str, Item] = field(default_factory=dict)
    #: All numbered entries up to this number are included.
    upto: int = 0

    def note(self, row: Any) -> None:
        """Process the next entry of the log."""
        operation = Operation(row["operation"])
        row_id = row["row_id"]
        if operation is Operation.CREATE and row_id not in self.died:
            self.born.add(row_id)
        elif operation is Operation.CREATE:
            del self.died[row_id]  # it exists again
        elif operation is Operation.DELETE and row_id not in self.born:
            self.died[row_id] = Item(
                row_id, row["version"], operation, row["committed_at"], bytes(row["data"])
            )

    def copy(self) -> Moved:
        """Return a copy, for entries that have no number yet."""
        return Moved(set(self.born), dict(self.died), self.upto)


class SnapshotReader:
    """Reads one registered table as it was at `high_seq`.

    :param engine: from `arus.database.open_engine`.
    :param context: returns the context that the model's schema may need (an application context).
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
        """Return how many rows there were after a position, up to `limit`.

        :raises CatchupError: the position is not a key of the table: the requester has made it up.
        """
        with self._reading(after) as connection:
            beyond = () if after is None else (self._key > self._typed(after),)
            moved = self._look(connection)
            died = len(self._died_between(connection, moved, after, None))
            if self._buckets:
                statement = select(self._key).where(*beyond).execution_options(yield_per=1_000)
                # Closed at once when the limit is reached: PostgreSQL keeps a cursor open for it.
                with connection.execute(statement) as found:
                    ids = (str(key) for (key,) in found)
                    wanted = (i for i in ids if self._wanted(i) and i not in moved.born)
                    return min(limit, died + sum(1 for _ in islice(wanted, limit)))
            born = self._born_still_there(connection, moved.born, beyond)
            # Without a condition and a limit the database counts the entries of its smallest index.
            source: Any = self._registration.model
            if limit < NO_LIMIT or beyond:
                source = select(self._key).where(*beyond).limit(limit + born).subquery()
            rows = int(connection.execute(select(func.count()).select_from(source)).scalar_one())
            return min(limit, died + rows - born)

    def read(self, after: str | None, limit: int) -> tuple[list[Item], str | None]:
        """Return the next rows and the position after them; None if there are no more.

        :param after: the position after the last chunk, None for the first.
        :raises CatchupError: the rows can't be read.
        """
        with self._reading() as connection, self._context():
            moved = self._look(connection)
            session = Reader(connection)
            statement = select(self._registration.model).order_by(self._key).limit(limit)
            if after is not None:
                statement = statement.where(self._key > self._typed(after))
            rows = load_rows(session, self._registration, statement)
            last = _position(rows[-1][0]) if len(rows) == limit else None
            wanted = {
                row_id: row
                for key, row in rows
                if (row_id := str(key)) not in moved.born and self._wanted(row_id)
            }
            readable = {row_id: row for row_id, row in wanted.items() if row is not None}
            versions = versions_of(connection, self._registration, readable)
            items = [self._item(row_id, row, versions) for row_id, row in wanted.items()]
            items += self._died_between(connection, moved, after, last)
            session.expunge_all()
        return items, last

    @contextmanager
    def _reading(self, made_up: str | None = None) -> Iterator[Connection]:
        """Open a read-only transaction; what can't be read fails this catch-up alone.

        The types and the rows are the application's, so any error may be raised. Only an error of the database itself
        concerns the whole log.

        :param made_up: a position that may not be a key.
        """
        with reading(self._engine) as connection:
            try:
                yield connection
            except Exception as error:
                # The database has refused a statement or a value, and takes others.
                if not (is_of_a_value(error) or isinstance(error, ProgrammingError)):
                    raise
                entity = self._registration.entity
                refusal = "its rows can't be read"
                if made_up is not None:
                    refusal = f"{made_up[:_MAX_POSITION]} is not a key of {entity}"
                raise CatchupError(f"{refusal} ({_cause(error)})") from error

    def _look(self, connection: Connection) -> Moved:
        """Process the entries since the last call; unnumbered entries count for this call only."""
        registration = self._registration
        wanted = {"topic": registration.topic, "entity": registration.entity}
        for row in connection.execute(
            sql.entries.MOVED, {**wanted, "after": self._moved.upto}
        ).mappings():
            self._moved.note(row)
            self._moved.upto = row["seq"]
        unnumbered = connection.execute(sql.entries.MOVED_UNNUMBERED).mappings()
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
        """Return the deleted rows whose keys are above `after` and not above `last`.

        The database compares the keys: a collation may order strings differently from Python.
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

    def _item(self, row_id: str, row: Any, versions: Mapping[str, int]) -> Item:
        # The version of a row that can't be read is not known: receivers refuse the row in any.
        version = versions.get(row_id, 1)
        data = None if row is None else self._serialised(row_id, row)
        data = data or mere_row(self._registration, row_id, version)
        operation = Operation.CREATE if version == 1 else Operation.UPDATE
        return Item(row_id, version, operation, now_ms(), data)

    def _serialised(self, row_id: str, row: Any) -> bytes | None:
        try:
            return self._registration.serialise(row)
        except Exception as error:  # noqa: BLE001  # the schema is the application's
            logger.error(  # noqa: TRY400  # the reason says it all
                "[MQTT Reliable Sync] %s %s can't be serialised: the catch-up sends it without its data (%s: %s)",
                self._registration.entity,
                row_id,
                type(error).__name__,
                error,
            )
        return None

    def _wanted(self, row_id: str) -> bool:
        return not self._buckets or bucket_of(row_id) in self._buckets

    def _typed(self, position: str) -> Any:
        return self._registration.typed_key(json.loads(position))

    def _literal(self, key: Any) -> Any:
        return cast(literal(key, self._key.type), self._key.type)


def _cause(error: Exception) -> str:
    """Return in one line why a statement was refused."""
    cause = error.orig if isinstance(error, StatementError) and error.orig else error
    lines = str(cause).splitlines() or [type(cause).__name__]
    return escaped(lines[0])[:_MAX_CAUSE]


def _position(key: Any) -> str:
    return json.dumps(str(key))


def long_tables(
    connection: Connection, registrations: Iterable[Registration], most: int
) -> list[Registration]:
    """Return those whose table has more than so many rows."""
    found = []
    for registration in registrations:
        key = getattr(registration.model, registration.key)
        if connection.execute(select(key).offset(most).limit(1)).first() is not None:
            found.append(registration)
    return found


def unlogged_rows(connection: Connection, registrations: Iterable[Registration]) -> bool:
    """Whether a table holds a row without an entry in the log: the row is older than the log."""
    for registration in registrations:
        key = getattr(registration.model, registration.key)
        statement = sql.entries.rows_without_entry(key, registration.entity)
        if connection.execute(statement).first() is not None:
            return True
    return False
