"""Inbound messages that are too large, malformed or too many cost little memory and stop nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from arus import signals
from arus.inbound import handlers
from arus.inbound.handlers import Message
from arus.inbound.watermark_limiter import WatermarkLimiter
from arus.mqtt.packets import encode_remaining
from arus.relay.loop import Relay
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Link,
    ScriptedBroker,
    packet,
)
from tests.support.vessel import StartVessel, Vessel, VesselProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

REQUESTS = "vessel/sync/catchup_requests"
PROTOCOLS = pytest.mark.parametrize("protocol", ["5", "3.1.1"])


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


# -- memory -----------------------------------------------------------------------------------------


class Owner:
    """An owner in a process of its own, with what it costs."""

    def __init__(self, database_url: str, process: VesselProcess) -> None:
        self._engine = create_engine(database_url)
        self._status = Path(f"/proc/{process.child.pid}/status")
        self._clear = Path(f"/proc/{process.child.pid}/clear_refs")
        self._watermarks = 0
        eventually(lambda: self._count("subscription") == 3, 20, message="its subscriptions")
        self._clear.write_text("5")  # the peak begins anew
        self._before = self._peak()

    def _count(self, table: str) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(text(f"SELECT COUNT(*) FROM arus_{table}")).scalar_one())

    def _peak(self) -> float:
        lines = self._status.read_text().splitlines()
        return next(int(line.split()[1]) / 1_024 for line in lines if line.startswith("VmHWM"))

    @property
    def grown(self) -> float:
        """Megabytes by which its memory has grown, at most."""
        return self._peak() - self._before

    def serves(self, mosquitto: Mosquitto) -> None:
        """Wait until it has handled everything so far: a watermark comes after it."""
        self._watermarks += 1
        watermark = '{"epoch": "e", "seq": 1, "vesselId": "ship-1"}'
        mosquitto.publish(f"vessel/sync/watermarks/shore-{self._watermarks}", watermark, "-q", "1")
        eventually(lambda: self._count("follower") == self._watermarks, 30, message="a watermark")


def check_memory(
    mosquitto: Mosquitto, database_url: str, log: Path, protocol: str, sizes: list[tuple[int, int]]
) -> None:
    """Publish each number of messages of each size at each QoS."""
    settings = {"MQTT_BROKER_URL": mosquitto.url, "MQTT_PROTOCOL": protocol}
    with VesselProcess(database_url, log, **settings) as process:
        owner = Owner(database_url, process)
        for count, size in sizes:
            for qos in "012":
                for _ in range(count):
                    mosquitto.publish(REQUESTS, bytes(size), "-q", qos)
                owner.serves(mosquitto)
                assert owner.grown < 10, f"{count} x {size} bytes at QoS {qos}"
    said = log.read_text()
    assert "the connection was lost" not in said
    assert ("is discarded: it has" in said) == (protocol == "3.1.1")


@PROTOCOLS
def test_large_messages_are_not_held_in_memory(
    protocol: str, mosquitto: Mosquitto, migrated_database_url: str, tmp_path: Path
) -> None:
    sizes = [(1, 20_000_000), (8, 1_000_000)]
    check_memory(mosquitto, migrated_database_url, tmp_path / "log", protocol, sizes)


def test_two_hundred_megabytes_cost_less_than_ten(
    mosquitto: Mosquitto, migrated_database_url: str, tmp_path: Path
) -> None:
    check_memory(mosquitto, migrated_database_url, tmp_path / "log", "3.1.1", [(1, 200_000_000)])


# -- messages that break a rule ---------------------------------------------------------------------


def send(link: Link, topic: bytes, packet_id: int, rest: bytes = b"\0{}", qos: int = 1) -> None:
    body = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + rest
    link.send(packet(PUBLISH | qos << 1, body))


def test_a_message_that_cannot_be_read_is_acknowledged_and_discarded(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    poison = [b"\xff\xfe", b"", b"a/+", b"a/#", b"a\0b"]
    for packet_id, topic in enumerate(poison, 1):
        send(link, topic, packet_id)
        assert link.expect(PUBACK).packet_id == packet_id
    send(link, REQUESTS.encode(), 90, b"\x7f{}")
    assert link.expect(PUBACK).packet_id == 90
    assert caplog.text.count("is discarded: its") == len(poison) + 1
    assert "closed" not in caplog.text


def test_a_message_at_qos_2_is_acknowledged_once_it_is_handled(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    """A subscription of another program that used this client id may have asked for QoS 2."""
    vessel = start_vessel(broker.url)
    got = threading.Event()
    vessel.subscriptions.add("vessel/sync/news", 1, lambda _message: got.set())
    link = broker.accept()
    link.accept()
    send(link, b"vessel/sync/news", 7, qos=2)
    assert link.expect(PUBREC).packet_id == 7
    assert got.is_set()
    send(link, b"\xff", 8, qos=2)
    assert link.expect(PUBREC).packet_id == 8
    for packet_id in (7, 8, 9):
        link.send(packet(PUBREL | 2, packet_id.to_bytes(2, "big")))
        assert link.expect(PUBCOMP).packet_id == packet_id


def test_another_packet_above_the_limit_ends_the_connection_with_its_reason(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    link.send(b"\x90" + encode_remaining(2_000_000))
    broker.accept().connect()
    assert "a packet of 2000000 bytes that is no message; MQTT_MAX_PACKET_SIZE is" in caplog.text


@PROTOCOLS
def test_a_retained_request_is_ignored(
    protocol: str,
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mosquitto.publish(REQUESTS, '{"entity": "all", "requestId": "kept"}', "-r", "-q", "1")
    vessel = start_vessel(mosquitto.url, MQTT_PROTOCOL=protocol)
    eventually(lambda: "a retained message on" in caplog.text, message="it is ignored")
    mosquitto.publish(REQUESTS, '{"entity": "none"}', "-q", "1")
    eventually(lambda: "a request for a catch-up by" in caplog.text, message="the other")
    assert not vessel.query("SELECT 1 FROM arus_catchup")


def test_a_message_whose_handling_fails_is_discarded(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: object, **_values: object) -> None:
        raise RecursionError("a fault of ours")

    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    eventually(lambda: len(vessel.query("SELECT 1 FROM arus_subscription")) == 3, message="all")
    with monkeypatch.context() as patch:
        patch.setattr("arus.inbound.router.note_watermark", fail)
        mosquitto.publish("vessel/sync/watermarks/shore", "{}", "-q", "1")
        eventually(lambda: "can't be handled and is discarded" in caplog.text, message="it")
    vessel.commit()
    vessel.wait_drained()
    assert not vessel.heard("disconnected")


# -- messages that wait for their handlers ----------------------------------------------------------


class Slow:
    """A handler that waits until it is let go."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.go = threading.Event()

    def __call__(self, message: Message) -> None:
        assert self.go.wait(30)
        self.got.append(message.payload[:3].decode())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setattr(handlers, "MAX_WAITING", 20_000)
    slow = Slow()
    yield slow
    slow.go.set()


def start_slow(start_vessel: StartVessel, url: str, slow: Slow, **settings: str) -> Vessel:
    vessel = start_vessel(url, **settings)
    vessel.subscriptions.add("vessel/sync/news/+", 1, slow)
    vessel.wait_connected()
    eventually(
        lambda: vessel.query("SELECT 1 FROM arus_subscription WHERE topic_filter LIKE '%news/+'"),
        message="the subscription",
    )
    return vessel


def received_by(vessel: Vessel) -> list[bytes]:
    """The payloads that the relay receives from now on."""
    received: list[bytes] = []

    def receive(_sender: object, payload: bytes, **_values: object) -> None:
        received.append(payload)

    signals.message.connect(receive, sender=vessel, weak=False)
    return received


@PROTOCOLS
def test_messages_without_room_wait_at_the_broker_and_are_handled_in_order(
    protocol: str,
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
    slow: Slow,
) -> None:
    vessel = start_slow(start_vessel, mosquitto.url, slow, MQTT_PROTOCOL=protocol)
    numbers = [f"{number:03}" for number in range(12)]
    for number in numbers:
        mosquitto.publish("vessel/sync/news/a", number + "x" * 5_000, "-q", "1")
    eventually(lambda: "wait at the broker" in caplog.text, message="no room")
    vessel.commit(20)
    vessel.wait_drained()  # acknowledgements are received all the time
    assert not slow.got
    slow.go.set()
    eventually(lambda: slow.got[-1:] == numbers[-1:], 10, message="the last message")
    assert slow.got == numbers


def test_a_command_given_again_is_handled_after_the_broker_lost_its_session(
    mosquitto: Mosquitto, start_vessel: StartVessel, slow: Slow
) -> None:
    vessel = start_slow(start_vessel, mosquitto.url, slow, MQTT_RECONNECT_PERIOD="0.2")
    received = received_by(vessel)
    mosquitto.publish("vessel/sync/news/pump", "run", "-q", "1")
    mosquitto.publish("vessel/sync/news/pump", "end", "-q", "1")
    eventually(lambda: len(received) == 2, message="both")
    mosquitto.kill()
    mosquitto.forget()
    vessel.wait_signal("disconnected")
    mosquitto.start()
    vessel.wait_signal("connected", 2)
    slow.go.set()
    # The broker has lost what waited for the handler, so it was kept.
    eventually(lambda: slow.got == ["run", "end"], 10, message="what was received before")

    def heard() -> bool:
        mosquitto.publish("vessel/sync/news/other", "sub", "-q", "1")
        return "sub" in slow.got

    eventually(heard, message="a message of the new session")
    mosquitto.publish("vessel/sync/news/pump", "run", "-q", "1")
    eventually(lambda: slow.got.count("run") == 2, 10, message="the second command")


def test_a_message_handled_while_there_is_no_connection_is_not_handled_again(
    mosquitto: Mosquitto, start_vessel: StartVessel, slow: Slow
) -> None:
    vessel = start_slow(start_vessel, mosquitto.url, slow, MQTT_RECONNECT_PERIOD="0.2")
    received = received_by(vessel)
    mosquitto.publish("vessel/sync/news/pump", "run", "-q", "1")
    eventually(lambda: len(received) == 1, message="it")
    mosquitto.stop()  # in order: it keeps what is not acknowledged
    vessel.wait_signal("disconnected")
    slow.go.set()
    eventually(lambda: slow.got == ["run"], message="it is handled")
    mosquitto.start()
    vessel.wait_signal("connected", 2)
    mosquitto.publish("vessel/sync/news/pump", "end", "-q", "1")
    eventually(lambda: slow.got[-1:] == ["end"], 10, message="the next message")
    assert slow.got == ["run", "end"]


def test_messages_of_qos_0_without_room_are_dropped(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
    slow: Slow,
) -> None:
    start_slow(start_vessel, mosquitto.url, slow)
    for number in range(12):
        mosquitto.publish(f"vessel/sync/news/{number}", f"{number:03}" + "x" * 5_000)
    eventually(lambda: "a QoS 0 message on vessel/sync/news/3" in caplog.text, message="a drop")
    mosquitto.publish("vessel/sync/watermarks/shore", "{}", "-q", "1")
    eventually(lambda: "a watermark is refused" in caplog.text, message="all are received")
    slow.go.set()
    eventually(lambda: "9 QoS 0 messages were dropped" in caplog.text, message="the count")
    assert sorted(slow.got) == ["000", "001", "002"]


# -- watermarks -------------------------------------------------------------------------------------


def test_watermarks_over_the_limit_cost_nothing_during_an_outage(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[None] = []
    one_round = Relay._round

    def counted(relay: Relay) -> None:
        rounds.append(None)
        one_round(relay)

    monkeypatch.setattr(Relay, "_round", counted)
    vessel = start_vessel(broker.url, MQTT_RECONNECT_PERIOD="1")
    link = broker.accept()
    link.accept()
    for packet_id in range(1, WatermarkLimiter.TOTAL_BURST * 2):
        name = f"shore-{packet_id % WatermarkLimiter.MAX_NAMES}"
        send(link, f"vessel/sync/watermarks/{name}".encode(), packet_id)
        if packet_id == WatermarkLimiter.TOTAL_BURST:
            assert link.expect(PUBACK)  # the burst is written; what comes now is over the limit
    link.close()
    vessel.wait_signal("disconnected")
    before = len(rounds)
    broker.accept()
    assert len(rounds) - before < 100
