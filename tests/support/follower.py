"""Followers for the tests: in this process or in one to kill; and a vessel that says what a test makes it say."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import orjson
import paho.mqtt.client as paho
from flask import Flask
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from arus.follower import Follower, FollowerStatus, Patience
from arus.protocol.topics import TopicTree
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.lifecycle import Started
from tests.support.ship_model import ShipModel
from tests.support.waiting import eventually
from tools.processes import Child

#: Quick enough for a test that wants something asked again.
QUICK = Patience(answer=2.0, failure=0.2, progress=3.0, grace=0.5)


class FollowerThread(Started):
    """A follower in a thread of this process."""

    def __init__(
        self,
        app: Flask,
        name: str = "shore",
        patience: Patience = QUICK,
        *,
        partitions: int | None = None,
    ) -> None:
        self.app = app
        self.follower = Follower(app, name, patience=patience, partitions=partitions)
        self._thread = threading.Thread(target=self.follower.run, daemon=True)

    def status(self) -> FollowerStatus:
        return self.follower.status()

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self.follower.stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the follower has not stopped"

    def query(self, statement: str, **arguments: Any) -> list[Any]:
        """Rows of its database."""
        with self.app.app_context(), self._engine().connect() as connection:
            return list(connection.execute(text(statement), arguments))

    def write(self, statement: str) -> None:
        """Change its database behind its back."""
        with self.app.app_context(), self._engine().begin() as connection:
            connection.execute(text(statement))

    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All rows as their schemas tell them, by topic and id."""
        with self.app.app_context(), OrmSession(self._engine()) as session:
            return {
                (registration.topic, row.id): orjson.loads(registration.serialise(row))
                for registration in self.app.extensions["arus"].registry
                for row in session.scalars(select(registration.model))
            }

    def _engine(self) -> Any:
        return self.app.extensions["sqlalchemy"].engine

    def wait_equal(self, *vessels: ScriptedVessel, timeout: float = 120) -> None:
        """Return once it holds what the vessels hold, and says so."""

        def equal() -> bool:
            expected = {
                (topic, row_id): _filled(row)
                for vessel in vessels
                for (topic, row_id), row in vessel.rows.items()
            }
            found = {key: _filled(row) for key, row in self.rows().items()}
            assert set(found) == set(expected)
            assert found == expected
            status = self.status()
            assert status.up_to_date, status
            assert {v.vessel_id: v.seq for v in status.vessels} == {
                v.vessel_id: v.seq for v in vessels
            }
            return True

        eventually(equal, timeout, message="the follower holds what the vessel holds")

    def wait_seq(self, seq: int, timeout: float = 120) -> None:
        """Return once everything up to `seq` is applied."""

        def reached() -> bool:
            vessels = self.status().vessels
            assert vessels, "no vessel"
            assert all(vessel.seq >= seq for vessel in vessels), vessels
            return True

        eventually(reached, timeout, message=f"the follower is at {seq}")

    def close(self) -> None:
        self.stop()


class FollowerProcess(Started):
    """`flask sync follow` in a process of its own, to be killed."""

    def __init__(
        self, log_path: Path, settings: Mapping[str, str], *options: str, name: str = "shore"
    ) -> None:
        argv = [str(Path(sys.executable).with_name("flask")), "--app", "wsgi"]
        argv += ["sync", "follow", "--name", name, *options]
        environment = clean_environment(
            **{"SECRET_KEY": "for-tests-only-and-long-enough", "LOCAL_MODE": "false", **settings}
        )
        with log_path.open("ab") as log:
            self.child = Child("follower", argv, env=environment, cwd=ROOT, output=log)

    def kill(self) -> None:
        """SIGKILL it."""
        self.child.kill()

    def stop(self) -> int:
        """End it in good order; its exit code."""
        return self.child.stop(20)

    def close(self) -> None:
        self.kill()


class ScriptedVessel(ShipModel, Started):
    """Publishes what a vessel would, and loses what a test wants lost."""

    def __init__(
        self,
        port: int,
        vessel_id: str = "ship-1",
        prefix: str = "vessel/sync",  # MQTT_TOPIC_PREFIX
        *,
        answers: bool = True,
    ) -> None:
        super().__init__(vessel_id)
        #: Requests that have come.
        self.requests: list[dict[str, Any]] = []
        self.digest_requests: list[dict[str, Any]] = []
        #: What the watermarks topics have brought.
        self.watermarks: list[dict[str, Any]] = []
        self.answers = answers
        #: Whether a requested digest is published.
        self.describes = False
        #: Changes the messages of a catch-up of one entity before they go: returns what to publish.
        self.distort: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda items: items
        self._prefix = TopicTree(prefix).prefix_of(vessel_id)
        self._port = port
        self._changed = threading.Condition()
        self._lock = threading.RLock()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, f"scripted-{vessel_id}", protocol=paho.MQTTv5
        )
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._subscribed = threading.Event()
        self._client.max_inflight_messages_set(1000)
        self._client.reconnect_delay_set(1, 1)

    def change(
        self,
        topic: str,
        row: dict[str, Any] | None = None,
        *,
        operation: str | None = None,
        row_id: str | None = None,
        lost: bool = False,
        retain: bool = True,
    ) -> dict[str, Any]:
        """Change a row and publish that, unless it gets `lost`; return the message."""
        with self._lock:
            message = self.log_change(topic, row or {}, operation, row_id)
        if not lost:
            self.publish(topic, message, retain=retain)
        return message

    def status(self, *, online: bool = True, pending: int = 0) -> None:
        """Publish the status."""
        with self._lock:
            document = self.status_document(online=online, pending=pending)
        self.publish("system/status", document)

    def answer(self, request: Mapping[str, Any]) -> None:
        """Answer a request as the protocol says."""
        with self._lock:
            answers = self.answers_to(request)
        for topic, messages in answers:
            for message in self.distort(messages):
                self.publish(f"catchup/{topic}", message, retain=False)

    def publish(self, topic: str, document: Any, *, retain: bool = True) -> None:
        """Publish under the prefix; returns when the broker has it."""
        payload = document if isinstance(document, bytes) else orjson.dumps(document)
        # the client's own thread, which answers requests, would wait for what it does itself
        waits = threading.current_thread() is not self._client._thread
        if waits:
            eventually(self._client.is_connected, 40, message="the scripted vessel is connected")
        info = self._client.publish(f"{self._prefix}/{topic}", payload, qos=1, retain=retain)
        if waits:
            info.wait_for_publish(20)

    def wait_request(self, count: int = 1, timeout: float = 120) -> dict[str, Any]:
        """The request number `count`, once it has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, timeout), (
                f"{len(self.requests)} requests, wanted {count}"
            )
            return self.requests[count - 1]

    def wait_watermark(
        self, predicate: Callable[[dict[str, Any]], bool], timeout: float = 120
    ) -> dict[str, Any]:
        """The first watermark for which `predicate` holds."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(predicate, self.watermarks)), timeout), (
                f"the last watermarks are {self.watermarks[-3:]}"
            )
            return next(filter(predicate, self.watermarks))

    def start(self) -> Self:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0xFFFFFFFF
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=properties)
        self._client.loop_start()
        assert self._subscribed.wait(20), "the scripted vessel is not subscribed"
        return self

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def close(self) -> None:
        self.stop()

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(
            [(f"{self._prefix}/catchup_requests", 1), (f"{self._prefix}/watermarks/+", 1)]
        )

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed.set()

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        document = orjson.loads(message.payload)
        if document.get("vesselId") not in {None, self.vessel_id}:
            return
        kind = self.watermarks if "/watermarks/" in message.topic else self.requests
        if document.get("mode") == "digest":
            kind = self.digest_requests
        with self._changed:
            kind.append(document)
            self._changed.notify_all()
        if kind is self.digest_requests and self.describes:
            with self._lock:
                digest = self.digest_document()
            self.publish("system/digest", digest)
        if kind is self.requests and self.answers:
            try:
                self.answer(document)
            except Exception:
                logging.getLogger(__name__).exception("the scripted vessel could not answer")


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}
