"""Applies received messages: rows, their records, and positions, many messages in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from arus.database import transaction
from arus.errors import LogUnavailableError, RefusedMessageError
from arus.logs import get_logger
from arus.mqtt.connection import Closed
from arus.outbox.counters import CounterKey, add_to_counters
from arus.protocol.times import now_ms

from . import sql
from .admission import EVERY_VESSEL, Admission
from .audits.ledger import Ledger
from .batch import Batch
from .known_vessels import KnownVessels
from .link import read_filters, save_filters, save_link, save_refused
from .messages import Message, Reader
from .outcome import Inbound, Outcome
from .rows import Copy, siblings
from .store import Store
from .vessels import VesselState

logger = get_logger(__name__)


#: Held changes that are tried in one transaction.
RETRIES = 100


class Applier:
    """Applies messages to the application's tables.

    :param connection: of `arus.database.open_engine`, used by this thread alone.
    :param copies: the tables, by entity.
    :param name: the follower's.
    :param ledger: receives the changes of the rows' records.
    :param admission: decides whose messages are applied.
    :param partition: the number of the partition that its vessels are; other processes write for other vessels. None
        if nobody else writes.
    """

    def __init__(
        self,
        connection: Connection,
        store: Store,
        copies: Mapping[str, Copy],
        reader: Reader,
        name: str,
        ledger: Ledger,
        admission: Admission = EVERY_VESSEL,
        *,
        partition: int | None = None,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._store = store
        self._copies = copies
        self._siblings = siblings(copies)
        self._reader = reader
        self._name = name
        self._admission = admission
        #: Partitions don't wait for each other's counters and dead letters.
        self._part = "" if partition is None else str(partition)
        self._letters = f"follow {name}" if partition is None else f"follow {name}/{partition}"
        self.vessels: dict[str, VesselState] = {
            vessel_id: vessel
            for vessel_id, vessel in store.load().items()
            if admission.follows(vessel_id)
        }
        self._known = KnownVessels(store, copies, self.vessels)
        self._unchecked = _takes_unchecked(connection)

    def apply(self, messages: Sequence[Inbound]) -> Outcome:
        """Apply messages in their order, in one transaction.

        After an error the state in memory differs from the saved state: create a new applier.

        :raises LogUnavailableError: the database refused; nothing was applied.
        """
        with transaction(self._connection):
            self.unchecked()
            batch = self._batch()
            batch.run(self._read(messages, batch))
            self._check_owners(batch)
            self._save(batch)
        return batch.outcome

    @property
    def held(self) -> int:
        """Number of changes that the database does not accept yet."""
        return len(self._store.held)

    @property
    def has_due(self) -> bool:
        """Whether held changes are to be tried again now."""
        return self._store.held.has_due()

    def retry_held(self) -> Outcome:
        """Try held changes that are due, and those that become due by it: `RETRIES` by and large, because other vessels'
        messages must not wait for long.
        """
        with transaction(self._connection):
            self.unchecked()
            batch = self._batch()
            batch.retry(RETRIES)
            self._check_owners(batch)
            self._count(batch.outcome.counters)
        return batch.outcome

    def _batch(self) -> Batch:
        return Batch(
            self._store,
            self._copies,
            self.vessels,
            self._known,
            self._ledger,
            self._siblings,
            name=self._name,
        )

    def expire(self) -> list[str]:
        """Forget vessels that were silent for long and have proved nothing; return their ids."""
        outcome = Outcome()
        with transaction(self._connection):
            self._known.expire(now_ms(), outcome)
            self._count(outcome.counters)
        return outcome.forgotten

    def forget(self, vessel_ids: Iterable[str]) -> list[str]:
        """Forget vessels that have proved nothing, with their rows; return the ids of those that are forgotten."""
        outcome = Outcome()
        with transaction(self._connection):
            self.unchecked()
            self._known.forget(vessel_ids, outcome)
            self._count(outcome.counters)
        return outcome.forgotten

    def save(self, counters: Mapping[CounterKey, int]) -> None:
        """Save vessels that have changed, and add to the counters."""
        with transaction(self._connection):
            self._save_vessels()
            self._count(counters)

    def opened(self, name: str) -> None:
        """Save that the follower is connected."""
        with transaction(self._connection):
            save_link(self._connection, name, None, connected=True)

    def obstructed(self, name: str, obstacles: str | None) -> None:
        """Save what the broker refuses to take from the follower; None if nothing."""
        with transaction(self._connection):
            save_link(self._connection, name, obstacles, connected=True)

    def subscribed(self, name: str) -> list[str]:
        """Return the filters that the broker has subscribed the follower to in earlier connections."""
        with transaction(self._connection):
            return read_filters(self._connection, name)

    def subscribe(self, name: str, filters: Sequence[str]) -> None:
        """Save the filters that the broker has subscribed the follower to, and to no others."""
        with transaction(self._connection):
            save_filters(self._connection, name, filters)

    def closed(self, name: str, closed: Closed) -> None:
        """Save why the follower is not connected, if that is news."""
        if closed.is_news:
            with transaction(self._connection):
                save_link(self._connection, name, str(closed.error), connected=False)

    def unchecked(self) -> None:
        """Disable PostgreSQL's foreign key checks in this transaction, if the role is allowed to.

        Rows arrive topic by topic, so a row may arrive before the row that it refers to; the vessel has checked the
        reference. (SQLite checks foreign keys only on connections that enable it.)
        """
        if self._unchecked:
            self._connection.exec_driver_sql(sql.store.UNCHECKED)
        elif self._connection.dialect.name == "postgresql":
            self._connection.exec_driver_sql(sql.store.CHECKED_AT_ONCE)

    def _read(self, messages: Sequence[Inbound], batch: Batch) -> list[tuple[Message, bool]]:
        read: list[tuple[Message, bool]] = []
        self._admission.begin()
        now = now_ms()
        for message in messages:
            if message.fault:
                batch.outcome.refuse(message, message.fault)
                unreadable = self._reader.unreadable(message.topic, self.vessels)
                if unreadable is not None:
                    read.append((unreadable, message.retain))
                continue
            try:
                found = self._reader.read(message.topic, message.payload)
                if not self._admission.admits(found, self.vessels, now):
                    continue
                read.append((found, message.retain))
                batch.outcome.sources[id(read[-1][0])] = message
            except RefusedMessageError as error:
                batch.outcome.refuse(message, str(error))
            except Exception as error:  # one bad message must not stop those after it
                logger.exception("[MQTT Reliable Sync] a message can't be read")
                batch.outcome.refuse(message, f"{type(error).__name__}: {error}")
        return read

    def _save(self, batch: Batch) -> None:
        for vessel in self.vessels.values():
            if vessel.changed:
                vessel.settle()
        self._save_vessels()
        if (refused := self._admission.to_record(now_ms())) is not None:
            save_refused(self._connection, self._name, refused)
        self._store.add_dead_letters(self._letters, batch.outcome.refused)
        self._count(batch.outcome.counters)

    def _check_owners(self, batch: Batch) -> None:
        """Check that no other process has written the same new row for another vessel at the same moment.

        :raises LogUnavailableError: one has; nothing of this transaction may be committed.
        """
        if self._part and (row := batch.records.contested()) is not None:
            raise LogUnavailableError(f"two vessels have sent the new row {row} at the same moment")

    def _count(self, counters: Mapping[CounterKey, int]) -> None:
        """Add to the counters: in a partition to its own, so that no transaction waits for another one's."""
        add_to_counters(
            self._connection,
            {(name, entity, operation, self._part): amount
             for (name, entity, operation, _), amount in counters.items()},
        )  # fmt: skip

    def _save_vessels(self) -> None:
        changed = [vessel for vessel in self.vessels.values() if vessel.changed]
        now = now_ms()
        for vessel in changed:
            vessel.history.measured(vessel.head - vessel.seq, now)
        self._store.save(changed)
        for vessel in changed:
            vessel.changed = False


def _takes_unchecked(connection: Connection) -> bool:
    if connection.dialect.name != "postgresql":
        return False
    try:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql(sql.store.UNCHECKED)
    except DBAPIError:
        return False  # the role lacks the privilege: rows that arrive too early are held
    finally:
        connection.exec_driver_sql("ROLLBACK")
    return True
