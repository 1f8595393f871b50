"""Why there is no connection: the reason of the last attempt, in the same words wherever it is shown."""

from __future__ import annotations

import html
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from arus.errors import FIX
from arus.outbox.status import SyncStatus
from arus.protocol.times import now_ms
from extensions import db
from tests.support.scripted_broker import Link, ScriptedBroker, packet
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually

MakeApp = Callable[..., Flask]
pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"])

UNAVAILABLE, BUSY = 0x88, 0x89
SAYS = "the broker refused the connection: Server unavailable (0x88)"


def refuse(broker: ScriptedBroker, *codes: int) -> None:
    """Refuse the next connections."""
    for code in codes:
        link = broker.accept()
        link.connect()
        link.connack(code)


@pytest.fixture
def no_more_attempts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the next failed attempt the last one for the time of the test."""
    return lambda: monkeypatch.setattr("arus.mqtt.connection.JITTER", (10_000, 10_000))


def test_the_reason_is_that_of_the_last_attempt_also_if_it_repeats_an_earlier_one(
    broker: ScriptedBroker,
    start_vessel: StartVessel,
    no_more_attempts: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    vessel = start_vessel(broker.url)
    refuse(broker, UNAVAILABLE, BUSY)
    link = broker.accept()
    link.connect()
    no_more_attempts()
    link.connack(UNAVAILABLE)

    def status() -> SyncStatus:
        return vessel.status()

    eventually(lambda: status().reconnect_attempts == 3, message="the third attempt is recorded")
    assert (status().reason or "").startswith(f"{SAYS}{FIX}wait: ")
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert any("reconnecting (attempt 2" in line and "Server busy (0x89)" in line for line in said)


def test_everybody_says_it_in_the_same_words(
    make_app: MakeApp,
    migrated_database_url: str,
    broker: ScriptedBroker,
    no_more_attempts: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    app = make_app(migrated_database_url, MQTT_BROKER_URL=broker.url, VESSEL_ID="ship-1")
    client = app.test_client()
    client.get("/")
    no_more_attempts()
    refuse(broker, UNAVAILABLE)

    def health() -> dict[str, Any]:
        return dict(client.get("/api/mqtt/reliable-sync/health").get_json()["mqtt"])

    eventually(lambda: health()["reconnectAttempts"] == 1, message="the attempt is recorded")
    reason = health()["reason"]
    says, _, fix = reason.partition(FIX)
    assert says == SAYS
    assert "password" not in fix.lower()
    assert any(r.getMessage() == f"[MQTT Reliable Sync] {reason}" for r in caplog.records)
    assert reason in html.unescape(client.get("/sync/").get_data(as_text=True))

    def run(*args: str) -> str:
        return str(app.test_cli_runner().invoke(args=["sync", *args]).stdout)

    assert reason in run("status")
    assert json.loads(run("status", "--json"))["reason"] == reason

    def doctor(code: int) -> dict[str, dict[str, Any]]:
        visits = threading.Thread(target=refuse, args=(broker, code))
        visits.start()
        found = {check["name"]: check for check in json.loads(run("doctor", "--json"))["checks"]}
        visits.join()
        return found

    found = doctor(UNAVAILABLE)
    assert (found["broker"]["says"], found["broker"]["fix"]) == (says, fix)
    assert found["owner"]["says"].endswith(f"failed attempts: 1; the last: {says}")
    assert found["owner"]["fix"] == fix
    # The broker accepts the doctor now: what it thinks of the owner is not known yet.
    found = doctor(0)
    assert found["broker"]["verdict"] == "warn"
    assert f"but the owner's last attempt (1) failed: {says}" in found["broker"]["says"]
    assert "this command has another client id: allow arus_sync_ship-1" in found["broker"]["fix"]


def test_the_doctor_comes_as_the_vessel_does(
    make_app: MakeApp, migrated_database_url: str, broker: ScriptedBroker
) -> None:
    app = make_app(
        migrated_database_url,
        MQTT_BROKER_URL=broker.url,
        MQTT_USERNAME="vessel",
        MQTT_PASSWORD="quokka",
        VESSEL_ID="ship-1",
    )
    app.test_client().get("/")
    owner = broker.accept()
    by_owner = owner.connect()
    owner.connack(UNAVAILABLE)
    seen = []

    def answer() -> None:
        link = broker.accept()
        seen.append(link.connect())
        link.connack(0x86)

    visit = threading.Thread(target=answer)
    visit.start()
    done = app.test_cli_runner().invoke(args=["sync", "doctor"])
    visit.join()
    (by_doctor,) = seen
    assert by_doctor.client_id != by_owner.client_id
    for name in (
        "level",
        "keepalive",
        "will_topic",
        "will_qos",
        "will_retain",
        "username",
        "password",
    ):
        assert getattr(by_doctor, name) == getattr(by_owner, name), name
    assert by_doctor.will["status"] == by_owner.will["status"] == "offline"
    assert "quokka" not in done.output


@pytest.mark.slow
def test_a_proxy_that_closes_idle_connections_is_named(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.mqtt.idle_closes.SHORTEST", 0.1)
    vessel = start_vessel(broker.url)
    for _ in range(5):
        link = idle(broker, vessel)
        link.close()
    vessel.wait_signal("disconnected", 5)
    reason = vessel.heard("disconnected")[-1]["reason"]
    assert "without a packet, 5 times in a row; fix: set MQTT_KEEPALIVE to 1: " in reason
    assert not any(
        "without a packet" in each["reason"] for each in vessel.heard("disconnected")[:-1]
    )
    assert vessel.query("SELECT 1 FROM arus_link_event WHERE reason = :reason", reason=reason)


@pytest.mark.slow
def test_a_connection_that_ends_with_something_in_flight_was_not_idle(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.mqtt.idle_closes.SHORTEST", 0.1)
    vessel = start_vessel(broker.url)
    for number in range(5):
        link = idle(broker, vessel)
        if not number:
            vessel.commit(1)
        link.publish()
        link.silent(0.2)
        link.close()
    vessel.wait_signal("disconnected", 5)
    assert not any("without a packet" in each["reason"] for each in vessel.heard("disconnected"))


def idle(broker: ScriptedBroker, vessel: Vessel) -> Link:
    """The next connection, after it has carried nothing for a while."""
    connections = len(vessel.heard("connected"))
    link = broker.accept()
    link.accept(session_present=connections > 0)
    vessel.wait_signal("connected", connections + 1)
    if not vessel.status().depth:
        link.silent(0.2)
    return link


def test_the_doctor_repeats_the_diagnosis_of_idle_closes_until_it_is_disproved(
    make_app: MakeApp, migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, MQTT_BROKER_URL="mqtt://127.0.0.1:1", MQTT_KEEPALIVE="60")
    reason = "the connection was closed after 30 s without a packet, 5 times in a row; fix: set it"

    def link_finding(app: Flask) -> dict[str, Any] | None:
        done = app.test_cli_runner().invoke(args=["sync", "doctor", "--json"])
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        return checks.get("link")

    assert link_finding(app) is None
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO arus_link_event (at, connected, reason, generation)"
                " VALUES (:at, false, :reason, 1)"
            ),
            {"at": now_ms() - 1000, "reason": reason},
        )
    found = link_finding(app)
    assert found is not None
    assert found["verdict"] == "warn"
    assert found["says"].startswith(reason.partition(FIX)[0])
    assert found["fix"] == "set it"
    mended = make_app(migrated_database_url, MQTT_BROKER_URL="mqtt://127.0.0.1:1", MQTT_KEEPALIVE="20")  # fmt: skip
    assert link_finding(mended) is None


@pytest.mark.slow
def test_a_disconnect_of_the_broker_brings_its_fix(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.wait_connected()
    link.send(packet(0xE0, b"\x93\x00"))
    (ended,) = vessel.wait_signal("disconnected")
    assert ended["reason"] == (
        "the broker ended the connection: Receive maximum exceeded (0x93); fix: set MQTT_MAX_INFLIGHT lower"
    )
