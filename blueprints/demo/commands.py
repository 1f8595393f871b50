"""`flask demo load`; loaded when it is called."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy import select

from blueprints.alerts.models import Alert
from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from blueprints.work_orders.service import number
from extensions import db
from extensions.database import Row, utcnow

from .ship import Ship

SEED = 9_321_483

demo_commands = AppGroup("demo")


@demo_commands.command("load")
def load() -> None:
    """Fill an empty database with the data of a realistic ship; do nothing if it has rows."""
    if _filled():
        click.echo("The database has rows already: nothing loaded.")
        return
    today = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)
    ship = Ship(today, Random(SEED))
    equipment = _add(Equipment, ship.equipment())
    crew = _add(CrewMember, ship.crew())
    schedules = _add(MaintenanceSchedule, ship.schedules(equipment, crew))
    orders = _add(WorkOrder, ship.work_orders(equipment, crew))
    alerts = _add(Alert, ship.alerts(equipment))
    db.session.commit()
    click.echo(
        f"Loaded {len(equipment)} pieces of equipment, a crew of {len(crew)}, "
        f"{len(schedules)} maintenance schedules, {len(orders)} work orders, {len(alerts)} alerts."
    )


def _filled() -> bool:
    models: tuple[type[Row], ...] = (Equipment, CrewMember, MaintenanceSchedule, WorkOrder, Alert)
    return any(db.session.execute(select(model.id).limit(1)).first() for model in models)


def _add(model: type[Row], rows: Iterable[dict[str, Any]]) -> list[str]:
    """Add rows and return their ids."""
    added = []
    for attributes in rows:
        row = model(**attributes, updated_at=attributes["created_at"])
        if isinstance(row, WorkOrder):
            number(row)
        db.session.add(row)
        added.append(row)
    # The tables refer to one another, so each is written before the next.
    db.session.flush()
    return [row.id for row in added]
