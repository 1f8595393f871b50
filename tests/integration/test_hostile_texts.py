"""Texts of messages with control characters: logs and commands of a follower and of a vessel show them escaped."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest
from flask import Flask

from tests.support.follower import FollowerThread, ScriptedVessel
from tests.support.mosquitto import Mosquitto
from tests.support.vessel import StartVessel
from tests.support.waiting import eventually

only_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])
#: Control characters that a topic may contain too: MQTT forbids only NUL, and Mosquitto C0 and C1.
BIDI = "\u202e\u2066\u2028"
HOSTILE = f"x\x1b[2J\x07\r\n[MQTT Reliable Sync] forged\x9b{BIDI}"
UNSAFE = frozenset("\x1b\x07\r\x9b\u202e\u2066\u2028")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a plain handler writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("arus")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def assert_safe(text: str) -> None:
    assert text
    assert not UNSAFE.intersection(text)
    assert "\n[MQTT Reliable Sync] forged" not in text


@only_sqlite
def test_a_follower_and_its_commands(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    log: io.StringIO,
) -> None:
    app = make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
    )
    with ExitStack() as stack:
        shore = stack.enter_context(FollowerThread(app))
        hostile = stack.enter_context(ScriptedVessel(mosquitto.port, "ship-1"))
        hostile.vessel_id = f"ship-{HOSTILE}"  # which would be no client id
        hostile.status()
        eventually(lambda: len(shore.status().vessels) == 1, 30)
        honest = stack.enter_context(ScriptedVessel(mosquitto.port, "ship-2"))
        for ship in (hostile, honest):
            ship.change("crew", {"name": "Ann"}, row_id=f"{ship.vessel_id[:5]}{HOSTILE}"[:60])
            ship.change("crew", {"name": 7}, row_id=f"bad-{ship.vessel_id[:6]}{HOSTILE}"[:60])
            ship.change("equipment", {"name": HOSTILE, "type": "x" * 5000})
            ship.status()
        stolen = {**honest.log[0], "vesselId": hostile.vessel_id, "epoch": hostile.epoch}
        hostile.publish("crew", {**stolen, "seq": 9, "previousSeq": 2, "version": 9}, retain=False)
        hostile.publish("crew", HOSTILE.encode(), retain=False)
        hostile.publish("crew", {**honest.log[0], "operation": HOSTILE}, retain=False)
        hostile.publish("crew", {**honest.log[0], "entity": HOSTILE}, retain=False)
        hostile.publish("system/status", {"status": HOSTILE}, retain=False)
        eventually(lambda: shore.status().counters["refused"] >= 6, 60)
        # The other vessel is refused: both publish under one prefix.
        eventually(lambda: list(shore.status().refused) == ["ship-2"], 30)
        for command in (
            ("follow", "--status"), ("follow", "--status", "--json"),
            ("audit",), ("audit", "--json"),
            ("inbox", "list"), ("inbox", "list", "--json"), ("inbox", "show", "1"),
            ("queue", "show", HOSTILE), ("queue", "list", "--entity", HOSTILE),
        ):  # fmt: skip
            ran = app.test_cli_runner().invoke(args=["sync", *command])
            assert_safe(ran.output)
            for line in ran.output.splitlines() if command[-1] == "--json" else ():
                assert line
    lines = log.getvalue()
    assert_safe(lines)
    assert r"\x1b[2J" in lines
    assert all(line.startswith("[MQTT Reliable Sync]") for line in lines.splitlines())


@only_sqlite
def test_a_vessel_and_its_commands(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    start_vessel: StartVessel,
    mosquitto: Mosquitto,
    log: io.StringIO,
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    eventually(lambda: len(vessel.query("SELECT 1 FROM arus_subscription")) == 3, message="all")
    epoch = vessel.status().epoch

    def publish(topic: str, document: Any) -> None:
        mosquitto.publish(f"vessel/sync/{topic}", orjson.dumps(document), "-q", "1")

    publish("catchup_requests", {"entity": HOSTILE, "requestId": "1"})
    publish("catchup_requests", {"entity": "crew", "since": HOSTILE, "consumer": HOSTILE})
    publish(f"watermarks/{BIDI}", {"epoch": epoch, "seq": 0})
    publish("watermarks/shore", {"epoch": epoch, "seq": HOSTILE})
    # First: of a follower's watermarks that arrive together only the last one is read.
    eventually(lambda: log.getvalue().count(" is refused") >= 4, message="the refusals")
    row = {"equal": False, "buckets": [1], "rows": ["a\u202e\u2028"], "refused": {"a": BIDI}}
    audit = {"seq": 0, "equal": False, "timestamp": "x", "entities": {"crew": row, BIDI: row}}
    publish("watermarks/shore", {"epoch": epoch, "seq": 0, "audit": audit})
    eventually(lambda: vessel.query("SELECT 1 FROM arus_follower"), message="a watermark")
    app = make_app(migrated_database_url)
    for command in (("status",), ("status", "--json"), ("queue", "show", HOSTILE)):
        assert_safe(app.test_cli_runner().invoke(args=["sync", *command]).output)
    assert_safe(log.getvalue())


@pytest.mark.slow
@only_sqlite
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_row_larger_than_the_followers_packets_is_passed_and_named(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    protocol: str,
) -> None:
    """MQTT 5: the broker discards it; 3.1.1: the follower does, while it reads."""
    app = make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
        MQTT_PROTOCOL=protocol,
        MQTT_MAX_PACKET_SIZE="20000",
    )
    with ScriptedVessel(mosquitto.port) as ship, FollowerThread(app) as shore:
        ship.change("equipment", {"name": "a"}, row_id="a")
        ship.status()
        shore.wait_equal(ship)
        large = {"notes": "x" * 30_000}
        ship.change("equipment", {"name": "large", "specifications": large}, row_id="b")
        ship.change("equipment", {"name": "c"}, row_id="c")
        ship.status()
        shore.wait_seq(3)
        eventually(lambda: shore.status().up_to_date, 60)
        asked = len(ship.requests)
        (refused,) = shore.query("SELECT entity, row_id, reason FROM arus_refused")
        assert (refused.entity, refused.row_id) == ("equipment", "")
        assert "larger than MQTT_MAX_PACKET_SIZE" in refused.reason
        # Nothing more is asked for; once the row fits, it is applied.
        ship.change("equipment", {"id": "b", "name": "small", "specifications": None})
        ship.status()
        shore.wait_equal(ship)
        assert len(ship.requests) == asked


def test_values_that_the_database_refuses_are_passed(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    app = make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
    )
    bad: list[dict[str, Any]] = [{"priority": number} for number in (2**63, 1e60, 1.5, True, "3")]
    bad += [{"plannedStartDate": "2026-02-30T00:00:00.000Z"}, {"description": "a\0b"}]
    with ScriptedVessel(mosquitto.port) as ship, FollowerThread(app) as shore:
        pump = ship.change("equipment")["data"]["id"]
        for number, row in enumerate(bad):
            ship.change("work_orders", {"equipmentId": pump, **row}, row_id=f"bad-{number}")
        # In PostgreSQL the first is out of the column's range, the second text can't be in its JSON.
        ship.change("work_orders", {"equipmentId": pump, "priority": 2**40}, row_id="wide")
        ship.change("equipment", {"specifications": {"a": "\0"}}, row_id="nul")
        ship.change("work_orders", {"equipmentId": pump}, row_id="good")
        ship.status()
        shore.wait_seq(ship.seq)
        eventually(lambda: shore.status().up_to_date, 60)
        assert len(ship.requests) == 1
        rows = {row_id for topic, row_id in shore.rows() if topic == "work_orders"}
        assert "good" in rows
        refused = {row.row_id for row in shore.query("SELECT row_id FROM arus_refused")}
        assert {f"bad-{number}" for number in range(len(bad))} <= refused
        assert refused.isdisjoint(rows)
        for number in range(len(bad)):
            ship.change(
                "work_orders",
                {"id": f"bad-{number}", "priority": 3, "description": None, "plannedStartDate": None},
            )  # fmt: skip
        ship.change("work_orders", {"id": "wide", "priority": 3})
        ship.change("equipment", {"id": "nul", "specifications": None})
        ship.status()
        shore.wait_equal(ship)
        assert shore.query("SELECT 1 FROM arus_refused") == []
