"""Logs of any size: the application creates a small one, which is then multiplied in the database."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from app import create_app
from arus.protocol.encoding import encode_change
from arus.protocol.entries import Entry, Operation
from blueprints.alerts.models import Alert
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db, sync
from tests.support.gunicorn_app import ROOT, flask
from tests.support.waiting import eventually, free_port

SIGNED_WITH = "for-benchmarks-only-and-long-enough"
TOPICS = {1: "work_orders", 2: "alerts"}
#: Changes that the application itself creates.
_TEMPLATES = 200

# n counts from 0; the templates are used in turn.
_MULTIPLY = """
WITH RECURSIVE counter(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n + 1 < :many)
INSERT INTO arus_change
    (message_id, entity, topic, qos, operation, row_id, version, committed_at, data, seq, previous_seq)
SELECT template.committed_at || printf('_%09d', :base + n), entity, topic, qos, operation,
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-' || hex(randomblob(2)) || '-'
        || hex(randomblob(2)) || '-' || hex(randomblob(6))),
    version, committed_at, data,
    CASE WHEN :numbered THEN :base + n + 1 END, CASE WHEN :numbered THEN :base + n END
FROM counter JOIN arus_change AS template ON template.id = :first + n % :templates
"""


def settings(database: Path, broker_url: str) -> dict[str, str]:
    """Return the settings of an application on `database`."""
    return {
        "LOCAL_MODE": "true",
        "DATABASE_URL": f"sqlite:///{database}",
        "SECRET_KEY": SIGNED_WITH,
        "MQTT_BROKER_URL": broker_url,
        "MQTT_MAX_QUEUE_SIZE": "10000000",
    }


def make_backlog(directory: Path, qos: int, changes: int) -> Path:
    """Create a database with `changes` undelivered, numbered changes of one topic, as after an outage."""
    path = directory / f"backlog-{qos}-{changes}.sqlite"
    made = settings(path, f"mqtt://127.0.0.1:{free_port()}")
    flask("db", "upgrade", settings=made)
    app = create_app(made)
    templates = min(changes, _TEMPLATES)
    with app.app_context():
        engine = Equipment(name="Main engine", type="engine")
        db.session.add(engine)
        db.session.commit()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "DELETE FROM arus_change"
            )  # that of the engine: only one topic is measured
        db.session.add_all(_row(qos, number, engine.id) for number in range(templates))
        db.session.commit()
        sync.start(app)
        eventually(lambda: _unnumbered(path) == 0, 60, interval=0.05, message="all is numbered")
        sync.stop(app)
        db.session.remove()
        db.engine.dispose()
    if changes > templates:
        _multiply(path, changes - templates, numbered=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def add_unnumbered(path: Path, changes: int) -> None:
    """Add committed, unnumbered changes to a log that has a few changes; the app may be running."""
    _multiply(path, changes, numbered=False)


def _multiply(path: Path, many: int, *, numbered: bool) -> None:
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute("PRAGMA cache_size = -400000")
        connection.execute("BEGIN IMMEDIATE")
        first, templates, base = connection.execute(
            "SELECT min(id), min(count(*), 200), coalesce(max(seq), 0) FROM arus_change"
        ).fetchone()
        if not numbered:
            base = connection.execute("SELECT max(id) FROM arus_change").fetchone()[0]
        values = {
            "many": many,
            "base": base,
            "numbered": numbered,
            "first": first,
            "templates": templates,
        }
        connection.execute(_MULTIPLY, values)
        if numbered:
            connection.execute("UPDATE arus_session SET head_seq = ?", (base + many,))
            connection.execute(
                "UPDATE arus_lane SET head_seq = ?, depth = depth + ? WHERE depth > 0",
                (base + many, many),
            )


def _row(qos: int, number: int, equipment_id: str) -> WorkOrder | Alert:
    if qos == 1:
        return WorkOrder(
            wo_number=f"WO-{number:06d}",
            equipment_id=equipment_id,
            reason="Lubricating oil leaks",
            description=f"Watch {number}",
        )
    return Alert(
        equipment_id=equipment_id,
        sensor_type="exhaust temperature",
        alert_type="warning",
        message=f"Cylinder 4 is above its limit, reading {number}",
        value=412.5,
        threshold=400.0,
    )


def _unnumbered(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM arus_change WHERE seq IS NULL"
        ).fetchone()
        return int(count)


def make_payloads(database: Path, path: Path, changes: int) -> Path:
    """Write the same payloads that the relay sends, one message a line."""
    with closing(sqlite3.connect(database)) as connection, path.open("wb") as file:
        epoch, vessel_id = connection.execute(
            "SELECT epoch, vessel_id FROM arus_session"
        ).fetchone()
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM arus_change ORDER BY seq")
        names = Entry._fields
        written = 0
        for row in rows:
            fields = {name: row[name] for name in names}
            fields["operation"] = Operation(fields["operation"])
            file.write(encode_change(Entry(**fields), epoch=epoch, vessel_id=vessel_id) + b"\n")
            written += 1
    if written != changes:
        raise RuntimeError(f"{written} changes in a log that should have {changes}")
    return path


def child(module: str, *arguments: str, timeout: float = 600) -> dict[str, Any]:
    """Run a module in a separate process and return its output."""
    return run_json([sys.executable, "-m", module, *arguments], timeout=timeout)


def run_json(command: list[str], timeout: float = 600) -> dict[str, Any]:
    """Run a program and return the JSON that it prints."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def check_delivered(database: Path, changes: int) -> None:
    """Raise an error unless all changes were delivered exactly once."""
    with closing(sqlite3.connect(database)) as connection:
        depth, published = connection.execute(
            "SELECT (SELECT sum(depth) FROM arus_lane), (SELECT sum(value) FROM arus_counter"
            " WHERE name = 'messages_published')"
        ).fetchone()
    if (depth, published) != (0, changes):
        raise RuntimeError(f"{published} published, {depth} left")


def copy(backlog: Path, database: Path) -> None:
    """Copy a SQLite database and flush it to the disk, so that the first commit does not have to."""
    shutil.copy(backlog, database)
    with database.open("rb+") as file:
        os.fsync(file.fileno())


def forget(database: Path) -> None:
    """Remove a SQLite database with its other files."""
    for path in database.parent.glob(f"{database.name}*"):
        if path.is_dir():
            shutil.rmtree(path)  # the notifier's
        else:
            path.unlink()
