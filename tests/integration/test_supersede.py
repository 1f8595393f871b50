"""`MQTT_SUPERSEDE=always`: a row that changed a thousand times at sea goes once (CONTRACT, 2 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from arus.outbox.eviction import Eviction
from arus.outbox.log import ChangeLog
from arus.relay.backlog import Backlog
from arus.relay.numbering import Numbering
from bench.outage_bytes import Change, mixed, rehearse, updates_of
from tests.integration.test_eviction import _INSERT, _row, commit
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel
from tests.support.waiting import eventually

#: The outage of the benchmark at a scale of 1 to 26.
CHANGES, BOUND = 2_000, 385

Work = Sequence[Change]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "today"),
    [
        (list(updates_of(10, CHANGES)), 30.0),
        (list(mixed(CHANGES, 0.1)), 1.5),
        (list(mixed(CHANGES, 0.25)), 1.0),
    ],
    ids=["updates of few rows", "mixed work", "more new rows than there is room for"],
)
def test_an_outage_costs_little_more_than_each_changed_row_once(
    work: Work, today: float, tmp_path: Path
) -> None:
    found = rehearse(tmp_path, work, bound=BOUND)
    assert found.received == found.expected
    assert found.ratio <= 1.2
    if today > 1:  # else the queue is full of rows that changed once
        assert found.messages == found.rows
        assert rehearse(tmp_path, work, bound=BOUND, supersede="overflow").ratio > today


@pytest.mark.slow
def test_hundreds_of_changes_of_a_row_are_one_message_and_no_gap(
    mosquitto: Mosquitto, start_vessel: StartVessel, start_subscriber: Any
) -> None:
    subscriber: Subscriber = start_subscriber("vessel/sync/work_orders", client_id="shore")
    vessel = start_vessel(mosquitto.url, MQTT_SUPERSEDE="always")
    commit(vessel, [("work_orders", "create", "a", 1), ("work_orders", "create", "b", 1)])
    vessel.wait_drained()
    mosquitto.stop()
    eventually(lambda: not vessel.status().connected, message="the outage is noticed")
    commit(vessel, [("work_orders", "update", "a", version) for version in range(2, 302)])
    commit(vessel, [("work_orders", "create", "c", 1), ("work_orders", "delete", "b", 2)])
    eventually(lambda: vessel.status().head_seq == 304, 30, message="all are numbered")
    assert vessel.status().depth == 3
    assert vessel.status().counter("messages_superseded") == 299
    mosquitto.start()
    vessel.wait_connected()
    vessel.wait_drained()

    def seen() -> list[tuple[int, int, int]]:
        # A set: a subscriber that subscribes again gets the retained one again.
        return sorted({(b["seq"], b["previousSeq"], b["version"]) for b in subscriber.payloads})

    eventually(lambda: len(seen()) == 5, message="all have arrived")
    assert seen()[2:] == [(302, 2, 301), (303, 302, 1), (304, 303, 2)]


def add(
    owner: ChangeLog, numbering: Numbering, changes: Sequence[tuple[str, str, str, int]]
) -> None:
    """Commit changes in one transaction, and number them in the next one."""
    with owner.fenced_transaction() as fenced:
        fenced.execute(_INSERT, [_row(change) for change in changes])
    found = numbering.find()
    with owner.fenced_transaction() as fenced:
        numbering.write(fenced, found)
        fenced.save_topic_queues()


def chain(log: Connection) -> list[tuple[int, int, str, str | None]]:
    statement = "SELECT seq, previous_seq, row_id, outcome FROM arus_change WHERE topic = 'work_orders' ORDER BY seq"
    return [tuple(row) for row in log.exec_driver_sql(statement)]


def test_what_waited_when_the_setting_was_changed_is_superseded_before_anything_is_sent(
    log: Connection,
) -> None:
    owner = ChangeLog(log, vessel_id="ship-1")
    before = Numbering(owner, Backlog(), Eviction(1000, frozenset()))
    add(owner, before, [("work_orders", "update", "ab"[n % 2], n) for n in range(1, 251)])
    assert owner.topic_queues["work_orders"].depth == 250
    numbering = Numbering(owner, Backlog(), Eviction(1000, frozenset(), always=True))
    sweeps = 0
    while numbering.sweep_due:
        with owner.fenced_transaction() as fenced:
            numbering.write(fenced, numbering.find())
            fenced.save_topic_queues()
        sweeps += 1
    assert sweeps == 3, "a writer on board waits for a few at a time"
    add(owner, numbering, [("work_orders", "update", "a", 251)])
    left = [one for one in chain(log) if one[3] is None]
    assert left == [(249, 0, "b", None), (251, 249, "a", None)]
    assert owner.topic_queues["work_orders"].depth == 2


def test_a_change_that_may_have_been_sent_is_not_superseded(log: Connection) -> None:
    owner = ChangeLog(log, vessel_id="ship-1")
    numbering = Numbering(owner, Backlog(), Eviction(1000, frozenset()))
    add(owner, numbering, [("work_orders", "create", "a", 1), ("work_orders", "create", "b", 1)])
    queue = owner.topic_queues["work_orders"]
    queue.send_next()
    numbering = Numbering(owner, Backlog(), Eviction(1000, frozenset(), always=True))
    with owner.fenced_transaction() as fenced:
        numbering.write(fenced, numbering.find())
        fenced.save_topic_queues()
    add(owner, numbering, [("work_orders", "update", row, 2) for row in "ab"])
    assert chain(log) == [(1, 0, "a", None), (2, 1, "b", "superseded"), (3, 1, "a", None), (4, 3, "b", None)]  # fmt: skip
    assert [entry.previous_seq for entry in queue.waiting] == [1, 3]
