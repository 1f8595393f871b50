"""A catch-up without a limit announces its number at once: what it reads before its first item grows with nothing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask

from arus.catchup import tallier
from arus.catchup.requests import queue
from arus.catchup.sender import Catchups
from arus.database import driver_connection, open_engine, transaction
from arus.outbox.log import ChangeLog
from arus.outbox.reader import LogRange
from arus.outbox.retention import Retention
from arus.outbox.snapshot import SnapshotReader
from arus.outbox.tallies import BLOCK
from arus.protocol.entries import ChangeState
from arus.protocol.messages import CatchupRequest
from arus.protocol.times import now_ms
from tests.support import small_app as small
from tests.support.waiting import eventually

INSERT = sa.text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version, committed_at, data,"
    " seq, previous_seq) VALUES (:id, :entity, 'hulls', 1, :operation, :id, 1, :at, :data, :seq, CAST(:seq AS BIGINT) - 1)"
)
HULL = sa.text("INSERT INTO hull (id, version, name, tag) VALUES (:id, 1, 'Aft', 'none')")
COUNT = SnapshotReader.count
#: What PostgreSQL has read of the tables and their indexes.
READ = sa.text(
    "SELECT (SELECT SUM(seq_tup_read) FROM pg_stat_user_tables) + (SELECT SUM(idx_tup_read) FROM pg_stat_user_indexes)"
)


class Owner:
    """An owner of the small application's log, whose broker acknowledges what it is told to."""

    def __init__(self, app: Flask) -> None:
        self.engine = open_engine(small.db.engine.url)
        self.connection = self.engine.connect()
        self.log = ChangeLog(self.connection, vessel_id="ship-1")
        self.registry = small.sync._registry
        self.catchups = Catchups(self.log, self.registry, self.engine, app.app_context)

    def close(self) -> None:
        self.catchups.stop()
        self.connection.close()
        self.engine.dispose()

    def add_delivered(self, changes: int, operation: str = "update") -> None:
        """Put changes into the log that the broker has acknowledged."""
        first = self.log.head_seq + 1
        rows = [
            {"id": uuid4().hex, "at": now_ms(), "data": b"{}", "seq": first + n, "entity": "hulls"}
            | {"operation": operation}
            for n in range(changes)
        ]
        last = first + changes - 1
        with transaction(self.connection):
            self.connection.execute(INSERT, rows)
            self.connection.execute(sa.text("DELETE FROM arus_lane"))
            self.connection.execute(
                sa.text(
                    "INSERT INTO arus_lane (topic, head_seq, sent_seq, acked_seq) VALUES ('hulls', :n, :n, :n)"
                ),
                {"n": last},
            )
            self.connection.execute(sa.text("UPDATE arus_session SET head_seq = :n"), {"n": last})
        self.log.reload()

    def add_rows(self, rows: int) -> None:
        """Put rows into the table without capture."""
        with transaction(self.connection):
            self.connection.execute(HULL, [{"id": str(uuid4())} for _ in range(rows)])

    def make_tallies(self) -> None:
        """Have the tallies made that are due."""
        self.catchups.requested()
        eventually(
            lambda: not self.catchups.prepare(None) and self.thread is None, message="the tallies"
        )

    @property
    def thread(self) -> Any:
        return self.catchups._planner._tallier._thread

    def wait(self) -> None:
        """Wait for the thread that counts."""
        if self.thread is not None:
            self.thread.join()

    def ask(self, **wanted: Any) -> None:
        with transaction(self.connection):
            request = CatchupRequest(entity="hulls", **{"limit": None, **wanted})
            queue(self.connection, request, self.registry, "http", request_id=uuid4().hex)
        self.catchups.requested()

    def sent(self) -> list[dict[str, Any]]:
        """Read the next chunk, and have its messages acknowledged."""
        self.catchups.prepare(None)
        messages = []
        packet_id = 0
        while (message := self.catchups.next_message()) is not None:
            packet_id += 1
            self.catchups.sent(packet_id, time.monotonic())
            messages.append(orjson.loads(message[1]))
        for each in range(1, packet_id + 1):
            self.catchups.acknowledged(each, 0)
        with self.log.fenced_transaction() as fenced:
            self.catchups.journal(fenced.connection)
        return messages

    def whole(self) -> list[dict[str, Any]]:
        """Read all chunks of a catch-up."""
        messages = self.sent()
        while messages[-1]["type"] != "catchup_end":
            messages += self.sent()
        return messages

    def numbered(self) -> None:
        """Number what was captured."""
        with self.log.fenced_transaction() as fenced:
            fenced.number(self.log.unnumbered(100_000))
            fenced.save_topic_queues()


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small.small_app(small_database_url) as app:
        yield app


@pytest.fixture
def owner(app: Flask) -> Iterator[Owner]:
    with ExitStack() as stack:
        owner = Owner(app)
        stack.callback(owner.close)
        yield owner


def work(owner: Owner) -> int:
    """What is read until a catch-up has its first chunk: steps of SQLite's machine, or rows and entries of indexes."""
    if owner.connection.dialect.name != "sqlite":
        # As on any server after a while; otherwise it depends on when its autovacuum has come by.
        owner.connection.execute(sa.text("ANALYZE"))
        before = _read(owner)
        owner.catchups.prepare(None)
        return _read(owner) - before
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def watch(driver: Any, _record: Any = None) -> None:
        driver.set_progress_handler(step, 10)

    watch(driver_connection(owner.connection))
    sa.event.listen(owner.engine, "connect", watch)
    owner.catchups.prepare(None)
    sa.event.remove(owner.engine, "connect", watch)
    driver_connection(owner.connection).set_progress_handler(None, 10)
    return steps * 10


def _read(owner: Owner) -> int:
    owner.wait()  # it must not be counted as part of what the owner does
    owner.connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    time.sleep(0.2)  # of other connections: when they have ended
    return int(owner.connection.execute(READ).scalar_one())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["log", "snapshot", "snapshot with deletes"])
def test_what_is_read_before_the_first_item_grows_with_nothing(
    owner: Owner, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallier, "AT_ONCE", 2 * BLOCK)
    # Started by hand, so that it does not read at the same time.
    mind = owner.catchups._planner.mind
    monkeypatch.setattr(owner.catchups._planner, "mind", lambda: None)
    done = []
    for _ in range(3):
        if mode == "log":
            owner.add_delivered(12 * BLOCK)
        else:
            owner.add_rows(12 * BLOCK)
            owner.add_delivered(12 * BLOCK, "delete" if mode != "snapshot" else "update")
            owner.catchups._planner._tallier._looked = False
        for _ in range(2):
            mind()
            owner.wait()
            owner.catchups._planner.take_wrong()
        if mode == "log":
            owner.ask(since_seq=7, epoch=owner.log.epoch)
        else:
            owner.ask(mode="snapshot")
        done.append(work(owner))
        (chunk,) = owner.catchups._chunks
        assert chunk.after.mode == mode.partition(" ")[0]
        assert chunk.after.total == _expected(owner, mode)
        owner.catchups.forget()
        owner.connection.execute(sa.text("DELETE FROM arus_catchup"))
    assert done[-1] < done[0] * 1.3 + 300, f"{done} for one, two and three times as much"
    assert done[-1] < 20_000, done


def _expected(owner: Owner, mode: str) -> int:
    changes = owner.connection.execute(sa.text("SELECT COUNT(*) FROM arus_change")).scalar_one()
    rows = owner.connection.execute(sa.text("SELECT COUNT(*) FROM hull")).scalar_one()
    if mode == "log":
        return int(changes) - 7
    return int(rows + (changes if mode != "snapshot" else 0))


# -- the log --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_the_tally_of_the_log_is_what_counting_finds(owner: Owner, seed: int) -> None:
    dice = random.Random(seed)
    log = owner.log
    _commit(owner, 6 * BLOCK, dice)
    for _ in range(6):
        _some_outcomes(owner, dice)
        owner.make_tallies()
        for _ in range(20):
            after, high = sorted(dice.randrange(log.head_seq + 50) for _ in range(2))
            for entity in ("hulls", "parts"):
                span = LogRange("hulls", entity, after, high)
                for deletes_only in (False, True):
                    found = log.count_items(span, 2**40, deletes_only=deletes_only)
                    assert found == len(log.items(span, 2**31, deletes_only=deletes_only)), span
                assert log.count_items(span, 1_234) == min(log.count_items(span, 2**40), 1_234)
    assert log.tally.count("hulls", "hulls", 0, log.head_seq)[:2] != (0, 0)


def _commit(owner: Owner, changes: int, dice: random.Random) -> None:
    rows = [
        {"id": uuid4().hex, "at": now_ms() - 8 * 86_400_000 + n, "data": b"{}", "seq": None}
        | {
            "entity": dice.choice(("hulls", "parts")),
            "operation": dice.choice(("update", "delete")),
        }
        for n in range(changes)
    ]
    with transaction(owner.connection):
        owner.connection.execute(INSERT, rows)
    owner.numbered()


def _some_outcomes(owner: Owner, dice: random.Random) -> None:
    """Have some more changes acknowledged, quarantined, superseded or dropped, then a few deleted."""
    log = owner.log
    topic_queue = log.topic_queues["hulls"]
    waiting = log.read("hulls", after=topic_queue.sent_seq, upto=2**40, limit=BLOCK)
    with log.fenced_transaction() as fenced:
        for entry in waiting:
            fate = dice.random()
            if fate < 0.1:
                fenced.settle(entry.id, dice.choice(("superseded", "dropped")), "queue full")
                topic_queue.evicted()
                continue
            topic_queue.sent(entry)
            if fate < 0.2:
                fenced.settle(entry.id, ChangeState.QUARANTINED, "too large")
                topic_queue.quarantined(entry.seq)
            else:
                topic_queue.acknowledged(entry.seq)
        fenced.save_topic_queues()
    if dice.random() < 0.7:
        retention = Retention(log, days=7, bound=dice.choice((50, 100_000)))
        retention.step()


def test_a_takeover_makes_the_tally_again(owner: Owner, app: Flask) -> None:
    owner.add_delivered(8 * BLOCK)
    owner.make_tallies()
    assert owner.log.tally.count("hulls", "hulls", 0, 8 * BLOCK)[:2] == (0, 8 * BLOCK)
    successor = Owner(app)
    assert successor.log.tally.count("hulls", "hulls", 0, 8 * BLOCK)[:2] == (0, 0)
    successor.make_tallies()
    assert successor.log.tally.count("hulls", "hulls", 0, 8 * BLOCK)[:2] == (0, 8 * BLOCK)
    successor.close()


# -- the tables -----------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of more than 20 rows is a long one."""
    monkeypatch.setattr(tallier, "AT_ONCE", 20)


def hulls() -> int:
    with small.db.engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT COUNT(*) FROM hull")).scalar_one())


def write(dice: random.Random, ids: list[str]) -> None:
    """Create and delete some rows by the application."""
    for _ in range(dice.randrange(1, 6)):
        if dice.random() < 0.6 or len(ids) < 22:
            hull = small.Hull(id=str(uuid4()), name="Aft")
            small.db.session.add(hull)
            ids.append(hull.id)
        else:
            gone = small.db.session.get_one(small.Hull, ids.pop(dice.randrange(len(ids))))
            small.db.session.delete(gone)
        small.db.session.commit()


@pytest.mark.usefixtures("short")
def test_what_is_captured_keeps_the_number_of_rows_right(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(5)
    owner.add_rows(40)
    with small.db.engine.connect() as connection:
        ids = list(connection.execute(sa.text("SELECT id FROM hull")).scalars())
    owner.make_tallies()
    for _ in range(5):
        write(dice, ids)
        owner.numbered()
        then = hulls()
        write(dice, ids)  # not numbered yet: no part of it
        with monkeypatch.context() as patch:
            patch.setattr(SnapshotReader, "count", _count_beside)
            owner.ask(mode="snapshot")
            begin = owner.sent()[0]
            owner.wait()
        deletes = owner.log.count_items(
            LogRange("hulls", "hulls", 0, begin["highSeq"]), 2**40, deletes_only=True
        )
        assert begin["total"] == then + deletes
        owner.catchups.forget()
        owner.connection.execute(sa.text("DELETE FROM arus_catchup"))
        owner.numbered()


def _count_beside(reader: SnapshotReader, *limits: Any) -> int:
    assert threading.current_thread().name == "arus tallier", "the owner counts"
    return COUNT(reader, *limits)


@pytest.mark.usefixtures("short")
def test_rows_that_were_written_without_capture_have_the_catchup_begin_again(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    owner.add_rows(600)
    owner.make_tallies()
    owner.add_rows(500)
    owner.ask(mode="snapshot")
    first = owner.sent()
    assert (first[0]["type"], first[0]["total"]) == ("catchup_begin", 600)
    owner.wait()
    rest = owner.whole()
    assert (rest[0]["type"], rest[0]["total"]) == ("catchup_begin", 1_100)
    assert rest[0]["catchupId"] == first[0]["catchupId"]
    assert [item["sequence"] for item in rest[1:-1]] == list(range(1_100))
    assert {item["total"] for item in rest[1:-1]} == {1_100}
    assert rest[-1]["total"] == 1_100
    assert "begins again" in caplog.text
    status = owner.connection.execute(
        sa.text("SELECT status, published, total FROM arus_catchup")
    ).one()
    assert tuple(status) == ("complete", 1_100, 1_100)
    # Now the number is known.
    owner.ask(mode="snapshot")
    again = owner.whole()
    assert [m["total"] for m in again if m["type"] == "catchup_begin"] == [1_100]


@pytest.mark.usefixtures("short")
def test_a_limit_leaves_out_no_rows_that_were_written_without_capture(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.add_rows(600)
    owner.make_tallies()
    owner.add_rows(500)
    # Nobody looks whether the number was right.
    monkeypatch.setattr(owner.catchups._planner, "mind", lambda: None)
    owner.ask(mode="snapshot", limit=2_000)
    sent = owner.whole()
    assert (sent[0]["total"], sent[-1]["total"], sent[-1]["next"]) == (1_100, 1_100, None)
    assert [item["sequence"] for item in sent[1:-1]] == list(range(1_100))


@pytest.mark.usefixtures("short")
def test_an_acknowledgement_of_before_says_nothing_of_a_catchup_that_began_again(
    owner: Owner,
) -> None:
    owner.add_rows(600)
    owner.make_tallies()
    owner.add_rows(500)
    owner.ask(mode="snapshot")
    owner.catchups.prepare(None)
    packets = 0
    while owner.catchups.next_message() is not None:
        packets += 1
        owner.catchups.sent(packets, time.monotonic())
    owner.wait()
    owner.catchups.prepare(None)  # it begins again
    for each in range(1, packets + 1):
        owner.catchups.acknowledged(each, 0)
    with owner.log.fenced_transaction() as fenced:
        owner.catchups.journal(fenced.connection)
    row = owner.connection.execute(
        sa.text("SELECT published, position, total FROM arus_catchup")
    ).one()
    assert tuple(row) == (0, "", 1_100)


@pytest.mark.usefixtures("short")
def test_a_table_that_has_grown_long_is_counted_once(owner: Owner) -> None:
    owner.add_rows(10)
    owner.make_tallies()
    owner.add_rows(90)
    owner.ask(mode="snapshot")
    assert owner.sent()[0]["total"] == 100
    assert owner.log.row_tally.rows("hulls") == 100


@pytest.mark.usefixtures("short")
def test_a_transaction_that_fails_leaves_no_number_behind(owner: Owner) -> None:
    owner.add_rows(100)
    owner.make_tallies()
    small.db.session.add(small.Hull(name="Aft"))
    small.db.session.commit()
    with pytest.raises(ZeroDivisionError):
        _number_and_fail(owner)
    owner.log.reload()
    owner.numbered()
    owner.ask(mode="snapshot")
    assert owner.sent()[0]["total"] == 101


def _number_and_fail(owner: Owner) -> None:
    with owner.log.fenced_transaction() as fenced:
        fenced.number(owner.log.unnumbered(10))
        raise ZeroDivisionError
