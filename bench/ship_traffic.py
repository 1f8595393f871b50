"""A ship's changes as they are: rows of all kinds, of which most are updated; each text and number is different."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app import create_app
from bench.backlog import settings
from blueprints.alerts.models import Alert
from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from extensions import db
from tests.support.gunicorn_app import flask

_MACHINES = (
    "Main engine", "Auxiliary engine", "Fuel oil purifier", "Lubricating oil pump", "Ballast pump",
    "Fire pump", "Air compressor", "Steering gear", "Bow thruster", "Fresh water generator",
    "Incinerator", "Sewage plant", "Cooling water pump", "Boiler", "Windlass", "Cargo crane",
)  # fmt: skip
_MAKERS = ("MAN", "Wartsila", "Alfa Laval", "Kongsberg", "Shinko", "Hamworthy", "Sperre")
_FAULTS = (
    "leaks at the flange", "vibrates above its limit", "runs hot", "does not start from the bridge",
    "pressure fluctuates", "makes a knocking noise", "shows wear at the coupling", "trips on overload",
    "filter is clogged", "seal is to be renewed", "indicator reads low", "alarm comes and goes",
)  # fmt: skip
_REMARKS = (
    "seen on the morning round", "reported by the watch", "since the last port", "with load only",
    "after the overhaul", "spare on board", "spare ordered for the next port", "found at inspection",
    "chief informed", "to be checked again", "isolated for now", "no effect on operation",
)  # fmt: skip
_NAMES = (
    "Ana Reyes", "Jose Santos", "Mikko Virtanen", "Ivan Petrov", "Nikos Papadopoulos", "Lars Hansen",
    "Olga Kovalenko", "Ravi Kumar", "Li Wei", "Tomasz Nowak", "Erik Berg", "Maria Silva",
)  # fmt: skip
_RANKS = ("Oiler", "Wiper", "2nd Engineer", "3rd Engineer", "Bosun", "Able Seaman", "Cook")
_SENSORS = (
    "exhaust temperature", "bearing temperature", "lubricating oil pressure", "vibration", "level",
)  # fmt: skip
_BEGAN = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)


class Traffic:
    """Writes changes, one transaction each.

    :param seed: the same seed gives the same changes, apart from ids and times.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self._seed = seed
        #: Ids of rows that are never deleted, by model.
        self._ids: dict[Any, list[str]] = {}

    def write(self, count: int) -> None:
        """Make changes, in an application context."""
        for _ in range(count):
            self.step()

    def begin(self) -> None:
        """Create the machines and the crew: 52 changes."""
        pick = self._random.choice
        for number in range(30):
            db.session.add(
                Equipment(
                    name=f"{pick(_MACHINES)} No.{number % 4 + 1}",
                    type=pick(("engine", "pump", "separator", "deck")),
                    manufacturer=pick(_MAKERS),
                    model=f"{pick('ABKMSX')}{self._random.randint(10, 999)}",
                    serial_number=f"{self._random.getrandbits(36):09X}",
                    location=pick(("Engine room", "Upper deck", "Purifier room", "Bow")),
                    criticality_level=pick(("low", "medium", "high")),
                    specifications={"kW": self._random.randint(5, 9000), "flow": self._amount()},
                )
            )
        for number in range(22):
            name = f"{pick(_NAMES)} {number}"
            db.session.add(
                CrewMember(
                    name=name,
                    rank=pick(_RANKS),
                    department=pick(("engine", "deck", "galley")),
                    email=f"{name.split(maxsplit=1)[0].lower()}{number}@example.com",
                    on_duty=bool(number % 2),
                )
            )
        db.session.commit()

    def step(self) -> None:
        """Make one change."""
        self._number += 1
        kind = self._random.random()
        if kind < 0.30:
            self._change_order()
        elif kind < 0.45:
            db.session.add(self._order())
        elif kind < 0.65:
            db.session.add(self._alert())
        elif kind < 0.75:
            self._acknowledge()
        elif kind < 0.90:
            machine = self._any(Equipment)
            machine.specifications = {**(machine.specifications or {}), "flow": self._amount()}
            if hasattr(machine, "running_hours"):
                machine.running_hours = self._random.randint(100, 90_000)
        elif kind < 0.95:
            person = self._any(CrewMember)
            person.on_duty = not person.on_duty
            person.notes = f"{self._random.choice(_REMARKS)}, {self._number}"
        else:
            db.session.add(self._schedule())
        db.session.commit()

    def _order(self) -> WorkOrder:
        pick = self._random.choice
        return WorkOrder(
            wo_number=f"WO-{self._seed}-{self._number:06d}",
            equipment_id=self._any(Equipment).id,
            reason=f"{pick(_MACHINES)} {pick(_FAULTS)}",
            description=f"{pick(_REMARKS)}; {pick(_REMARKS)}; {self._number}",
            priority=self._random.randint(1, 5),
            maintenance_type=pick(("corrective", "preventive", "inspection")),
            assigned_crew_id=self._any(CrewMember).id,
            estimated_hours=self._random.randint(1, 40) / 2,
            planned_start_date=self._time(),
        )

    def _change_order(self) -> None:
        order = db.session.query(WorkOrder).order_by(db.func.random()).first()
        if order is None:
            db.session.add(self._order())
            return
        order.status = self._random.choice(("open", "in_progress", "completed"))
        order.actual_hours = self._random.randint(1, 60) / 4
        order.description = f"{self._random.choice(_REMARKS)}; {self._number}"

    def _alert(self) -> Alert:
        pick = self._random.choice
        sensor = pick(_SENSORS)
        limit = float(self._random.randint(2, 90) * 5)
        return Alert(
            equipment_id=self._any(Equipment).id,
            sensor_type=sensor,
            alert_type=pick(("warning", "critical")),
            message=f"{sensor} of {pick(_MACHINES)} is above its limit",
            value=round(limit * self._random.uniform(1.0, 1.2), 1),
            threshold=limit,
        )

    def _acknowledge(self) -> None:
        alert = db.session.query(Alert).filter_by(acknowledged=False).first()
        if alert is None:
            db.session.add(self._alert())
            return
        alert.acknowledged = True
        alert.acknowledged_at = self._time()
        alert.acknowledged_by = self._random.choice(_NAMES)

    def _schedule(self) -> MaintenanceSchedule:
        pick = self._random.choice
        return MaintenanceSchedule(
            equipment_id=self._any(Equipment).id,
            scheduled_date=self._time(),
            maintenance_type=pick(("inspection", "overhaul", "lubrication")),
            estimated_duration=self._random.randint(1, 16) * 30,
            description=f"{pick(_MACHINES)}: {pick(_REMARKS)}",
            assigned_to=pick(_NAMES),
        )

    def _any(self, model: Any) -> Any:
        ids = self._ids.setdefault(model, [])
        if not ids:
            ids += db.session.scalars(db.select(model.id)).all()
        found = db.session.get(model, self._random.choice(ids))
        assert found is not None
        return found

    def _amount(self) -> float:
        return round(self._random.uniform(0.5, 900), 2)

    def _time(self) -> datetime:
        return _BEGAN + timedelta(minutes=self._random.randint(0, 40_000))


def make_ship(path: Path, changes: int, *, seed: int = 1) -> Path:
    """Create a database with the undelivered changes of a ship."""
    made = settings(path, "mqtt://127.0.0.1:1")
    flask("db", "upgrade", settings=made)
    app = create_app(made)
    with app.app_context():
        traffic = Traffic(seed)
        traffic.begin()
        traffic.write(changes - 52)
        db.session.remove()
        db.engine.dispose()
    return path
