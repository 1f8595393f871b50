"""The Flask extension: binds the sync to an application."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, current_app, has_app_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from . import changes, requests, topics
from .audit import Auditor
from .bell import Bell, BellListener
from .capture import Capture, receipt_of
from .catchup import Catchups
from .changelog import ChangeLog
from .changes import ChangePage, ChangeRecord
from .cli import sync_commands
from .conflict import Policy, last_writer
from .database import open_engine
from .errors import (
    ArusError,
    CatchupOffError,
    NotInitialisedError,
    RegistrationError,
)
from .follower.tables import define as define_follower
from .followers import FollowerStatus, read_followers
from .health import health_document
from .inbox import Handler, Inbox, Message, Subscriptions, replay
from .message import ChangeState, Operation, Receipt
from .metrics import SyncCollector
from .ownership import Owner, OwnerLock, open_lock
from .parked import ParkedMessage, find_parked, forget_parked, list_parked
from .proposals import Acceptance, Check, Proposals, check_acceptable, proposals_topic
from .registry import Registration, Registry
from .relay import Relay
from .requests import CatchupStatus
from .schema import define
from .session import Session, check_client_library
from .settings import SETTINGS, Settings, load
from .status import SyncStatus, read_last_changes, read_status

logger = logging.getLogger(__name__)

_KEY = "arus"
_SUBSCRIPTIONS = text("SELECT COUNT(*) FROM arus_subscription")
#: Topics that every vessel has beside its entities' (CONFLICTS, STATUS and the catch-ups).
_OWN_TOPICS = (topics.STATUS, topics.CONFLICTS, topics.CATCHUP)


@dataclass(slots=True)
class AppState:
    """What the sync keeps for one application, in `app.extensions["arus"]`."""

    app: Flask
    db: SQLAlchemy
    settings: Settings
    registry: Registry
    subscriptions: Subscriptions
    #: Made at the first use; on SQLite it needs the database's path, which only the engine knows.
    lock: OwnerLock
    bell: Bell
    make_owner: Callable[[], Owner]
    owner: Owner | None = None
    #: Process in which the owner's thread runs: threads do not survive a fork.
    owner_pid: int | None = None
    starting: threading.Lock = field(default_factory=threading.Lock)

    def captured(self) -> None:
        """Tell the owner that something was committed."""
        self.bell.ring()

    def start(self) -> None:
        """Become a candidate for ownership in this process; once a process, and only on a vessel."""
        if not self.settings.local_mode or self.owner_pid == os.getpid():
            return
        with self.starting:  # two first requests may come at once
            if self.owner_pid == os.getpid():
                return
            self.bell.close()
            self.owner = self.make_owner()
            self.owner.start()
            self.owner_pid = os.getpid()

    def stop(self, timeout: float = 5.0) -> None:
        """Give ownership up; another process takes over."""
        if self.owner is not None and self.owner_pid == os.getpid():
            self.owner.stop(timeout)
        self.bell.close()
        self.owner = None
        self.owner_pid = None

    def status(self) -> SyncStatus:
        """Read the status from the database."""
        with self.db.engine.connect() as connection:
            return read_status(
                connection,
                enabled=self.settings.local_mode,
                owned=self.settings.local_mode and self.lock.is_held(connection),
                max_queue_size=self.settings.max_queue_size,
            )

    def active_subscriptions(self) -> int:
        """Return how many filters the broker knows of."""
        with self.db.engine.connect() as connection:
            return int(connection.execute(_SUBSCRIPTIONS).scalar_one())

    def health(self) -> dict[str, Any]:
        """Return the health document."""
        published = {registration.topic for registration in self.registry}
        return health_document(
            self.status(),
            self.settings,
            topics=len(published) + len(_OWN_TOPICS),
            subscriptions=self.active_subscriptions(),
        )

    def followers(self) -> list[FollowerStatus]:
        """Read how far each follower has come."""
        with self.db.engine.connect() as connection:
            return read_followers(connection)

    def entities(self) -> list[str]:
        """Return the names of what is synchronised."""
        return [registration.entity for registration in self.registry]

    def changes(self, **wanted: Any) -> ChangePage:
        """Return a page of the change log; the arguments are those of `changes.list_changes`."""
        with self.db.engine.connect() as connection:
            return changes.list_changes(connection, **wanted)

    def each_change(
        self, states: Collection[ChangeState], entity: str | None
    ) -> Iterator[ChangeRecord]:
        """Yield changes with their data, oldest first, in bounded memory."""
        with self.db.engine.connect() as connection:
            yield from changes.each_change(connection, states=states, entity=entity)

    def change(self, message_id: str) -> ChangeRecord:
        """Return a change with its data."""
        with self.db.engine.connect() as connection:
            return changes.find_change(connection, message_id)

    def retry_change(self, message_id: str) -> ChangeRecord:
        """Let a quarantined change flow again, in a transaction of the application's session."""
        session = self.db.session()
        with _committed(session):
            changes.retry(session, self.registry, message_id)
        self.bell.ring()
        return self.change(message_id)

    def discard_change(self, message_id: str) -> ChangeRecord:
        """Give a quarantined change up, in a transaction of the application's session."""
        session = self.db.session()
        with _committed(session):
            changes.discard(session.connection(), message_id)
        return self.change(message_id)

    def request_catchup(self, document: object, origin: str) -> CatchupStatus:
        """Queue the catch-up that a request asks for, and tell the owner."""
        if not self.settings.local_mode:
            raise CatchupOffError
        request = requests.parse(document, self.entities())
        with self.db.engine.begin() as connection:
            catchup_id = requests.queue(connection, request, self.registry, origin)
            queued = requests.find(connection, catchup_id)
        self.bell.ring()
        return queued

    def catchup(self, catchup_id: str) -> CatchupStatus:
        """Return how far a catch-up has come."""
        with self.db.engine.connect() as connection:
            return requests.find(connection, catchup_id)

    def catchups(self, limit: int = 20) -> list[CatchupStatus]:
        """Return the catch-ups that were asked for last, newest first."""
        with self.db.engine.connect() as connection:
            return requests.recent(connection, limit)

    def replay_parked(self, parked_id: int) -> None:
        """Hand a parked message to its handlers once more, in a transaction of the application's session."""
        session = self.db.session()
        with _committed(session):
            replay(find_parked(session.connection(), parked_id), self.subscriptions)
            forget_parked(session.connection(), parked_id)

    def discard_parked(self, parked_id: int) -> None:
        """Give a parked message up, in a transaction of the application's session."""
        session = self.db.session()
        with _committed(session):
            forget_parked(session.connection(), parked_id)


@contextmanager
def _committed(session: OrmSession) -> Iterator[None]:
    try:
        yield
        session.commit()
    except BaseException:
        session.rollback()
        raise


class ReliableSync:
    """Delivers every committed change of the registered models to an MQTT broker.

    ::

        sync = ReliableSync()
        sync.register(WorkOrder, "work_orders", schema=WorkOrderSchema)
        sync.init_app(app, db)

    :param inbound: prefixes that subscriptions may have beside `MQTT_TOPIC_PREFIX`.
    """

    def __init__(self, *, inbound: Iterable[str] = ()) -> None:
        self._registry = Registry()
        self._subscriptions = Subscriptions()
        self._accepted: dict[str, Acceptance] = {}
        self._prefix: str | None = None
        self._inbound = tuple(inbound)
        self._capture = Capture(self._registry, _capturing_state)
        self._listening: set[int] = set()

    def init_app(self, app: Flask, db: SQLAlchemy | None = None) -> None:
        """Bind to an application: validates settings and registers; opens nothing.

        Reads each setting of `arus.settings.SETTINGS` from `app.config`, else from the environment.

        :param db: the application's Flask-SQLAlchemy, initialised; found by itself when not given.
        :raises SettingError: a setting is not accepted.
        :raises RegistrationError: the application is already bound, or has no Flask-SQLAlchemy.
        :raises UnsupportedClientError: the installed paho-mqtt lacks what the session relies on.
        """
        if _KEY in app.extensions:
            raise RegistrationError("reliable sync is already initialised for this application")
        known: SQLAlchemy | None = app.extensions.get("sqlalchemy")
        db = db or known
        if db is None or db is not known:
            raise RegistrationError("initialise Flask-SQLAlchemy for this application first")
        given = {name: os.environ[name] for name in SETTINGS if name in os.environ}
        settings = load(
            {**given, **{name: app.config[name] for name in SETTINGS if name in app.config}}
        )
        check_client_library()
        define(db.metadata)
        define_follower(db.metadata)
        subscriptions = self._subscriptions
        subscriptions.allow([f"{settings.topic_prefix}/", *self._inbound])
        self._prefix = settings.topic_prefix
        self._take_proposals()
        with app.app_context():
            lock, bell_path = open_lock(db.engine.url)
        state = AppState(
            app=app,
            db=db,
            settings=settings,
            registry=self._registry,
            subscriptions=self._subscriptions,
            lock=lock,
            bell=Bell(bell_path),
            make_owner=lambda: Owner(lock, bell_path, settings.vessel_id, make_relay),
        )

        def make_relay(log: ChangeLog, listener: BellListener) -> Relay:
            client_id = settings.client_id or f"arus_sync_{log.vessel_id}"
            with app.app_context():
                engine = open_engine(db.engine.url)
            return Relay(
                log,
                Session(settings, client_id),
                listener,
                settings,
                sender=app,
                topics=sorted({registration.topic for registration in self._registry}),
                urgent=frozenset(r.topic for r in self._registry if r.qos == 2),
                registry=self._registry,
                catchups=Catchups(log, self._registry, engine, app.app_context),
                # A bell of its own: the inbox has its own thread.
                inbox=Inbox(subscriptions, engine, app.app_context, Bell(bell_path)),
                auditor=Auditor(engine.url, self._registry, app.app_context),
            )

        app.extensions[_KEY] = state
        app.cli.add_command(sync_commands)
        app.before_request(state.start)
        if id(db) not in self._listening:
            self._listening.add(id(db))
            self._capture.listen(db.session)
        if settings.local_mode and settings.broker.tls and not settings.tls_verify:
            logger.warning(
                "[MQTT Reliable Sync] MQTT_TLS_REJECT_UNAUTHORIZED=false:"
                " any server certificate is accepted"
            )

    def register(
        self,
        model: type[Any],
        entity: str,
        topic: str | None = None,
        qos: int = 1,
        schema: Any = None,
        *,
        version: str = "version",
    ) -> None:
        """Synchronise a model.

        :param entity: its name in messages.
        :param topic: its topic under `MQTT_TOPIC_PREFIX`; the entity's name when not given.
        :param qos: 1, or 2 where a message must not be seen twice.
        :param schema: a marshmallow schema, or its class, that dumps a row.
        :param version: the attribute that grows by 1 with each change.
        :raises RegistrationError: the model can't be synchronised like this.
        """
        if schema is None:
            raise RegistrationError(f"{entity} needs a marshmallow schema that dumps its rows")
        known = self._registry.of_entity(entity)
        self._registry.add(
            model, entity, topic=topic or entity, qos=qos, schema=schema, version=version
        )
        if known is None:
            self._capture.watch(model)

    def publish_change(self, operation: str, row: Any) -> Receipt | None:
        """Return the receipt of a row's change, after its commit.

        Durability does not depend on this call: the commit has put the change into the log and rung the
        bell. Never raises for the broker's sake.

        :param operation: `create`, `update` or `delete`.
        :returns: None where changes are not captured (ashore).
        :raises ValueError: there is no such operation.
        """
        Operation(operation)
        state = self._state()
        if not state.settings.local_mode:
            return None
        return receipt_of(row)

    def record(self, operation: str, row: Any) -> None:
        """Capture a change that was made past the ORM (raw SQL), in the session's transaction.

        Call it after the statement: the row is read from the database, whatever the object remembers. A delete
        takes its version from the object or the log, whichever is newer.

        :param row: an instance of a registered model with the row's primary key, in the session or not.
        :raises CaptureError: the model is not registered, no transaction has begun, the database has no such
            row, or the row's version is not known or below 1.
        """
        self._capture.record(self._state().db.session(), Operation(operation), row)

    def subscribe(self, topic_filter: str, qos: int = 1) -> Callable[[Handler], Handler]:
        """Hand the messages of a topic filter to the decorated function.

        ::

            @sync.subscribe("vessel/sync/+/orders", qos=1)
            def ordered(message: Message) -> None: ...

        May be called before or after connecting; the owner's process subscribes and runs the handlers, one
        message of a topic after the other, each in an application context. A message is acknowledged once its
        handlers have returned, so it may come again after a crash: a handler must bear that.
        One that raises is called again with growing pauses; then its message is parked (`flask sync inbox`).

        :param topic_filter: by the rules of MQTT 5, section 4.7; `$share/NAME/FILTER` too.
        :param qos: 0 or 1.
        :raises TopicError: the filter is not valid, or begins with no prefix that is allowed.
        """

        def decorate(handler: Handler) -> Handler:
            self._subscriptions.add(topic_filter, qos, handler)
            return handler

        return decorate

    def unsubscribe(self, topic_filter: str) -> None:
        """End the subscription to a topic filter; one that is unknown changes nothing."""
        self._subscriptions.remove(topic_filter)

    def accept(self, entity: str, policy: Policy = last_writer) -> Callable[[Check], Check]:
        """Take proposals for an entity's rows from ashore (`arus.proposals`).

        As a plain call, or as a decorator of a function that looks at each proposal first: it may return other
        data to apply, or raise `ProposalError` to have the vessel's row stay::

            @sync.accept("work_orders")
            def check(proposal: Proposal) -> Mapping[str, Any] | None: ...

        :param policy: decides where both sides have written (`arus.conflict`).
        :raises RegistrationError: the entity is not registered, or its schema can't load rows.
        """
        registration = self._registry.of_entity(entity)
        if registration is None:
            raise RegistrationError(f"{entity!r} is not registered: call sync.register first")
        check_acceptable(registration)
        acceptance = self._accepted[entity] = Acceptance(policy)
        self._take_proposals()

        def decorate(check: Check) -> Check:
            acceptance.check = check
            return check

        return decorate

    def _take_proposals(self) -> None:
        if self._prefix is None:
            return
        for entity, acceptance in self._accepted.items():
            registration = self._registry.of_entity(entity)
            assert registration is not None
            topic = f"{self._prefix}/{proposals_topic(registration)}"
            self._subscriptions.remove(topic)
            self._subscriptions.add(topic, 1, _proposal_handler(acceptance, registration))

    def status(self) -> SyncStatus:
        """Return where the sync stands; the same from each process."""
        return self._state().status()

    def followers(self) -> list[FollowerStatus]:
        """Return how far each follower has come, by its own word."""
        return self._state().followers()

    def health(self) -> dict[str, Any]:
        """Return the health document."""
        return self._state().health()

    def change_states(self, entity: str, row_ids: Iterable[str]) -> dict[str, ChangeState]:
        """Return the state of the last change of each row, by row id."""
        found = read_last_changes(self._state().db.session.connection(), entity, row_ids)
        return {row_id: change.state for row_id, change in found.items()}

    def entities(self) -> list[str]:
        """Return the names of what is synchronised."""
        return self._state().entities()

    def changes(
        self,
        *,
        states: Collection[ChangeState] = (),
        entity: str | None = None,
        limit: int = 50,
        cursor: int | None = None,
    ) -> ChangePage:
        """Return a page of the change log, newest first.

        :param states: only changes in one of these; all when empty.
        :param limit: up to `arus.changes.MAX_LIMIT`.
        :param cursor: `next` of the page before.
        """
        return self._state().changes(states=states, entity=entity, limit=limit, cursor=cursor)

    def change(self, message_id: str) -> ChangeRecord:
        """Return a change with its data.

        :raises UnknownChangeError: the log has no such change (any more).
        """
        return self._state().change(message_id)

    def retry_change(self, message_id: str) -> ChangeRecord:
        """Let a quarantined change flow again; commits the application's session (`arus.changes`).

        :raises UnknownChangeError: the log has no such change (any more).
        :raises NotQuarantinedError: it is not quarantined.
        :raises UnsendableChangeError: it would be no use, or do harm; it stays quarantined.
        """
        return self._state().retry_change(message_id)

    def discard_change(self, message_id: str) -> ChangeRecord:
        """Give a quarantined change up; commits the application's session.

        :raises UnknownChangeError: the log has no such change (any more).
        :raises NotQuarantinedError: it is not quarantined.
        """
        return self._state().discard_change(message_id)

    def request_catchup(self, document: object, *, origin: str = "http") -> CatchupStatus:
        """Queue a catch-up: the present state of rows goes out again on the `catchup/` topics.

        :param document: what is asked for, as in the body of the HTTP request (`arus.requests.parse`).
        :param origin: http or cli.
        :raises CatchupRequestError: it is malformed; `errors` says why, by key.
        :raises CatchupBusyError: too many wait already.
        :raises CatchupOffError: LOCAL_MODE is false.
        """
        return self._state().request_catchup(document, origin)

    def catchup(self, catchup_id: str) -> CatchupStatus:
        """Return how far a catch-up has come.

        :raises UnknownCatchupError: there is none of this id (any more).
        """
        return self._state().catchup(catchup_id)

    def catchups(self, limit: int = 20) -> list[CatchupStatus]:
        """Return the catch-ups that were asked for last, newest first."""
        return self._state().catchups(limit)

    def parked(self, limit: int = 100) -> list[ParkedMessage]:
        """Return the inbound messages that were parked last, newest first."""
        return list_parked(self._state().db.session.connection(), limit)

    def parked_message(self, parked_id: int) -> ParkedMessage:
        """Return a parked message.

        :raises UnknownMessageError: there is none of this id.
        """
        return find_parked(self._state().db.session.connection(), parked_id)

    def replay_parked(self, parked_id: int) -> None:
        """Hand a parked message to its handlers once more; it is forgotten when they have returned.

        What a handler raises comes through, and the message stays. Commits the application's session.

        :raises UnknownMessageError: there is none of this id, or nobody subscribes to its filter any more.
        """
        self._state().replay_parked(parked_id)

    def discard_parked(self, parked_id: int) -> None:
        """Give a parked message up; commits the application's session.

        :raises UnknownMessageError: there is none of this id.
        """
        self._state().discard_parked(parked_id)

    def collector(self, app: Flask) -> SyncCollector:
        """Return the Prometheus collector of an application's sync."""
        state = self._state(app)
        return SyncCollector(state.status, state.followers, self._registry)

    def start(self, app: Flask) -> None:
        """Become a candidate for ownership in this process; gunicorn's hooks and requests do so too."""
        self._state(app).start()

    def stop(self, app: Flask) -> None:
        """Give ownership up in this process."""
        self._state(app).stop()

    def _state(self, app: Flask | None = None) -> AppState:
        try:
            return state_of_app(app or current_app)
        except RuntimeError as error:
            raise NotInitialisedError from error


def _proposal_handler(acceptance: Acceptance, registration: Registration) -> Handler:
    def handle(message: Message) -> None:
        state = state_of_app(current_app)
        proposals = Proposals(state.db.session, state.bell.ring)
        proposals.handle(acceptance, registration, message.payload)

    return handle


def state_of_app(app: Flask) -> AppState:
    """Return the sync's state for an application.

    :raises NotInitialisedError: it has none.
    """
    state = app.extensions.get(_KEY)
    if not isinstance(state, AppState):
        raise NotInitialisedError
    return state


def _capturing_state() -> AppState | None:
    if not has_app_context():
        return None
    state = current_app.extensions.get(_KEY)
    return state if isinstance(state, AppState) and state.settings.local_mode else None


__all__ = ["AppState", "ArusError", "ReliableSync", "state_of_app"]
