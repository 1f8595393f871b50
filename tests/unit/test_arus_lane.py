"""A lane: one topic's changes on their way."""

from __future__ import annotations

from collections import deque

from arus.lane import FIRST_PAUSE, LONGEST_PAUSE, Lane
from arus.message import Entry, Operation
from arus.watermark import Watermark


def entry(seq: int) -> Entry:
    return Entry(seq, seq, 0, str(seq), "a", 2, "a", Operation.CREATE, "r", 1, 0, b"{}")


def lane(*, head: int = 10) -> Lane:
    return Lane("a", head, 0, Watermark(0), Watermark(0), head)


def test_it_is_caught_up_once_all_that_is_numbered_was_read() -> None:
    a = lane()
    assert (a.read_seq, a.caught_up) == (0, False)
    a.ahead = deque([entry(3), entry(9)])
    assert (a.read_seq, a.caught_up) == (9, False)
    a.scanned = 10
    assert (a.read_seq, a.caught_up) == (10, True)


def test_a_qos_2_message_is_received_before_it_is_settled() -> None:
    a = lane()
    for seq in (2, 5):
        a.sent(entry(seq))
    assert (a.sent_seq, a.acked.value, a.dirty) == (5, 1, True)
    a.dirty = False
    a.confirmed(2)
    assert (a.received.value, a.acked.value, a.depth, a.dirty) == (4, 1, 10, True)
    a.settled(2)
    assert (a.received.value, a.acked.value, a.depth) == (4, 4, 9)


def test_a_settled_message_counts_as_received() -> None:
    a = lane()
    for seq in (1, 2):
        a.sent(entry(seq))
    a.settled(2)
    assert (a.received.above, a.acked.above) == ([2], [2])
    a.settled(1)
    assert (a.received.value, a.acked.value, a.received.above, a.depth) == (2, 2, [], 8)


def test_what_is_postponed_goes_again_in_order_after_a_while() -> None:
    a = lane()
    for seq in (3, 1, 2):
        a.postpone(entry(seq), 100.0)
    assert [e.seq for e in a.again] == [1, 2, 3]
    assert a.held(100.0 + FIRST_PAUSE - 0.1)
    assert not a.held(100.0 + FIRST_PAUSE)


def test_pauses_double_up_to_the_longest_and_begin_anew_after_an_acknowledgement() -> None:
    a = lane()
    a.sent(entry(1))
    now = 100.0
    pauses = []
    for _ in range(7):
        a.postpone(entry(1), now)
        a.again.clear()
        pauses.append(a.held_until - now)
        now = a.held_until
    assert pauses == [2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    a.settled(1)
    a.postpone(entry(2), now)
    assert a.held_until - now == FIRST_PAUSE
