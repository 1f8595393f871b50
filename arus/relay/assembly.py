"""Puts a relay together: what the owner alone needs, with the client of the MQTT session.

`arus.runtime` imports it when a process becomes a candidate. Commands, and an application ashore, never do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from arus.audit.auditor import Auditor
from arus.catchup.sender import Catchups
from arus.database import open_engine
from arus.inbound.handlers import Inbox, Subscriptions
from arus.mqtt.client import Session
from arus.outbox.log import ChangeLog
from arus.outbox.notifier import NotificationListener, Notifier
from arus.registry import Registry
from arus.settings import Settings

from .loop import Relay
from .services import Services, Topics
from .training import Trainer

#: Creates the MQTT session of one vessel, by its settings and client id.
OpenSession = Callable[[Settings, str], Session]


class Assembly:
    """Makes the relay of one application.

    :param context: returns the context that the models' schemas and the handlers may need (`app.app_context`).
    :param sender: the sender of signals: the application.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        subscriptions: Subscriptions,
        *,
        url: URL,
        bell_path: Path,
        context: Callable[[], AbstractContextManager[Any]],
        sender: Any,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._subscriptions = subscriptions
        self._url = url
        self._bell_path = bell_path
        self._context = context
        self._sender = sender

    def make(
        self, log: ChangeLog, listener: NotificationListener, open_session: OpenSession | None
    ) -> Relay:
        """Return the relay of a log that this process owns.

        :param open_session: opens the session in place of the client of the network.
        """
        settings, registry, context = self._settings, self._registry, self._context
        engine = open_engine(self._url)
        own = settings.of_vessel(log.vessel_id)
        self._subscriptions.name_vessel(log.vessel_id)
        client_id = own.client_id or f"arus_sync_{log.vessel_id}"
        return Relay(
            log,
            (open_session or Session)(own, client_id),
            listener,
            settings,
            topics=Topics(
                sorted({registration.topic for registration in registry}),
                registry.priorities(),
            ),
            services=Services(
                registry=registry,
                catchups=Catchups(log, registry, engine, context),
                # A separate notifier, because the inbox has its own thread.
                inbox=Inbox(self._subscriptions, engine, context, Notifier(self._bell_path)),
                auditor=Auditor(engine.url, registry, context),
                trainer=Trainer(engine.url, with_actor=settings.send_actor),
            ),
            sender=self._sender,
        )
