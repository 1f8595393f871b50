"""How many bytes does a change cost on the link, and how fast does a backlog drain, without and with compression?"""

from __future__ import annotations

import gzip
import sqlite3
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flask import Flask

from app import create_app
from arus import signals
from arus.protocol.encoding import encode_change
from arus.protocol.entries import Entry, Operation
from arus.protocol.frames import Compressor, Dictionary
from arus.relay import compression
from arus.relay.training import FEWEST
from arus.runtime import of
from bench.backlog import check_delivered, child, copy, forget, settings
from bench.far_link import LINK_ALONE, NARROW
from bench.report import Report, machine
from bench.request_cost import QUIET_BROKER
from bench.ship_traffic import Traffic, make_ship
from bench.slow_link import Profile, SlowLink
from extensions import db, sync
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

#: Bytes are the same in each round but for a few TCP segments; a round takes more than a minute.
ROUNDS = 1
#: Drains on loopback in each round: their times vary.
DRAINS = 2
#: Changes from which the dictionary is made, that are sent one by one, that wait as a backlog, and on loopback.
BEFORE, LIVE, BACKLOG, MANY = 1_500, 150, 200, 8_000
#: Seconds between two live changes: each travels alone.
PAUSE = 0.05
#: The Mosquitto of an installation accepts topic aliases; its log is of no use here.
NO_LIMIT = Profile("no limit", 0.0)
PLAIN, BARE, TRAINED = "plain", "zstd, no dictionary", "zstd, dictionary"
KINDS = ("live", "backlog", "catch-up")

TARGETS = {
    "**live: zstd, dictionary / plain**": "<= 0.30",
    "**backlog: zstd, dictionary / plain**": "<= 0.30",
    "**catch-up: zstd, dictionary / plain**": "<= 0.30",
    "**payload: zstd, dictionary / plain**": "<= 0.20",
    "**64 kbit/s: drain, zstd / plain**": ">= 3",
    "**loopback: drain, zstd / plain**": ">= 0.8",
    "**loopback: CPU, zstd / plain**": "<= 1.3",
}


def run(rounds: int = ROUNDS) -> Report:
    """Send the same ship's changes over a link in each form."""
    report = Report(
        "link_bytes",
        "How many bytes does a change cost on the link, and how fast does a backlog drain?",
        {
            "rounds": rounds,
            "changes": f"a ship's, of all entities, each different; the dictionary is made of {BEFORE} earlier ones",
            "bytes": "with the headers of MQTT and of TCP and IP (52 bytes a segment), from the vessel to the broker",
            "broker": "Mosquitto with topic aliases (MQTT 5)",
        },
        machine=machine(),
    )
    values: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="arus-bench-") as name:
        directory = Path(name)
        ship = make_ship(directory / "ship.sqlite", BEFORE)
        many = _numbered(make_ship(directory / "many.sqlite", MANY, seed=2))
        for number in range(rounds):
            for form in (PLAIN, BARE, TRAINED):
                _measure(values, directory, ship, form)
            for _ in range(DRAINS):
                _loopback(values, directory, many)
            print(f"link_bytes: round {number + 1} of {rounds}", file=sys.stderr)
    _add(report, values)
    return report


def _add(report: Report, values: defaultdict[str, list[float]]) -> None:
    figures: dict[str, Any] = {}
    for title, measured in values.items():
        quantity, unit = title.rsplit("|", 1)
        figures[quantity] = report.add(quantity, unit, measured)
    for kind in (*KINDS, "payload"):
        ratio = f"**{kind}: {TRAINED} / {PLAIN}**"
        for form in (BARE, TRAINED):
            what = ratio if form == TRAINED else f"{kind}: {form} / {PLAIN}"
            above, below = figures[f"{kind}: {form}"], figures[f"{kind}: {PLAIN}"]
            report.ratios(what, above, below, TARGETS.get(what))
    report.ratios(
        f"payload: gzip / {PLAIN}", figures["payload: gzip"], figures[f"payload: {PLAIN}"]
    )
    for title, place, quantity in (
        ("**64 kbit/s: drain, zstd / plain**", "64 kbit/s", "drain"),
        ("**loopback: drain, zstd / plain**", "loopback", "drain"),
        ("**loopback: CPU, zstd / plain**", "loopback", "CPU"),
    ):
        above = figures[f"{place}: {quantity}, {TRAINED}"]
        report.ratios(title, above, figures[f"{place}: {quantity}, {PLAIN}"], TARGETS[title])


# -- bytes ----------------------------------------------------------------------------------------


def _measure(values: defaultdict[str, list[float]], directory: Path, ship: Path, form: str) -> None:
    database = directory / "measured.sqlite"
    copy(ship, database)
    with (
        tempfile.TemporaryDirectory(dir=directory) as place,
        Mosquitto(Path(place), options=(*LINK_ALONE, "max_topic_alias 20")) as broker,
        SlowLink(broker.port, NO_LIMIT, 0) as link,
        SlowLink(broker.port, NARROW, 0) as narrow,
    ):
        _prepare(database, broker.url, form)
        traffic = Traffic(9)
        before = _last(database)
        with _connected(database, link.port, form) as app:
            began = link.outward
            for _ in range(LIVE):
                traffic.write(1)
                of(app).captured()
                time.sleep(PAUSE)
            _wait_delivered(database)
            values[f"live: {form}|bytes/change"].append((link.outward - began) / LIVE)
            began, items = link.outward, _catch_up(app)
            values[f"catch-up: {form}|bytes/change"].append((link.outward - began) / items)
        if form == PLAIN:
            payloads = _payloads(database, before)
            values[f"payload: {PLAIN}|bytes/change"].append(_mean(payloads))
            values["payload: gzip|bytes/change"].append(
                _mean([gzip.compress(payload) for payload in payloads])
            )
        else:
            values[f"payload: {form}|bytes/change"].append(_payload_size(database, before, form))
        _write_offline(database, traffic, form)
        began = narrow.outward
        seconds = _drain(database, narrow.port, form)
        values[f"backlog: {form}|bytes/change"].append((narrow.outward - began) / BACKLOG)
        if form != BARE:
            values[f"64 kbit/s: drain, {form}|changes/s"].append(BACKLOG / seconds)
    forget(database)


def _settings(database: Path, broker_url: str, form: str) -> dict[str, str]:
    compressed = "off" if form == PLAIN else "zstd"
    return {
        **settings(database, broker_url),
        "VESSEL_ID": "imo-9321483",
        "MQTT_COMPRESSION": compressed,
    }


@contextmanager
def _running(database: Path, broker_url: str, form: str) -> Iterator[Flask]:
    app = create_app(_settings(database, broker_url, form))
    # Without a dictionary: as if the log always had too few changes for one.
    fewest = 10**9 if form == BARE else FEWEST
    with app.app_context(), patch.object(compression, "FEWEST", fewest):
        sync.start(app)
        try:
            yield app
        finally:
            sync.stop(app)
            db.session.remove()
            db.engine.dispose()


@contextmanager
def _connected(database: Path, port: int, form: str) -> Iterator[Flask]:
    opened = threading.Event()

    def connected(_sender: object, **_details: object) -> None:
        opened.set()

    with (
        signals.connected.connected_to(connected),
        _running(database, f"mqtt://127.0.0.1:{port}", form) as app,
    ):
        if not opened.wait(60):
            raise RuntimeError("no connection within 60 s")
        time.sleep(1.0)  # the first status
        yield app


def _prepare(database: Path, broker_url: str, form: str) -> None:
    """Deliver what is there, and have the dictionary made and published, or none made."""
    with _running(database, broker_url, form):
        _wait_delivered(database)
        if form == TRAINED:
            query = "SELECT count(*) FROM arus_dictionary WHERE acknowledged"
            eventually(lambda: _one(database, query) == 1, 60, message="a dictionary is used")


def _catch_up(app: Flask) -> int:
    """Send everything once more; return the number of messages."""
    runtime = of(app)
    status = runtime.catchups.request({"entity": "all", "limit": None})
    done = eventually(
        lambda: (
            found
            if (found := runtime.catchups.find(status.catchup_id)).status == "complete"
            else None
        ),
        120,
        interval=0.1,
        message="the catch-up is complete",
    )
    assert done is not None
    return int(done.published)


def _write_offline(database: Path, traffic: Traffic, form: str) -> None:
    app = create_app(_settings(database, "mqtt://127.0.0.1:1", form))
    with app.app_context():
        traffic.write(BACKLOG)
        db.session.remove()
        db.engine.dispose()


def _drain(database: Path, port: int, form: str) -> float:
    """Deliver the backlog; return the seconds from the connection to the last acknowledgement."""
    flushed = threading.Event()
    times: list[float] = []

    def note(_sender: object, **_details: object) -> None:
        times.append(time.perf_counter())

    def done(_sender: object, **_details: object) -> None:
        times.append(time.perf_counter())
        flushed.set()

    with (
        signals.connected.connected_to(note),
        signals.queue_flushed.connected_to(done),
        _running(database, f"mqtt://127.0.0.1:{port}", form),
    ):
        if not flushed.wait(300):
            raise RuntimeError("the backlog was not drained within 300 s")
    return times[-1] - times[0]


# -- loopback -------------------------------------------------------------------------------------


def _numbered(database: Path) -> Path:
    """Number all changes and have the dictionary made, without a broker."""
    with _running(database, "mqtt://127.0.0.1:1", TRAINED):
        eventually(
            lambda: _one(database, "SELECT count(*) FROM arus_change WHERE seq IS NULL") == 0, 60
        )
        eventually(lambda: _one(database, "SELECT count(*) FROM arus_dictionary") == 1, 60)
    return database


def _loopback(values: defaultdict[str, list[float]], directory: Path, many: Path) -> None:
    with (
        tempfile.TemporaryDirectory(dir=directory) as place,
        Mosquitto(Path(place), options=QUIET_BROKER) as broker,
    ):
        for form in (PLAIN, TRAINED):
            database = directory / "drained.sqlite"
            copy(many, database)
            compressed = "off" if form == PLAIN else "zstd"
            arguments = (str(database), broker.url, "--compression", compressed)
            result = child("bench.drain_relay", *arguments)
            check_delivered(database, MANY)
            forget(database)
            values[f"loopback: drain, {form}|messages/s"].append(MANY / result["seconds"])
            values[f"loopback: CPU, {form}|us/message"].append(result["cpu"] * 1e6 / MANY)


# -- the database ---------------------------------------------------------------------------------


def _one(database: Path, query: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(query).fetchone()[0] or 0)


def _last(database: Path) -> int:
    return _one(database, "SELECT head_seq FROM arus_session")


def _wait_delivered(database: Path) -> None:
    waiting = (
        "SELECT (SELECT count(*) FROM arus_change WHERE seq IS NULL)"
        " + (SELECT coalesce(sum(depth), 0) FROM arus_lane)"
    )
    eventually(lambda: _one(database, waiting) == 0, 120, message="all is delivered")


def _payloads(database: Path, after: int) -> list[bytes]:
    """Return the live changes as JSON."""
    with closing(sqlite3.connect(database)) as connection:
        epoch, vessel_id = connection.execute(
            "SELECT epoch, vessel_id FROM arus_session"
        ).fetchone()
        connection.row_factory = sqlite3.Row
        found = []
        for row in connection.execute("SELECT * FROM arus_change WHERE seq > ?", (after,)):
            fields = {name: row[name] for name in Entry._fields} | {"actor": None}
            fields["operation"] = Operation(fields["operation"])
            found.append(encode_change(Entry(**fields), epoch=epoch, vessel_id=vessel_id))
        return found


def _payload_size(database: Path, after: int, form: str) -> float:
    """Return the mean size of the live changes as they are sent."""
    known = None
    if form == TRAINED:
        with closing(sqlite3.connect(database)) as connection:
            (content,) = connection.execute("SELECT content FROM arus_dictionary").fetchone()
        known = Dictionary(content)
    compressor = Compressor(known)
    return _mean([compressor.compress(payload) for payload in _payloads(database, after)])


def _mean(payloads: list[bytes]) -> float:
    return sum(len(payload) for payload in payloads) / len(payloads)
