"""A topic queue: one topic's changes on their way."""

from __future__ import annotations

from arus.outbox.topic_queue import FIRST_PAUSE, LONGEST_PAUSE, READ_AHEAD, TopicQueue
from arus.protocol.entries import Entry, Operation
from arus.protocol.times import now_ms


def entry(seq: int, previous_seq: int = 0) -> Entry:
    return Entry(seq, seq, previous_seq, str(seq), "a", 2, "a", Operation.CREATE, "r", 1, 0, b"{}")


def topic_queue(*, head: int = 10) -> TopicQueue:
    return TopicQueue("a", head_seq=head, depth=head)


def test_it_is_caught_up_once_all_that_is_numbered_was_read() -> None:
    a = topic_queue()
    assert (a.read_seq, a.caught_up, a.has_next(0.0)) == (0, False, True)
    a.read([entry(3), entry(9)], is_all=False)
    assert (a.read_seq, a.caught_up) == (9, False)
    a.read([], is_all=True)
    assert (a.read_seq, a.caught_up, a.has_next(0.0)) == (10, True, True)
    for seq in (3, 9):
        assert a.send_next().seq == seq
    assert not a.has_next(0.0)


def test_a_qos_2_message_is_received_before_it_is_acknowledged() -> None:
    a = topic_queue()
    a.read([entry(2), entry(5)], is_all=False)
    a.send_next()
    a.send_next()
    assert a.is_changed
    assert (a.sent_seq, a.save()["acked_seq"], a.is_changed) == (5, 1, False)
    a.confirmed(2)
    assert a.is_changed
    saved = a.save()
    assert (saved["received_seq"], saved["acked_seq"], saved["depth"]) == (4, 1, 10)
    a.acknowledged(2)
    saved = a.save()
    assert (saved["received_seq"], saved["acked_seq"], saved["depth"]) == (4, 4, 9)


def test_an_acknowledged_message_counts_as_received() -> None:
    a = topic_queue()
    for seq in (1, 2):
        a.sent(entry(seq))
    a.acknowledged(2)
    saved = a.save()
    assert (saved["received_above"], saved["acked_above"]) == ([2], [2])
    a.acknowledged(1)
    saved = a.save()
    assert (saved["received_seq"], saved["acked_seq"], saved["received_above"]) == (2, 2, [])
    assert a.depth == 8


def test_only_an_acknowledgement_is_noted_with_its_time() -> None:
    a = topic_queue()
    for seq in (1, 2):
        a.sent(entry(seq))
    a.quarantined(1)
    assert a.save()["acked_at"] is None
    before = now_ms()
    a.acknowledged(2)
    at = a.save()["acked_at"]
    assert before <= at <= now_ms()
    a.number(11)
    assert a.save()["acked_at"] == at


def test_what_is_numbered_is_read_where_all_before_it_was_and_there_is_room() -> None:
    a = topic_queue(head=0)
    first = entry(1, a.number(1))
    a.read_numbered(first)
    assert (list(a.waiting), a.caught_up) == ([first], True)
    a.number(2)
    a.read_numbered(entry(3, a.number(3)))  # 2 was not read
    assert (list(a.waiting), a.caught_up) == ([first], False)
    full = topic_queue(head=0)
    for seq in range(1, READ_AHEAD + 2):
        full.read_numbered(entry(seq, full.number(seq)))
    assert (len(full.waiting), full.caught_up) == (READ_AHEAD, False)


def test_an_eviction_makes_what_was_read_be_read_again() -> None:
    a = topic_queue()
    a.read([entry(3), entry(9)], is_all=True)
    a.evicted()
    assert (list(a.waiting), a.read_seq, a.depth, a.caught_up) == ([], 0, 9, False)


def test_what_the_broker_has_forgotten_is_not_received() -> None:
    a = topic_queue()
    for seq in (1, 2):
        a.sent(entry(seq))
    a.acknowledged(1)
    a.confirmed(2)
    assert a.is_received(2)
    a.forget_received()
    assert (a.is_received(1), a.is_received(2), a.is_changed) == (True, False, True)


def test_what_is_postponed_goes_again_in_order_after_a_while() -> None:
    a = topic_queue()
    for seq in (3, 1, 2):
        a.postpone(entry(seq), 100.0)
    assert [e.seq for e in a.again] == [1, 2, 3]
    assert a.is_paused(100.0 + FIRST_PAUSE - 0.1)
    assert not a.is_paused(100.0 + FIRST_PAUSE)


def test_pauses_double_up_to_the_longest_and_begin_anew_after_an_acknowledgement() -> None:
    a = topic_queue()
    a.sent(entry(1))
    now = 100.0
    for pause in (2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE):
        a.postpone(entry(1), now)
        a.send_next()
        assert a.is_paused(now + pause - 0.1)
        assert not a.is_paused(now + pause)
        now += pause
    a.acknowledged(1)
    a.postpone(entry(2), now)
    assert a.is_paused(now + FIRST_PAUSE - 0.1)
    assert not a.is_paused(now + FIRST_PAUSE)
