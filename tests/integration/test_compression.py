"""MQTT_COMPRESSION=zstd: what the vessel publishes, in which order, and what it keeps."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as paho
import pytest

from arus.protocol.frames import Dictionary, decompress, dictionary_of, is_frame
from arus.relay import compression
from arus.relay.training import FEWEST
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import PUBACK, Link, Publish, ScriptedBroker
from tests.support.ship_messages import row
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import PATIENCE, eventually

ENOUGH = 2 * FEWEST
DICTIONARIES = "vessel/sync/system/dictionary/"


@pytest.fixture
def database_kind() -> str:
    """The SQL is tested on both databases by the plans of all statements."""
    return "sqlite"


def work(vessel: Vessel, count: int, seed: int = 1, topic: str = "work_orders") -> None:
    """Commit changes as a ship has them."""
    source = random.Random(seed)
    for number in range(count):
        vessel.commit(topic=topic, data=orjson.dumps(row(source, number)).decode(), notify=False)
    vessel.notifier.notify()


def dictionaries(vessel: Vessel) -> list[Any]:
    return vessel.query("SELECT * FROM arus_dictionary ORDER BY created_at, id")


def wait_trained(vessel: Vessel, count: int = 1) -> list[Any]:
    """The dictionaries, once there are `count`."""
    found = eventually(
        lambda: found if len(found := dictionaries(vessel)) >= count else None,
        20,
        message="a dictionary is made",
    )
    assert found is not None
    return found


def other_work(vessel: Vessel, count: int) -> None:
    """Commit changes of another kind."""
    row = {f"{number:x}" * 6: f"{number * 7919:x}" * 5 for number in range(1, 40)}
    for number in range(count):
        vessel.commit(data=orjson.dumps({"id": str(number), **row}).decode(), notify=False)
    vessel.notifier.notify()


@pytest.fixture
def a_day_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes trainings due, or not any more; to be requested before the first."""
    period = compression.PERIOD
    monkeypatch.setattr(compression, "RETRY", 0.0)
    return lambda due: monkeypatch.setattr(compression, "PERIOD", 0 if due else period)


class Reader:
    """A subscriber that reads both forms, with the dictionaries that it has received until then."""

    def __init__(self, port: int) -> None:
        self.dictionaries: dict[int, Dictionary] = {}
        #: Topic, payload as received, and as read.
        self.messages: list[tuple[str, bytes, Any]] = []
        self.failures: list[str] = []
        self._changed = threading.Condition()
        subscribed = threading.Event()
        client = self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.on_message = lambda _client, _userdata, message: self._take(message)
        client.on_subscribe = lambda *_: subscribed.set()
        client.connect("127.0.0.1", port)
        client.subscribe("vessel/sync/#", 2)
        client.loop_start()
        assert subscribed.wait(PATIENCE)

    def _take(self, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        with self._changed:
            try:
                self._read(message.topic, payload)
            except Exception as error:  # noqa: BLE001  # the test is to see it
                self.failures.append(f"{message.topic}: {error!r}")
            self._changed.notify_all()

    def _read(self, topic: str, payload: bytes) -> None:
        if topic.startswith(DICTIONARIES):
            if payload:
                dictionary = Dictionary(payload)
                assert topic == f"{DICTIONARIES}{dictionary.id}"
                self.dictionaries[dictionary.id] = dictionary
            self.messages.append((topic, payload, None))
            return
        plain = decompress(payload, self.dictionaries.get) if is_frame(payload) else payload
        self.messages.append((topic, payload, orjson.loads(plain)))

    def wait(self, count: int, topic: str = "vessel/sync/work_orders") -> list[tuple[bytes, Any]]:
        """The messages of a topic, once there are `count`."""

        def found() -> list[tuple[bytes, Any]]:
            return [(payload, read) for name, payload, read in self.messages if name == topic]

        with self._changed:
            enough = self._changed.wait_for(lambda: len(found()) >= count, PATIENCE)
            assert enough, f"{len(found())} of {count} messages; {self.failures}"
            return found()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def reader(mosquitto: Mosquitto) -> Iterator[Reader]:
    reader = Reader(mosquitto.port)
    yield reader
    reader.close()


def needs(payload: bytes) -> int:
    """The dictionary that a payload needs; -1 if it is no frame."""
    if not is_frame(payload):
        return -1
    return dictionary_of(payload)


@pytest.mark.slow
def test_first_frames_without_a_dictionary_then_with_one_made_on_board(
    mosquitto: Mosquitto, start_vessel: StartVessel, reader: Reader
) -> None:
    vessel = start_vessel(mosquitto.url, MQTT_COMPRESSION="zstd")
    vessel.wait_connected()
    work(vessel, ENOUGH)
    (made,) = wait_trained(vessel)
    reader.wait(ENOUGH)
    reader.wait(1, f"{DICTIONARIES}{made.id}")
    eventually(lambda: dictionaries(vessel)[0].acknowledged, PATIENCE)
    work(vessel, 50, seed=2)
    got = reader.wait(ENOUGH + 50)
    assert not reader.failures
    assert [read["seq"] for _, read in got] == list(range(1, ENOUGH + 51))
    assert needs(got[0][0]) == 0
    assert [needs(payload) for payload, _ in got[-50:]] == [made.id] * 50
    later = got[-50:]
    plain = sum(len(orjson.dumps(read)) for _, read in later)
    assert sum(len(payload) for payload, _ in later) < 0.25 * plain
    assert len(made.content) <= 16_384
    # The dictionary is at the broker before any message that needs it, and the status has named it.
    first = next(at for at, (_, payload, _) in enumerate(reader.messages) if needs(payload) > 0)
    before = reader.messages[:first]
    assert [topic for topic, _, _ in before].count(f"{DICTIONARIES}{made.id}") == 1
    # ... and a status after it, so that a log restored without the dictionary is recognised.
    topics = [topic for topic, _, _ in before]
    after = topics[topics.index(f"{DICTIONARIES}{made.id}") :]
    assert "vessel/sync/system/status" in after


@pytest.mark.slow
def test_off_by_default_everything_is_json_and_no_dictionary_is_made(
    mosquitto: Mosquitto, start_vessel: StartVessel, reader: Reader
) -> None:
    vessel = start_vessel(mosquitto.url)
    work(vessel, ENOUGH)
    got = reader.wait(ENOUGH)
    assert {needs(payload) for payload, _ in got} == {-1}
    assert dictionaries(vessel) == []
    assert vessel.query("SELECT * FROM arus_compressed") == []


@pytest.mark.slow
def test_statuses_and_digests_are_json(
    mosquitto: Mosquitto, start_vessel: StartVessel, reader: Reader
) -> None:
    vessel = start_vessel(mosquitto.url, MQTT_COMPRESSION="zstd")
    vessel.wait_connected()
    work(vessel, 5)
    reader.wait(5)
    request = {"requestId": "r1", "entity": "all", "mode": "digest"}
    mosquitto.publish("vessel/sync/catchup_requests", orjson.dumps(request).decode(), "-q", "1")
    reader.wait(1, "vessel/sync/system/digest")
    for topic, payload, _ in [*reader.messages]:
        assert is_frame(payload) == topic.endswith("/work_orders"), topic
    assert not reader.failures


def acknowledged(link: Link, publish: Publish) -> Publish:
    link.ack(PUBACK, publish.packet_id)
    return publish


def trained_and_connected(broker: ScriptedBroker, vessel: Vessel) -> tuple[Link, int]:
    """A connection in which a dictionary is made, published, acknowledged and named."""
    link = broker.accept()
    link.accept()
    work(vessel, ENOUGH)
    dictionary_id = named = 0
    left = ENOUGH
    while left or not named:
        publish = acknowledged(link, link.publish())
        if publish.topic.startswith(DICTIONARIES):
            dictionary_id = int(publish.topic.removeprefix(DICTIONARIES))
            assert publish.retain
            assert publish.qos == 1
        elif publish.topic.endswith("system/status"):
            named = dictionary_id  # its acknowledgement was sent before
        else:
            left -= 1
    vessel.wait_drained()
    return link, dictionary_id


@pytest.mark.slow
def test_a_change_that_is_sent_again_has_the_same_bytes_after_a_newer_dictionary(
    broker: ScriptedBroker, start_vessel: StartVessel, a_day_passes: Callable[[bool], None]
) -> None:
    vessel = start_vessel(broker.url, MQTT_COMPRESSION="zstd", MQTT_MAX_INFLIGHT="1")
    link, first_id = trained_and_connected(broker, vessel)
    vessel.commit()
    sent = link.publish()
    assert needs(sent.payload) == first_id
    a_day_passes(True)
    other_work(vessel, ENOUGH)
    newer = acknowledged(link, link.publish())
    assert newer.topic.startswith(DICTIONARIES)
    assert newer.topic != f"{DICTIONARIES}{first_id}"
    link.greeting()
    link.close()
    link = broker.accept()
    link.accept(session_present=True)
    again = acknowledged(link, link.publish())
    assert (again.packet_id, again.dup, again.payload) == (sent.packet_id, True, sent.payload)
    # What is sent for the first time needs the newer one.
    assert newer.topic == f"{DICTIONARIES}{needs(link.publish().payload)}"


@pytest.mark.slow
def test_a_broker_that_lost_its_session_gets_the_dictionary_before_what_needs_it(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_COMPRESSION="zstd")
    link, dictionary_id = trained_and_connected(broker, vessel)
    vessel.commit(3)
    sent = link.publishes(3)
    assert {needs(publish.payload) for publish in sent} == {dictionary_id}
    link.close()
    link = broker.accept()
    status = link.accept(session_present=False)
    first = link.publish()
    assert first.topic == f"{DICTIONARIES}{dictionary_id}"
    link.silent()  # what needs it waits for its acknowledgement
    link.ack(PUBACK, first.packet_id)
    got = link.publishes(4)
    changes = [publish for publish in got if publish.topic.endswith("work_orders")]
    assert [publish.payload for publish in changes] == [publish.payload for publish in sent]
    assert [publish.topic for publish in got if publish not in changes] == [status.topic]


@pytest.mark.slow
def test_a_dictionary_that_the_broker_refuses_is_not_used(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    vessel = start_vessel(broker.url, MQTT_COMPRESSION="zstd")
    link = broker.accept()
    link.accept()
    work(vessel, ENOUGH)
    left, is_refused = ENOUGH, False
    while left or not is_refused:
        publish = link.publish()
        is_dictionary = publish.topic.startswith(DICTIONARIES)
        link.ack(PUBACK, publish.packet_id, 0x87 if is_dictionary else 0)
        is_refused = is_refused or is_dictionary
        left -= not is_dictionary
    vessel.wait_drained()
    vessel.commit()
    assert needs(acknowledged(link, link.publish()).payload) in {0, -1}
    assert "the broker refuses dictionary" in caplog.text


@pytest.mark.slow
def test_a_newer_dictionary_is_made_only_if_it_saves_a_tenth_and_the_older_goes_with_its_changes(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    reader: Reader,
    a_day_passes: Callable[[bool], None],
) -> None:
    vessel = start_vessel(mosquitto.url, MQTT_COMPRESSION="zstd", MQTT_RETENTION_DAYS="1")
    vessel.wait_connected()
    work(vessel, ENOUGH)
    (first,) = wait_trained(vessel)
    eventually(lambda: dictionaries(vessel)[0].acknowledged, PATIENCE)
    # The same kind of messages: it is compared, and the old one stays.
    a_day_passes(True)
    work(vessel, ENOUGH, seed=3)
    eventually(lambda: dictionaries(vessel)[0].checked_at > first.created_at, PATIENCE)
    assert [one.id for one in dictionaries(vessel)] == [first.id]
    # Others: the new one takes its place.
    other_work(vessel, 3 * ENOUGH)
    _, second = wait_trained(vessel, 2)
    # Both are written by the turn after its acknowledgement, in two statements.
    eventually(lambda: dictionaries(vessel)[1].acknowledged, PATIENCE)
    eventually(lambda: dictionaries(vessel)[0].retired_at is not None, PATIENCE)
    assert dictionaries(vessel)[0].retired_seq >= ENOUGH
    a_day_passes(False)
    # It is deleted with the last change that was sent with it, here and at the broker.
    vessel.commit()
    vessel.wait_drained()
    vessel.stop()
    vessel.query_write("UPDATE arus_change SET committed_at = committed_at - 2 * 86400000")
    vessel.query_write("UPDATE arus_dictionary SET retired_at = retired_at - 2 * 86400000")
    again = start_vessel(mosquitto.url, MQTT_COMPRESSION="zstd", MQTT_RETENTION_DAYS="1")
    eventually(lambda: [one.id for one in dictionaries(again)] == [second.id], PATIENCE)
    assert reader.wait(2, f"{DICTIONARIES}{first.id}")[-1][0] == b""
    assert not reader.failures


@pytest.mark.slow
def test_a_log_that_was_restored_without_the_dictionary_begins_a_new_epoch(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(compression, "FEWEST", 10**9)
    vessel = start_vessel(mosquitto.url, MQTT_COMPRESSION="zstd")
    work(vessel, ENOUGH)
    vessel.wait_connected()
    eventually(lambda: vessel.status().head_seq == ENOUGH, PATIENCE)
    vessel.wait_drained()
    database, backup = tmp_path / "arus.sqlite", tmp_path / "backup.sqlite"
    with (
        closing(sqlite3.connect(database)) as live,
        closing(sqlite3.connect(backup)) as copy,
    ):
        live.backup(copy)
    monkeypatch.setattr(compression, "FEWEST", FEWEST)
    wait_trained(vessel)
    with Subscriber(mosquitto.port, "vessel/sync/system/status") as subscriber:
        subscriber.wait_for(lambda message: "dictionary" in message.json)
    (epoch,) = vessel.query("SELECT epoch FROM arus_session")
    vessel.stop()
    for name in ("-wal", "-shm"):
        database.with_name(database.name + name).unlink(missing_ok=True)
    backup.replace(database)
    again = start_vessel(mosquitto.url, MQTT_COMPRESSION="zstd")
    eventually(lambda: again.query("SELECT epoch FROM arus_session") != [epoch], PATIENCE)
    eventually(
        lambda: "which the log does not have: the database was restored" in caplog.text, PATIENCE
    )
    again.wait_connected()
