"""What does a change cost ashore: a follower beside paho and psycopg, which upsert the same messages in batches of 500."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion
from sqlalchemy import make_url

from arus.protocol.encoding import encode_change
from arus.protocol.entries import Entry, Operation
from bench import follow_paho
from bench.backlog import child
from bench.follow_arus import NAME
from bench.report import RESULTS, Report, machine
from bench.request_cost import QUIET_BROKER
from bench.rounds import limit, rounds_within
from tests.support.gunicorn_app import flask
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer

ROUNDS = 3
CHANGES = 10_000
#: Seconds for the rounds with each number of vessels.
SECONDS = 18.0
VESSELS = (1, 10, 50)
FOLLOWER = "bench.follow_arus"
#: Modules, and what they are called in the report.
SIDES = {FOLLOWER: "follower", "bench.follow_paho": "paho and psycopg"}
TOPICS = ("work_orders", "alerts", "equipment", "crew", "maintenance")


def run(rounds: int = ROUNDS) -> Report:
    """Apply the same changes with both, alternately."""
    report = Report(
        "follower_apply",
        f"What does applying {CHANGES:,} changes cost a follower, compared with a plain batch upsert?",
        {
            "changes": "of work orders, alerts and equipment, alternating at random; three quarters of them are"
            " updates of rows created before; they wait at the broker",
            "peer": "paho-mqtt and psycopg's executemany, batches of 500, no records, no watermarks",
            "CPU": "of the process that applies, from CONNECT to the last commit",
            "with PostgreSQL's": "and of the backends that serve it",
            "PostgreSQL": "fsync and synchronous_commit on",
        },
        machine=machine(),
    )
    RESULTS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name), options=(*QUIET_BROKER, "max_queued_messages 0")) as broker,
        PostgresServer(durable=True) as postgres,
    ):
        template = postgres.create_database()
        flask("db", "upgrade", settings=_settings(postgres.url(template)))
        for vessels in VESSELS:
            _compare(report, rounds, broker, postgres, template, vessels)
    return report


def _compare(
    report: Report,
    rounds: int,
    broker: Mosquitto,
    postgres: PostgresServer,
    template: str,
    vessels: int,
) -> None:
    """Measure both sides with the changes of that many vessels."""
    costs: dict[str, list[tuple[float, float]]] = {module: [] for module in SIDES}
    for number in rounds_within(limit(SECONDS, rounds, ROUNDS), rounds, least=1):
        for module in sorted(costs, reverse=bool(number % 2)):
            costs[module].append(_cost(module, broker, postgres, template, vessels))
        print(f"{vessels} vessels: {[each[-1] for each in costs.values()]}", file=sys.stderr)
    if vessels == VESSELS[-1]:
        profile = str(RESULTS / "follower_apply.profile.txt")
        _cost(FOLLOWER, broker, postgres, template, vessels, profile)
    said = f"{vessels} vessel{'s' if vessels > 1 else ''}"
    for at, what in enumerate(("", ", with PostgreSQL's")):
        ours, peer = (
            report.add(f"{said}: {name}{what}", "us/change", [each[at] for each in costs[module]])
            for module, name in SIDES.items()
        )
        title = f"**{said}: CPU{what}, follower / peer**"
        report.ratios(title, ours, peer, None if what else "<= 1.2")


def _cost(
    module: str,
    broker: Mosquitto,
    postgres: PostgresServer,
    template: str,
    vessels: int,
    profile: str | None = None,
) -> tuple[float, float]:
    """Return the microseconds for each change: of the process that applies, and together with PostgreSQL's."""
    database = postgres.create_database(template)
    url = postgres.url(database)
    if module == FOLLOWER:
        _prepare(url, vessels)
        child(module, url, broker.url, "0")
    else:
        _until_subscribed(follow_paho.subscriber(broker.url))
    _publish(broker.port, changes(vessels))
    before = _backends(postgres)
    options = ["--profile", profile] if profile else []
    done = child(module, url, broker.url, str(CHANGES), *options)
    after = _backends(postgres)
    _forget(broker)
    _check(url)
    postgres.drop_database(database)
    ours, theirs = done["cpu"], after - before
    return ours / CHANGES * 1e6, (ours + theirs) / CHANGES * 1e6


def _backends(postgres: PostgresServer) -> float:
    """Return the CPU seconds of all backends that have ended."""
    assert postgres._child is not None
    fields = Path(f"/proc/{postgres._child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _settings(database: str) -> dict[str, str]:
    return {"SECRET_KEY": "for-benchmarks-only-and-long-enough", "DATABASE_URL": database}


def _until_subscribed(client: Client) -> None:
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.loop_start()
    client.subscribe([(f"{follow_paho.PREFIX}/{table}", 1) for table in follow_paho.TABLES])
    if not subscribed.wait(20):
        raise TimeoutError("not subscribed")
    client.disconnect()
    client.loop_stop()


def _forget(broker: Mosquitto) -> None:
    """Make the broker forget both sessions: the next side's messages must not wait for the other one."""
    for client_id in (follow_paho.CLIENT_ID, f"arus_follow_{NAME}"):
        client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        connected = threading.Event()
        client.on_connect = lambda *_, connected=connected: connected.set()
        client.connect("127.0.0.1", broker.port, clean_start=True)
        client.loop_start()
        if not connected.wait(20):
            raise TimeoutError("not connected")
        client.disconnect()
        client.loop_stop()


def _prepare(database: str, vessels: int) -> None:
    """Make the vessels known: nothing of theirs is missing."""
    with _connect(database) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO arus_vessel (vessel_id, epoch, heard_at) VALUES (%s, %s, 0)",
            [(_vessel(number), _epoch(number)) for number in range(vessels)],
        )
        cursor.executemany(
            "INSERT INTO arus_position (vessel_id, topic) VALUES (%s, %s)",
            [(_vessel(number), topic) for number in range(vessels) for topic in TOPICS],
        )


def _check(database: str) -> None:
    with _connect(database) as connection:
        tables = " UNION ALL ".join(f"SELECT version FROM {table}" for table in follow_paho.TABLES)
        found = connection.execute(f"SELECT count(*), sum(version) FROM ({tables}) AS r").fetchone()
    if found != (CHANGES // 4, CHANGES):
        raise RuntimeError(f"rows and the sum of their versions: {found}")


def _connect(database: str) -> psycopg.Connection[Any]:
    url = make_url(database)
    return psycopg.connect(host=url.host, port=url.port, user=url.username, dbname=url.database)


def _publish(port: int, messages: Iterator[tuple[str, bytes]]) -> None:
    client = Client(
        CallbackAPIVersion.VERSION2,
        f"ships-{uuid.uuid4().hex}",
        protocol=MQTTProtocolVersion.MQTTv5,
    )
    client.max_inflight_messages_set(1000)
    room = threading.Semaphore(10_000)
    client.on_publish = lambda *_: room.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    for table, payload in messages:
        room.acquire()
        client.publish(f"{follow_paho.PREFIX}/{table}", payload, qos=1)
    for _ in range(10_000):
        room.acquire()
    client.disconnect()
    client.loop_stop()


def _vessel(number: int) -> str:
    return f"imo-{9_321_000 + number}"


def _epoch(number: int) -> str:
    return str(uuid.UUID(int=number))


def changes(vessels: int) -> Iterator[tuple[str, bytes]]:
    """Yield tables and messages of that many vessels that work at the same time; the same in each round."""
    chance = random.Random(14)
    seqs = [0] * vessels
    last: dict[tuple[int, str], int] = {}
    created = 0
    #: The rows that have updates left: vessel, table, row.
    waiting: list[tuple[int, str, dict[str, Any]]] = []
    for _ in range(CHANGES):
        if created < CHANGES // 4 and (not waiting or chance.random() < 0.25):
            at, table = chance.randrange(vessels), chance.choice(list(_ROWS))
            row = {**_common(chance), **_ROWS[table](chance, created)}
            created += 1
            waiting += [(at, table, row)] * 3
        else:
            place = chance.randrange(len(waiting))
            waiting[place], waiting[-1] = waiting[-1], waiting[place]
            at, table, row = waiting.pop()
            row["version"] += 1
        seqs[at] += 1
        entry = Entry(
            0, seqs[at], last.get((at, table), 0), f"1795334400000_{seqs[at]:09d}", table, 1, table,
            Operation.CREATE if row["version"] == 1 else Operation.UPDATE, row["id"], row["version"],
            1_795_334_400_000 + seqs[at], orjson.dumps(row),
        )  # fmt: skip
        last[at, table] = seqs[at]
        yield table, encode_change(entry, epoch=_epoch(at), vessel_id=_vessel(at))


def _common(chance: random.Random) -> dict[str, Any]:
    return {
        "id": _id(chance),
        "version": 1,
        "createdAt": "2026-11-22T08:00:00.000Z",
        "updatedAt": "2026-11-22T08:00:00.000Z",
    }


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _work_order(chance: random.Random, number: int) -> dict[str, Any]:
    return {
        "woNumber": f"WO-2026-{number:06d}",
        "equipmentId": _id(chance),
        "reason": "Fuel injector of cylinder 3 leaks",
        "description": "Found at the morning round. Replace the seal, test at half load, record the pressure.",
        "status": "open",
        "priority": chance.randrange(1, 6),
        "maintenanceType": "corrective",
        "assignedCrewId": None,
        "estimatedHours": 3.5,
        "actualHours": None,
        "plannedStartDate": "2026-11-23T08:00:00.000Z",
        "plannedEndDate": None,
        "scheduleId": None,
    }


def _alert(chance: random.Random, _number: int) -> dict[str, Any]:
    return {
        "equipmentId": _id(chance),
        "sensorType": "exhaust_temperature",
        "alertType": "warning",
        "message": "Exhaust temperature of cylinder 3 is above its threshold",
        "value": chance.randrange(400, 500) / 4,
        "threshold": 95.0,
        "acknowledged": False,
        "acknowledgedAt": None,
        "acknowledgedBy": None,
    }


def _equipment(chance: random.Random, number: int) -> dict[str, Any]:
    return {
        "name": f"Bilge pump No.{number}",
        "type": "pump",
        "manufacturer": "Allweiler",
        "model": "NB 50",
        "serialNumber": f"{chance.randrange(10**9):09d}",
        "location": "Engine room, lower platform",
        "isActive": True,
        "criticalityLevel": "high",
        "specifications": {
            "kW": chance.randrange(1, 40),
            "rpm": 2900,
            "seals": ["mechanical", "lip"],
        },
    }


_ROWS: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
    "work_orders": _work_order,
    "alerts": _alert,
    "equipment": _equipment,
}
