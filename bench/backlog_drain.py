"""How fast does a backlog drain, compared with paho publishing the same bytes from memory?"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from app import create_app
from arus.message import Entry, Operation, encode_change
from bench.report import RESULTS, Report, machine
from bench.request_cost import QUIET_BROKER, SIGNED_WITH
from blueprints.alerts.models import Alert
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db, sync
from tests.support.gunicorn_app import ROOT, flask
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually, free_port

ROUNDS = 5
CHANGES = 10_000
#: Rows a transaction while the backlog is made.
BATCH = 200
#: paho's default, larger ones, and none at all, which spares it the search for what may go next.
WINDOWS = {"window 20": 20, "window 100": 100, "window 1000": 1000, "no window": 0}
TOPICS = {1: "work_orders", 2: "alerts"}


def run(rounds: int = ROUNDS) -> Report:
    """Drain copies of one backlog by either, in changing order; QoS 1 and QoS 2."""
    report = Report(
        "backlog_drain",
        f"How fast do {CHANGES:,} changes in the log reach the broker, against paho from memory?",
        {"rounds": rounds, "changes": CHANGES, "broker": "Mosquitto on loopback"},
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        directory = Path(name)
        for qos, topic in TOPICS.items():
            backlog = make_backlog(directory, qos)
            payloads = make_payloads(backlog, directory / f"payloads-{qos}", topic)
            size = payloads.stat().st_size // CHANGES
            report.setup[f"QoS {qos}"] = f"{size} bytes a message"
            _measure(report, directory, broker, qos, backlog, payloads, rounds)
            _profile(directory, broker, qos, backlog)
    return report


def _measure(
    report: Report,
    directory: Path,
    broker: Mosquitto,
    qos: int,
    backlog: Path,
    payloads: Path,
    rounds: int,
) -> None:
    topic = f"paho/sync/{TOPICS[qos]}"
    rates: defaultdict[str, list[float]] = defaultdict(list)
    cpu: defaultdict[str, list[float]] = defaultdict(list)
    sides = ["relay", *(f"paho, {window}" for window in WINDOWS)]
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            if side == "relay":
                database = directory / "drained.sqlite"
                shutil.copy(backlog, database)
                result = child("bench.drain_relay", str(database), broker.url)
                check_delivered(database)
                forget(database)
            else:
                window = str(WINDOWS[side.removeprefix("paho, ")])
                arguments = (str(broker.port), topic, str(qos), window, str(payloads))
                result = child("bench.drain_paho", *arguments)
            rates[side].append(CHANGES / result["seconds"])
            cpu[side].append(result["cpu"] * 1e6 / CHANGES)
        print(f"backlog_drain: QoS {qos}, round {number + 1} of {rounds}", file=sys.stderr)
    figures = {side: report.add(f"QoS {qos}, {side}", "messages/s", rates[side]) for side in sides}
    for side in ("relay", sides[1]):
        report.add(f"QoS {qos}, {side}: CPU", "us/message", cpu[side])
    ours = figures.pop("relay")
    report.ratios(f"**QoS {qos}, relay / paho as shipped (20)**", ours, figures[sides[1]])
    best = max(figures.values(), key=lambda figure: figure.median)
    report.ratios(f"**QoS {qos}, relay / best of paho ({best.name.split(', ')[-1]})**", ours, best)


def make_backlog(directory: Path, qos: int, changes: int = CHANGES) -> Path:
    """A database that waits for its broker: `changes` changes captured and numbered, as in a port."""
    path = directory / f"backlog-{qos}-{changes}.sqlite"
    settings = {
        "LOCAL_MODE": "true",
        "DATABASE_URL": f"sqlite:///{path}",
        "SECRET_KEY": SIGNED_WITH,
        "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{free_port()}",
        "MQTT_MAX_QUEUE_SIZE": "100000",
    }
    flask("db", "upgrade", settings=settings)
    app = create_app(settings)
    with app.app_context():
        engine = Equipment(name="Main engine", type="engine")
        db.session.add(engine)
        db.session.commit()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM arus_change")  # of the engine: one topic is measured
        for start in range(0, changes, BATCH):
            for number in range(start, min(changes, start + BATCH)):
                db.session.add(_row(qos, number, engine.id))
            db.session.commit()
        sync.start(app)
        eventually(lambda: _unnumbered(path) == 0, 120, interval=0.2, message="all is numbered")
        sync.stop(app)
        db.session.remove()
        db.engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


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


def make_payloads(database: Path, path: Path, topic: str, changes: int = CHANGES) -> Path:
    """The same bytes that the relay sends, one message a line."""
    with closing(sqlite3.connect(database)) as connection, path.open("wb") as file:
        epoch, vessel_id = connection.execute(
            "SELECT epoch, vessel_id FROM arus_session"
        ).fetchone()
        connection.row_factory = sqlite3.Row
        rows = connection.execute(
            "SELECT * FROM arus_change WHERE topic = ? ORDER BY seq", (topic,)
        ).fetchall()
        assert len(rows) == changes
        names = Entry.__dataclass_fields__
        for row in rows:
            fields = {name: row[name] for name in names}
            fields["operation"] = Operation(fields["operation"])
            file.write(encode_change(Entry(**fields), epoch=epoch, vessel_id=vessel_id) + b"\n")
    return path


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module in a process of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check_delivered(database: Path, changes: int = CHANGES) -> None:
    """Raise unless all has been delivered, and once."""
    with closing(sqlite3.connect(database)) as connection:
        depth, published = connection.execute(
            "SELECT (SELECT sum(depth) FROM arus_lane), (SELECT sum(value) FROM arus_counter"
            " WHERE name = 'messages_published')"
        ).fetchone()
    if (depth, published) != (0, changes):
        raise RuntimeError(f"{published} published, {depth} left")


def forget(database: Path) -> None:
    """Remove a SQLite database with what is beside it."""
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()


def _profile(directory: Path, broker: Mosquitto, qos: int, backlog: Path) -> None:
    """Once more under the profiler, unmeasured."""
    database = directory / "profiled.sqlite"
    shutil.copy(backlog, database)
    path = directory / "profile"
    child("bench.drain_relay", str(database), broker.url, str(path))
    forget(database)
    RESULTS.mkdir(exist_ok=True)
    text = path.read_text().replace(f"{ROOT}/", "").replace(f"{sys.prefix}/", "")
    (RESULTS / f"backlog_drain.qos{qos}.profile.txt").write_text(text)
