"""Alerts first, then work orders, then the rest: what is registered with a lower priority passes a queue."""

from __future__ import annotations

import orjson
import pytest
from sqlalchemy import text

from arus.database import transaction
from arus.protocol.entries import new_message_id
from arus.protocol.times import now_ms
from arus.testing import MemoryBroker
from tests.support.vessel import Vessel

#: In the order in which they are committed; only the first two have a priority of their own.
TOPICS = ("crew", "equipment", "work_orders", "alerts")
_INSERT = text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
    " committed_at, data) VALUES (:message_id, :topic, :topic, :qos, 'create', :row_id, 1, :at, :data)"
)


def commit(vessel: Vessel, *topics: str) -> None:
    at = now_ms()
    with vessel.engine.connect() as connection, transaction(connection):
        for number, topic in enumerate(topics):
            row = {
                "message_id": new_message_id(at),
                "topic": topic,
                "qos": 2 if topic == "alerts" else 1,
                "row_id": f"{topic}-{number}",
                "at": at,
                "data": orjson.dumps({"id": f"{topic}-{number}"}),
            }
            connection.execute(_INSERT, row)
    vessel.notifier.notify()


def changes(broker: MemoryBroker) -> list[tuple[str, int]]:
    """Topic and number of each change, in the order of their arrival."""
    return [
        (m.payload["entity"], m.payload["seq"])
        for m in broker.messages
        if isinstance(m.payload, dict) and m.payload.get("type") == "data_change"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 7, "auto"])
def test_a_backlog_is_sent_by_priority_and_each_topic_in_order(
    migrated_database_url: str, window: object
) -> None:
    broker = MemoryBroker()
    broker.go_offline()
    vessel = Vessel(migrated_database_url, MQTT_MAX_INFLIGHT=window)
    vessel.open_session = broker.open_session
    commit(vessel, *(TOPICS * 25))
    with vessel:
        broker.go_online()
        vessel.wait_connected()
        vessel.wait_drained()
    sent = changes(broker)
    order = [topic for topic, _ in sent]
    assert order[:50] == ["alerts"] * 25 + ["work_orders"] * 25
    # Of one priority: by number, whatever their topics.
    assert [seq for _, seq in sent[50:]] == sorted(seq for _, seq in sent[50:])
    for topic in TOPICS:
        numbers = [seq for each, seq in sent if each == topic]
        assert numbers == sorted(numbers)
        assert len(numbers) == 25


def test_what_is_urgent_passes_a_queue_that_is_being_sent(migrated_database_url: str) -> None:
    broker = MemoryBroker()
    broker.hold_acknowledgements()
    vessel = Vessel(migrated_database_url, MQTT_MAX_INFLIGHT=8)
    vessel.open_session = broker.open_session
    with vessel:
        vessel.wait_connected()
        commit(vessel, *(["crew"] * 40))
        broker.wait_for(lambda _: len(changes(broker)) >= 6)
        before = len(changes(broker))
        commit(vessel, "work_orders", "alerts")
        broker.acknowledge()
        vessel.wait_drained()
    after = [topic for topic, _ in changes(broker)[before:]]
    # The window may already have been filled from the queue when they were committed.
    assert after.index("alerts") < after.index("work_orders") <= 9
