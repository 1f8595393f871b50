"""Brokers as their makers ship them: nothing is lost, nothing fills the window for ever."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from arus.outbox.status import STALLED_AFTER
from arus.protocol.times import now_ms
from arus.relay.poison import FRUITLESS, RELEASE_STRIKES
from tests.faults.link import Link as CuttableLink
from tests.faults.link import Mode
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Packet,
    Publish,
    ScriptedBroker,
)
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel, VesselProcess
from tests.support.waiting import eventually, free_port

pytestmark = pytest.mark.slow

StartMosquitto = Callable[..., Mosquitto]


@pytest.fixture
def link_to() -> Iterator[Callable[[int], CuttableLink]]:
    """Makes links to a port that can be cut."""
    with ExitStack() as stack:

        def make(port: int) -> CuttableLink:
            link = CuttableLink(free_port(), port, 0)
            link.start()
            stack.callback(link.stop)
            return link

        yield make


def all_once_and_in_order(subscriber: Subscriber, topic: str, count: int) -> None:
    seqs = [change["seq"] for change in subscriber.changes(topic)]
    repeated = [seq for seq, times in Counter(seqs).items() if times > 1]
    assert not repeated, f"repeated: {repeated[:5]}"
    assert len(seqs) == count
    assert seqs == sorted(seqs)


# -- handshakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    "options",
    [[], ["max_inflight_messages 5"], ["max_inflight_messages 1"], ["max_inflight_bytes 2000"]],
    ids=lambda options: " ".join(options) or "as shipped",
)
@pytest.mark.parametrize("protocol", ["3.1.1", "auto"])
def test_no_queued_alert_is_lost(
    protocol: str, options: list[str], start_mosquitto: StartMosquitto, start_vessel: StartVessel
) -> None:
    mosquitto = start_mosquitto(as_shipped=True, options=options)
    vessel = start_vessel(f"mqtt://127.0.0.1:{free_port()}", MQTT_PROTOCOL=protocol)
    vessel.commit(300, "alerts", data='{"id":"1","fill":"' + "x" * 400 + '"}')
    vessel.commit(100)
    vessel.stop()
    with Subscriber(mosquitto.port, "vessel/sync/#") as subscriber:
        vessel = start_vessel(mosquitto.url, MQTT_PROTOCOL=protocol)
        vessel.wait_drained(60)
        eventually(lambda: len(subscriber.changes()) >= 400, 10)
        all_once_and_in_order(subscriber, "alerts", 300)
        all_once_and_in_order(subscriber, "work_orders", 100)


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_no_alert_is_lost_or_repeated_through_link_cuts_and_owner_kills(
    protocol: str,
    start_mosquitto: StartMosquitto,
    migrated_database_url: str,
    link_to: Callable[[int], CuttableLink],
    tmp_path: Path,
) -> None:
    """Handshakes that an earlier connection has left open at the broker take room in the next one."""
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    mosquitto = start_mosquitto(as_shipped=True)
    link = link_to(mosquitto.port)
    with (
        Vessel(migrated_database_url) as writer,
        Subscriber(mosquitto.port, "vessel/sync/#") as subscriber,
    ):
        writer.stop()
        writer.commit(600, "alerts", notify=False)
        writer.commit(300, notify=False)
        url = f"mqtt://127.0.0.1:{link.port}"
        pause = threading.Event()
        for _ in range(4):
            with VesselProcess(
                migrated_database_url,
                tmp_path / "vessel.log",
                MQTT_BROKER_URL=url,
                MQTT_PROTOCOL=protocol,
            ):
                for _ in range(4):
                    arrived = len(subscriber.messages)
                    pause.wait(chance.uniform(0.02, 0.25))
                    link.set_mode(chance.choice([Mode.DOWN, Mode.CUT_IN, Mode.CUT_OUT]))
                    pause.wait(0.05)
                    link.set_mode(Mode.OPEN)
                    if len(subscriber.changes()) < 800:
                        subscriber.wait(arrived + 1)
        with Vessel(
            migrated_database_url, MQTT_BROKER_URL=mosquitto.url, MQTT_PROTOCOL=protocol
        ) as vessel:
            vessel.wait_drained(60)
            assert set(vessel.query("SELECT coalesce(max_qos, 2) FROM arus_broker")) == {(2,)}
        eventually(lambda: len(subscriber.changes("alerts")) >= 600, 10)
        all_once_and_in_order(subscriber, "alerts", 600)
        orders = list(Counter(each["seq"] for each in subscriber.changes("work_orders")))
        assert len(orders) == 300
        assert orders == sorted(orders)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_what_a_broker_takes_is_found_out_once_a_day(
    start_mosquitto: StartMosquitto, start_vessel: StartVessel
) -> None:
    mosquitto = start_mosquitto(as_shipped=True, options=["max_inflight_messages 7"])
    vessel = start_vessel(mosquitto.url, MQTT_PROTOCOL="3.1.1")
    vessel.wait_connected()
    known = "SELECT handshakes FROM arus_broker"

    def probes() -> int:
        return mosquitto.log.count("arus_sync_ship-1_probe (")

    vessel.commit(50, "alerts")
    eventually(lambda: vessel.query(known) == [(7,)], message="it is known")
    vessel.wait_drained()
    first = probes()
    vessel.stop()
    vessel = start_vessel(mosquitto.url, MQTT_PROTOCOL="3.1.1")
    vessel.wait_connected()
    vessel.commit(50, "alerts")
    vessel.wait_drained()
    assert probes() == first
    vessel.stop()
    vessel.query_write("UPDATE arus_broker SET handshakes_at = handshakes_at - 86400000")
    vessel = start_vessel(mosquitto.url, MQTT_PROTOCOL="3.1.1")
    vessel.wait_connected()
    vessel.commit(50, "alerts")
    eventually(lambda: probes() > first, message="it is found out again")
    vessel.wait_drained()


def test_until_it_is_known_nothing_leaves_beside_an_open_handshake(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="3.1.1")
    vessel.commit(2, "alerts")
    vessel.commit(1)
    link = broker.accept()
    link.accept()
    seen = []
    for _ in range(2):
        alert = link.publish()
        seen.append(alert.json["seq"])
        link.silent(0.1)
        link.ack(PUBREC, alert.packet_id)
        assert link.expect(PUBREL).packet_id == alert.packet_id
        link.silent(0.1)
        link.ack(PUBCOMP, alert.packet_id)
    assert link.publish().topic == "vessel/sync/work_orders"
    assert seen == [1, 2]


def test_a_status_waits_for_what_an_earlier_connection_has_left_open(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="3.1.1")
    vessel.commit(1, "alerts")
    link = broker.accept()
    link.accept()
    alert = link.publish()
    link.close()
    link = broker.accept()
    link.connect()
    link.connack(session_present=True)
    again = link.publish()
    assert (again.packet_id, again.dup) == (alert.packet_id, True)
    link.silent(0.1)
    link.ack(PUBREC, again.packet_id)
    link.expect(PUBREL)
    link.ack(PUBCOMP, again.packet_id)
    link.greeting()


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize(
    ("topic", "kind"),
    [("alerts", PUBACK), ("alerts", PUBCOMP), ("work_orders", PUBREC), ("work_orders", PUBCOMP)],
)
def test_an_answer_of_the_wrong_kind_completes_the_message_it_names(
    topic: str, kind: int, protocol: str, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL=protocol, MQTT_MAX_INFLIGHT="4")
    link = broker.accept()
    link.accept()
    vessel.commit(20, topic)
    taken = 0
    while taken < 20:
        got = link.next()
        if isinstance(got, Publish):
            taken += 1
            link.ack(kind, got.packet_id)
        else:
            assert isinstance(got, Packet)
            assert (got.kind, kind) == (PUBREL, PUBREC)
    vessel.wait_drained()
    assert vessel.status().counter("messages_published") == 20


def test_a_broker_that_lowers_qos_2_is_remembered(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="3.1.1")
    link = broker.accept()
    link.accept()
    vessel.commit(1, "alerts")
    link.ack(PUBACK, link.publish().packet_id)
    known = "SELECT lowers_qos FROM arus_broker"
    eventually(lambda: [bool(one) for (one,) in vessel.query(known)] == [True])


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("topic", ["work_orders", "alerts"])
def test_a_change_that_the_broker_passes_over_is_given_up_the_third_time(
    topic: str,
    broker: ScriptedBroker,
    start_vessel: StartVessel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arus.relay.passed_over.UNANSWERED", 0.3)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    vessel.commit(2, topic)
    for number in range(3):
        link = broker.accept()
        link.accept(session_present=number > 0, receive_maximum=10)
        wanted = link.publishes(2 if number == 0 else 1)
        assert wanted[0].json["seq"] == 1
        vessel.commit(1)
        later = [*wanted[1:], link.publish()]
        for publish in later:
            if publish.qos == 2:
                link.ack(PUBREC, publish.packet_id)
                link.expect(PUBREL)
                link.ack(PUBCOMP, publish.packet_id)
            else:
                link.ack(PUBACK, publish.packet_id)
        with pytest.raises(ConnectionError):
            link.next()
    broker.accept().accept(session_present=True, receive_maximum=10)
    eventually(lambda: vessel.status().depth == 0, message="nothing is held up")
    assert vessel.status().quarantined == 1
    [(seq, reason)] = vessel.query("SELECT seq, reason FROM arus_change WHERE outcome IS NOT NULL")
    assert (seq, reason) == (1, "the broker does not answer it")


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_release_that_the_broker_reads_and_never_answers_is_given_up_as_delivered(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.relay.releases.UNANSWERED", 0.5)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    vessel.commit(1, "alerts")
    link = broker.accept()
    link.accept()
    link.ack(PUBREC, link.publish().packet_id)
    link.expect(PUBREL)
    link.silent(1.5)  # but for the ping that shows that it was read
    assert link.pings == 1
    vessel.wait_drained()
    status = vessel.status()
    assert (status.quarantined, status.counter("messages_published")) == (0, 1)
    assert len(vessel.heard("connected")) == 1


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_release_on_which_the_broker_hangs_up_is_given_up_as_delivered(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    """aedes does so on one that it does not know, such as that of an owner killed before it journalled the PUBCOMP."""
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    link = broker.accept()
    link.accept()
    vessel.commit(2, "alerts")
    hung_up = 0
    while vessel.status().depth:
        got = link.next(0.5)
        if isinstance(got, Publish) and got.qos == 2:
            link.ack(PUBREC, got.packet_id)
        elif isinstance(got, Packet) and got.kind == PUBREL:
            hung_up += 1
            link.close()
            link = broker.accept()
            link.connect()
            link.connack(session_present=True)
    assert hung_up >= FRUITLESS + RELEASE_STRIKES
    status = vessel.status()
    assert (status.quarantined, status.counter("messages_published")) == (0, 2)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_slow_handshake_is_not_taken_for_one_that_was_passed_over(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.relay.passed_over.UNANSWERED", 2.0)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5", MQTT_KEEPALIVE="1")
    link = broker.accept()
    link.accept()
    vessel.commit(1, "alerts")
    alert = link.publish()
    link.silent(1.5)  # but for pings
    link.ack(PUBREC, alert.packet_id)
    link.expect(PUBREL)
    link.silent(1.5)
    link.ack(PUBCOMP, alert.packet_id)
    vessel.wait_drained()
    assert len(vessel.heard("connected")) == 1


# -- what is said of it ---------------------------------------------------------------------------


def test_a_connection_on_which_nothing_gets_on_is_no_health(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.wait_connected()
    assert vessel.status().trouble(now_ms()) is None
    vessel.commit(1, committed_at=now_ms() - STALLED_AFTER - 1000)
    publish = link.publish()
    eventually(lambda: vessel.status().depth == 1)
    trouble = vessel.status().trouble(now_ms())
    assert trouble
    assert "the broker has acknowledged none for a minute" in trouble
    vessel.commit(1)
    link.ack(PUBACK, link.publish().packet_id)
    eventually(lambda: vessel.status().depth == 1)
    assert vessel.status().trouble(now_ms()) is None  # something gets on
    assert vessel.status().trouble(now_ms() + STALLED_AFTER + 1000)
    link.ack(PUBACK, publish.packet_id)
    vessel.wait_drained()
    assert vessel.status().trouble(now_ms() + STALLED_AFTER + 1000) is None


def test_why_there_is_no_connection_is_kept(start_vessel: StartVessel) -> None:
    vessel = start_vessel(f"mqtt://127.0.0.1:{free_port()}")
    eventually(lambda: "refused" in (vessel.status().reason or ""), message="it is said")
    assert vessel.status().trouble(now_ms()) == vessel.status().reason


# -- another client with our id -------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    ("protocol", "own"),
    [
        ("3.1.1", ({}, {})),
        ("5", ({}, {})),
        ("3.1.1", ({"VESSEL_ID": "a"}, {"VESSEL_ID": "b"})),
        ("5", ({"VESSEL_ID": "a"}, {"VESSEL_ID": "b"})),
    ],
)
def test_of_two_vessels_with_one_id_one_stands_down(
    protocol: str,
    own: tuple[dict[str, str], dict[str, str]],
    start_mosquitto: StartMosquitto,
    migrated_database_url: str,
    shore_database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mosquitto = start_mosquitto(as_shipped=True)
    settings = {
        "MQTT_BROKER_URL": mosquitto.url,
        "MQTT_PROTOCOL": protocol,
        "MQTT_CLIENT_ID": "arus_sync_ship-1",
        "MQTT_TOPIC_PREFIX": "fleet/{vessel_id}/sync",
    }
    with (
        Vessel(migrated_database_url, **settings, **own[0]) as one,
        Vessel(shore_database_url, **settings, **own[1]) as two,
    ):
        eventually(
            lambda: "another client uses the client id arus_sync_ship-1" in caplog.text,
            message="the rival is named",
        )
        connected = [len(vessel.heard("connected")) for vessel in (one, two)]
        assert sum(connected) <= 12

        def stands_down() -> bool:
            found = [vessel.status() for vessel in (one, two)]
            away = [each.trouble(now_ms()) or "" for each in found if not each.connected]
            return len(away) == 1 and "another client" in away[0]

        # For a moment both are connected, or the other one is not yet again.
        eventually(stands_down, message="one of them stands down")
