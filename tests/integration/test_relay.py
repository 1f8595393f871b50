"""The relay: what leaves, in which order, and what becomes of it when anything goes wrong."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arus import signals
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Link,
    Packet,
    Publish,
    ScriptedBroker,
    packet,
)
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel, VesselProcess
from tests.support.waiting import PATIENCE, eventually

STATUS = "vessel/sync/system/status"


@pytest.fixture
def database_kind() -> str:
    """The ownership tests run the relay on each database."""
    return "sqlite"


def seqs(publishes: list[Publish]) -> list[int]:
    return [publish.json["seq"] for publish in publishes]


def flying(link: Link, quiet: float = 0.4, *, at_least: int = 0) -> list[Publish]:
    """All PUBLISHes until nothing more comes."""
    got: list[Publish] = []
    while (publish := link.next(quiet if len(got) >= at_least else 10)) is not None:
        assert isinstance(publish, Publish), publish
        got.append(publish)
    return got


# -- order and the window -------------------------------------------------------------------------


def test_a_change_as_the_contract_has_it(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    (first,) = vessel.commit(data='{"id":"1","reason":"Leak"}')
    publish = link.publish()
    assert (publish.topic, publish.qos, publish.retain, publish.dup) == (
        "vessel/sync/work_orders", 1, True, False,
    )  # fmt: skip
    body = publish.json
    assert set(body) == {
        "type", "entity", "operation", "data", "timestamp", "messageId", "vesselId",
        "epoch", "seq", "previousSeq", "version",
    }  # fmt: skip
    assert body["data"] == {"id": "1", "reason": "Leak"}
    assert (body["messageId"], body["seq"], body["previousSeq"]) == (first, 1, 0)
    assert vessel.status().depth == 1
    link.ack(PUBACK, publish.packet_id)
    vessel.wait_drained()
    assert vessel.status().counter("messages_published") == 1


@pytest.mark.slow
def test_nothing_leaves_before_connack(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url)
    vessel.commit(5)
    link = broker.accept()
    link.connect()
    vessel.commit(5)
    link.silent(0.5)
    link.connack()
    link.greeting()
    assert seqs(link.publishes(10)) == list(range(1, 11))


@pytest.mark.slow
def test_the_window_learns_from_the_first_answer_to_each_message(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of a QoS 2 handshake, alone after a reconnect, would pass for a shorter round trip."""
    learned: list[float] = []
    monkeypatch.setattr(
        "arus.relay.window.Window.acknowledged",
        lambda _window, took, _now, _unread: learned.append(took),
    )
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    link = broker.accept()
    link.accept()
    vessel.commit(3, "alerts")
    publishes = link.publishes(3)
    link.acks(PUBREC, [p.packet_id for p in publishes])
    released = [link.expect(PUBREL) for _ in publishes]
    assert len(learned) == 3
    link.ack(PUBCOMP, released[0].packet_id)
    eventually(lambda: vessel.status().depth == 2, message="one is settled")
    link.close()
    link = broker.accept()
    link.connect()
    link.connack(session_present=True)
    assert [link.expect(PUBREL) for _ in released[1:]] == released[1:]
    link.greeting()
    link.acks(PUBCOMP, [p.packet_id for p in released[1:]])
    vessel.wait_drained()
    assert len(learned) == 3
    vessel.commit()
    link.ack(PUBACK, link.publish().packet_id)
    vessel.wait_drained()
    assert len(learned) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("receive_maximum", "setting", "bound"), [(5, "auto", 5), (5, "100", 5), (None, "3", 3)]
)
def test_the_window_keeps_to_its_bound(
    receive_maximum: int | None,
    setting: str,
    bound: int,
    broker: ScriptedBroker,
    start_vessel: StartVessel,
) -> None:
    vessel = start_vessel(broker.url, MQTT_MAX_INFLIGHT=setting)
    vessel.commit(30)
    vessel.commit(10, "alerts")
    link = broker.accept()
    link.connect()
    link.connack(receive_maximum=receive_maximum)
    first = flying(link, at_least=bound)  # the status is among them: it takes room too
    assert len(first) == bound
    unacknowledged = len(first)
    delivered: dict[str, list[int]] = {}
    queue = list(first)
    while queue:
        publish = queue.pop(0)
        if publish.qos == 2:
            link.ack(PUBREC, publish.packet_id)
            got = link.next()
            while isinstance(got, Publish):
                queue.append(got)
                got = link.next()
            assert got == Packet(PUBREL, publish.packet_id)
            link.ack(PUBCOMP, publish.packet_id)
        else:
            link.ack(PUBACK, publish.packet_id)
        unacknowledged -= 1
        if publish.topic != STATUS:
            delivered.setdefault(publish.topic, []).append(publish.json["seq"])
        if sum(map(len, delivered.values())) < 40 and not queue:
            queue.append(link.publish())
        assert len(queue) <= bound
    vessel.wait_drained()
    assert sorted(seq for each in delivered.values() for seq in each) == list(range(1, 41))
    assert all(each == sorted(each) for each in delivered.values())


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_status_keeps_to_what_the_broker_accepts_at_a_time(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A roll call asks for it while the window is full of changes."""
    monkeypatch.setattr("arus.inbound.roll_calls.ANSWERED_WITHIN", 0.0)
    vessel = start_vessel(broker.url, MQTT_TOPIC_PREFIX="fleet/{vessel_id}/sync")
    link = broker.accept()
    link.connect()
    link.connack(receive_maximum=2)
    link.greeting()
    vessel.commit(4)
    first, second = link.publishes(2)
    topic = b"fleet/_all/sync/catchup_requests"
    call = b'{"requestId": "r-1", "rollCall": true}'
    link.send(packet(0x30, bytes((0, len(topic))) + topic + b"\x00" + call))
    link.silent(2.5)
    link.ack(PUBACK, first.packet_id)
    status = link.publish()
    assert status.topic == "fleet/ship-1/sync/system/status"
    link.silent(0.2)  # it takes room too
    link.acks(PUBACK, [second.packet_id, status.packet_id])
    assert seqs(link.publishes(2)) == [3, 4]


@pytest.mark.slow
def test_a_large_backlog_goes_in_order_and_once(
    mosquitto: Mosquitto, subscriber: Subscriber, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(mosquitto.url)
    for _ in range(5):
        vessel.commit(300)
        vessel.commit(100, "crew")
        vessel.commit(20, "alerts")
    vessel.wait_drained(30)
    subscriber.wait(2_101)
    changes = subscriber.changes()
    assert len(changes) == 2_100
    assert sorted(change["seq"] for change in changes) == list(range(1, 2_101))
    for entity in ("work_orders", "crew", "alerts"):
        mine = [change for change in changes if change["entity"] == entity]
        assert [c["seq"] for c in mine] == sorted(c["seq"] for c in mine)
        assert [c["previousSeq"] for c in mine] == [0, *(c["seq"] for c in mine[:-1])]
    assert vessel.status().depth == 0
    assert vessel.status().counter("messages_published") == 2_100


def test_alerts_pass_queued_work_orders(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url)
    vessel.commit(20)
    vessel.commit(2, "alerts")
    link = broker.accept()
    link.accept(receive_maximum=4)
    assert seqs(link.publishes(4)) == [21, 22, 1, 2]


def test_acknowledgements_out_of_order(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url)
    vessel.commit(10)
    link = broker.accept()
    link.accept()
    publishes = link.publishes(10)
    link.acks(PUBACK, [p.packet_id for p in (publishes[9], publishes[4], publishes[5])])
    eventually(lambda: vessel.status().depth == 7, message="three are settled")
    link.close()  # what was acknowledged out of order is not sent again
    link = broker.accept()
    link.accept(session_present=True)
    again = link.publishes(7)
    assert seqs(again) == [1, 2, 3, 4, 7, 8, 9]
    link.acks(PUBACK, reversed([p.packet_id for p in again]))
    vessel.wait_drained()
    assert len(vessel.heard("message_published")) == 10


@pytest.mark.slow
@pytest.mark.parametrize("packet_id", [0, 1, 16_384, 65_535])
def test_acknowledgements_of_nothing_are_ignored(
    packet_id: int, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    for kind in (PUBACK, PUBREC, PUBCOMP):
        link.ack(kind, packet_id)
    vessel.commit()
    link.ack(PUBACK, link.publish().packet_id)
    link.ack(PUBACK, 16_385)  # the second of the same
    vessel.wait_drained()
    assert vessel.status().counter("messages_published") == 1


@pytest.mark.slow
def test_a_catch_up_keeps_to_the_window_too(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_MAX_QUEUE_SIZE="5")
    for n in range(60):
        vessel.commit(data=f'{{"id":"{n}"}}', row_id=str(n))
    eventually(lambda: vessel.status().counter("messages_dropped") == 55, message="the overflow")
    link = broker.accept()
    link.accept(receive_maximum=5)
    link.acks(PUBACK, [p.packet_id for p in link.publishes(5)])
    sent: list[Publish] = []
    while not sent or sent[-1].json["type"] != "catchup_end":
        unacknowledged = flying(link, 0.2)
        assert 1 <= len(unacknowledged) <= 5
        link.acks(PUBACK, [p.packet_id for p in unacknowledged])
        sent += unacknowledged
    assert len({p.json["data"]["id"] for p in sent[1:-1]}) == 55


# -- after a reconnect ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("session_present", [True, False])
def test_what_was_not_acknowledged_goes_again(
    session_present: bool, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    vessel.commit(4)
    vessel.commit(2, "alerts")
    link = broker.accept()
    link.accept()
    before = {p.json["seq"]: p for p in link.publishes(6)}
    link.ack(PUBACK, before[1].packet_id)
    eventually(lambda: vessel.status().depth == 5, message="one is settled")
    link.close()
    vessel.commit()
    link = broker.accept()
    link.accept(session_present=session_present)
    again = link.publishes(6)
    orders = [p for p in again if p.qos == 1]
    assert seqs(orders) == [2, 3, 4, 7]
    assert seqs([p for p in again if p.qos == 2]) == [5, 6]
    for publish in again[:-1]:
        earlier = before[publish.json["seq"]]
        assert publish.payload == earlier.payload
        assert publish.packet_id == earlier.packet_id
        assert publish.dup is session_present
    assert not orders[-1].dup


def test_a_confirmed_alert_is_released_not_sent_again(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    vessel.commit(3, "alerts")
    link = broker.accept()
    link.accept()
    publishes = link.publishes(3)
    link.ack(PUBREC, publishes[1].packet_id)
    assert link.expect(PUBREL).packet_id == publishes[1].packet_id
    link.close()
    link = broker.accept()
    link.connect()
    link.connack(session_present=True)
    released = link.expect(PUBREL)
    assert released.packet_id == publishes[1].packet_id
    link.greeting()
    assert seqs(link.publishes(2)) == [1, 3]
    link.ack(PUBCOMP, released.packet_id)
    eventually(lambda: vessel.status().depth == 2, message="it is settled")


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["before CONNACK", "refused", "after PUBREL"])
def test_a_release_stays_a_release_through_failed_reconnects(
    fails: str, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    """paho turns it back into a PUBLISH at the second of them: the alert would be there twice."""
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    vessel.commit(2, "alerts")
    link = broker.accept()
    link.accept()
    publishes = link.publishes(2)
    link.acks(PUBREC, [p.packet_id for p in publishes])
    released = [link.expect(PUBREL) for _ in publishes]
    assert [p.packet_id for p in released] == [p.packet_id for p in publishes]
    link.close()
    for _ in range(3):
        link = broker.accept()
        link.connect()
        if fails == "refused":
            link.connack(reason=0x88)
        elif fails == "after PUBREL":
            link.connack(session_present=True)
            assert [link.expect(PUBREL) for _ in publishes] == released
        link.close()
    link = broker.accept()
    link.connect()
    link.connack(session_present=True)
    # After the broker has closed connections on them they come one at a time.
    again: list[Packet] = []
    while len(again) < len(released):
        got = link.next()
        if isinstance(got, Publish):
            assert got.topic.endswith("system/status"), got
            link.ack(PUBACK, got.packet_id)
        elif isinstance(got, Packet):
            again.append(got)
            link.ack(PUBCOMP, got.packet_id)
    assert again == released
    vessel.wait_drained()
    assert vessel.status().counter("messages_published") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topic", "session_present"), [("work_orders", True), ("alerts", True), ("alerts", False)]
)
@pytest.mark.parametrize(("receive_maximum", "setting", "bound"), [(5, "auto", 5), (None, "7", 7)])
def test_a_reconnect_keeps_to_the_window(
    receive_maximum: int | None,
    setting: str,
    bound: int,
    session_present: bool,
    topic: str,
    broker: ScriptedBroker,
    migrated_database_url: str,
    start_vessel: StartVessel,
) -> None:
    """paho sends all that is unacknowledged again at once, and never reads Receive Maximum."""
    with Vessel(
        migrated_database_url, MQTT_BROKER_URL=broker.url, MQTT_MAX_INFLIGHT="100"
    ) as before:
        before.commit(40, topic)
        link = broker.accept()
        link.accept(receive_maximum=100)
        sent = link.publishes(40)
        link.close()
    vessel = start_vessel(broker.url, MQTT_MAX_INFLIGHT=setting)
    link = broker.accept()
    link.connect()
    link.connack(session_present=session_present, receive_maximum=receive_maximum)
    again: list[Publish] = []
    first = flying(link, at_least=bound)
    assert len(first) == bound  # the status is one of them
    queue = first
    while queue:
        assert len(queue) <= bound
        publish = queue.pop(0)
        if publish.topic != STATUS:
            again.append(publish)
        if publish.qos == 2:
            link.ack(PUBREC, publish.packet_id)
            # A PUBLISH for which the last PUBCOMP made room may be on its way still.
            while isinstance(release := link.next(), Publish):
                queue.append(release)
            assert isinstance(release, Packet)
            assert (release.kind, release.packet_id) == (PUBREL, publish.packet_id)
            link.ack(PUBCOMP, publish.packet_id)
        else:
            link.ack(PUBACK, publish.packet_id)
        # Only with none left to acknowledge must another one come; before, it may.
        while (
            len(again) + len(queue) < 40 and (more := link.next(0.05 if queue else 10)) is not None
        ):
            assert isinstance(more, Publish)
            queue.append(more)
    assert seqs(again) == list(range(1, 41))
    assert [p.packet_id for p in again] == [p.packet_id for p in sent]
    assert {p.dup for p in again} == {session_present}
    vessel.wait_drained()


def test_a_confirmed_alert_whose_session_is_gone_is_published_anew(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    vessel.commit(2, "alerts")
    link = broker.accept()
    link.accept()
    publishes = link.publishes(2)
    link.ack(PUBREC, publishes[0].packet_id)
    link.expect(PUBREL)
    link.close()
    link = broker.accept()
    link.accept(session_present=False)
    assert [(p.json["seq"], p.dup) for p in link.publishes(2)] == [(1, False), (2, False)]
    link.close()  # and it stays so
    link = broker.accept()
    link.accept(session_present=True)
    assert [(p.json["seq"], p.dup) for p in link.publishes(2)] == [(1, True), (2, True)]
    for kind in (PUBREC, PUBCOMP):
        link.acks(kind, [p.packet_id for p in publishes])
        if kind == PUBREC:
            assert {link.expect(PUBREL).packet_id for _ in range(2)} == {
                p.packet_id for p in publishes
            }
    vessel.wait_drained()


def test_pubcomp_that_knows_no_packet_id_ends_the_handshake(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    vessel.commit(1, "alerts")
    link = broker.accept()
    link.accept()
    publish = link.publish()
    link.ack(PUBREC, publish.packet_id)
    link.expect(PUBREL)
    link.ack(PUBCOMP, publish.packet_id, 0x92)
    vessel.wait_drained()
    assert vessel.status().counter("publish_failures") == 0


@pytest.mark.slow
def test_the_confirmation_survives_sigkill(
    broker: ScriptedBroker, migrated_database_url: str, tmp_path: Path, start_vessel: StartVessel
) -> None:
    """PUBREC is journalled before PUBREL leaves: the next owner sends PUBREL and no PUBLISH."""
    log = tmp_path / "vessel.log"
    with (
        VesselProcess(migrated_database_url, log, MQTT_BROKER_URL=broker.url) as process,
        ExitStack() as stack,
    ):
        writer = Vessel(migrated_database_url)
        stack.callback(writer.engine.dispose)
        stack.callback(writer.notifier.close)
        link = broker.accept()
        link.accept()
        writer.commit(3, "alerts")
        publishes = link.publishes(3)
        link.ack(PUBREC, publishes[0].packet_id)
        link.expect(PUBREL)
        process.kill()
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.connect()
    link.connack(session_present=True)
    got: list[Any] = []
    while len(got) < 4:
        got.append(link.next())
    assert Packet(PUBREL, publishes[0].packet_id) in got
    again = [p for p in got if isinstance(p, Publish) and p.topic != STATUS]
    assert [(p.packet_id, p.payload, p.dup) for p in again] == [
        (p.packet_id, p.payload, True) for p in publishes[1:]
    ]
    assert vessel.status().depth == 3


@pytest.mark.slow
def test_alerts_arrive_once_through_kills_and_cuts(
    mosquitto: Mosquitto, subscriber: Subscriber, migrated_database_url: str, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    writer = Vessel(migrated_database_url)
    try:
        for _ in range(4):
            with VesselProcess(
                migrated_database_url,
                tmp_path / "vessel.log",
                MQTT_BROKER_URL=mosquitto.url,
            ):
                arrived = len(subscriber.messages)
                writer.commit(300, "alerts")
                writer.commit(100)
                subscriber.wait(arrived + chance.randrange(5, 250))
        with Vessel(migrated_database_url, MQTT_BROKER_URL=mosquitto.url) as vessel:
            vessel.wait_connected()
            vessel.wait_drained(30)
            eventually(lambda: len(subscriber.changes("alerts")) >= 1_200, 20)
        counted = Counter(change["seq"] for change in subscriber.changes("alerts"))
        assert len(counted) == 1_200
        assert max(counted.values()) == 1, [seq for seq, n in counted.items() if n > 1]
        assert list(counted) == sorted(counted)
        orders = list(Counter(change["seq"] for change in subscriber.changes("work_orders")))
        assert len(orders) == 400
        assert orders == sorted(orders)  # first deliveries
    finally:
        writer.notifier.close()
        writer.engine.dispose()


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topic", "kind", "code", "reason"),
    [
        ("work_orders", PUBACK, 0x87, "not authorized"),
        ("alerts", PUBREC, 0x87, "not authorized"),
        ("work_orders", PUBACK, 0x99, "payload format invalid"),
        ("alerts", PUBREC, 0xA2, "0xa2"),
    ],
)
def test_a_refused_change_is_quarantined_and_holds_up_no_other(
    topic: str, kind: int, code: int, reason: str, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    ids = vessel.commit(3, topic)
    publishes = link.publishes(3)
    link.ack(kind, publishes[1].packet_id, code)
    for publish in (publishes[0], publishes[2]):
        link.ack(kind, publish.packet_id)
        if kind == PUBREC:
            link.expect(PUBREL)
            link.ack(PUBCOMP, publish.packet_id)
    vessel.wait_drained()
    ((message_id, why),) = vessel.query(
        "SELECT message_id, reason FROM arus_change WHERE outcome = 'quarantined'"
    )
    assert message_id == ids[1]
    assert reason in why
    status = vessel.status()
    assert status.counter("publish_failures") == 1
    assert status.counter("messages_published") == 2
    assert status.quarantined == 1
    link.close()
    link = broker.accept()
    link.accept(session_present=True)
    link.silent()


def test_mosquittos_acl_quarantines(
    start_mosquitto: Callable[..., Mosquitto], start_vessel: StartVessel
) -> None:
    mosquitto = start_mosquitto(
        acl="topic readwrite vessel/sync/system/#\ntopic vessel/sync/crew\n"
    )
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(2)
    vessel.commit(2, "crew")
    vessel.commit(1, "alerts")
    vessel.wait_drained()
    status = vessel.status()
    assert (status.quarantined, status.counter("publish_failures")) == (3, 3)
    assert status.counter("messages_published") == 2


@pytest.mark.slow
def test_quota_exceeded_is_tried_again(
    broker: ScriptedBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.outbox.topic_queue.FIRST_PAUSE", 0.3)
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.commit(2)
    first, second = link.publishes(2)
    link.ack(PUBACK, first.packet_id, 0x97)
    refused_at = time.monotonic()
    link.ack(PUBACK, second.packet_id)
    again = link.publish()
    assert time.monotonic() - refused_at >= 0.29
    assert (again.packet_id, again.payload) == (first.packet_id, first.payload)
    link.ack(PUBACK, again.packet_id)
    vessel.wait_drained()
    assert vessel.status().counter("publish_failures") == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_packet_that_is_too_large_is_quarantined(
    place: int, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    for n in range(3):
        vessel.commit(data='"%s"' % ("x" * (5_000 if n == place else 10)))
    link = broker.accept()
    link.accept(maximum_packet=2_000)
    publishes = link.publishes(2)
    assert seqs(publishes) == [n + 1 for n in range(3) if n != place]
    link.acks(PUBACK, [p.packet_id for p in publishes])
    vessel.wait_drained()
    assert vessel.wait_signal("queue_flushed")
    ((seq, why),) = vessel.query("SELECT seq, reason FROM arus_change WHERE outcome IS NOT NULL")
    assert seq == place + 1
    assert "2000" in why
    assert vessel.status().depth == 0


def test_mosquittos_maximum_packet_size(
    start_mosquitto: Callable[..., Mosquitto], start_vessel: StartVessel
) -> None:
    vessel = start_vessel(start_mosquitto(options=["max_packet_size 3000"]).url)
    vessel.wait_connected()
    vessel.commit(1, data='"%s"' % ("x" * 4_000))
    vessel.commit(3)
    vessel.wait_drained()
    assert (vessel.status().quarantined, vessel.status().counter("messages_published")) == (1, 3)


# -- a link that fails ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_half_open_link_is_found_out(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url, MQTT_KEEPALIVE="1")
    link = broker.accept()
    link.accept()
    vessel.commit()
    before = link.publish()
    began = time.monotonic()
    again = broker.accept(timeout=6)  # the first link is not read any more
    assert time.monotonic() - began < 4 * PATIENCE
    vessel.wait_signal("disconnected")
    again.accept(session_present=True)
    publish = again.publish()
    assert (publish.payload, publish.dup) == (before.payload, True)


@pytest.mark.slow
@pytest.mark.parametrize(("ours", "brokers"), [("1", None), ("60", 1)])
def test_a_quiet_link_is_kept(
    ours: str, brokers: int | None, broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_KEEPALIVE=ours)
    link = broker.accept()
    link.connect()
    link.connack(keepalive=brokers)
    link.greeting()
    link.silent(3)  # but for pings
    assert link.pings >= 2
    assert not vessel.heard("disconnected")


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_mosquittos_max_keepalive_does_not_end_an_idle_connection(
    start_mosquitto: Callable[..., Mosquitto], start_vessel: StartVessel
) -> None:
    mosquitto = start_mosquitto(options=["max_keepalive 10"])
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    pinged = "Received PINGREQ from arus_sync_ship-1"
    eventually(lambda: mosquitto.log.count(pinged) >= 2, 60, message="two pings")
    assert not vessel.heard("disconnected")


def test_a_packet_is_not_torn_by_the_link(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.commit(10)
    publishes = link.publishes(10)
    stream = b"".join(packet(PUBACK, p.packet_id.to_bytes(2, "big")) for p in publishes)
    for byte in stream:
        link.send(bytes((byte,)))
    vessel.wait_drained()


def test_a_broker_that_reads_slowly(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url, MQTT_MAX_INFLIGHT="1000")
    vessel.commit(200, data='"%s"' % ("x" * 60_000))  # 12 MB: more than the sockets hold
    link = broker.accept()
    link.accept()
    for seq in range(1, 201):
        publish = link.publish()
        assert publish.json["seq"] == seq
        link.ack(PUBACK, publish.packet_id)
    vessel.wait_drained()


# -- the notifier and the queue -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_bell_that_is_lost_costs_two_seconds_at_most(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.commit(notify=False)
    began = time.monotonic()
    link.publish(timeout=2)
    assert time.monotonic() - began < 2 * PATIENCE


def test_a_bell_that_is_heard_costs_nothing(
    mosquitto: Mosquitto, subscriber: Subscriber, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    delays = []
    for _ in range(5):
        arrived = len(subscriber.messages)
        began = time.monotonic()
        vessel.commit()
        subscriber.wait(arrived + 1, 5)
        delays.append(time.monotonic() - began)
    assert sorted(delays)[2] < 0.3, delays


@pytest.mark.slow
def test_a_backlog_flows_by_itself_and_is_told_once(
    mosquitto: Mosquitto,
    subscriber: Subscriber,
    start_vessel: StartVessel,
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(3)
    vessel.wait_drained()
    assert not vessel.heard("queue_flushed")
    mosquitto.stop()
    vessel.wait_signal("disconnected")
    ids = vessel.commit(700) + vessel.commit(50, "alerts")
    queued = vessel.wait_signal("message_queued", 750)
    assert [values["message_id"] for values in queued] == ids
    assert vessel.status().depth == 750
    mosquitto.start()
    assert vessel.wait_signal("queue_flushed", timeout=20) == [{"count": 750}]
    vessel.wait_drained()
    vessel.commit(5)
    vessel.wait_signal("message_published", 758)
    status = vessel.status()
    assert status.counter("queue_flushes") == 1
    assert status.counter("messages_queued") == 750
    assert status.counter("messages_published") == 758
    assert len(vessel.heard("queue_flushed")) == 1


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_receiver_that_raises_does_no_harm(
    broker: ScriptedBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    vessel = start_vessel(broker.url)
    called: list[str] = []

    def fails(name: str) -> Callable[..., None]:
        def receiver(_sender: Any, **_values: Any) -> None:
            called.append(name)
            raise RuntimeError("the application's own fault")

        return receiver

    receivers = []
    for signal in (
        signals.connected,
        signals.disconnected,
        signals.error,
        signals.message_published,
        signals.message_queued,
        signals.queue_flushed,
    ):
        receivers.append(fails(signal.name))
        signal.connect(receivers[-1], sender=vessel)
    vessel.commit()
    for _ in range(2):
        link = broker.accept()
        link.accept()
        vessel.commit()
        while vessel.status().depth:
            got = link.next(1)
            if isinstance(got, Publish):
                link.ack(PUBACK, got.packet_id)
        link.close()
    vessel.wait_signal("disconnected", 2)
    vessel.wait_signal("message_published", 3)
    assert set(called) >= {
        "connected", "disconnected", "error", "message_published", "message_queued", "queue_flushed",
    }  # fmt: skip
    assert any("a receiver of signal" in r.getMessage() for r in caplog.records)
    assert vessel.status().owner is not None
    assert vessel.status().owner.generation == 1  # type: ignore[union-attr]  # asserted above


def test_signals_say_what_happened(broker: ScriptedBroker, start_vessel: StartVessel) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    assert vessel.wait_signal("connected") == [{"session_present": False, "protocol": "5"}]
    (message_id,) = vessel.commit(1, "alerts")
    publish = link.publish()
    link.ack(PUBREC, publish.packet_id)
    link.expect(PUBREL)
    assert not vessel.heard("message_published")
    link.ack(PUBCOMP, publish.packet_id)
    assert vessel.wait_signal("message_published") == [
        {"message_id": message_id, "entity": "alerts", "operation": "create", "seq": 1}
    ]
    link.close()
    assert vessel.wait_signal("disconnected")[0]["reason"]
    assert vessel.wait_signal("error")


# -- topic aliases --------------------------------------------------------------------------------


def test_a_topic_is_sent_in_full_until_the_broker_knows_its_alias_in_each_connection(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    for session_present in (False, True):
        link = broker.accept()
        link.connect()
        link.connack(session_present=session_present, topic_aliases=10)
        link.greeting()
        vessel.commit(4)
        got = link.publishes(4)
        topics = [publish.topic for publish in got]
        assert topics == ["vessel/sync/work_orders", "vessel/sync/work_orders", "", ""]
        if session_present:  # the first of these are sent again
            assert [publish.dup for publish in got] == [True] * 4
        link.close()


@pytest.mark.slow
def test_a_broker_that_does_not_understand_an_alias_gets_none_any_more(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.connect()
    link.connack(topic_aliases=10)
    link.greeting()
    vessel.commit(3)
    assert link.publishes(3)[-1].topic == ""
    link.send(packet(0xE0, b"\x94"))  # DISCONNECT: topic alias invalid
    link = broker.accept()
    link.connect()
    link.connack(topic_aliases=10)
    link.greeting()
    assert {publish.topic for publish in link.publishes(3)} == {"vessel/sync/work_orders"}
    vessel.stop()
