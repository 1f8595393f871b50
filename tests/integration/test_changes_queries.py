"""The change log's lists: the same states as everywhere, whole, in order, and by an index."""

from __future__ import annotations

import itertools
import random
import sqlite3
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, text

from arus.database import open_engine
from arus.errors import UnknownChangeError
from arus.outbox.changes import MAX_LIMIT, each_change, find_change, list_changes
from arus.outbox.sql.changes import page
from arus.outbox.tables import define
from arus.protocol.entries import ChangeState

pytestmark = pytest.mark.slow

ENTITIES = {
    "work_orders": "work_orders",
    "alerts": "alerts",
    "maintenance_schedules": "maintenance",
}
_INSERT = text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
    " committed_at, data, seq, previous_seq, outcome, reason) VALUES (:message_id, :entity, :topic, 1,"
    " 'update', :row_id, 1, :at, :data, :seq, 0, :outcome, :reason)"
)
_LANE = text(
    "INSERT INTO arus_lane (topic, head_seq, sent_seq, acked_seq) VALUES (:topic, 1000, :sent, :acked)"
)


@pytest.fixture
def log(log: Connection) -> Connection:
    """A log of 300 changes in each state, numbered in another order than that of their ids."""
    dice = random.Random(7)
    numbers = list(range(1, 301))
    dice.shuffle(numbers)
    rows: list[dict[str, Any]] = []
    for at, number in enumerate(numbers):
        entity = dice.choice(list(ENTITIES))
        outcome = dice.choice([None, None, None, "quarantined", "superseded", "dropped"])
        rows.append(
            {
                "message_id": f"{at}_aaaaaaaaa",
                "entity": entity,
                "topic": ENTITIES[entity],
                "row_id": f"row-{at % 9}",
                "at": at,
                "data": b'{"n":%d}' % at,
                "seq": None if at > 270 else number,
                "outcome": outcome,
                "reason": outcome and f"because {at}",
            }
        )
    log.execute(_INSERT, rows)
    for topic, sent, acked in (
        ("work_orders", 200, 150),
        ("alerts", 90, 80),
        ("maintenance", 0, 0),
    ):
        log.execute(_LANE, {"topic": topic, "sent": sent, "acked": acked})
    return log


def paged(log: Connection, **wanted: Any) -> list[str]:
    """The message ids of all pages."""
    found: list[str] = []
    cursor = None
    while True:
        page = list_changes(log, limit=7, cursor=cursor, **wanted)
        found += [change.message_id for change in page.items]
        cursor = page.next
        if cursor is None:
            return found


def test_each_filter_gives_what_the_states_say(log: Connection) -> None:
    every = list_changes(log, limit=MAX_LIMIT).items
    assert [change.id for change in every] == list(range(300, 0, -1))
    assert {change.state for change in every} == set(ChangeState)
    for size in range(1, len(ChangeState) + 1):
        for states in itertools.combinations(ChangeState, size):
            for entity in (None, *ENTITIES):
                expected = [
                    change.message_id
                    for change in every
                    if change.state in states and entity in (None, change.entity)
                ]
                assert paged(log, states=states, entity=entity) == expected
                assert paged(log, states=states, entity=entity, oldest_first=True) == expected[::-1]


def test_a_list_has_no_data_and_one_change_has(log: Connection) -> None:
    listed = list_changes(log, limit=1).items[0]
    assert listed.data is None
    assert "data" not in listed.document()
    one = find_change(log, listed.message_id)
    assert one.document() == {**listed.document(), "data": {"n": 299}, "appliedBy": {}}


@pytest.mark.parametrize("message_id", ["", "299_bbbbbbbbb", "\0", "x\udcff", "ü", "x" * 5000])
def test_a_change_that_is_not_there(log: Connection, message_id: str) -> None:
    with pytest.raises(UnknownChangeError):
        find_change(log, message_id)


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_a_page_is_bounded(log: Connection, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        list_changes(log, limit=limit)


def test_all_are_read_in_pages(log: Connection) -> None:
    found = list(each_change(log, states=[ChangeState.PENDING, ChangeState.DELIVERED]))
    assert [change.id for change in found] == sorted(change.id for change in found)
    assert all(change.data for change in found)


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("of_entity", [False, True])
@pytest.mark.parametrize(
    "states",
    [(), *[(state,) for state in ChangeState], (ChangeState.PENDING, ChangeState.QUARANTINED)],
)
def test_no_list_walks_the_log_without_an_index(
    states: tuple[ChangeState, ...], of_entity: bool, oldest_first: bool
) -> None:
    metadata = MetaData()
    define(metadata)
    engine = open_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection)
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        statement = page(states, of_entity=of_entity, oldest_first=oldest_first, with_data=True)
        values = {"cursor": 5, "limit": 10, "entity": "alerts"}
        plan = [row[-1] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert not [step for step in plan if step.startswith("SCAN c")], plan
    first = next(step for step in plan if step.startswith("SEARCH c"))
    if states == (ChangeState.QUARANTINED,):
        assert "ix_arus_change_outcome (outcome=? AND id" in first
    elif states == (ChangeState.IN_FLIGHT,):
        assert "ix_arus_change_lane (topic=? AND seq>? AND seq<?)" in first
    elif states[:1] == (ChangeState.PENDING,):
        assert "ix_arus_change_unnumbered (id" in first
    elif not states and of_entity:
        assert "COVERING INDEX ix_arus_change_row (entity=?)" in first
