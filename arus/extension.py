"""The Flask extension: the declarations of an application, and its binding to the sync."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from msgspec.structs import replace
from sqlalchemy.orm import Session

from arus.logs import get_logger

from . import runtime
from .cli import sync_commands
from .errors import RegistrationError
from .follower.tables import define as define_follower
from .inbound.handlers import PREFIX, Handler, Message, Subscriptions
from .inbound.proposals import Acceptance, Check, Proposals, check_acceptable
from .outbox.capture import Capture, FindActor, check_database_library, receipt_of
from .outbox.reconciliation import Reconciled
from .outbox.tables import define
from .protocol.conflicts import Policy, last_writer
from .protocol.entries import Operation, Receipt
from .protocol.topics import proposals_topic
from .registry import VERSION, Registry
from .runtime import Runtime
from .settings import SETTINGS, Settings, load

logger = get_logger(__name__)


class ReliableSync:
    """Delivers every committed change of the registered models to an MQTT broker.

    ::

        sync = ReliableSync()
        sync.register(WorkOrder, "work_orders", schema=WorkOrderSchema)
        sync.init_app(app, db)

    Holds the declarations for all applications that it is bound to: models, handlers of inbound messages, and the
    entities that accept proposals. The state of one application is in its `Runtime`, which `runtime()` returns.

    :param inbound: topic prefixes that subscriptions may use in addition to `MQTT_TOPIC_PREFIX`; `{vessel_id}` stands
        for the vessel's id.
    """

    def __init__(self, *, inbound: Iterable[str] = ()) -> None:
        self._registry = Registry()
        self._subscriptions = Subscriptions()
        self._inbound = tuple(inbound)
        self._capture = Capture(self._registry)

    def init_app(
        self, app: Flask, db: SQLAlchemy | None = None, *, zone: str | None = None
    ) -> None:
        """Bind to an application: validate its settings and add hooks and commands. Opens no connection.

        Reads each setting of `arus.settings.SETTINGS` from `app.config`, else from the environment. One extension
        may be bound to several applications, each with its own settings.

        :param db: the application's Flask-SQLAlchemy, initialised; looked up in `app.extensions` if not given.
        :param zone: the time zone in which the days of `MQTT_DATA_BUDGET` begin, such as `Europe/Oslo`; the machine's
            if not given.
        :raises SettingError: a setting is not accepted.
        :raises RegistrationError: the application is already bound, or has no Flask-SQLAlchemy.
        :raises TopicError: a subscription's prefix is not allowed by this application.
        :raises UnsupportedSQLAlchemyError: the installed SQLAlchemy lacks internals that the capture depends on.
        """
        if runtime.KEY in app.extensions:
            raise RegistrationError("reliable sync is already initialised for this application")
        known: SQLAlchemy | None = app.extensions.get("sqlalchemy")
        db = db or known
        if db is None or db is not known:
            raise RegistrationError("initialise Flask-SQLAlchemy for this application first")
        settings = replace(_settings_of(app), zone=zone)
        check_database_library()
        define(db.metadata)
        define_follower(db.metadata)
        prefix = settings.topic_prefix
        subscriptions = Subscriptions(self._subscriptions, prefix=prefix)
        if settings.vessel_id is not None:
            subscriptions.name_vessel(settings.vessel_id)
        subscriptions.allow([f"{prefix}/", *self._inbound])
        bound = Runtime(app, db, settings, self._registry, subscriptions)
        app.extensions[runtime.KEY] = bound
        app.cli.add_command(sync_commands)
        app.before_request(lambda: None if app.testing else bound.start())
        if settings.local_mode:
            self._capture.bind(bound.engine, bound)

    def register(
        self,
        model: type[Any],
        entity: str,
        topic: str | None = None,
        qos: int = 1,
        schema: Any = None,
        *,
        version: str | None = VERSION,
        priority: int | None = None,
    ) -> None:
        """Synchronise a model.

        :param entity: its name in messages.
        :param topic: its topic under `MQTT_TOPIC_PREFIX`; the entity's name if not given.
        :param qos: 1, or 2 if a message must not be received twice.
        :param schema: a marshmallow schema, or its class, that dumps a row.
        :param version: the integer attribute that grows with each change. If the model has no attribute `version`, or
            with None, the log keeps the versions of its rows.
        :param priority: from 1 (sent first) to 9, which decides the order of topics while there is a queue; by default
            1 at QoS 2, else 5. Changes of priority 1 are also dropped last, and are sent when the data budget is spent.
            Several entities on one topic have the priority of the most urgent one.
        :raises RegistrationError: the model can't be synchronised with these arguments.
        """
        if schema is None:
            raise RegistrationError(f"{entity} needs a marshmallow schema that dumps its rows")
        known = self._registry.of_entity(entity)
        self._registry.add(
            model,
            entity,
            topic=topic or entity,
            qos=qos,
            schema=schema,
            version=version,
            priority=priority,
        )
        if known is None:
            self._capture.watch(model)

    def runtime(self, app: Flask | None = None) -> Runtime:
        """Return an application's runtime: its status, changes, catch-ups and dead letters.

        :param app: the application; by default that of the current application context.
        :raises NotInitialisedError: the sync is not initialised for it.
        """
        return runtime.current() if app is None else runtime.of(app)

    def publish_change(self, operation: str, row: Any) -> Receipt | None:
        """Return the receipt of a row's change, after its commit.

        Durability does not depend on this call: the commit has already written the change to the log and woken
        the owner. The state of the broker never makes it raise.

        :param operation: `create`, `update` or `delete`.
        :returns: None if changes are not captured (ashore).
        :raises ValueError: there is no such operation.
        """
        Operation(operation)
        if not runtime.current().settings.local_mode:
            return None
        return receipt_of(row)

    def record(self, operation: str, row: Any, session: Session | None = None) -> None:
        """Capture a change that was made without the ORM (raw SQL), in the session's transaction.

        Call it after the statement: the row is read from the database, not from the object. The version of a
        deleted row is the newer of the object's and the log's.

        :param row: an instance of a registered model with the row's primary key; it need not be in the session.
        :param session: the session that has executed the statement; `db.session` by default.
        :raises CaptureError: the model is not registered, no transaction has begun, the database has no such
            row, or the row's version is unknown or below 1.
        """
        chosen = session if session is not None else runtime.current().db.session()
        self._capture.record(chosen, Operation(operation), row)

    def reconcile(self, entity: str | None = None, *, forgotten: bool = False) -> list[Reconciled]:
        """Log what the tables hold and the log does not know, deletions included; commits its own transactions.

        For writes that were not captured: by another program, or by a SQL text on the engine. The first call also
        logs rows that are older than the log. Safe beside a running server.

        :param entity: all of them if not given.
        :param forgotten: log rows, too, of which retention has left no change in the log.
        :raises CaptureError: nothing is captured here (LOCAL_MODE is false), or there is no such entity.
        """
        return list(runtime.current().reconcile(entity, forgotten=forgotten))

    def actor(self, find: FindActor) -> FindActor:
        """Record who makes each change: the text that the decorated function returns, in each application.

        ::

            @sync.actor
            def actor() -> str | None:
                return f"user:{current_user.name}" if current_user else None

        It is called once in each transaction that changes a synchronised row, during its commit. It must not use the
        database's session. If it raises, the change is logged without an actor, and the first failure is reported in
        the log. Only the first 100 characters are kept; control characters are escaped. It is sent ashore only
        with `MQTT_SEND_ACTOR=true`.
        """
        self._capture.actors.declare(find)
        return find

    def subscribe(self, topic_filter: str, qos: int = 1) -> Callable[[Handler], Handler]:
        """Pass the messages of a topic filter to the decorated function, in each application.

        ::

            @sync.subscribe("{prefix}/+/orders", qos=1)
            def ordered(message: Message) -> None: ...

        May be called before or after connecting. The leader's process subscribes and runs the handlers, one
        message of a topic after the other, each in an application context. A message is acknowledged once its
        handlers have returned, so it may be delivered again after a crash: a handler must be idempotent.
        A handler that raises is retried with growing pauses; after the last attempt the message becomes a dead
        letter (`flask sync inbox`).

        :param topic_filter: by the rules of MQTT 5, section 4.7; `$share/NAME/FILTER` too. `{prefix}` stands for
            the application's `MQTT_TOPIC_PREFIX`. An application that is already bound and does not allow the
            filter's prefix logs an error and does not subscribe.
        :param qos: 0 or 1.
        :raises TopicError: the filter or the QoS is not valid.
        """

        def decorate(handler: Handler) -> Handler:
            self._subscriptions.add(topic_filter, qos, handler)
            return handler

        return decorate

    def unsubscribe(self, topic_filter: str) -> None:
        """End the subscription to a topic filter in each application; an unknown filter is ignored."""
        self._subscriptions.remove(topic_filter)

    def accept(self, entity: str, policy: Policy = last_writer) -> Callable[[Check], Check]:
        """Accept proposals from ashore for an entity's rows (`arus.inbound.proposals`), in each application.

        Use it as a plain call, or as a decorator of a function that checks each proposal first. The function may
        return other data to apply, or raise `ProposalError` to keep the vessel's row::

            @sync.accept("work_orders")
            def check(proposal: Proposal) -> Mapping[str, Any] | None: ...

        :param policy: decides conflicts (`arus.protocol.conflicts`).
        :raises RegistrationError: the entity is not registered, or its schema can't load rows.
        """
        registration = self._registry.of_entity(entity)
        if registration is None:
            raise RegistrationError(f"{entity!r} is not registered: call sync.register first")
        check_acceptable(registration)
        topic = f"{PREFIX}/{proposals_topic(registration.topic)}"

        def declare(acceptance: Acceptance) -> None:
            self._subscriptions.remove(topic)
            self._subscriptions.add(topic, 1, _proposal_handler(acceptance, entity))

        def decorate(check: Check) -> Check:
            declare(Acceptance(policy, check))
            return check

        declare(Acceptance(policy))
        return decorate

    def start(self, app: Flask) -> None:
        """Become a candidate for leadership in this process; gunicorn's hooks and the first request do so too.

        An application with `TESTING=True` is started only by this call, not by its first request.
        """
        runtime.of(app).start()

    def stop(self, app: Flask) -> None:
        """Release leadership in this process."""
        runtime.of(app).stop()


def _settings_of(app: Flask) -> Settings:
    given = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    settings = load(
        {**given, **{name: app.config[name] for name in SETTINGS if name in app.config}}
    )
    if settings.local_mode and settings.broker.tls and not settings.tls_verify:
        logger.warning(
            "[MQTT Reliable Sync] MQTT_TLS_REJECT_UNAUTHORIZED=false:"
            " any server certificate is accepted"
        )
    return settings


def _proposal_handler(acceptance: Acceptance, entity: str) -> Handler:
    def handle(message: Message) -> None:
        bound = runtime.current()
        registration = bound.registry.of_entity(entity)
        assert registration is not None, "nothing unregisters an entity"
        proposals = Proposals(bound.db.session, bound.notifier.notify)
        proposals.handle(acceptance, registration, message.payload)

    return handle
