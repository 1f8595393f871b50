"""The sync's state for one application, in `app.extensions["arus"]`.

`ReliableSync.init_app` builds it from the declarations on the extension. Requests, commands and gunicorn's hooks
look it up by the application: `current()` in an application context, else `of(app)`.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flask import Flask, current_app, has_app_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine
from sqlalchemy.orm import Session as OrmSession

from .catchup import requests
from .catchup.requests import CatchupStatus
from .database import database_file, flush_wal
from .errors import CaptureError, CatchupOffError, NotInitialisedError
from .inbound.dead_letters import (
    DeadLetter,
    find_dead_letter,
    forget_dead_letters,
    list_dead_letters,
)
from .inbound.handlers import Subscriptions, replay
from .ops.health import health_document
from .ops.surroundings import Surroundings
from .outbox import changes, sql
from .outbox.changes import ChangePage, ChangeRecord
from .outbox.followers import FollowerStatus, read_followers
from .outbox.notifier import Notifier
from .outbox.reconciliation import Reconciled, Reconciliation
from .outbox.reserve import DiskReserve
from .outbox.status import SyncStatus, read_last_changes, read_status
from .outbox.usage import DataBudget
from .protocol import topics
from .protocol.entries import ChangeState
from .protocol.requests import read_request
from .registry import Registry
from .relay.epochs import begin_by_hand
from .relay.leadership import Leadership, open_lock
from .settings import Settings

if TYPE_CHECKING:
    from .ops.fleet import Fleet
    from .ops.metrics import SyncCollector
    from .relay.assembly import OpenSession

#: Where an application keeps its runtime: `app.extensions[KEY]`.
KEY = "arus"

#: Topics that every vessel has in addition to those of its entities.
_OWN_TOPICS = (topics.STATUS, topics.CONFLICTS, topics.CATCHUP)


class Changes:
    """The change log of one application: `runtime.changes`."""

    def __init__(
        self, db: SQLAlchemy, engine: Engine, registry: Registry, notifier: Notifier
    ) -> None:
        self._db = db
        self._engine = engine
        self._registry = registry
        self._notifier = notifier

    def page(
        self,
        *,
        states: Collection[ChangeState] = (),
        entity: str | None = None,
        limit: int = 50,
        cursor: int | None = None,
    ) -> ChangePage:
        """Return a page of the change log, newest first.

        :param states: only changes in one of these; all when empty.
        :param limit: up to `arus.outbox.changes.MAX_LIMIT`.
        :param cursor: `next` of the page before.
        """
        with self._engine.connect() as connection:
            return changes.list_changes(
                connection, states=states, entity=entity, limit=limit, cursor=cursor
            )

    def each(
        self, states: Collection[ChangeState], entity: str | None = None
    ) -> Iterator[ChangeRecord]:
        """Yield changes with their data, oldest first, in bounded memory."""
        with self._engine.connect() as connection:
            yield from changes.each_change(connection, states=states, entity=entity)

    def find(self, message_id: str) -> ChangeRecord:
        """Return a change with its data.

        :raises UnknownChangeError: the log has no such change (any more).
        """
        with self._engine.connect() as connection:
            return changes.find_change(connection, message_id)

    def of_row(self, entity: str, row_id: str, limit: int = 50) -> list[ChangeRecord]:
        """Return the latest changes of a row with their data, newest first, as seen by the application's session."""
        return changes.changes_of_row(self._db.session.connection(), entity, row_id, limit)

    def states(self, entity: str, row_ids: Iterable[str]) -> dict[str, ChangeState]:
        """Return the state of each row's last change, by row id, as seen by the application's session."""
        found = read_last_changes(self._db.session.connection(), entity, row_ids)
        return {row_id: change.state for row_id, change in found.items()}

    def retry(self, message_id: str) -> ChangeRecord:
        """Queue a quarantined change for sending again; commits the application's session (`arus.outbox.changes`).

        :raises UnknownChangeError: the log has no such change (any more).
        :raises NotQuarantinedError: it is not quarantined.
        :raises UnsendableChangeError: sending it would be useless or harmful; it stays quarantined.
        """
        with _committed(self._db) as session:
            changes.retry(session, self._registry, message_id)
        self._notifier.notify()
        return self.find(message_id)

    def discard(self, message_id: str) -> ChangeRecord:
        """Discard a quarantined change; commits the application's session.

        :raises UnknownChangeError: the log has no such change (any more).
        :raises NotQuarantinedError: it is not quarantined.
        """
        with _committed(self._db) as session:
            changes.discard(session.connection(), message_id)
        return self.find(message_id)


class CatchupRequests:
    """The catch-ups that were requested from one application: `runtime.catchups`."""

    def __init__(
        self, engine: Engine, registry: Registry, notifier: Notifier, settings: Settings
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._notifier = notifier
        self._settings = settings

    def request(self, document: object, *, origin: str = "http") -> CatchupStatus:
        """Queue a catch-up: it is published on the `catchup/` topics.

        :param document: the request, as in the body of the HTTP request (`arus.protocol.requests.read_request`).
        :param origin: http or cli.
        :raises CatchupRequestError: it is malformed; `errors` says why, by key.
        :raises CatchupBusyError: too many catch-ups are queued already.
        :raises CatchupOffError: LOCAL_MODE is false.
        """
        if not self._settings.local_mode:
            raise CatchupOffError
        request = read_request(document, [one.entity for one in self._registry])
        with self._engine.begin() as connection:
            catchup_id = requests.queue(connection, request, self._registry, origin)
            queued = requests.find(connection, catchup_id)
        self._notifier.notify()
        return queued

    def find(self, catchup_id: str) -> CatchupStatus:
        """Return the progress of a catch-up.

        :raises UnknownCatchupError: there is no catch-up with this id (any more).
        """
        with self._engine.connect() as connection:
            return requests.find(connection, catchup_id)

    def recent(self, limit: int = 20) -> list[CatchupStatus]:
        """Return the latest requests for catch-ups, newest first."""
        with self._engine.connect() as connection:
            return requests.recent(connection, limit)


class DeadLetters:
    """The inbound messages that can't be handled, in one application: `runtime.dead_letters`."""

    def __init__(self, db: SQLAlchemy, engine: Engine, subscriptions: Subscriptions) -> None:
        self._db = db
        self._engine = engine
        self._subscriptions = subscriptions

    def recent(self, limit: int = 100) -> list[DeadLetter]:
        """Return the latest dead letters, newest first."""
        with self._engine.connect() as connection:
            return list_dead_letters(connection, limit)

    def find(self, letter_id: int) -> DeadLetter:
        """Return a dead letter.

        :raises UnknownMessageError: there is none with this id.
        """
        with self._engine.connect() as connection:
            return find_dead_letter(connection, letter_id)

    def replay(self, letter_id: int) -> None:
        """Pass a dead letter to its handlers once more, and delete it when they have returned.

        If a handler raises, the exception is passed on and the dead letter stays. Commits the application's session.

        :raises UnknownMessageError: there is none with this id, or its filter is no longer subscribed to.
        """
        with _committed(self._db) as session:
            found = session.connection().execute(sql.session.HEAD).one_or_none()
            if (
                found is not None
            ):  # its filter contains the vessel's id, which may be in the database alone
                self._subscriptions.name_vessel(found.vessel_id)
            replay(find_dead_letter(session.connection(), letter_id), self._subscriptions)
            forget_dead_letters(session.connection(), letter_id)

    def discard(self, letter_id: int) -> None:
        """Delete a dead letter; commits the application's session.

        :raises UnknownMessageError: there is none with this id.
        """
        with _committed(self._db) as session:
            forget_dead_letters(session.connection(), letter_id)


#: The runtimes of this process.
_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    """Leave one database file that holds everything, also after commands and scripts that started no relay."""
    for runtime in list(_runtimes):
        flush_wal(runtime.engine.url)


class Runtime:
    """The sync of one application.

    Opens nothing by itself: no database connection, no socket, no thread.

    :param db: the application's Flask-SQLAlchemy, initialised.
    :param registry: the models to synchronise.
    :param subscriptions: the handlers of inbound messages.
    :param engine: of the database with the change log, if that is not the application's own.
    """

    def __init__(
        self,
        app: Flask,
        db: SQLAlchemy,
        settings: Settings,
        registry: Registry,
        subscriptions: Subscriptions,
        *,
        engine: Engine | None = None,
    ) -> None:
        self.app = app
        self.db = db
        self.settings = settings
        self.registry = registry
        self.subscriptions = subscriptions
        with app.app_context():
            #: The application's engine. `db.engine` depends on the current application context.
            self.engine = engine or db.engine
        #: Held by the owner, the one process with the MQTT session.
        self.lock, self.bell_path = open_lock(self.engine.url)
        self.notifier = Notifier(self.bell_path)
        self.changes = Changes(db, self.engine, registry, self.notifier)
        self.catchups = CatchupRequests(self.engine, registry, self.notifier, settings)
        self.dead_letters = DeadLetters(db, self.engine, subscriptions)
        #: Creates the MQTT session when this process acquires the lock; None for the client of the network.
        self.open_session: OpenSession | None = None
        self._leadership: Leadership | None = None
        #: Process in which the leadership's thread runs: threads do not survive a fork.
        self._leadership_pid: int | None = None
        self._starting = threading.Lock()
        _runtimes.add(self)

    # -- the relay --------------------------------------------------------------------------------

    def start(self) -> None:
        """Become a candidate for leadership in this process: once per process, and only on a vessel."""
        if not self.settings.local_mode or self._leadership_pid == os.getpid():
            return
        with self._starting:  # two threads may serve the first requests at the same time
            if self._leadership_pid == os.getpid():
                return
            self.notifier.close()
            self._leadership = self.new_leadership()
            self._leadership.start()
            self._leadership_pid = os.getpid()

    def stop(self, timeout: float = 5.0) -> None:
        """Release leadership; another process takes over."""
        if self._leadership is not None and self._leadership_pid == os.getpid():
            self._leadership.stop(timeout)
        self.notifier.close()
        self._leadership = None
        self._leadership_pid = None
        flush_wal(self.engine.url)

    def new_leadership(self) -> Leadership:
        """Return a candidate for leadership; it does nothing before it is started.

        :raises UnsupportedClientError: the installed paho-mqtt lacks internals that the session depends on.
        """
        # Commands, and an application ashore, never need the relay and its client. A worker loads them here, before its
        # first request, and not when it takes over: their files may have been replaced by then.
        from .mqtt.durable_client import check_client_library
        from .relay.assembly import Assembly

        check_client_library()
        assembly = Assembly(
            self.settings,
            self.registry,
            self.subscriptions,
            url=self.engine.url,
            bell_path=self.bell_path,
            context=self.app.app_context,
            sender=self.app,
        )
        # The tests of an application would leave a file of megabytes for each of their databases.
        database = None if self.app.testing else database_file(self.engine.url)
        return Leadership(
            self.lock,
            self.bell_path,
            self.settings.vessel_id,
            lambda log, listener: assembly.make(log, listener, self.open_session),
            reserve=DiskReserve(database),
            with_actor=self.settings.send_actor,
        )

    def captured(self) -> None:
        """Notify the leader that something was committed."""
        self.notifier.notify()

    def reconcile(
        self, entity: str | None = None, *, forgotten: bool = False
    ) -> Iterator[Reconciled]:
        """Log what the tables hold and the log does not know; yield the result of each entity.

        :param entity: all of them if not given.
        :param forgotten: log rows, too, of which retention has left no change in the log.
        :raises CaptureError: nothing is captured here, or there is no such entity.
        """
        if not self.settings.local_mode:
            raise CaptureError("LOCAL_MODE is false: nothing is captured here")
        if entity is not None and self.registry.of_entity(entity) is None:
            raise CaptureError(f"there is no entity {entity!r}")
        reconciliation = Reconciliation(self.engine, self.registry, forgotten=forgotten)
        for registration in list(self.registry):
            if entity is None or registration.entity == entity:
                found = reconciliation.run(registration)
                if found.logged:
                    self.notifier.notify()
                yield found

    @cached_property
    def fleet(self) -> Fleet:
        """What the database ashore knows of the vessels."""
        # Aboard nothing needs it, nor what it loads of the follower.
        from .ops.fleet import Fleet

        return Fleet(self.engine, self.settings, self.lock)

    # -- status -----------------------------------------------------------------------------------

    def begin_epoch(self) -> str:
        """Begin a new epoch after a restore from an older copy, and return it; for `flask sync new-epoch`.

        :raises EpochError: a process owns the change log.
        :raises LogUnavailableError: the database can't be used.
        """
        return begin_by_hand(self.lock, self.settings.vessel_id)

    def status(self) -> SyncStatus:
        """Return the status of the sync, read from the database: the same in every process."""
        with self.engine.connect() as connection:
            return read_status(
                connection,
                enabled=self.settings.local_mode,
                owned=self.settings.local_mode and self.lock.is_held(connection),
                max_queue_size=self.settings.max_queue_size,
                budget=self.data_budget,
            )

    @property
    def data_budget(self) -> DataBudget:
        """The bytes that may be sent in a day."""
        urgent = self.registry.priorities().urgent
        return DataBudget(self.settings.data_budget, self.settings.zone, urgent)

    def health(self) -> dict[str, Any]:
        """Return the health document, ready for JSON."""
        published = {registration.topic for registration in self.registry}
        return health_document(
            self.status(), self.settings, topics=len(published) + len(_OWN_TOPICS)
        )

    def followers(self) -> list[FollowerStatus]:
        """Return each follower's progress, as reported by its watermark."""
        with self.engine.connect() as connection:
            return read_followers(connection)

    def entities(self) -> list[str]:
        """Return the names of the synchronised entities."""
        return [registration.entity for registration in self.registry]

    def collector(self) -> SyncCollector:
        """Return the collector of the Prometheus metrics."""
        # An application without metrics need not load prometheus_client.
        from .ops.metrics import SyncCollector

        return SyncCollector(
            self.status,
            self.followers,
            self.registry,
            self._count_dead_letters,
            Surroundings(self.settings, database_file(self.engine.url)),
            None if self.settings.local_mode else self.fleet.summary,
        )

    def _count_dead_letters(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(sql.inbound.COUNT_DEAD_LETTERS).scalar_one())


def of(app: Flask) -> Runtime:
    """Return an application's runtime.

    :raises NotInitialisedError: the sync is not initialised for it.
    """
    runtime = app.extensions.get(KEY)
    if not isinstance(runtime, Runtime):
        raise NotInitialisedError
    return runtime


def current() -> Runtime:
    """Return the runtime of the current application.

    :raises NotInitialisedError: there is no application context, or the sync is not initialised for its application.
    """
    if not has_app_context():
        raise NotInitialisedError
    return of(current_app)


@contextmanager
def _committed(db: SQLAlchemy) -> Iterator[OrmSession]:
    """Commit the application's session on success; roll it back on an exception."""
    session = db.session()
    try:
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
