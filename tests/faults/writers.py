"""The crew at work: writes over HTTP, and a record of what the vessel has promised."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.gunicorn_app import GunicornApp
from tests.support.http import Answer

#: Seconds for an answer: less than the database may be locked for, so that some writes stay in doubt.
PATIENCE = 6.0
#: Seconds after the end of the faults within which a POST under its Idempotency-Key must succeed.
SETTLE = 60.0

#: What the database's trouble may look like from outside; anything else that is no 2xx is a fault.
_TROUBLE = {503}


@dataclass(frozen=True, slots=True)
class Obligation:
    """A 2xx: this change is committed, and must arrive."""

    entity: str
    row_id: str
    version: int
    operation: str
    #: None where the 2xx was the answer to a repeated POST
    message_id: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """A write without a 2xx: it may have been committed, or not, or still be on its way."""

    entity: str
    row_id: str
    #: what the row was before
    version: int
    operation: str
    #: the status, or None where the connection ended
    status: int | None
    at: float


@dataclass(slots=True)
class _Row:
    entity: str
    row_id: str
    version: int


class Ledger:
    """What all writers have been promised."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.obligations: list[Obligation] = []
        self.doubts: list[Doubt] = []
        #: answers that nobody should ever get
        self.surprises: list[str] = []

    def promised(self, obligation: Obligation) -> None:
        """Note a 2xx."""
        with self._lock:
            self.obligations.append(obligation)

    def doubted(self, doubt: Doubt) -> None:
        """Note the lack of one."""
        with self._lock:
            self.doubts.append(doubt)

    def surprised(self, what: str) -> None:
        """Note an answer that nobody should ever get."""
        with self._lock:
            self.surprises.append(what)


class Writer(threading.Thread):
    """Creates, changes and deletes rows of all five resources, three in ten of them alerts.

    It never touches a row again whose last write is in doubt: the database and the wire are
    compared at the end.
    """

    def __init__(self, number: int, seed: int, app: GunicornApp, ledger: Ledger) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self._number = number
        self._random = random.Random(f"{seed}-writer-{number}")
        self._app = app
        self._ledger = ledger
        self._stopping = threading.Event()
        self._stopped_at = float("inf")
        self._rows: list[_Row] = []
        self._equipment_id = ""
        self._count = 0

    def stop(self) -> None:
        """Ask it to end; a POST under way is still brought to its end."""
        self._stopped_at = time.monotonic()
        self._stopping.set()

    def run(self) -> None:
        """Write until stopped."""
        self._equipment_id = self._post("equipment", keep=False) or ""
        burst_until = 0.0
        while not self._stopping.is_set():
            self._one()
            now = time.monotonic()
            if now <= burst_until:
                continue  # a burst that prolonged itself would fill the disk on a fast machine
            if self._random.random() < 0.02:
                burst_until = now + 1
            else:
                self._stopping.wait(self._random.uniform(0, 0.12))

    def _one(self) -> None:
        act = self._random.random()
        if act < 0.55 or not self._rows:
            entity = self._random.choices(
                ["alerts", "work_orders", "equipment", "crew", "maintenance_schedules"],
                [30, 35, 8, 7, 20],
            )[0]
            self._post(entity)
        elif act < 0.9:
            self._patch(self._take())
        else:
            self._remove(self._take())

    def _take(self) -> _Row:
        return self._rows.pop(self._random.randrange(len(self._rows)))

    # -- the three kinds of write -----------------------------------------------------------------

    def _post(self, entity: str, *, keep: bool = True) -> str | None:
        self._count += 1
        path, body = f"/api/{entity.replace('_', '-')}", self._body(entity)
        key = f"{self._number}-{self._count}-{self._random.getrandbits(32)}"
        while True:
            answer = self._ask("POST", path, body, {"Idempotency-Key": key})
            if answer is not None and answer.status in {200, 201}:
                break
            if answer is not None and answer.status not in _TROUBLE:
                self._ledger.surprised(f"POST {path}: {answer.status} {answer.text[:300]}")
                return None
            if time.monotonic() > self._stopped_at + SETTLE:
                self._ledger.surprised(f"POST {path}: no 2xx within {SETTLE} s of the faults' end")
                return None
            time.sleep(0.2)
        row = answer.json
        replayed = answer.headers.get("Idempotency-Replayed") is not None
        message_id = answer.headers.get("Sync-Message-Id")
        if message_id is None and not replayed:
            self._ledger.surprised(f"POST {path}: no Sync-Message-Id")
        self._ledger.promised(
            Obligation(entity, row["id"], row["version"], "create", message_id, time.monotonic())
        )
        if keep:
            self._rows.append(_Row(entity, row["id"], row["version"]))
        return str(row["id"])

    def _patch(self, row: _Row) -> None:
        self._count += 1
        path = f"/api/{row.entity.replace('_', '-')}/{row.row_id}"
        text: Any = f"{self._number}/{self._count} " + "x" * self._random.choice([0, 20, 400])
        field = {
            "alerts": "message",
            "work_orders": "reason",
            "equipment": "specifications",
            "crew": "notes",
            "maintenance_schedules": "description",
        }[row.entity]
        if field == "specifications":
            text = {"note": text}
        answer = self._ask("PATCH", path, {field: text}, {})
        if self._kept(answer, row, "update", 200):
            assert answer is not None
            row.version = answer.json["version"]
            self._rows.append(row)

    def _remove(self, row: _Row) -> None:
        answer = self._ask("DELETE", f"/api/{row.entity.replace('_', '-')}/{row.row_id}", None, {})
        self._kept(answer, row, "delete", 204)

    def _kept(self, answer: Answer | None, row: _Row, operation: str, success: int) -> bool:
        """Note the answer; whether it was a promise."""
        if answer is None or answer.status != success:
            status = None if answer is None else answer.status
            self._ledger.doubted(
                Doubt(row.entity, row.row_id, row.version, operation, status, time.monotonic())
            )
            if answer is not None and answer.status not in _TROUBLE:
                self._ledger.surprised(f"{operation} {row}: {answer.status} {answer.text[:300]}")
            return False
        message_id = answer.headers.get("Sync-Message-Id")
        if message_id is None:
            self._ledger.surprised(f"{operation} {row}: no Sync-Message-Id")
        self._ledger.promised(
            Obligation(
                row.entity, row.row_id, row.version + 1, operation, message_id, time.monotonic()
            )
        )
        return True

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer | None:
        try:
            return self._app.request(method, path, body, headers, PATIENCE)
        except OSError:
            return None

    def _body(self, entity: str) -> dict[str, Any]:
        name = f"{entity} {self._number}/{self._count}"
        bodies: dict[str, Callable[[], dict[str, Any]]] = {
            "alerts": lambda: {
                "equipmentId": self._equipment_id,
                "sensorType": "temperature",
                "alertType": "critical",
                "message": name,
                "value": 91.5,
                "threshold": 90,
            },
            "work_orders": lambda: {"equipmentId": self._equipment_id, "reason": name},
            "equipment": lambda: {"name": name, "type": "pump"},
            "crew": lambda: {"name": name, "rank": "Oiler"},
            "maintenance_schedules": lambda: {
                "equipmentId": self._equipment_id,
                "scheduledDate": "2026-12-01T08:00:00.000Z",
                "maintenanceType": "inspection",
            },
        }
        return bodies[entity]()
