"""The change log as its owner sees it: numbers without holes, and a fence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import Connection

from arus.database import open_engine, transaction
from arus.errors import LeadershipLostError, LogUnavailableError
from arus.outbox import status
from arus.outbox.counters import add_to_counters, read_counters
from arus.outbox.log import ChangeLog
from arus.protocol.entries import Entry
from tests.support.small_app import Hull, Part, db, small_app, sync

INSERT = sa.text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
    " committed_at, data) VALUES (:message_id, 'hulls', :topic, 1, 'create', :message_id, 1, 7, :data)"
)


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(small_database_url) as app:
        yield app


@pytest.fixture
def connect(app: Flask) -> Iterator[Any]:
    """Opens connections as an owner does; closed after the test."""
    engine = open_engine(db.engine.url)
    with ExitStack() as stack:

        def connect() -> Connection:
            return stack.enter_context(engine.connect())

        yield connect
    engine.dispose()


@pytest.fixture
def owner(connect: Any) -> ChangeLog:
    return ChangeLog(connect(), vessel_id=None)


def write(connection: Connection, *topics: str, names: str = "") -> None:
    """Write entries past the ORM, in the transaction that is open."""
    for number, topic in enumerate(topics):
        name = f"{names}{number}-{topic}"
        connection.execute(INSERT, {"message_id": name, "topic": topic, "data": b"{}"})


def commit(connection: Connection, *topics: str, names: str = "") -> None:
    with transaction(connection):
        write(connection, *topics, names=names)


def number(owner: ChangeLog, limit: int = 1_000) -> list[Entry]:
    waiting = owner.unnumbered(limit)
    with owner.fenced_transaction() as fenced:
        entries = fenced.number(waiting)
        fenced.save_topic_queues()
    return entries


def numbers(connection: Connection) -> list[tuple[str, int | None, int | None]]:
    rows = connection.execute(
        sa.text("SELECT message_id, seq, previous_seq FROM arus_change ORDER BY id")
    )
    return [(row[0], row[1], row[2]) for row in rows]


# -- numbering ----------------------------------------------------------------------------------


def test_numbers_run_over_all_topics_and_each_knows_the_one_before_it_on_its_own(
    owner: ChangeLog, connect: Any
) -> None:
    other = connect()
    commit(other, "a", "b", "a")
    first = number(owner)
    commit(other, "b", "a", names="later ")
    second = number(owner)
    assert [(e.topic, e.seq, e.previous_seq) for e in first + second] == [
        ("a", 1, 0),
        ("b", 2, 0),
        ("a", 3, 1),
        ("b", 4, 2),
        ("a", 5, 3),
    ]
    assert [row[1:] for row in numbers(other)] == [(1, 0), (2, 0), (3, 1), (4, 2), (5, 3)]
    assert owner.unnumbered(10) == []
    assert {
        t: (topic_queue.head_seq, topic_queue.depth)
        for t, topic_queue in owner.topic_queues.items()
    } == {
        "a": (5, 3),
        "b": (4, 2),
    }


def test_a_batch_takes_the_oldest(owner: ChangeLog, connect: Any) -> None:
    commit(connect(), "a", "b", "c")
    assert [e.message_id for e in number(owner, 2)] == ["0-a", "1-b"]
    assert [e.message_id for e in number(owner, 2)] == ["2-c"]


def test_a_rollback_makes_no_hole(owner: ChangeLog, connect: Any) -> None:
    other = connect()
    commit(other, "a")
    other.exec_driver_sql("BEGIN")
    write(other, "a", "b", names="rolled back ")
    other.exec_driver_sql("ROLLBACK")
    commit(other, "a", names="after ")
    assert [(e.seq, e.previous_seq) for e in number(owner)] == [(1, 0), (2, 1)]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_transaction_that_commits_late_is_not_skipped(owner: ChangeLog, connect: Any) -> None:
    late, early = connect(), connect()
    with transaction(late):
        write(late, "a", "b", names="late ")
        commit(early, "a", names="early ")
        assert [(e.message_id, e.seq) for e in number(owner)] == [("early 0-a", 1)]
        assert number(owner) == []
    assert [(e.message_id, e.seq, e.previous_seq) for e in number(owner)] == [
        ("late 0-a", 2, 1),
        ("late 1-b", 3, 0),
    ]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_entries_of_one_row_are_in_the_order_of_its_changes(app: Flask, owner: ChangeLog) -> None:
    """The second writer waits for the row, so that its entry is the later one, whoever began first."""
    hull = Hull(name="a")
    db.session.add(hull)
    db.session.commit()
    with db.session.registry.createfunc() as first:
        db.session.add(Hull(name="takes a number before"))
        db.session.flush()
        first.get_one(Hull, hull.id).name = "b"
        first.commit()
        db.session.refresh(hull)
        hull.name = "c"
        db.session.commit()
    entries = [e for e in number(owner) if e.row_id == hull.id]
    assert [json.loads(e.data)["name"] for e in entries] == ["a", "b", "c"]
    assert [e.version for e in entries] == [1, 2, 3]


def test_quarantined_entries_get_no_number(owner: ChangeLog, connect: Any) -> None:
    hull = Hull(name="unserialisable")
    db.session.add(hull)
    db.session.add(Part(hull=hull))
    db.session.commit()
    assert [(e.entity, e.topic, e.qos, e.seq) for e in number(owner)] == [
        ("parts", "deck/parts", 2, 1)
    ]


# -- turns --------------------------------------------------------------------------------------


def test_a_turn_that_fails_writes_nothing_and_a_reload_forgets_it(
    owner: ChangeLog, connect: Any
) -> None:
    other = connect()
    commit(other, "a")
    number(owner)
    commit(other, "a", "new", names="later ")

    def fail() -> None:
        with owner.fenced_transaction() as fenced:
            fenced.number(owner.unnumbered(10))
            fenced.save_topic_queues()
            fenced.count({("x", "", "", ""): 1})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert owner.head_seq == 3
    owner.reload()
    assert owner.head_seq == 1
    assert {
        t: (topic_queue.head_seq, topic_queue.depth)
        for t, topic_queue in owner.topic_queues.items()
    } == {"a": (1, 1)}
    assert [row[1] for row in numbers(other)] == [1, None, None]
    assert read_counters(other) == {}
    assert [(e.seq, e.previous_seq) for e in number(owner)] == [(2, 1), (3, 0)]


def test_what_the_database_refuses_is_told_as_such(owner: ChangeLog) -> None:
    with (
        pytest.raises(LogUnavailableError, match="the change log can't be used"),
        owner.fenced_transaction() as fenced,
    ):
        fenced.execute(sa.text("SELECT nothing FROM nowhere"))
    number(owner)


def test_reload_reads_the_journal_back(owner: ChangeLog, connect: Any) -> None:
    commit(connect(), "a", "b", "a", "a", "a", "a")
    a = {e.seq: e for e in number(owner) if e.topic == "a"}  # 1, 3, 4, 5, 6
    with owner.fenced_transaction() as fenced:
        topic_queue = owner.topic_queues["a"]
        for seq in (1, 3, 4, 5):
            topic_queue.sent(a[seq])
        topic_queue.confirmed(3)
        topic_queue.acknowledged(1)
        topic_queue.quarantined(4)
        fenced.settle(a[4].id, "quarantined", "the broker refused it")
        fenced.save_topic_queues()
    owner.reload()
    topic_queue = owner.topic_queues["a"]
    assert not topic_queue.is_changed
    saved = topic_queue.save()
    assert (saved["head_seq"], saved["sent_seq"]) == (6, 5)
    assert (saved["acked_seq"], saved["acked_above"]) == (2, [4])
    assert (saved["received_seq"], saved["depth"]) == (4, 3)
    assert [e.seq for e in topic_queue.again] == [3, 5]
    assert topic_queue.is_received(3)
    assert not topic_queue.is_received(5)
    for seq in (3, 5):
        topic_queue.acknowledged(seq)
    saved = topic_queue.save()
    assert (saved["acked_seq"], saved["acked_above"]) == (5, [])
    assert [e.seq for e in owner.read("a", after=5, upto=6, limit=10)] == [6]


def test_a_watermark_passes_what_was_quarantined_last_before_a_reload(
    owner: ChangeLog, connect: Any
) -> None:
    commit(connect(), "a", "a")
    one, two = number(owner)
    with owner.fenced_transaction() as fenced:
        topic_queue = owner.topic_queues["a"]
        topic_queue.sent(one)
        topic_queue.sent(two)
        topic_queue.quarantined(two.seq)
        fenced.settle(two.id, "quarantined", "the broker refused it")
        fenced.save_topic_queues()
    owner.reload()
    topic_queue = owner.topic_queues["a"]
    assert [e.seq for e in topic_queue.again] == [1]
    topic_queue.acknowledged(1)
    saved = topic_queue.save()
    assert (saved["acked_seq"], saved["acked_above"], saved["received_seq"]) == (2, [], 2)


# -- ownership ----------------------------------------------------------------------------------


def test_a_second_owner_fences_the_first_off(owner: ChangeLog, connect: Any) -> None:
    commit(connect(), "a")
    second = ChangeLog(connect(), vessel_id=None)
    assert second.generation == owner.generation + 1
    assert (second.epoch, second.vessel_id) == (owner.epoch, owner.vessel_id)
    with pytest.raises(LeadershipLostError):
        number(owner)
    with pytest.raises(LeadershipLostError):
        owner.stand_down()
    assert [row[1] for row in numbers(connect())] == [None]
    assert [e.seq for e in number(second)] == [1]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_takeover_waits_for_the_turn_that_runs(owner: ChangeLog, connect: Any) -> None:
    commit(connect(), "a")
    impatient = connect()
    impatient.exec_driver_sql("SET lock_timeout = '50ms'")
    with owner.fenced_transaction() as fenced:
        with pytest.raises(LogUnavailableError):
            ChangeLog(impatient, vessel_id=None)
        fenced.number(owner.unnumbered(10))
        fenced.save_topic_queues()
    assert ChangeLog(impatient, vessel_id=None).head_seq == 1


def test_the_vessels_name_is_kept_unless_one_is_given(owner: ChangeLog, connect: Any) -> None:
    assert re.fullmatch("vessel-[0-9a-f]{12}", owner.vessel_id)
    assert ChangeLog(connect(), vessel_id="imo-1").vessel_id == "imo-1"
    assert ChangeLog(connect(), vessel_id=None).vessel_id == "imo-1"


def test_the_status_tells_who_owns_the_session_and_how_it_stands(
    owner: ChangeLog, connect: Any
) -> None:
    connection = connect()

    def read(*, owned: bool = True) -> status.SyncStatus:
        return status.read_status(connection, enabled=True, owned=owned, max_queue_size=4)

    commit(connect(), "a", "b")
    number(owner)
    commit(connect(), "a", names="unnumbered ")
    with owner.fenced_transaction() as fenced:
        fenced.connection_changed(True, protocol="5", attempts=0, reason=None)
        fenced.attempts(3, "no broker there")
        fenced.count({("x", "a", "", ""): 1, ("x", "b", "", ""): 2})
    now = read()
    assert (now.connected, now.protocol, now.reconnect_attempts) == (True, "5", 3)
    assert now.reason == "no broker there"
    assert (now.depth, now.utilization, now.oldest_pending_at, now.head_seq) == (3, 75.0, 7, 2)
    assert now.owner
    assert now.owner.generation == owner.generation
    assert now.counter("x") == 3
    dead = read(owned=False)
    assert (dead.connected, dead.owner) == (False, None)
    owner.stand_down()
    assert read().owner is None


def test_an_empty_database_has_a_status(app: Flask) -> None:
    found = sync.runtime().status()
    assert (found.depth, found.head_seq, found.epoch, found.owner) == (0, 0, None, None)
    assert found.oldest_pending_at is None
    assert sync.runtime().changes.states("hulls", []) == {}


def test_the_state_of_a_row_is_that_of_its_last_change(owner: ChangeLog, connect: Any) -> None:
    hull = Hull(name="a")
    db.session.add(hull)
    db.session.commit()

    def state() -> str:
        db.session.commit()
        return sync.runtime().changes.states("hulls", [hull.id])[hull.id].value

    seen = [state()]
    (entry,) = number(owner)
    seen.append(state())
    topic_queue = owner.topic_queues["hulls"]
    for step in (lambda: topic_queue.sent(entry), lambda: topic_queue.acknowledged(entry.seq)):
        with owner.fenced_transaction() as fenced:
            step()
            fenced.save_topic_queues()
        seen.append(state())
    hull.name = "b"
    db.session.commit()
    seen.append(state())
    assert seen == ["pending", "pending", "in_flight", "delivered", "pending"]


def test_a_change_is_delivered_once_the_watermark_has_passed_it(owner: ChangeLog) -> None:
    first, second = Hull(name="a"), Hull(name="b")
    for hull in (first, second):
        db.session.add(hull)
        db.session.commit()
    entries = number(owner)
    topic_queue = owner.topic_queues["hulls"]
    seen = []
    for settled in (1, 0):  # the second is acknowledged first
        with owner.fenced_transaction() as fenced:
            for entry in entries if settled else ():
                topic_queue.sent(entry)
            topic_queue.acknowledged(entries[settled].seq)
            fenced.save_topic_queues()
        states = sync.runtime().changes.states("hulls", [first.id, second.id])
        db.session.commit()
        seen.append([states[first.id].value, states[second.id].value])
    assert seen == [["in_flight", "in_flight"], ["delivered", "delivered"]]


# -- counters -----------------------------------------------------------------------------------


def test_counters_add_up_over_connections(app: Flask, connect: Any) -> None:
    for connection in (connect(), connect()):
        with transaction(connection):
            add_to_counters(connection, {("a", "x", "create", "1"): 2, ("b", "", "", ""): 1})
            add_to_counters(connection, {})
    connection = connect()
    connection.exec_driver_sql("BEGIN")
    add_to_counters(connection, {("a", "x", "create", "1"): 5})
    connection.exec_driver_sql("ROLLBACK")
    assert read_counters(connect()) == {("a", "x", "create", "1"): 4, ("b", "", "", ""): 2}
