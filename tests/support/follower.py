"""Followers for the tests: in this process or in one to kill; and a vessel that says what a test makes it say."""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import paho.mqtt.client as paho
from flask import Flask
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from arus.follower import Follower, FollowerStatus, Patience
from arus.follower.position import chained, link_of
from arus.message import iso, now_ms
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.waiting import eventually
from tools.processes import Child

#: Quick enough for a test that wants something asked again.
QUICK = Patience(answer=2.0, failure=0.2, progress=3.0, grace=0.5)

ENTITIES = {
    "equipment": "equipment",
    "crew": "crew",
    "work_orders": "work_orders",
    "alerts": "alerts",
    "maintenance": "maintenance_schedules",
}


class FollowerThread:
    """A follower in a thread of this process."""

    def __init__(self, app: Flask, name: str = "shore", patience: Patience = QUICK) -> None:
        self.app = app
        self.follower = Follower(app, name, patience=patience)
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

    def wait_equal(self, *vessels: ScriptedVessel, timeout: float = 40) -> None:
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

    def wait_seq(self, seq: int, timeout: float = 40) -> None:
        """Return once everything up to `seq` is applied."""

        def reached() -> bool:
            vessels = self.status().vessels
            assert vessels, "no vessel"
            assert all(vessel.seq >= seq for vessel in vessels), vessels
            return True

        eventually(reached, timeout, message=f"the follower is at {seq}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class FollowerProcess:
    """`flask sync follow` in a process of its own, to be killed."""

    def __init__(self, log_path: Path, settings: Mapping[str, str], name: str = "shore") -> None:
        argv = [str(Path(sys.executable).with_name("flask")), "--app", "wsgi"]
        argv += ["sync", "follow", "--name", name]
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class ScriptedVessel:
    """Publishes what a vessel would, and loses what a test wants lost.

    It keeps its rows and its log as a vessel does, so that it can answer for them.
    """

    def __init__(
        self,
        port: int,
        vessel_id: str = "ship-1",
        prefix: str = "vessel/sync",
        *,
        answers: bool = True,
    ) -> None:
        self.vessel_id = vessel_id
        self.epoch = str(uuid.uuid4())
        self.seq = 0
        self.heads: dict[str, int] = {}
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        #: Each change as it is published, by number.
        self.log: list[dict[str, Any]] = []
        #: Requests that have come.
        self.requests: list[dict[str, Any]] = []
        #: What the watermarks topics have brought.
        self.watermarks: list[dict[str, Any]] = []
        self.answers = answers
        #: Changes a catch-up's items and end before they go: returns what to publish.
        self.distort: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda items: items
        self._prefix = prefix
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

    # -- what it does -----------------------------------------------------------------------------

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
            message = self._log_change(topic, row or {}, operation, row_id)
        if not lost:
            self.publish(topic, message, retain=retain)
        return message

    def _log_change(
        self, topic: str, row: dict[str, Any], operation: str | None, row_id: str | None
    ) -> dict[str, Any]:
        entity = ENTITIES[topic]
        row_id = row_id or row.get("id") or str(uuid.uuid4())
        key = (topic, row_id)
        old = self.rows.get(key)
        operation = operation or ("update" if old else "create")
        at = iso(now_ms())
        if operation == "delete":
            assert old is not None
            data = self.rows.pop(key)
            version = data["version"] + 1
        else:
            base = old or {**DEFAULTS[topic], "id": row_id, "version": 0, "createdAt": at}
            data = {**base, **row, "id": row_id, "version": base["version"] + 1, "updatedAt": at}
            self.rows[key] = data
            version = data["version"]
        self.seq += 1
        message = {
            "type": "data_change", "entity": entity, "operation": operation, "data": data,
            "timestamp": at, "messageId": f"{now_ms()}_{uuid.uuid4().hex[:9]}",
            "vesselId": self.vessel_id, "epoch": self.epoch, "seq": self.seq,
            "previousSeq": self.heads.get(topic, 0), "version": version,
        }  # fmt: skip
        self.heads[topic] = self.seq
        self.log.append(message)
        return message

    def restore(self) -> None:
        """Begin a new epoch, as after a restore from an older copy."""
        with self._lock:
            self.epoch = str(uuid.uuid4())
            self.log.clear()

    def status(self, *, online: bool = True, pending: int = 0) -> None:
        """Publish the status."""
        self.publish(
            "system/status",
            {
                "status": "online" if online else "offline", "vesselId": self.vessel_id,
                "timestamp": iso(now_ms()), "generation": 1, "epoch": self.epoch, "seq": self.seq,
                "topics": self.heads, "pending": pending,
            },
        )  # fmt: skip

    def publish(self, topic: str, document: Any, *, retain: bool = True) -> None:
        """Publish under the prefix; returns when the broker has it."""
        payload = document if isinstance(document, bytes) else orjson.dumps(document)
        info = self._client.publish(f"{self._prefix}/{topic}", payload, qos=1, retain=retain)
        if threading.current_thread() is not self._client._thread:
            info.wait_for_publish(20)

    # -- catch-ups --------------------------------------------------------------------------------

    def answer(self, request: Mapping[str, Any]) -> None:
        """Answer a request as the protocol says."""
        wanted = request.get("entity")
        for topic, entity in ENTITIES.items():
            if wanted in {"all", entity}:
                self._answer_one(topic, entity, request)

    def _answer_one(self, topic: str, entity: str, request: Mapping[str, Any]) -> None:
        with self._lock:
            since = request.get("sinceSeq")
            catchup = {
                "catchupId": str(uuid.uuid4()), "requestId": request.get("requestId"),
                "vesselId": self.vessel_id, "entity": entity, "epoch": self.epoch,
            }  # fmt: skip
            mode = "log"
            if since is not None and request.get("epoch") != self.epoch:
                mode = "must_refetch"
            elif request.get("mode") == "snapshot" or since is None:
                mode = "snapshot"
            items = self._items(topic, mode, since, request.get("buckets"))
            high = self.seq
        begin = {
            **catchup, "type": "catchup_begin", "mode": mode, "highSeq": high, "total": len(items),
            "sinceSeq": since if mode == "log" else None, "buckets": request.get("buckets"),
            "complete": mode == "snapshot" and request.get("buckets") is None,
            "timestamp": iso(now_ms()),
        }  # fmt: skip
        digest = ""
        messages: list[dict[str, Any]] = [begin]
        for sequence, item in enumerate(items):
            link = link_of(entity, item["data"]["id"], item["version"], item["operation"])
            digest = chained(digest, link)
            numbered = {
                "catchupId": catchup["catchupId"],
                "sequence": sequence,
                "total": len(items),
            }
            messages.append({**item, "type": "catchup", **numbered})
        messages.append(
            {
                **catchup, "type": "catchup_end", "mode": mode, "total": len(items),
                "highSeq": high, "digest": digest, "next": None, "timestamp": iso(now_ms()),
            }
        )  # fmt: skip
        for message in self.distort(messages):
            self.publish(f"catchup/{topic}", message, retain=False)

    def _items(
        self, topic: str, mode: str, since: int | None, buckets: Iterable[int] | None
    ) -> list[dict[str, Any]]:
        if mode == "must_refetch":
            return []
        entity = ENTITIES[topic]
        if mode == "log":
            return [m for m in self.log if m["entity"] == entity and m["seq"] > (since or 0)]
        wanted = None if buckets is None else set(buckets)
        return [
            {
                "entity": entity, "operation": "create" if data["version"] == 1 else "update",
                "data": data, "timestamp": data["updatedAt"], "messageId": f"snapshot_{row_id}",
                "vesselId": self.vessel_id, "epoch": self.epoch, "seq": self.seq,
                "previousSeq": 0, "version": data["version"],
            }
            for (of, row_id), data in sorted(self.rows.items())
            if of == topic and (wanted is None or _bucket(row_id) in wanted)
        ]  # fmt: skip

    # -- connection -------------------------------------------------------------------------------

    def wait_request(self, count: int = 1, timeout: float = 40) -> dict[str, Any]:
        """The request number `count`, once it has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, timeout), (
                f"{len(self.requests)} requests, wanted {count}"
            )
            return self.requests[count - 1]

    def wait_watermark(
        self, predicate: Callable[[dict[str, Any]], bool], timeout: float = 40
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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        with self._changed:
            kind.append(document)
            self._changed.notify_all()
        if kind is self.requests and self.answers:
            try:
                self.answer(document)
            except Exception:
                logging.getLogger(__name__).exception("the scripted vessel could not answer")


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _bucket(row_id: str) -> int:
    return hashlib.sha256(row_id.encode()).digest()[0] >> 2


DEFAULTS: dict[str, dict[str, Any]] = {
    "equipment": {"name": "Fire pump", "type": "pump", "isActive": True, "specifications": None},
    "crew": {"name": "A. Borg", "active": True, "onDuty": False},
    "work_orders": {
        "woNumber": "WO-2026-0001", "reason": "It leaks", "status": "open", "priority": 3,
        "equipmentId": "00000000-0000-4000-8000-000000000001",
    },
    "alerts": {
        "equipmentId": "00000000-0000-4000-8000-000000000001", "sensorType": "temperature",
        "alertType": "warning", "message": "Hot", "value": 91.5, "threshold": 90.0,
        "acknowledged": False,
    },
    "maintenance": {
        "equipmentId": "00000000-0000-4000-8000-000000000001", "priority": 3,
        "scheduledDate": "2026-12-01T08:00:00.000Z", "maintenanceType": "inspection",
        "status": "scheduled",
    },
}  # fmt: skip
