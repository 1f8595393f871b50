"""Writes on board, in a process of its own: python -m tests.brokers.writer DATABASE_URL CHANGES BATCH

Creates work orders and alerts, every fourth an alert, `BATCH` of them in a transaction.
"""

from __future__ import annotations

import sys
from pathlib import Path

from app import create_app
from blueprints.alerts.models import Alert
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.waiting import free_port
from tools.processes import Child

#: One in so many changes is an alert.
ALERT_EVERY = 4
SECRET = "for-tests-only-and-long-enough"


def start_writer(database_url: str, changes: int, batch: int, log: Path) -> Child:
    """Start it."""
    argv = [sys.executable, "-m", "tests.brokers.writer", database_url, str(changes), str(batch)]
    with log.open("ab") as output:
        return Child("writer", argv, env=clean_environment(), cwd=ROOT, output=output)


def _row(number: int, equipment_id: str) -> Alert | WorkOrder:
    if number % ALERT_EVERY == 0:
        return Alert(
            equipment_id=equipment_id,
            sensor_type="temperature",
            alert_type="warning",
            message=f"Alert {number}",
            value=91.5,
            threshold=90,
        )
    return WorkOrder(wo_number=f"W-{number}", equipment_id=equipment_id, reason=f"Work {number}")


def main() -> None:
    """Write, and end."""
    database_url, changes, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    app = create_app(
        {
            "SECRET_KEY": SECRET,
            "LOCAL_MODE": "true",
            "DATABASE_URL": database_url,
            "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{free_port()}",  # only the server connects
        }
    )
    with app.app_context():
        equipment_id = db.session.scalars(db.select(Equipment.id)).first()
        assert equipment_id is not None
        for first in range(0, changes, batch):
            numbers = range(first, min(first + batch, changes))
            db.session.add_all(_row(number, equipment_id) for number in numbers)
            db.session.commit()


if __name__ == "__main__":
    main()
