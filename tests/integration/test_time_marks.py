"""A catch-up since a time begins at the right number, whatever the ship's clock did, without reading the log."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from arus.database import open_engine, transaction
from arus.outbox.log import ChangeLog
from arus.outbox.time_marks import EVERY
from tests.support.small_app import db, small_app

TOPICS = ("a", "b")
BEGIN = 1_795_334_400_000
MINUTE, DAY = 60_000, 86_400_000
INSERT = sa.text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version, committed_at, data)"
    " VALUES (:message_id, 'hulls', :topic, 1, 'create', :message_id, 1, :at, :data)"
)


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(small_database_url) as app:
        yield app


@pytest.fixture
def owner(app: Flask) -> Iterator[ChangeLog]:
    engine = open_engine(db.engine.url)
    with engine.connect() as connection:
        yield ChangeLog(connection, vessel_id=None)
    engine.dispose()


def number(owner: ChangeLog, times: Sequence[int], dice: random.Random) -> None:
    """Commit changes at these times, and number them in batches."""
    engine = open_engine(db.engine.url)
    first = owner.head_seq
    rows = [
        {
            "message_id": f"{at}_{first + place:09d}",
            "topic": dice.choice(TOPICS),
            "at": at,
            "data": b"{}",
        }
        for place, at in enumerate(times)
    ]
    with engine.connect() as connection, transaction(connection):
        connection.execute(INSERT, rows)
    engine.dispose()
    while waiting := owner.unnumbered(dice.randint(200, EVERY)):
        with owner.fenced_transaction() as fenced:
            fenced.number(waiting)
            fenced.save_topic_queues()


def found(owner: ChangeLog, topic: str, since: int, pruned_seq: int = 0) -> int | None:
    head = owner.head_seq
    return owner.time_marks.first_since(topic, since, pruned_seq=pruned_seq, head_seq=head)


def exact(owner: ChangeLog, topic: str, since: int) -> int:
    first = owner.first_seq_since(topic, since)
    return owner.head_seq + 1 if first is None else first


def marks(owner: ChangeLog) -> list[Any]:
    query = sa.text("SELECT seq, highest_at FROM arus_time_mark ORDER BY seq")
    return [tuple(row) for row in owner._connection.execute(query)]


def test_with_a_clock_that_goes_on_the_number_is_exact(owner: ChangeLog) -> None:
    dice = random.Random(1)
    times = sorted(BEGIN + dice.randrange(DAY) for _ in range(6 * EVERY))
    number(owner, times, dice)
    assert len(marks(owner)) >= 3
    for since in (0, *dice.sample(times, 40), BEGIN + 2 * DAY):
        for topic in TOPICS:
            assert found(owner, topic, since) == exact(owner, topic, since)


@pytest.mark.parametrize("seed", range(3))
def test_with_a_clock_that_was_set_back_no_change_since_the_time_is_left_out(
    owner: ChangeLog, seed: int
) -> None:
    dice = random.Random(seed)
    times, now = [], BEGIN
    for _ in range(6 * EVERY):
        now += dice.randrange(1_000)
        if dice.random() < 0.001:
            now += dice.choice((-DAY, -MINUTE, MINUTE, DAY))
        times.append(now)
    number(owner, times, dice)
    assert times != sorted(times)
    for since in dice.sample(times, 40):
        for topic in TOPICS:
            first = found(owner, topic, since)
            assert first is not None
            assert first <= exact(owner, topic, since)


def test_after_a_takeover_the_marks_go_on(owner: ChangeLog) -> None:
    dice = random.Random(2)
    number(owner, [BEGIN + DAY, *range(BEGIN, BEGIN + EVERY)], dice)
    owner.reload()
    number(owner, range(BEGIN + EVERY, BEGIN + 3 * EVERY), dice)
    noted = marks(owner)
    assert len(noted) >= 2
    assert {at for _, at in noted} == {BEGIN + DAY}, (
        "each covers what was numbered before the takeover"
    )


def test_what_a_failed_transaction_has_noted_is_noted_again(owner: ChangeLog) -> None:
    dice = random.Random(3)
    number(owner, range(BEGIN, BEGIN + 2 * EVERY), dice)
    noted = marks(owner)
    with pytest.raises(ZeroDivisionError):
        _number_again_and_fail(owner)
    owner.reload()
    number(owner, range(BEGIN + 2 * EVERY, BEGIN + 4 * EVERY), dice)
    assert marks(owner)[: len(noted)] == noted
    gaps = [after - before for (before, _), (after, _) in pairwise(marks(owner))]
    assert max(gaps) < 2 * EVERY


def _number_again_and_fail(owner: ChangeLog) -> None:
    entries = owner.read("a", after=0, upto=2 * EVERY, limit=-1)
    with owner.fenced_transaction() as fenced:
        fenced.number(entries * 2)
        raise ZeroDivisionError


def test_a_log_that_is_older_than_its_marks_is_searched_as_before(owner: ChangeLog) -> None:
    dice = random.Random(4)
    number(owner, range(BEGIN, BEGIN + 3 * EVERY), dice)
    owner._connection.execute(sa.text("DELETE FROM arus_time_mark"))
    owner.reload()
    number(owner, range(BEGIN + DAY, BEGIN + DAY + EVERY), dice)
    assert found(owner, "a", BEGIN + 10) is None
    assert found(owner, "a", BEGIN + DAY + EVERY) == owner.head_seq + 1


def test_marks_below_what_was_pruned_are_not_needed(owner: ChangeLog) -> None:
    dice = random.Random(5)
    number(owner, range(BEGIN, BEGIN + 5 * EVERY), dice)
    pruned = marks(owner)[1][0] + 10
    owner._connection.execute(
        sa.text("DELETE FROM arus_time_mark WHERE seq < :seq"), {"seq": pruned}
    )
    owner._connection.execute(sa.text("DELETE FROM arus_change WHERE seq <= :seq"), {"seq": pruned})
    for at in range(pruned + BEGIN + 10, BEGIN + 5 * EVERY, 300):
        assert found(owner, "a", at, pruned) == exact(owner, "a", at)
