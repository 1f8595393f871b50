"""The MQTT session: how it begins, what it is protected by, and how it ends."""

from __future__ import annotations

import gc
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from paho.mqtt.client import Client

from arus.errors import UnsupportedClientError
from arus.mqtt.connection import Attempt
from arus.mqtt.durable_client import check_client_library
from arus.mqtt.packets import FILTERS
from arus.mqtt.probe import ROUNDS
from arus.settings import load
from tests.support.certificates import Certificates
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import DISCONNECT, Link, Packet, ScriptedBroker, packet
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, VesselProcess
from tests.support.waiting import PATIENCE, eventually, free_port

#: Session expiry: never; unacknowledged messages towards us; and the largest packet.
PROPERTIES = b"\x11\xff\xff\xff\xff!\x00d'\x00\x10\x00\x00"
STATUS = "vessel/sync/system/status"


@pytest.fixture
def database_kind() -> str:
    """The session is the same on each database."""
    return "sqlite"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def wait_said(caplog: pytest.LogCaptureFixture, part: str, timeout: float = 10) -> str:
    eventually(lambda: any(part in line for line in said(caplog)), timeout, message=part)
    return next(line for line in said(caplog) if part in line)


# -- CONNECT --------------------------------------------------------------------------------------


def test_connects_with_a_session_that_lasts(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    start_vessel(broker.url, MQTT_KEEPALIVE=17)
    link = broker.accept()
    first = link.connect()
    assert (first.level, first.client_id, first.clean) == (5, "arus_sync_ship-1", False)
    assert first.keepalive == 17
    assert first.properties == PROPERTIES
    assert (first.will_topic, first.will_qos, first.will_retain) == (STATUS, 1, True)
    assert first.will["status"] == "offline"
    assert first.will["vesselId"] == "ship-1"
    assert (first.username, first.password) == (None, None)
    link.connack()
    online = link.greeting()
    assert online.retain
    assert online.json["status"] == "online"
    assert online.json["generation"] == first.will["generation"] == 1
    link.close()
    again = broker.accept().connect()
    assert (again.level, again.client_id, again.clean) == (5, first.client_id, False)
    assert again.properties == PROPERTIES


def test_no_subscribe_has_more_filters_than_the_strictest_broker_accepts(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    names = [f"orders/{number}" for number in range(FILTERS + 1)]
    for name in names:
        vessel.subscriptions.add(name, 1, print)
    link = broker.accept()
    link.accept()

    def asked() -> set[str]:
        link.next(0.05)
        return {name for filters in link.filters for name in filters}

    eventually(lambda: {*names} <= asked())
    assert max(map(len, link.filters)) <= FILTERS


def test_a_client_id_of_ones_own(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    start_vessel(broker.url, MQTT_CLIENT_ID="bridge-7", MQTT_PROTOCOL="3.1.1")
    connect = broker.accept().connect()
    assert (connect.level, connect.client_id, connect.clean) == (4, "bridge-7", False)


def test_a_generated_vessel_id_is_kept(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    ids = []
    for _ in range(2):
        vessel = start_vessel(broker.url, VESSEL_ID="")
        link = broker.accept()
        ids.append(link.connect().client_id)
        link.close()
        vessel.stop()
    assert ids[0] == ids[1]
    assert ids[0].startswith("arus_sync_vessel-")


def test_mosquitto_resumes_the_session(mosquitto: Mosquitto, start_vessel: StartVessel) -> None:
    vessel = start_vessel(mosquitto.url)
    assert vessel.wait_signal("connected")[0] == {"session_present": False, "protocol": "5"}
    assert "as arus_sync_ship-1 (p5, c0, k60)" in mosquitto.log
    mosquitto.stop()
    vessel.wait_signal("disconnected")
    mosquitto.start()
    assert vessel.wait_signal("connected", 2)[1] == {"session_present": True, "protocol": "5"}


@pytest.mark.parametrize("refusal", ["0x84", "0x01"])
def test_auto_falls_back_to_3_1_1_when_the_broker_says_so(
    refusal: str, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    assert link.connect().level == 5
    if refusal == "0x84":
        link.connack(0x84)
    else:
        link.connack(0x01, level=4)
    link.close()
    link = broker.accept()
    connect = link.connect()
    assert (connect.level, connect.clean) == (4, False)
    link.connack()
    link.greeting()
    assert vessel.wait_connected().protocol == "3.1.1"
    vessel.commit()
    link.ack(0x40, link.publish().packet_id)
    vessel.wait_drained()
    link.close()
    assert broker.accept().connect().level == 4


def answer_by_version(broker: ScriptedBroker, *, silent: bool) -> tuple[Link, list[int]]:
    """Take 3.1.1 and leave 5 without an answer, until the vessel's own session is there; the levels asked for."""
    levels = []
    while True:
        link = broker.accept()
        connect = link.connect()
        levels.append(connect.level)
        if connect.level == 4:
            link.connack()
            if connect.client_id == "arus_sync_ship-1":
                return link, levels
        elif not silent:
            link.close()


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_auto_finds_out_that_a_broker_never_answers_5(
    silent: bool, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_CONNECT_TIMEOUT="1")
    link, levels = answer_by_version(broker, silent=silent)
    assert levels == [5, 5, *[4, 5] * ROUNDS, 4, 4]
    link.greeting()
    assert vessel.wait_connected().protocol == "3.1.1"
    link.close()
    # a day long it is not asked again, by the next owner neither
    assert broker.accept().connect().level == 4
    assert vessel.query("SELECT version FROM arus_broker WHERE address = :url", url=broker.url) == [
        ("3.1.1",)
    ]


@pytest.mark.slow
def test_auto_stays_with_5_when_the_link_is_cut_during_connect(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_CONNECT_TIMEOUT="1")
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    for _ in range(60):
        link = broker.accept()
        connect = link.connect()
        if connect.client_id != "arus_sync_ship-1" and chance.random() < 0.4:
            link.connack()  # a probe may get through; nothing else ever does
            continue
        assert connect.level == 5 or connect.client_id != "arus_sync_ship-1"
        link.close()
    while (connect := (link := broker.accept()).connect()).client_id != "arus_sync_ship-1":
        link.connack()
    assert connect.level == 5
    link.connack()
    link.greeting()
    assert vessel.wait_connected().protocol == "5"
    for _ in range(10):  # what has spoken 5 is not even asked for 3.1.1
        link.close()
        link = broker.accept()
        assert link.connect().level == 5


def test_a_broker_that_speaks_5_is_not_taken_for_an_older_one(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    """The trial itself finds out that the hang-ups were the link's."""
    start_vessel(broker.url, MQTT_CONNECT_TIMEOUT="1")
    for level, answers in ((5, False), (5, False), (4, True), (5, True)):
        link = broker.accept()
        assert link.connect().level == level
        if answers:
            link.connack()
        else:
            link.close()
    connect = broker.accept().connect()
    assert (connect.level, connect.client_id) == (5, "arus_sync_ship-1")


def test_auto_does_not_take_another_refusal_for_a_version(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    start_vessel(broker.url)
    for _ in range(3):
        link = broker.accept()
        assert link.connect().level == 5
        link.connack(0x87)
        link.close()


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "level"), [("5", 5), ("3.1.1", 4)])
def test_a_forced_version_never_changes(
    protocol: str, level: int, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    start_vessel(broker.url, MQTT_PROTOCOL=protocol)
    for answer in (0x84 if level == 5 else 0x01, None, 0x84 if level == 5 else 0x01, None):
        link = broker.accept()
        assert link.connect().level == level
        if answer is not None:
            link.connack(answer)
        link.close()


def test_connack_must_come_in_time(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    start_vessel(broker.url, MQTT_CONNECT_TIMEOUT="0.3")
    broker.accept().connect()
    broker.accept().connect()
    assert "did not answer CONNECT in time" in wait_said(caplog, "CONNECT")


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x40\x01\x00",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x20\x01\x00",
    ],
    ids=["http", "short ack", "endless length", "short connack"],
)
def test_bytes_that_are_not_mqtt_only_cost_the_connection(
    noise: bytes,
    broker: ScriptedBroker,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.connect()
    link.send(noise)
    link.close()
    link = broker.accept(timeout=1.5)
    link.accept()
    assert vessel.wait_connected().owner is not None
    assert vessel.status().owner.generation == 1  # type: ignore[union-attr]  # asserted above
    assert not [r for r in caplog.records if r.exc_info]


# -- the will and the status ----------------------------------------------------------------------


@pytest.mark.slow
def test_status_is_retained_through_stop_and_sigkill(
    mosquitto: Mosquitto, migrated_database_url: str, tmp_path: Path, start_vessel: StartVessel
) -> None:
    with Subscriber(mosquitto.port, STATUS) as watcher:
        vessel = start_vessel(mosquitto.url)
        watcher.wait(1)
        vessel.stop()
        watcher.wait(2)
        settings = {"MQTT_BROKER_URL": mosquitto.url}
        with VesselProcess(migrated_database_url, tmp_path / "vessel.log", **settings) as process:
            watcher.wait(3)
            process.kill()
            watcher.wait(4)
        assert [(m.json["status"], m.json["generation"]) for m in watcher.messages] == [
            ("online", 1),
            ("offline", 1),
            ("online", 2),
            ("offline", 2),
        ]
    with Subscriber(mosquitto.port, STATUS) as late:
        (last,) = late.wait(1)
        assert last.retain
        assert (last.json["status"], last.json["generation"]) == ("offline", 2)


def test_a_clean_stop_says_goodbye(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.wait_signal("connected")
    vessel.owner.stop(0)
    offline = link.publish()
    assert (offline.topic, offline.retain, offline.json["status"]) == (STATUS, True, "offline")
    link.silent(0.2)  # it waits for the acknowledgement
    link.ack(0x40, offline.packet_id)
    assert link.next() == Packet(DISCONNECT, 0)
    vessel.wait_signal("disconnected")
    eventually(lambda: not vessel.lock.is_held(), message="the lock is free")
    assert vessel.status().owner is None


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_broker_that_is_silent(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.wait_signal("connected")
    began = time.monotonic()
    vessel.stop()
    assert time.monotonic() - began < 2 * PATIENCE
    assert not vessel.lock.is_held()


# -- TLS and WebSockets ---------------------------------------------------------------------------


def test_tls_by_scheme(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
) -> None:
    mosquitto = start_mosquitto(certificates=certificates)
    vessel = start_vessel(mosquitto.tls_url, MQTT_TLS_CA=certificates.ca)
    vessel.wait_connected()
    vessel.commit(200, data='{"id":"1","text":"%s"}' % ("x" * 2_000))
    vessel.wait_drained()


def test_the_port_of_tls_is_8883() -> None:
    assert load({"MQTT_BROKER_URL": "mqtts://ashore"}).broker.port == 8883
    assert load({"MQTT_BROKER_URL": "mqtt://ashore"}).broker.port == 1883


def test_a_certificate_of_an_unknown_authority_is_refused(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    tmp_path: Path,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mosquitto = start_mosquitto(certificates=certificates)
    other = Certificates.make(tmp_path / "other")
    vessel = start_vessel(mosquitto.tls_url, MQTT_TLS_CA=other.ca)
    line = wait_said(caplog, "certificate")
    assert "is not accepted" in line
    assert "issuer" in line or "self-signed" in line or "verify" in line
    eventually(lambda: vessel.status().counter("reconnection_attempts") >= 2, message="it retries")
    assert not vessel.status().connected


def test_a_certificate_of_another_host_is_refused(
    start_mosquitto: Callable[..., Mosquitto],
    tmp_path: Path,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificates = Certificates.make(tmp_path / "other-host", "another.ship")
    mosquitto = start_mosquitto(certificates=certificates)
    start_vessel(mosquitto.tls_url, MQTT_TLS_CA=certificates.ca)
    assert "localhost" in wait_said(caplog, "certificate is not accepted")


def test_verification_can_be_switched_off(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
) -> None:
    mosquitto = start_mosquitto(certificates=certificates)
    start_vessel(mosquitto.tls_url, MQTT_TLS_REJECT_UNAUTHORIZED="false").wait_connected()


def test_mutual_tls(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
) -> None:
    mosquitto = start_mosquitto(certificates=certificates, client_certificates=True)
    start_vessel(
        mosquitto.tls_url,
        MQTT_TLS_CA=certificates.ca,
        MQTT_TLS_CERT=certificates.client_cert,
        MQTT_TLS_KEY=certificates.client_key,
    ).wait_connected()


def test_mutual_tls_without_a_certificate_is_refused(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mosquitto = start_mosquitto(certificates=certificates, client_certificates=True)
    vessel = start_vessel(mosquitto.tls_url, MQTT_TLS_CA=certificates.ca)
    assert "certificate" in wait_said(caplog, "ertificate").lower()
    eventually(lambda: vessel.status().counter("reconnection_attempts") >= 2, message="it retries")


def test_tls_towards_a_port_without_it(
    mosquitto: Mosquitto, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"mqtts://localhost:{mosquitto.port}"
    start_vessel(url, MQTT_CONNECT_TIMEOUT="1")
    assert url in wait_said(caplog, url)


def test_plain_towards_a_port_with_tls(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
) -> None:
    mosquitto = start_mosquitto(certificates=certificates)
    vessel = start_vessel(f"mqtt://localhost:{mosquitto.tls_port}")
    eventually(lambda: vessel.status().counter("reconnection_attempts") >= 2, message="it retries")


def test_websockets(start_mosquitto: Callable[..., Mosquitto], start_vessel: StartVessel) -> None:
    mosquitto = start_mosquitto(websockets=True)
    vessel = start_vessel(mosquitto.websockets_url)
    vessel.wait_connected()
    with Subscriber(mosquitto.port, "vessel/sync/#") as subscriber:
        ids = vessel.commit(300) + vessel.commit(20, "alerts")
        vessel.wait_drained()
        subscriber.wait(321)
        seen = [change["messageId"] for change in subscriber.changes()]
    assert sorted(seen) == sorted(ids)


@pytest.mark.slow
def test_the_query_of_a_websocket_is_requested_and_never_said(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"ws://127.0.0.1:{broker.port}/mqtt?token=s3cret"
    vessel = start_vessel(url)
    link = broker.accept()
    assert link.received().startswith(b"GET /mqtt?token=s3cret HTTP/1.1")
    link.close()
    eventually(lambda: "WebSocket handshake" in (vessel.status().reason or ""))
    assert "s3cret" not in caplog.text + str(vessel.status()) + repr(vessel.settings.broker)


@pytest.mark.slow
def test_websockets_over_tls(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
) -> None:
    port = free_port()
    start_mosquitto(
        options=[
            f"listener {port} 127.0.0.1",
            "protocol websockets",
            f"certfile {certificates.server_cert}",
            f"keyfile {certificates.server_key}",
        ]
    )
    vessel = start_vessel(f"wss://localhost:{port}", MQTT_TLS_CA=certificates.ca)
    vessel.wait_connected(20)
    began = time.monotonic()
    vessel.commit(500)
    vessel.wait_drained()
    assert time.monotonic() - began < 5 * PATIENCE


# -- credentials ----------------------------------------------------------------------------------

PASSWORD = "p@ss:w/rd-quokka"


@pytest.mark.parametrize("where", ["url", "settings"])
def test_credentials(
    where: str,
    start_mosquitto: Callable[..., Mosquitto],
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    mosquitto = start_mosquitto(users={"ship": PASSWORD})
    if where == "url":
        vessel = start_vessel(f"mqtt://ship:p%40ss%3Aw%2Frd-quokka@127.0.0.1:{mosquitto.port}")
    else:
        vessel = start_vessel(mosquitto.url, MQTT_USERNAME="ship", MQTT_PASSWORD=PASSWORD)
    vessel.wait_connected()
    assert not any("quokka" in f"{r.getMessage()} {vars(r)}" for r in caplog.records)
    assert "quokka" not in repr(vessel.settings)


def test_a_wrong_password_is_said_and_retried(
    start_mosquitto: Callable[..., Mosquitto],
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    mosquitto = start_mosquitto(users={"ship": PASSWORD})
    vessel = start_vessel(f"mqtt://ship:wrong-quokka@127.0.0.1:{mosquitto.port}")
    line = wait_said(caplog, "refused the connection")
    assert "uthori" in line
    eventually(lambda: vessel.status().counter("reconnection_attempts") >= 3, message="it retries")
    assert not any("quokka" in f"{r.getMessage()} {vars(r)}" for r in caplog.records)
    assert vessel.status().protocol is None


# -- reconnection ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_broker_out_of_reach_neither_blocks_nor_fails_the_start(
    start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    vessel = start_vessel(f"mqtt://127.0.0.1:{free_port()}", MQTT_RECONNECT_PERIOD="0.05")
    assert time.monotonic() - began < PATIENCE / 2
    eventually(lambda: vessel.status().counter("reconnection_attempts") >= 21, message="it retries")
    status = vessel.status()
    assert not status.connected
    assert status.reconnect_attempts >= 21
    logged = [r.attempt for r in caplog.records if "reconnecting (attempt" in r.getMessage()]  # type: ignore[attr-defined]
    assert logged[:11] == [*range(1, 11), 20]
    assert vessel.heard("error")
    assert not vessel.heard("disconnected")


def test_attempts_are_logged_ever_more_rarely() -> None:
    logged = [attempt for attempt in range(501) if Attempt(attempt, None).is_logged]
    assert logged == [*range(1, 11), *range(20, 101, 10), 200, 300, 400, 500]


def test_attempts_begin_anew_after_a_connection(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    for _ in range(2):
        broker.accept().close()
    broker.accept().close()  # a probe: does it speak 3.1.1?
    link = broker.accept()
    link.accept()
    assert vessel.wait_connected().reconnect_attempts == 0
    assert vessel.status().counter("reconnection_attempts") == 2
    link.close()
    vessel.wait_signal("disconnected")
    assert vessel.status().reconnect_attempts == 1


def test_a_name_that_does_not_resolve(
    start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    start_vessel("mqtt://nowhere.invalid")
    assert "'nowhere.invalid' can't be resolved" in wait_said(caplog, "nowhere.invalid")


@pytest.mark.slow
def test_attempts_leak_no_descriptors(start_vessel: StartVessel) -> None:
    vessel = start_vessel(f"mqtt://127.0.0.1:{free_port()}", MQTT_RECONNECT_PERIOD="0.05")
    attempts = lambda: vessel.status().counter("reconnection_attempts")  # noqa: E731
    eventually(lambda: attempts() >= 3, message="it retries")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    eventually(lambda: attempts() >= 25, message="it retries")
    assert len(os.listdir("/proc/self/fd")) <= before + 2


# -- paho's insides -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["_handle_connack", "_packet_queue", "_sock_recv", "_mid_generate"]
)
def test_a_paho_without_what_the_session_touches_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Client, name)
    with pytest.raises(UnsupportedClientError, match=name):
        check_client_library()


@pytest.mark.slow
def test_pahos_own_table_of_messages_stays_empty(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.commit(1_000)
    vessel.commit(100, "alerts")
    vessel.wait_connected()
    vessel.wait_drained()
    assert vessel.session is not None
    client = vessel.session.client
    assert not client._out_messages
    assert not client._out_packet
    assert client._last_mid <= 8  # a status, and the look back at what is retained


@pytest.mark.slow
def test_a_session_taken_over_is_left_alone_for_a_while(
    broker: ScriptedBroker,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arus.mqtt.connection.STAND_DOWN", 0.8)
    vessel = start_vessel(broker.url)
    link: Link = broker.accept()
    link.accept()
    vessel.wait_connected()
    taken_at = time.monotonic()
    link.send(packet(0xE0, b"\x8e\x00"))
    wait_said(caplog, "another client uses the client id arus_sync_ship-1")
    broker.accept().accept()
    assert time.monotonic() - taken_at >= 0.8
    assert vessel.wait_signal("connected", 2)


@pytest.mark.slow
def test_another_disconnect_of_the_broker_is_said(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    link.send(packet(0xE0, b"\x8b\x00"))
    assert "shutting down" in wait_said(caplog, "ended the connection").lower()
    broker.accept().accept()
