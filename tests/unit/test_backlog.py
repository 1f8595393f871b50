"""What had to wait for a connection."""

from __future__ import annotations

from arus.outbox.topic_queue import TopicQueue
from arus.protocol.entries import Entry, Operation
from arus.relay.backlog import Backlog


def entry(entry_id: int, seq: int, committed_at: int) -> Entry:
    return Entry(entry_id, seq, 0, "m", "a", 1, "a", Operation.CREATE, "r", 1, committed_at, b"{}")


def numbered(topic_queue: TopicQueue, *entries: Entry) -> list[Entry]:
    for each in entries:
        topic_queue.number(each.seq)
        topic_queue.sent(each)
    return list(entries)


def test_it_is_flushed_once_when_the_last_that_had_waited_is_acknowledged() -> None:
    a = TopicQueue("a")
    backlog = Backlog()
    first, second = numbered(a, entry(1, 1, 100), entry(2, 2, 110))
    assert backlog.add([first, second]) == [first, second]
    assert not backlog
    backlog.begin(200, [a])
    late, fresh = numbered(a, entry(3, 3, 190), entry(4, 4, 210))
    assert backlog.add([late, fresh]) == [late]
    found = []
    for seq in (1, 2, 3, 4):
        a.acknowledged(seq)
        found.append(backlog.flush({"a": a}))
    assert found == [0, 0, 3, 0]
    assert not backlog


def test_a_retried_change_has_met_its_connection() -> None:
    a = TopicQueue("a")
    backlog = Backlog()
    backlog.add(numbered(a, entry(7, 1, 100)))
    backlog.begin(200, [])
    assert backlog.add(numbered(a, entry(5, 2, 90))) == []


def test_an_evicted_last_one_holds_nothing_up() -> None:
    a = TopicQueue("a")
    a.number(1)
    backlog = Backlog()
    backlog.begin(200, [a])
    assert backlog.flush({"a": a}) == 0
    a.evicted()
    assert backlog.flush({"a": a}) == 1


def test_the_end_of_a_connection_forgets_it() -> None:
    a = TopicQueue("a")
    a.number(1)
    backlog = Backlog()
    backlog.begin(200, [a])
    assert backlog
    backlog.end()
    assert not backlog
    later = numbered(a, entry(2, 2, 300))
    assert backlog.add(later) == later  # there is no connection
