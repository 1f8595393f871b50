"""A vessel's rows, log and answers as the protocol tells them, without any broker or database."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from arus.protocol.digests import SetDigest, row_hash
from arus.protocol.times import iso, now_ms

ENTITIES = {
    "equipment": "equipment",
    "crew": "crew",
    "work_orders": "work_orders",
    "alerts": "alerts",
    "maintenance": "maintenance_schedules",
}


class ShipModel:
    """What a vessel has and says."""

    def __init__(self, vessel_id: str = "ship-1") -> None:
        self.vessel_id = vessel_id
        self.epoch = str(uuid.uuid4())
        #: The last number that was given out.
        self.seq = 0
        #: The last number of each topic.
        self.heads: dict[str, int] = {}
        #: Rows by topic and id.
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        #: Each change as it is published, in order.
        self.log: list[dict[str, Any]] = []
        #: Changes that were dropped from a full queue and not repaired yet.
        self.dropped: list[dict[str, Any]] = []
        #: The log reaches back to here.
        self.pruned = 0

    def log_change(
        self,
        topic: str,
        row: Mapping[str, Any],
        operation: str | None = None,
        row_id: str | None = None,
    ) -> dict[str, Any]:
        """Change a row; return the message."""
        row_id = row_id or row.get("id") or str(uuid.uuid4())
        key = (topic, row_id)
        old = self.rows.get(key)
        operation = operation or ("update" if old else "create")
        at = iso(now_ms())
        if operation == "delete":
            data = self.rows.pop(key)
            version = data["version"] + 1
        else:
            base = old or {**DEFAULTS[topic], "version": 0, "createdAt": at}
            version = base["version"] + 1
            data = {**base, **row, "id": row_id, "version": version, "updatedAt": at}
            self.rows[key] = data
        self.seq += 1
        message = {
            "type": "data_change", "entity": ENTITIES[topic], "operation": operation, "data": data,
            "timestamp": at, "messageId": f"{now_ms()}_{uuid.uuid4().hex[:9]}",
            "vesselId": self.vessel_id, "epoch": self.epoch, "seq": self.seq,
            "previousSeq": self.heads.get(topic, 0), "version": version,
        }  # fmt: skip
        self.heads[topic] = self.seq
        self.log.append(message)
        return message

    def restore(self) -> None:
        """Begin a new epoch, as after a restore from an older copy."""
        self.epoch = str(uuid.uuid4())
        self.log.clear()
        self.dropped.clear()
        self.pruned = self.seq

    def prune(self) -> None:
        """Forget the log: it is past its retention."""
        self.log.clear()
        self.pruned = self.seq

    def drop(self, *messages: dict[str, Any]) -> None:
        """Note that changes were dropped from a full queue: only a repair tells of them."""
        self.dropped += messages

    def repairs(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """The repairs of what was dropped: topics, each with its messages; they are announced until then."""
        answers = []
        for topic, entity in ENTITIES.items():
            dropped = [m for m in self.dropped if m["entity"] == entity]
            if not dropped:
                continue
            covers: list[list[int]] = []
            for m in sorted(dropped, key=lambda one: int(one["seq"])):
                if covers and covers[-1][1] == m["previousSeq"]:
                    covers[-1][1] = m["seq"]
                else:
                    covers.append([m["previousSeq"], m["seq"]])
            last = {m["data"]["id"]: m for m in self.log if m["entity"] == entity}
            items = [m for m in dropped if last.get(m["data"]["id"]) is m]
            begin, *rest = _messages(
                items,
                {
                    "catchupId": str(uuid.uuid4()), "requestId": None, "vesselId": self.vessel_id,
                    "entity": entity, "epoch": self.epoch, "mode": "log", "highSeq": self.seq,
                    "total": len(items), "timestamp": iso(now_ms()),
                },
                {"sinceSeq": None, "complete": False, "buckets": None, "covers": covers},
            )  # fmt: skip
            answers.append((topic, [begin, *rest]))
        self.dropped.clear()
        return answers

    def status_document(self, *, online: bool = True, pending: int = 0) -> dict[str, Any]:
        """The status."""
        return {
            "status": "online" if online else "offline", "vesselId": self.vessel_id,
            "timestamp": iso(now_ms()), "generation": 1, "epoch": self.epoch, "seq": self.seq,
            "topics": dict(self.heads), "pending": pending, "complete": not self.pruned if online else None,
            "repairs": {
                topic: min(m["previousSeq"] for m in dropped)
                for topic, entity in ENTITIES.items()
                if (dropped := [m for m in self.dropped if m["entity"] == entity])
            },
        }  # fmt: skip

    def digest_document(self, fields: frozenset[str] | None = None) -> dict[str, Any]:
        """The digest of the rows as they are, over all their fields or some."""
        sets = {topic: SetDigest() for topic in ENTITIES}
        for (topic, row_id), data in self.rows.items():
            sets[topic].add(row_id, data["version"], row_hash(data, fields))
        entities = {
            entity: {
                "topic": topic, "lastSeq": self.heads.get(topic, 0), "count": sets[topic].count,
                "digest": sets[topic].digest, "buckets": sets[topic].buckets,
            }
            for topic, entity in ENTITIES.items()
        }  # fmt: skip
        return {
            "type": "digest", "vesselId": self.vessel_id, "epoch": self.epoch, "seq": self.seq,
            "timestamp": iso(now_ms()), "entities": entities,
        }  # fmt: skip

    def answers_to(self, request: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
        """The answer to a request: topics, each with its messages."""
        wanted = request.get("entity")
        return [
            (topic, self._answer(topic, entity, request))
            for topic, entity in ENTITIES.items()
            if wanted in {"all", entity}
        ]

    def _answer(self, topic: str, entity: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        since, buckets = request.get("sinceSeq"), request.get("buckets")
        mode = "log"
        if since is not None and request.get("epoch") != self.epoch:
            mode = "must_refetch"
        elif request.get("mode") == "snapshot" or since is None or since < self.pruned:
            mode = "snapshot"
        found = self._items(topic, mode, since, buckets)
        limit = request.get("limit", 100)
        items = found if limit is None else found[:limit]
        catchup = {
            "catchupId": str(uuid.uuid4()), "requestId": request.get("requestId"),
            "vesselId": self.vessel_id, "entity": entity, "epoch": self.epoch, "mode": mode,
            "highSeq": self.seq, "total": len(items), "timestamp": iso(now_ms()),
        }  # fmt: skip
        about = {
            "sinceSeq": since if mode == "log" else None,
            "complete": mode == "snapshot" and buckets is None, "buckets": buckets,
        }  # fmt: skip
        return _messages(items, catchup, about, "more" if len(items) < len(found) else None)

    def _items(
        self, topic: str, mode: str, since: int | None, buckets: Iterable[int] | None
    ) -> list[dict[str, Any]]:
        entity = ENTITIES[topic]
        if mode == "must_refetch":
            return []
        if mode == "log":
            return [m for m in self.log if m["entity"] == entity and m["seq"] > (since or 0)]
        wanted = None if buckets is None else set(buckets)
        rows = [
            {
                "entity": entity, "operation": "create" if data["version"] == 1 else "update",
                "data": data, "timestamp": data["updatedAt"], "messageId": f"snapshot_{row_id}",
                "vesselId": self.vessel_id, "epoch": self.epoch, "seq": self.seq,
                "previousSeq": 0, "version": data["version"],
            }
            for (of, row_id), data in sorted(self.rows.items())
            if of == topic and (wanted is None or bucket(row_id) in wanted)
        ]  # fmt: skip
        deleted = [
            m for m in self.log
            if m["entity"] == entity and m["operation"] == "delete"
            and (wanted is None or bucket(m["data"]["id"]) in wanted)
        ]  # fmt: skip
        return rows + deleted


def _messages(
    items: list[dict[str, Any]],
    catchup: dict[str, Any],
    about: dict[str, Any],
    more: str | None = None,
) -> list[dict[str, Any]]:
    """The messages of a catch-up.

    :param more: the cursor where its limit has stopped it.
    """
    digest = ""
    messages = []
    for sequence, item in enumerate(items):
        link = f"{item['entity']}/{item['data']['id']}/{item['version']}/{item['operation']}"
        digest = hashlib.sha256(f"{digest}{link}".encode()).hexdigest()
        place = {"catchupId": catchup["catchupId"], "sequence": sequence, "total": len(items)}
        messages.append({**item, "type": "catchup", **place})
    begin = {**catchup, **about, "type": "catchup_begin"}
    end = {**catchup, "type": "catchup_end", "digest": digest, "next": more}
    return [begin, *messages, end]


def bucket(row_id: str) -> int:
    """The bucket of a row."""
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
