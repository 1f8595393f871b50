"""A queue that is full: history gives way, never state (CONTRACT, 5.4)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, text

from arus.database import transaction
from arus.outbox import eviction
from arus.outbox.eviction import Evicted, Eviction
from arus.outbox.log import ChangeLog
from arus.protocol.entries import new_message_id
from arus.protocol.times import now_ms
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually

_INSERT = text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
    " committed_at, data) VALUES (:message_id, :topic, :topic, :qos, :operation, :row_id, :version,"
    " :committed_at, :data)"
)

Change = tuple[str, str, str, int]


def commit(vessel: Vessel, changes: Iterable[Change], *, ago: int = 0) -> None:
    """Commit (topic, operation, row id, version), each in a transaction of its own.

    :param ago: milliseconds.
    """
    for change in changes:
        with vessel.engine.connect() as connection, transaction(connection):
            connection.execute(_INSERT, _row(change, ago))
    vessel.notifier.notify()


def _row(change: Change, ago: int = 0) -> dict[str, Any]:
    topic, operation, row_id, version = change
    at = now_ms() - ago
    return {
        "message_id": new_message_id(at),
        "topic": topic,
        "qos": 2 if topic == "alerts" else 1,
        "operation": operation,
        "row_id": row_id,
        "version": version,
        "committed_at": at,
        "data": orjson.dumps({"id": row_id, "version": version}),
    }


def add(owner: ChangeLog, bounded: Eviction, changes: Iterable[Change]) -> list[Evicted]:
    """Commit changes in one transaction, and number them in one turn; what gave way to them."""
    with owner.fenced_transaction() as fenced:
        fenced.execute(_INSERT, [_row(change) for change in changes])
    waiting = owner.unnumbered(100)
    with owner.fenced_transaction() as fenced:
        evicted = fenced.relieve(bounded, fenced.number(waiting))
        fenced.save_topic_queues()
    return evicted


def settle_all(owner: ChangeLog, topic: str) -> None:
    topic_queue = owner.topic_queues[topic]
    for entry in owner.read(
        topic, after=topic_queue.sent_seq, upto=topic_queue.head_seq, limit=100
    ):
        topic_queue.sent(entry)
        topic_queue.acknowledged(entry.seq)


def depth_of(owner: ChangeLog) -> int:
    return sum(topic_queue.depth for topic_queue in owner.topic_queues.values())


def waiting_in(log: Connection) -> int:
    statement = (
        "SELECT count(*) FROM arus_change c JOIN arus_lane l ON l.topic = c.topic"
        " WHERE c.outcome IS NULL AND c.seq > l.acked_seq"
    )
    return int(log.execute(text(statement)).scalar_one())


def outcomes(vessel: Vessel) -> dict[tuple[str, str], str | None]:
    """Outcome by row id and version."""
    rows = vessel.query("SELECT row_id, version, outcome FROM arus_change ORDER BY id")
    return {(row_id, version): outcome for row_id, version, outcome in rows}


def settled_at(vessel: Vessel, depth: int, head: int) -> None:
    """Wait until all is numbered and the queue has come to its bound."""
    eventually(
        lambda: vessel.status().head_seq == head and vessel.status().depth == depth,
        message=f"{head} changes are numbered and {depth} kept",
    )


def test_changes_that_a_newer_one_replaces_go_first(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    mosquitto.stop()
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=4)
    commit(vessel, [("work_orders", "create", row, 1) for row in "abcd"])
    commit(vessel, [("work_orders", "update", row, 2) for row in "ba"])
    settled_at(vessel, 4, 6)
    evicted = {key for key, outcome in outcomes(vessel).items() if outcome == "superseded"}
    assert evicted == {("a", 1), ("b", 1)}
    assert vessel.status().counter("messages_dropped") == 0


def test_each_change_gives_way_once_however_many_are_replaced(
    log: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "_BATCH", 3)
    owner, bounded = ChangeLog(log, vessel_id="ship-1"), Eviction(20, frozenset())
    letters = "abcdefghij"
    add(owner, bounded, [("work_orders", "create", row, 1) for row in letters])
    add(owner, bounded, [("work_orders", "update", row, 2) for row in letters])
    for row in letters:
        (evicted,) = add(owner, bounded, [("crew", "create", row, 1)])
        assert (evicted.entity, evicted.operation) == ("work_orders", "create")
        assert depth_of(owner) == waiting_in(log) == 20


def test_what_was_found_in_one_overflow_is_not_counted_again_in_the_next(log: Connection) -> None:
    owner, bounded = ChangeLog(log, vessel_id="ship-1"), Eviction(6, frozenset({"alerts"}))
    add(owner, bounded, [("alerts", "create", "x", 1)])
    add(owner, bounded, [("work_orders", "create", row, 1) for row in "abc"])
    # One is too many, and of the three that are replaced two stay.
    add(owner, bounded, [("work_orders", "update", row, 2) for row in "abc"])
    settle_all(owner, "alerts")
    add(owner, bounded, [("crew", "create", "p", 1)])
    evicted = [add(owner, bounded, [("crew", "create", row, 1)]) for row in "qrst"]
    assert [one.outcome for (one,) in evicted] == ["superseded"] * 2 + ["dropped"] * 2
    assert depth_of(owner) == waiting_in(log) == 6


def test_a_superseded_change_is_no_gap_and_a_dropped_one_is(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    mosquitto.stop()
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=3)
    commit(vessel, [("work_orders", "create", row, 1) for row in "abc"])
    commit(vessel, [("work_orders", "update", "b", 2), ("work_orders", "create", "d", 1)])
    settled_at(vessel, 3, 5)
    chain = vessel.query(
        "SELECT seq, previous_seq, outcome FROM arus_change WHERE outcome IS NULL"
        " OR outcome <> 'superseded' ORDER BY seq"
    )
    # b's first change (2) is superseded, a's (1) dropped: 3 follows on 1, which nobody will see.
    assert chain == [(1, 0, "dropped"), (3, 1, None), (4, 3, None), (5, 4, None)]


def test_alerts_and_deletes_are_dropped_last(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    mosquitto.stop()
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=3)
    commit(vessel, [("alerts", "create", "alarm", 1), ("work_orders", "delete", "gone", 5)])
    commit(vessel, [("work_orders", "create", row, 1) for row in "abcd"])
    settled_at(vessel, 3, 6)
    kept = {row_id for (row_id, _), outcome in outcomes(vessel).items() if outcome is None}
    assert kept == {"alarm", "gone", "d"}
    commit(vessel, [("alerts", "create", row, 1) for row in "wxyz"])
    settled_at(vessel, 3, 10)
    kept = {row_id for (row_id, _), outcome in outcomes(vessel).items() if outcome is None}
    assert kept == {"x", "y", "z"}
    assert vessel.status().counter("messages_dropped") == 7


def test_a_burst_is_said_once_and_each_drop_signalled(
    mosquitto: Mosquitto, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    mosquitto.stop()
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=5)
    commit(vessel, [("work_orders", "create", str(row), 1) for row in range(20)])
    settled_at(vessel, 5, 20)
    assert sum("the queue is full" in record.message for record in caplog.records) == 1
    assert vessel.status().counter("messages_dropped") == 15


@pytest.mark.slow
def test_whoever_listens_converges_after_an_overflow_deletes_included(
    mosquitto: Mosquitto, start_vessel: StartVessel, start_subscriber: Any
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    subscriber: Subscriber = start_subscriber("vessel/sync/#", client_id="shore")
    mosquitto.stop()
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=40)
    versions: dict[tuple[str, str], int] = {}
    alive: set[tuple[str, str]] = set()
    changes: list[Change] = []
    for _ in range(400):
        topic = chance.choice(["work_orders", "work_orders", "alerts"])
        row_id = f"{topic}-{chance.randrange(150)}"
        key = (topic, row_id)
        if key in versions and key not in alive:
            continue  # a row that is gone does not come back
        versions[key] = versions.get(key, 0) + 1
        operation = "update" if key in alive else "create"
        if key in alive and chance.random() < 0.2:
            operation = "delete"
        alive.discard(key) if operation == "delete" else alive.add(key)
        changes.append((topic, operation, row_id, versions[key]))
    commit(vessel, changes)
    settled_at(vessel, 40, len(changes))
    assert vessel.status().counter("messages_dropped") > 0
    mosquitto.start()
    vessel.wait_connected()
    vessel.wait_drained()
    eventually(
        lambda: (
            not vessel.query("SELECT 1 FROM arus_catchup WHERE status <> 'complete'")
            and not vessel.query("SELECT 1 FROM arus_change WHERE reason = 'queue full'")
        ),
        message="the repair is complete",
    )

    def seen() -> dict[tuple[str, str], tuple[int, str]]:
        found: dict[tuple[str, str], tuple[int, str]] = {}
        for body in subscriber.payloads:
            if body.get("type") in {"data_change", "catchup"}:
                key = (body["entity"], body["data"]["id"])
                found[key] = max(found.get(key, (0, "")), (body["version"], body["operation"]))
        return found

    eventually(
        lambda: {key: version for key, (version, _) in seen().items()} == versions,
        message="the subscriber knows the last version of each row",
    )
    assert {key for key, (_, operation) in seen().items() if operation != "delete"} == alive
    bodies = subscriber.payloads
    begins = [body for body in bodies if body.get("type") == "catchup_begin"]
    ends = [body for body in bodies if body.get("type") == "catchup_end"]
    items = [body for body in bodies if body.get("type") == "catchup"]
    assert sorted(b["total"] for b in begins) == sorted(e["total"] for e in ends)
    assert sum(b["total"] for b in begins) == len(items)


def test_history_given_up_long_ago_leaves_the_log_and_the_last_of_each_row_stays(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    mosquitto.stop()
    century = 100 * 365 * 86_400_000
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=2)
    updates: list[Change] = [("work_orders", "update", "a", version) for version in range(1, 6)]
    commit(vessel, updates, ago=century)
    commit(vessel, [("work_orders", "create", row, 1) for row in "bcd"], ago=century)
    settled_at(vessel, 2, 8)
    assert sorted(filter(None, outcomes(vessel).values())) == ["dropped"] * 2 + ["superseded"] * 4
    vessel.stop()
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=2)
    last = {("a", 5): "dropped", ("b", 1): "dropped", ("c", 1): None, ("d", 1): None}
    eventually(lambda: outcomes(vessel) == last, message="what a newer change tells is gone")
