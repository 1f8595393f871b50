"""The relay with its log, session and owner's lock, but no web application around it.

In this process (`Vessel`), or in one of its own that can be killed (`VesselProcess`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from sqlalchemy import make_url, text

from arus import signals
from arus.audit.auditor import Auditor
from arus.catchup.sender import Catchups
from arus.database import open_engine, transaction
from arus.inbound.handlers import Inbox, Subscriptions
from arus.mqtt.client import Session
from arus.outbox.log import ChangeLog
from arus.outbox.notifier import NotificationListener, Notifier
from arus.outbox.reserve import DiskReserve
from arus.outbox.status import SyncStatus, read_status
from arus.protocol.entries import new_message_id
from arus.protocol.times import now_ms
from arus.registry import URGENT, Priorities, Registry
from arus.relay.leadership import Leadership, open_lock
from arus.relay.loop import Relay
from arus.relay.services import Services, Topics
from arus.relay.training import Trainer
from arus.settings import load
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.lifecycle import Started
from tests.support.waiting import PATIENCE, eventually
from tools.processes import Child

SIGNALS = (
    signals.connected,
    signals.disconnected,
    signals.error,
    signals.message_published,
    signals.message_queued,
    signals.queue_flushed,
)
_INSERT = text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
    " committed_at, data) VALUES (:message_id, :entity, :topic, :qos, 'create', :row_id, 1,"
    " :committed_at, :data)"
)


class Vessel(Started):
    """A candidate for ownership on `database_url`; `settings` are those of `arus.settings`."""

    def __init__(self, database_url: str, **settings: Any) -> None:
        values = {"LOCAL_MODE": "true", "VESSEL_ID": "ship-1", "MQTT_RECONNECT_PERIOD": "0.1"}
        self.settings = load({**values, **settings})
        self.engine = open_engine(database_url)
        self.lock, self.bell_path = open_lock(make_url(database_url))
        self.notifier = Notifier(self.bell_path)
        self.registry = Registry()
        self.subscriptions = Subscriptions()
        self.session: Session | None = None
        #: Creates the session: with a broker on the network, unless a test has one in memory.
        self.open_session: Callable[..., Session] = Session
        #: Name and values of each signal so far.
        self.signals: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._receivers = [self._receiver(signal.name) for signal in SIGNALS]
        for signal, receiver in zip(SIGNALS, self._receivers, strict=True):
            signal.connect(receiver, sender=self)
        self.owner = self._candidate(None)

    def _candidate(self, reserve: DiskReserve | None) -> Leadership:
        return Leadership(
            self.lock,
            self.bell_path,
            self.settings.vessel_id,
            self._make_relay,
            reserve=reserve,
            with_actor=self.settings.send_actor,
        )

    def with_reserve(self, reserve: DiskReserve) -> Self:
        """Have the owner use a reserve on a full disk; by default it has none."""
        self.owner = self._candidate(reserve)
        return self

    def _make_relay(self, log: ChangeLog, notifier: NotificationListener) -> Relay:
        client_id = self.settings.client_id or f"arus_sync_{log.vessel_id}"
        self.session = self.open_session(self.settings.of_vessel(log.vessel_id), client_id)
        return Relay(
            log,
            self.session,
            notifier,
            self.settings,
            topics=Topics(
                ("alerts", "work_orders"), Priorities({"alerts": URGENT, "work_orders": 2})
            ),
            services=Services(
                registry=self.registry,
                catchups=Catchups(log, self.registry, self.engine, nullcontext),
                inbox=Inbox(self.subscriptions, self.engine, nullcontext, Notifier(self.bell_path)),
                auditor=Auditor(self.engine.url, self.registry, nullcontext),
                trainer=Trainer(self.engine.url, with_actor=self.settings.send_actor),
            ),
            sender=self,
        )

    def _receiver(self, name: str) -> Callable[..., None]:
        def receive(_sender: Any, **values: Any) -> None:
            with self._changed:
                self.signals.append((name, values))
                self._changed.notify_all()

        return receive

    def heard(self, name: str) -> list[dict[str, Any]]:
        """The values of each signal `name` so far."""
        with self._changed:
            return [values for heard, values in self.signals if heard == name]

    def wait_signal(self, name: str, count: int = 1, timeout: float = 10) -> list[dict[str, Any]]:
        """The values of each signal `name`, once there are `count`."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: len(self.heard(name)) >= count, timeout * PATIENCE
            )
        assert enough, (
            f"{len(self.heard(name))} signals {name!r}, wanted {count}; {self.signals[-5:]}"
        )
        return self.heard(name)

    def commit(
        self,
        count: int = 1,
        topic: str = "work_orders",
        *,
        data: str = '{"id":"1"}',
        notify: bool = True,
        committed_at: int | None = None,
        row_id: str | None = None,
    ) -> list[str]:
        """Commit changes as capture does; return their message ids."""
        at = committed_at or now_ms()
        rows: list[dict[str, Any]] = [
            {
                "message_id": new_message_id(at),
                "entity": topic,
                "topic": topic,
                "qos": 2 if topic == "alerts" else 1,
                "row_id": row_id or "1",
                "committed_at": at,
                "data": data.encode(),
            }
            for _ in range(count)
        ]
        with self.engine.connect() as connection, transaction(connection):
            connection.execute(_INSERT, rows)
        if notify:
            self.notifier.notify()
        return [row["message_id"] for row in rows]

    def status(self) -> SyncStatus:
        """The status, from the database."""
        with self.engine.connect() as connection:
            return read_status(
                connection,
                enabled=True,
                owned=self.lock.is_held(),
                max_queue_size=self.settings.max_queue_size,
            )

    def query(self, statement: str, **arguments: Any) -> list[Any]:
        """Rows of the database."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), arguments))

    def query_write(self, statement: str) -> None:
        """Change the database."""
        with self.engine.connect() as connection, transaction(connection):
            connection.execute(text(statement))

    def wait_connected(self, timeout: float = 10) -> SyncStatus:
        """The status, once connected."""

        def connected() -> SyncStatus | None:
            status = self.status()
            return status if status.connected else None

        status = eventually(connected, timeout, message="the session is connected")
        assert status is not None
        return status

    def wait_drained(self, timeout: float = 15) -> None:
        """Return once nothing is undelivered."""
        eventually(lambda: self.status().depth == 0, timeout, message="the queue is empty")

    def start(self) -> Self:
        """Begin."""
        self.owner.start()
        return self

    def stop(self) -> None:
        """End in good order."""
        self.owner.stop(5)

    def close(self) -> None:
        self.stop()
        self.notifier.close()
        self.engine.dispose()


#: Starts a vessel: the broker's URL, and settings.
StartVessel = Callable[..., Vessel]


class VesselProcess(Started):
    """A Vessel in a process of its own, to be killed."""

    def __init__(self, database_url: str, log_path: Path, **settings: Any) -> None:
        words = [f"{name}={value}" for name, value in settings.items()]
        argv = [sys.executable, "-m", "tests.support.vessel", database_url, *words]
        with log_path.open("ab") as log:
            self.child = Child("vessel", argv, env=clean_environment(), cwd=ROOT, output=log)

    def kill(self) -> None:
        """SIGKILL it."""
        self.child.kill()

    def close(self) -> None:
        self.kill()


def main() -> None:
    """Run until killed: DATABASE_URL NAME=VALUE..."""
    database_url, *words = sys.argv[1:]
    settings = dict(word.split("=", 1) for word in words)
    Vessel(database_url, **settings).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
