"""What the sync page is made of, read from real databases."""

from __future__ import annotations

import random
from typing import Any

from sqlalchemy import Connection, text

from arus.database import transaction
from arus.ops.forecast import DAY, MINUTE, Sample
from arus.ops.overview import LinkEvent, Outage, outages, read_counts, read_day
from arus.outbox.changes import list_changes
from arus.outbox.status import LastChange, read_last_changes
from arus.protocol.entries import ChangeState

NOW = 1_795_334_400_000
_CHANGE = text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
    " committed_at, data, seq, previous_seq, outcome) VALUES (:message_id, 'hulls', :topic, 1,"
    " 'update', :row_id, 1, :at, :data, :seq, 0, :outcome)"
)
_LANE = text(
    "INSERT INTO arus_lane (topic, head_seq, sent_seq, acked_seq) VALUES (:topic, :head, :sent, :acked)"
)
_SESSION = text(
    "INSERT INTO arus_session (id, epoch, vessel_id, head_seq, complete_since)"
    " VALUES (1, 'e', 'v', :head, :since)"
)
_SAMPLE = text(
    "INSERT INTO arus_sample (minute, depth, published) VALUES (:minute, :depth, :published)"
)
_EVENT = text(
    "INSERT INTO arus_link_event (at, connected, reason, generation) VALUES (:at, :up, :reason, 1)"
)


def fill(log: Connection, dice: random.Random) -> int:
    """Any log that could be: some numbers gone, some changes without one; return the highest number."""
    topics = [f"topic-{n}" for n in range(dice.randint(1, 4))]
    heads = dict.fromkeys(topics, 0)
    rows: list[dict[str, Any]] = []
    head = 0
    for number in range(dice.randint(0, 120)):
        topic = dice.choice(topics)
        numbered = dice.random() < 0.8
        if numbered:
            head += dice.choice([1, 1, 1, 2])
            heads[topic] = head
        rows.append(
            {
                "message_id": f"{number}_a",
                "topic": topic,
                "row_id": f"row-{number % 7}",
                "at": NOW,
                "data": b"{}",
                "seq": head if numbered else None,
                "outcome": dice.choice([None] * 5 + ["quarantined", "superseded", "dropped"]),
            }
        )
    with transaction(log):
        for table in ("arus_change", "arus_lane", "arus_session"):
            log.execute(text(f"DELETE FROM {table}"))
        if rows:
            log.execute(_CHANGE, rows)
        for topic, last in heads.items():
            acked = dice.randint(0, last)
            sent = dice.randint(acked, last)
            log.execute(_LANE, {"topic": topic, "head": last, "sent": sent, "acked": acked})
        log.execute(_SESSION, {"head": head, "since": NOW - DAY})
    return head


def test_the_counts_are_those_of_the_lists_and_add_up(log: Connection) -> None:
    dice = random.Random(11)
    for _ in range(25):
        head = fill(log, dice)
        counts = read_counts(log)
        listed = {s: len(list_changes(log, states=[s], limit=500).items) for s in ChangeState}
        assert counts.by_state == listed
        assert sum(counts.by_state.values()) == counts.total
        (numbered,) = log.execute(text("SELECT COUNT(seq) FROM arus_change")).one()
        assert counts.gone == head - numbered
        assert counts.complete_since == NOW - DAY


def test_a_long_log_is_counted_up_to_a_limit(log: Connection) -> None:
    dice = random.Random(12)
    most = 10
    for _ in range(25):
        fill(log, dice)
        real = read_counts(log)
        undelivered = text(
            "UPDATE arus_lane SET depth = (SELECT COUNT(*) FROM arus_change c WHERE c.topic = arus_lane.topic"
            " AND c.seq > arus_lane.acked_seq AND c.outcome IS NULL)"
        )
        with transaction(log):
            log.execute(undelivered)  # as the owner keeps it
        counts = read_counts(log, most)
        if real.total <= most:
            assert counts == real
            continue
        assert (counts.total, counts.is_long, counts.gone) == (most, True, None)
        for state, count in counts.by_state.items():
            if state in counts.more_in:
                assert count <= real.by_state[state], state
            else:
                assert count == real.by_state[state], state


def test_of_an_empty_database_nothing_is_counted(log: Connection) -> None:
    counts = read_counts(log)
    assert (counts.total, counts.gone, counts.complete_since) == (0, 0, None)
    assert set(counts.by_state.values()) == {0}


def test_a_row_is_known_by_its_last_change(log: Connection) -> None:
    fill(log, random.Random(3))
    ids = [f"row-{n}" for n in range(7)]
    found = read_last_changes(log, "hulls", ids)
    newest: dict[str, LastChange] = {}
    for change in list_changes(log, limit=500).items:
        newest.setdefault(change.row_id, LastChange(change.state, change.seq))
    assert found == newest
    assert read_last_changes(log, "hulls", []) == {}
    assert read_last_changes(log, "masts", ids) == {}


def test_the_day_begins_with_what_was_known_before_it(log: Connection) -> None:
    begin = NOW - DAY
    log.execute(_SAMPLE, {"minute": begin - 90 * MINUTE, "depth": 3, "published": 0})
    log.execute(_SAMPLE, {"minute": begin - 60 * MINUTE, "depth": 7, "published": 1})
    log.execute(_SAMPLE, {"minute": begin + MINUTE, "depth": 0, "published": 7})
    log.execute(_EVENT, {"at": begin - 60 * MINUTE, "up": False, "reason": "cable"})
    log.execute(_EVENT, {"at": begin + MINUTE, "up": True, "reason": None})
    log.execute(_EVENT, {"at": NOW - MINUTE, "up": False, "reason": "storm"})
    day = read_day(log, now=NOW, complete_since=NOW - 2 * DAY)
    assert day.samples == [
        Sample(begin - 60 * MINUTE, 7, 1),
        Sample(begin + MINUTE, 0, 7),
    ]
    assert day.observed_from == NOW - 2 * DAY
    assert day.link_known_from == begin
    assert day.outages == [
        Outage(begin, begin + MINUTE, "cable"),
        Outage(NOW - MINUTE, None, "storm"),
    ]


def test_a_day_without_a_history_claims_nothing(log: Connection) -> None:
    day = read_day(log, now=NOW, complete_since=None)
    assert (day.samples, day.outages, day.observed_from, day.link_known_from) == ([], [], NOW, NOW)


def test_an_outage_lasts_from_the_first_loss_to_the_next_connection() -> None:
    events = [
        LinkEvent(1, True, None),
        LinkEvent(5, False, "storm"),
        LinkEvent(6, False, "and again"),
        LinkEvent(9, True, None),
        LinkEvent(10, True, None),
    ]
    assert outages(events) == [Outage(5, 9, "storm")]
    assert outages([]) == []
