"""A vessel of the simulated fleet: its application, its rows, and what it is told to do."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any
from uuid import uuid4

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from blueprints.alerts.models import Alert
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db, sync
from tests.fleet.ship_app import make_app

#: What a change is made on: entity and row, and the time of its commit (seconds since the epoch).
Commit = tuple[str, str, float]

#: Rows in one transaction when a table is filled.
FILL = 500


class Vessel:
    """An application with its own database, relay and connection to the broker.

    The rows that it was filled with stay as they are for ever; only rows that were written later change.
    """

    def __init__(self, vessel_id: str, database: str, settings: dict[str, str]) -> None:
        self.vessel_id = vessel_id
        self.app = make_app(
            f"sqlite:///{database}", LOCAL_MODE="true", VESSEL_ID=vessel_id, **settings
        )
        self._random = random.Random(vessel_id)
        # Two threads write: the one that takes commands, and the one that writes at even intervals.
        self._lock = threading.Lock()
        #: The piece of equipment that alerts and work orders refer to.
        self._main: str | None = None
        #: Rows that may be changed or deleted again.
        self._loose: list[tuple[type[Any], str]] = []

    def start(self) -> None:
        """Relay."""
        sync.start(self.app)

    def stop(self) -> None:
        """End in good order."""
        sync.stop(self.app)

    def close(self) -> None:
        """End, and let go of the database's file."""
        self.stop()
        with self.app.app_context():
            db.session.remove()
            db.engine.dispose()

    def deface(self, count: int) -> None:
        """Change rows that are meant to stay as they are: this vessel is a copy of another."""
        with self.app.app_context():
            for row in db.session.scalars(select(Equipment).limit(count)):
                row.location = "defaced"
            db.session.commit()
            db.session.remove()

    def fill(self, rows: int) -> None:
        """Create rows that nobody changes."""
        with self.app.app_context():
            for begin in range(0, rows, FILL):
                db.session.add_all(
                    Equipment(
                        name=f"{self.vessel_id}: pump {begin + each}",
                        type="pump",
                        manufacturer="Allweiler",
                        location="Engine room, deck 2",
                        specifications={"powerKw": 55, "stages": [1, 2, 3]},
                    )
                    for each in range(min(FILL, rows - begin))
                )
                db.session.commit()
                db.session.remove()

    def write(self, count: int = 1) -> list[Commit]:
        """Commit changes, one a transaction: creates, updates and deletes of three entities."""
        with self._lock, self.app.app_context():
            return [self._write() for _ in range(count)]

    def create(self, count: int, transaction: int = 1) -> list[Commit]:
        """Create rows that are never changed again, so that each one's arrival can be timed."""
        made: list[Commit] = []
        with self.app.app_context():
            for begin in range(0, count, transaction):
                rows = [self._equipment() for _ in range(min(transaction, count - begin))]
                self._commit(*rows)
                now = time.time()
                made += [("equipment", row.id, now) for row in rows]
        return made

    def _write(self) -> Commit:
        if self._main is None:
            main = self._equipment()
            self._main = main.id
            return self._commit(main)
        dice = self._random.random()
        if dice < 0.45 or not self._loose:
            return self._commit(self._new())
        kind, row_id = self._random.choice(self._loose)
        row = db.session.get(kind, row_id)
        assert row is not None, f"{self.vessel_id} has lost {kind.__tablename__} {row_id}"
        if dice < 0.55:
            self._loose.remove((kind, row_id))
            db.session.delete(row)
        elif isinstance(row, Alert):
            row.acknowledged = not row.acknowledged
        elif isinstance(row, WorkOrder):
            row.priority = row.priority % 5 + 1
        else:
            row.location = f"deck {uuid4().hex[:6]}"
        return self._commit(row, fresh=False)

    def _new(self) -> Any:
        match self._random.choice(("equipment", "alerts", "work_orders")):
            case "alerts":
                row: Any = Alert(
                    id=str(uuid4()),
                    equipment_id=self._main,
                    sensor_type="temperature",
                    alert_type="critical",
                    message="Exhaust gas, cylinder 4: high",
                    value=self._random.uniform(400, 500),
                    threshold=400.0,
                )
            case "work_orders":
                row = WorkOrder(
                    id=str(uuid4()),
                    wo_number=f"WO-2026-{self._random.randint(1, 9999):04}",
                    equipment_id=self._main,
                    reason="It leaks",
                    description="Found at the daily round. " * 4,
                )
            case _:
                row = self._equipment()
        self._loose.append((type(row), row.id))
        return row

    def _equipment(self) -> Equipment:
        return Equipment(
            id=str(uuid4()),
            name=f"{self.vessel_id}: pump {self._random.randint(1, 9999)}",
            type="pump",
            location="Engine room",
        )

    def _commit(self, *rows: Any, fresh: bool = True) -> Commit:
        row = rows[0]
        what = (row.__tablename__, row.id)
        if fresh:
            db.session.add_all(rows)
        db.session.commit()
        now = time.time()
        db.session.remove()
        return *what, now

    def tables(self) -> dict[str, Any]:
        """All rows as their schemas tell them, by topic and id with a slash between."""
        with self.app.app_context(), OrmSession(db.engine) as session:
            return rows_of(self.app, session)

    def state(self) -> dict[str, Any]:
        """How far it is."""
        with self.app.app_context():
            runtime = sync.runtime(self.app)
            status = runtime.status()
            return {
                "epoch": status.epoch,
                "seq": status.head_seq,
                "depth": status.depth,
                "connected": status.connected,
                "followers": {one.name: one.document() for one in runtime.followers()},
            }

    def audit(self) -> None:
        """Publish a digest, as `flask sync audit` asks for."""
        with self.app.app_context():
            sync.runtime(self.app).catchups.request({"mode": "digest"}, origin="cli")


def rows_of(app: Any, session: OrmSession) -> dict[str, Any]:
    """All rows of the registered tables as their schemas tell them."""
    return {
        f"{registration.topic}/{row.id}": orjson.loads(registration.serialise(row))
        for registration in app.extensions["arus"].registry
        for row in session.scalars(select(registration.model))
    }


def show_log() -> None:
    """Write what the sync says to the standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
