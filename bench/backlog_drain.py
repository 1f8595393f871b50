"""How fast does a backlog drain, compared with peers that publish the same bytes from memory?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.backlog import TOPICS, check_delivered, child, copy, forget, make_backlog, make_payloads
from bench.peers import mqtt_js
from bench.report import RESULTS, Report, machine
from bench.request_cost import QUIET_BROKER
from bench.rounds import limit, rounds_within
from tests.support.broker import find_program
from tests.support.gunicorn_app import ROOT
from tests.support.mosquitto import Mosquitto

ROUNDS = 4
CHANGES = 10_000
MANY, MANY_ROUNDS = 100_000, 3
#: Seconds for the rounds at each QoS, and for those of 100,000.
SECONDS, MANY_SECONDS = 25.0, 45.0
#: paho's default, larger ones, and none at all, which saves its search for the next message to send.
WINDOWS = {
    "paho, window 20": 20,
    "paho, window 100": 100,
    "paho, window 1000": 1000,
    "paho, no window": 0,
}
MQTT_JS = {
    "mqtt.js, one by one": "one-by-one",
    "mqtt.js, pipelined": "pipelined",
    "mqtt.js, its offline queue": "offline",
}
OTHERS = ("mosquitto_pub -l", "bare socket")
#: Its search through the waiting messages is quadratic: with a larger window a round would take minutes.
MANY_PEERS = ("paho, window 20", "paho, window 100")
RELAY, PAHO = "relay", "paho, window 20"
#: The target by QoS: the relay's rate divided by the best of paho.
TWICE = {1: ">= 2", 2: ">= 1.5"}


@dataclass(frozen=True)
class Load:
    """The backlog to drain."""

    qos: int
    backlog: Path
    payloads: Path
    changes: int


def run(rounds: int = ROUNDS) -> Report:
    """Drain copies of one backlog with each side, in changing order, at QoS 1 and QoS 2."""
    report = Report(
        "backlog_drain",
        f"How fast do {CHANGES:,} changes in the log reach the broker, against peers from memory?",
        {"rounds": rounds, "broker": "Mosquitto on loopback, no limit of its own, no persistence"},
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        directory = Path(name)
        for qos in TOPICS:
            load = _load(directory, qos, CHANGES)
            size = load.payloads.stat().st_size // CHANGES
            report.setup[f"QoS {qos}"] = f"{size} bytes a message"
            _measure(report, directory, broker, load, rounds, [RELAY, *WINDOWS, *MQTT_JS, *OTHERS])
            _profile(directory, broker, load)
        load = _load(directory, 1, MANY)
        _measure(report, directory, broker, load, min(rounds, MANY_ROUNDS), [RELAY, *MANY_PEERS])
    return report


def _load(directory: Path, qos: int, changes: int) -> Load:
    backlog = make_backlog(directory, qos, changes)
    payloads = make_payloads(backlog, directory / f"payloads-{qos}-{changes}", changes)
    return Load(qos, backlog, payloads, changes)


def _measure(
    report: Report, directory: Path, broker: Mosquitto, load: Load, rounds: int, sides: list[str]
) -> None:
    rates: defaultdict[str, list[float]] = defaultdict(list)
    cpu: defaultdict[str, list[float]] = defaultdict(list)
    many = load.changes != CHANGES
    if mqtt_js() is None:
        sides = [side for side in sides if side not in MQTT_JS]
        report.setup["mqtt.js"] = "left out: there is no npm"
    seconds = limit(MANY_SECONDS if many else SECONDS, rounds, MANY_ROUNDS if many else ROUNDS)
    for number in rounds_within(seconds, rounds, least=1 if many else 2):
        for side in sides if number % 2 else reversed(sides):
            result = _drain(side, directory, broker, load)
            rates[side].append(load.changes / result["seconds"])
            cpu[side].append(result["cpu"] * 1e6 / load.changes)
        print(
            f"backlog_drain: QoS {load.qos}, {load.changes:,}, round {number + 1}", file=sys.stderr
        )
    what = f"QoS {load.qos}" + (f", {load.changes:,}" if many else "")
    figures = {side: report.add(f"{what}, {side}", "messages/s", rates[side]) for side in sides}
    for side in (RELAY, PAHO):
        report.add(f"{what}, {side}: CPU", "us/message", cpu[side])
    ours = figures[RELAY]
    report.ratios(f"**{what}, relay / paho as shipped (20)**", ours, figures[PAHO])
    best = max((figures[side] for side in sides if side in WINDOWS), key=lambda each: each.median)
    title = f"**{what}, relay / best of paho ({best.name.split(', ')[-1]})**"
    report.ratios(title, ours, best, TWICE[load.qos])
    for side in sides:
        if side in MQTT_JS:
            target = ">= 5" if MQTT_JS[side] == "one-by-one" and load.qos == 1 else None
            report.ratios(f"**{what}, relay / {side}**", ours, figures[side], target)
        elif side in OTHERS:
            report.ratios(f"{what}, relay / {side}", ours, figures[side])


def _drain(side: str, directory: Path, broker: Mosquitto, load: Load) -> dict[str, Any]:
    topic, qos, port = f"peer/sync/{TOPICS[load.qos]}", str(load.qos), str(broker.port)
    if side == RELAY:
        database = directory / "drained.sqlite"
        copy(load.backlog, database)
        result = child("bench.drain_relay", str(database), broker.url)
        check_delivered(database, load.changes)
        forget(database)
        return result
    if side in WINDOWS:
        return child("bench.drain_paho", port, topic, qos, str(WINDOWS[side]), str(load.payloads))
    if side in MQTT_JS:
        return mqtt_js(port, topic, qos, MQTT_JS[side], str(load.payloads)) or {}
    if side == "bare socket":
        return child("bench.drain_bare", port, topic, qos, str(load.payloads))
    return _mosquitto_pub(port, topic, qos, load.payloads)


def _mosquitto_pub(port: str, topic: str, qos: str, payloads: Path) -> dict[str, Any]:
    command = [find_program("mosquitto_pub"), "-p", port, "-t", topic, "-q", qos, "-r", "-l"]
    began = time.perf_counter()
    with payloads.open("rb") as lines:
        subprocess.run(command, stdin=lines, check=True, cwd=ROOT, timeout=300)
    return {"seconds": time.perf_counter() - began, "cpu": 0.0}


def _profile(directory: Path, broker: Mosquitto, load: Load) -> None:
    """Drain once more under the profiler, without measuring."""
    database = directory / "profiled.sqlite"
    copy(load.backlog, database)
    path = directory / "profile"
    child("bench.drain_relay", str(database), broker.url, "--profile", str(path))
    forget(database)
    RESULTS.mkdir(exist_ok=True)
    text = path.read_text().replace(f"{ROOT}/", "").replace(f"{sys.prefix}/", "")
    (RESULTS / f"backlog_drain.qos{load.qos}.profile.txt").write_text(text)
