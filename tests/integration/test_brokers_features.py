"""Brokers that lack QoS 2 or retained messages, refuse for the moment, or stall: all arrives, and it is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from arus.audit.auditor import Auditor
from arus.outbox.brokers import read_broker
from arus.protocol.times import now_ms
from tests.support.limited_broker import PROBE, Abilities, LimitedBroker
from tests.support.scripted_broker import PUBREC, PUBREL, Publish, ScriptedBroker
from tests.support.vessel import StartVessel
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"])]

StartBroker = Callable[..., LimitedBroker]


@pytest.fixture
def start_broker() -> Iterator[StartBroker]:
    """Starts brokers, with abilities by name."""
    with ExitStack() as stack:
        yield lambda **abilities: stack.enter_context(LimitedBroker(Abilities(**abilities)))


def qos_of(publishes: list[Publish]) -> set[int]:
    return {each.qos for each in publishes}


def once_in_order(publishes: list[Publish], count: int) -> bool:
    seqs = [each.json["seq"] for each in publishes]
    return seqs == sorted(set(seqs)) and len(seqs) == count


# -- no QoS 2 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_broker_that_hangs_up_on_qos_2_gets_everything_with_qos_1(
    protocol: str,
    start_broker: StartBroker,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = start_broker(hangs_up_on_qos_2=True)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL=protocol)
    vessel.commit(30, "alerts")
    vessel.commit(30)
    vessel.wait_drained()
    assert len(vessel.heard("disconnected")) == 2
    assert once_in_order([each for each in broker.changes() if each.qos == 1], 30)
    assert {each.json["seq"] for each in broker.changes("work_orders")} == set(range(31, 61))
    assert caplog.text.count("does not support QoS 2") == 1
    with vessel.engine.connect() as connection:
        assert read_broker(connection, broker.url).lacks_qos_2
    # The next owner knows, for a day.
    vessel.stop()
    broker.published.clear()
    vessel = start_vessel(broker.url, MQTT_PROTOCOL=protocol)
    vessel.commit(3, "alerts")
    vessel.wait_drained()
    assert qos_of(broker.changes()) == {1}
    assert not vessel.heard("disconnected")


def test_qos_2_is_used_again_once_the_broker_supports_it(
    start_broker: StartBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    broker = start_broker(hangs_up_on_qos_2=True)
    vessel = start_vessel(broker.url)
    vessel.commit(1, "alerts")
    vessel.wait_drained()
    vessel.stop()
    vessel.query_write("UPDATE arus_broker SET max_qos_at = max_qos_at - 86400000")
    broker.abilities = Abilities()
    vessel = start_vessel(broker.url)
    eventually(lambda: "supports QoS 2 again" in caplog.text, message="it is looked at again")
    broker.published.clear()
    vessel.commit(3, "alerts")
    vessel.wait_drained()
    assert qos_of(broker.changes()) == {2}
    assert not vessel.heard("disconnected")  # the connection is not touched for that


@pytest.mark.parametrize("reason", [None, 0x9B])
def test_an_answer_is_enough(
    reason: int | None, start_broker: StartBroker, start_vessel: StartVessel
) -> None:
    """An announcement, or a DISCONNECT 0x9B: no trial is made."""
    broker = start_broker(
        maximum_qos=1 if reason is None else None,
        hangs_up_on_qos_2=True,
        hang_up_reason=reason,
    )
    vessel = start_vessel(broker.url)
    vessel.commit(3, "alerts")
    vessel.wait_drained()
    assert len(vessel.heard("disconnected")) == (reason is not None)
    sent = [each.qos for each in broker.changes()]
    assert sent.count(2) <= (0 if reason is None else 3)
    assert sent[-3:] == [1, 1, 1]
    assert not [client for client in broker.clients if client.endswith(PROBE)]


def test_a_broker_that_lowers_qos_2_is_sent_qos_1(
    start_broker: StartBroker, start_vessel: StartVessel
) -> None:
    broker = start_broker(lowers_qos=True)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="3.1.1")
    vessel.commit(50, "alerts")
    vessel.wait_drained()
    assert once_in_order(broker.changes(), 50)
    broker.published.clear()
    vessel.commit(1, "alerts")
    vessel.wait_drained()
    assert qos_of(broker.changes()) == {1}
    eventually(lambda: vessel.query("SELECT max_qos, lowers_qos FROM arus_broker") == [(1, 1)])


def test_what_was_confirmed_with_qos_2_is_released(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    """Two alerts at QoS 2, one of them confirmed; then the broker announces QoS 1."""
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.accept()
    vessel.commit(2, "alerts")
    first, second = link.publishes(2)
    link.ack(PUBREC, first.packet_id)
    assert link.expect(PUBREL).packet_id == first.packet_id
    link.close()
    link = broker.accept()
    link.connect()
    link.send(bytes((0x20, 5, 1, 0, 2, 0x24, 1)))
    assert link.expect(PUBREL).packet_id == first.packet_id
    link.ack(0x70, first.packet_id)
    link.greeting()
    again = link.publish()
    assert (again.packet_id, again.qos, again.payload) == (second.packet_id, 1, second.payload)
    link.ack(0x40, again.packet_id)
    vessel.wait_drained()
    assert vessel.status().counter("messages_published") == 2


@pytest.mark.parametrize("refuses_will", [False, True])
def test_a_broker_of_qos_0_alone_gets_nothing_and_it_is_said(
    refuses_will: bool, start_broker: StartBroker, start_vessel: StartVessel
) -> None:
    broker = start_broker(maximum_qos=0, connect_refusal=0x9B if refuses_will else 0)
    vessel = start_vessel(broker.url)
    vessel.commit(1, "alerts")
    said = "QoS not supported" if refuses_will else "supports QoS 0 only"
    eventually(lambda: said in (vessel.status().trouble(now_ms()) or ""))
    assert not broker.published
    assert vessel.status().depth == 1


def test_hang_ups_of_a_bad_link_do_not_lower_the_qos(
    start_broker: StartBroker, start_vessel: StartVessel
) -> None:
    """The broker confirms QoS 2 in the trial: it was the link."""
    broker = start_broker(hangs_up_on_qos_2=True)
    served = broker._answer

    def answer(link: Any, got: object, *, is_probe: bool) -> None:
        broker.abilities.hangs_up_on_qos_2 = not is_probe and not trial()
        served(link, got, is_probe=is_probe)

    def trial() -> list[str]:
        return [client for client in broker.clients if client.endswith(PROBE)]

    broker._answer = answer  # type: ignore[method-assign]  # the link fails until the trial
    vessel = start_vessel(broker.url)
    vessel.commit(3, "alerts")
    vessel.wait_drained()
    assert len(trial()) == 1
    assert qos_of(broker.changes()) == {2}
    assert vessel.query("SELECT max_qos FROM arus_broker") == [(2,)]


# -- no retained messages ---------------------------------------------------------------------------


@pytest.mark.parametrize("refuses_will", [False, True])
def test_a_broker_without_retained_messages_gets_everything(
    refuses_will: bool,
    start_broker: StartBroker,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = start_broker(retain_available=False, refuses_retained_will=refuses_will)
    vessel = start_vessel(broker.url)
    vessel.commit(2, "alerts")
    vessel.commit(2)
    vessel.wait_drained()
    assert not [each for each in broker.published if each.retain]
    assert caplog.text.count("has no retained messages") == 1
    with vessel.engine.connect() as connection:
        assert not read_broker(connection, broker.url).retains


# -- no subscriptions with wildcards ----------------------------------------------------------------


@pytest.mark.parametrize("announced", [True, False])
def test_a_broker_without_wildcards_gets_everything_and_no_filter_that_has_one(
    announced: bool,
    start_broker: StartBroker,
    start_vessel: StartVessel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = start_broker(takes_wildcards=False, announces_wildcards=announced)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    vessel.commit(3)
    vessel.wait_drained()
    assert len(vessel.heard("disconnected")) == (not announced)
    refused = "refuses the subscription to vessel/sync/watermarks/+ (reason code 0xa2)"
    eventually(lambda: refused in caplog.text)
    held = vessel.query("SELECT topic_filter FROM arus_subscription")
    assert ("vessel/sync/catchup_requests",) in held
    assert not [each for (each,) in held if "+" in each]


# -- refused for the moment -------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x88, 0x89, 0x93, 0x96, 0x97, 0x98])
@pytest.mark.parametrize("topic", ["alerts", "work_orders"])
def test_a_refusal_that_passes_quarantines_nothing(
    topic: str,
    reason: int,
    start_broker: StartBroker,
    start_vessel: StartVessel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arus.outbox.topic_queue.FIRST_PAUSE", 0.05)
    refused: list[int] = []

    def refusal(publish: Publish) -> int:
        if publish.topic.endswith(topic) and len(refused) < 4:
            refused.append(publish.packet_id)
            return reason
        return 0

    broker = start_broker(refusal=refusal)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5", MQTT_MAX_INFLIGHT="1")
    vessel.commit(2, topic)
    vessel.wait_drained()
    assert vessel.status().quarantined == 0
    assert len(set(refused)) == 1  # order is kept: nothing newer goes first
    assert [each.json["seq"] for each in broker.changes(topic)] == [1, 1, 1, 1, 1, 2]
    assert not vessel.heard("disconnected")


def test_an_unclear_refusal_is_final_once_others_are_accepted(
    start_broker: StartBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.outbox.topic_queue.FIRST_PAUSE", 0.05)
    broker = start_broker(refusal=lambda publish: 0x83 if publish.topic.endswith("alerts") else 0)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    vessel.commit(1, "alerts")
    vessel.commit(5)
    eventually(lambda: vessel.status().quarantined == 1)
    [(reason,)] = vessel.query("SELECT reason FROM arus_change WHERE outcome IS NOT NULL")
    assert reason == "the broker refused it: implementation specific error"
    assert len(broker.changes()) == 3


@pytest.mark.parametrize("where", ["connack", "disconnect"])
def test_a_broker_that_is_asked_too_much_is_left_in_peace_for_longer_each_time(
    where: str, start_broker: StartBroker, start_vessel: StartVessel
) -> None:
    broker = start_broker(
        connect_refusal=0x9F if where == "connack" else 0,
        hangs_up_on_qos_2=where == "disconnect",
        hang_up_reason=0x97,
    )
    vessel = start_vessel(broker.url, MQTT_RECONNECT_PERIOD="0.2", MQTT_PROTOCOL="5")
    vessel.commit(1, "alerts")
    eventually(lambda: len(broker.clients) >= 4)  # after 0.4, 0.8 and 1.6 s
    assert not [client for client in broker.clients if client.endswith(PROBE)]
    broker.abilities = Abilities()
    vessel.wait_drained()
    assert qos_of(broker.changes()) == {2}


# -- the watchdog -----------------------------------------------------------------------------------


def test_it_is_said_that_nothing_is_acknowledged_also_without_changes(
    start_broker: StartBroker,
    start_vessel: StartVessel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only the status waits; a new connection with the same broker does not end the stall."""
    monkeypatch.setattr("arus.relay.progress.STALLED_AFTER", 500)
    monkeypatch.setattr("arus.relay.passed_over.UNANSWERED", 0.5)
    broker = start_broker(silent=True)
    vessel = start_vessel(broker.url, MQTT_KEEPALIVE="1")
    vessel.wait_connected()
    eventually(lambda: vessel.status().is_stalled(now_ms()), message="it is noticed")
    assert vessel.status().depth == 0
    assert vessel.status().trouble(now_ms()) == (
        "messages are waiting, and the broker has acknowledged none for a minute"
    )
    assert "has acknowledged nothing for a minute" in caplog.text
    vessel.wait_signal("disconnected")
    broker.abilities = Abilities()
    eventually(lambda: not vessel.status().is_stalled(now_ms()), message="it is over")


def test_why_the_broker_refuses_for_the_moment_is_said(
    start_broker: StartBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.outbox.topic_queue.FIRST_PAUSE", 0.2)
    refusing = [True]
    broker = start_broker(
        refusal=lambda each: 0x97 if refusing and each.topic.endswith("alerts") else 0
    )
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    vessel.commit(1, "alerts")
    eventually(lambda: vessel.status().obstacle == "quota exceeded")
    refusing.clear()
    vessel.wait_drained()
    eventually(lambda: vessel.status().obstacle is None)


def test_a_broker_that_answers_pings_alone_is_no_changes_fault(
    start_broker: StartBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes are sent again in each connection; none is quarantined, however often."""
    monkeypatch.setattr("arus.relay.passed_over.UNANSWERED", 0.05)
    broker = start_broker(silent=True)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5", MQTT_KEEPALIVE="1")
    vessel.commit(3)
    eventually(lambda: len(broker.changes("work_orders")) >= 12, 30)
    assert vessel.status().quarantined == 0
    broker.abilities = Abilities()
    vessel.wait_drained(30)


# -- control messages -------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [0x80, 0x89, 0x96, 0x97, 0x9A])
def test_a_status_that_is_refused_for_the_moment_is_sent_again(
    reason: int,
    start_broker: StartBroker,
    start_vessel: StartVessel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise the will's `offline` stays retained for a quarter of an hour."""
    monkeypatch.setattr("arus.relay.answers.FIRST_PAUSE", 0.1)
    answers = [reason, reason]
    broker = start_broker(
        refusal=lambda each: answers.pop() if answers and each.topic.endswith("status") else 0
    )
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    statuses = eventually(lambda: len(got := broker.changes("system/status")) >= 3 and got)
    assert statuses
    assert {each.json["status"] for each in statuses} == {"online"}
    assert [each.retain for each in statuses] == [True, reason != 0x9A, reason != 0x9A]
    eventually(lambda: vessel.status().obstacle is None)
    assert caplog.text.count("the broker refuses the status") == 1
    assert not vessel.heard("disconnected")


def test_a_digest_that_is_refused_for_the_moment_is_sent_again(
    start_broker: StartBroker, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.relay.answers.FIRST_PAUSE", 0.1)
    answers = [0x97, 0x97]
    broker = start_broker(
        refusal=lambda each: answers.pop() if answers and each.topic.endswith("digest") else 0
    )
    assert Auditor.__init__.__kwdefaults__
    monkeypatch.setitem(Auditor.__init__.__kwdefaults__, "first", 0.0)
    start_vessel(broker.url, MQTT_PROTOCOL="5")
    digests = eventually(lambda: len(got := broker.changes("system/digest")) >= 3 and got)
    assert digests
    assert len({each.payload for each in digests}) == 1


def test_a_status_that_is_refused_for_good_is_said_and_not_repeated(
    start_broker: StartBroker, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    broker = start_broker(refusal=lambda each: 0x87 if each.topic.endswith("status") else 0)
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    obstacle = "not authorized on vessel/sync/system/status"
    eventually(lambda: vessel.status().obstacle == obstacle)
    vessel.commit(3)
    vessel.wait_drained()
    assert len(broker.changes("system/status")) == 1
    assert vessel.status().reason_of(now_ms()) == f"the broker refuses messages: {obstacle}"
    (said,) = [r.getMessage() for r in caplog.records if "refuses" in r.getMessage()]
    assert said.startswith("[MQTT Reliable Sync] the broker refuses the status (not authorized): ")
    assert "allow the vessel to publish on vessel/sync/system/status" in said


def test_a_status_that_is_larger_than_the_broker_takes_holds_up_no_change_and_is_said(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(broker.url, MQTT_PROTOCOL="5")
    topics = [f"topic-{number}" for number in range(12)]
    for topic in topics:
        vessel.commit(topic=topic)
    link = broker.accept()
    status = link.accept()
    changes = link.publishes(len(topics))
    largest = max(len(each.topic) + len(each.payload) for each in changes) + 10
    assert len(status.payload) > largest
    link.close()
    link = broker.accept()
    link.connect()
    link.connack(session_present=True, maximum_packet=largest)
    for change in link.publishes(len(topics)):
        assert change.topic != status.topic
        link.ack(0x40, change.packet_id)
    vessel.wait_drained()
    obstacle = "packet too large on vessel/sync/system/status"
    eventually(lambda: vessel.status().obstacle == obstacle)
    assert vessel.status().quarantined == 0


def test_a_handshake_that_the_broker_opens_for_a_control_message_is_completed(
    broker: ScriptedBroker, start_vessel: StartVessel
) -> None:
    """A PUBREC to the status, which has QoS 1."""
    vessel = start_vessel(broker.url)
    link = broker.accept()
    link.connect()
    link.connack()
    status = link.publish()
    link.ack(PUBREC, status.packet_id)
    assert link.expect(PUBREL).packet_id == status.packet_id
    link.ack(0x70, status.packet_id)
    vessel.commit(1)
    link.ack(0x40, link.publish().packet_id)
    vessel.wait_drained()
