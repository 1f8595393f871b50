"""Messages that a broker passes over."""

from __future__ import annotations

import math

import pytest

from arus.errors import ConnectionLostError
from arus.protocol.entries import Entry, Operation
from arus.relay.passed_over import MAX_UNANSWERED, UNANSWERED, PassedOver

ENTRY = Entry(1, 7, 0, "m", "alerts", 2, "a", Operation.CREATE, "r", 1, 0, b"{}")


def check(
    passed_over: PassedOver,
    sent_at: float,
    *,
    passed: float = -math.inf,
    read: float = -math.inf,
    other: float = math.inf,
    waited: float = UNANSWERED,
) -> None:
    passed_over.check([(ENTRY, sent_at)], other, passed=passed, read=read, now=waited + 100.0)


def test_only_what_is_late_and_was_passed_counts() -> None:
    passed_over = PassedOver()
    check(passed_over, 101.0, passed=math.inf)  # not late
    check(passed_over, 50.0, passed=40.0)  # the broker has not read so far
    with pytest.raises(ConnectionLostError, match="not acknowledged a message in 60 s"):
        check(passed_over, 101.0, passed=math.inf, other=50.0)
    assert not passed_over.too_often(ENTRY.seq)
    for _ in range(MAX_UNANSWERED):
        assert not passed_over.too_often(ENTRY.seq)
        with pytest.raises(ConnectionLostError, match="not acknowledged change 7 on alerts"):
            check(passed_over, 50.0, passed=60.0, waited=1e4)
    assert passed_over.too_often(ENTRY.seq)
    passed_over.forget(ENTRY.seq)
    assert not passed_over.too_often(ENTRY.seq)


def test_a_broker_is_given_twice_as_long_each_time_and_no_message_is_blamed_if_it_answers_pings_alone() -> (
    None
):
    """It may acknowledge a message only once it is stored elsewhere, minutes later."""
    passed_over = PassedOver()
    for times in (1, 2, 4, 8, 16, 16):
        patience = UNANSWERED * times
        check(passed_over, 101.0, read=math.inf, waited=patience)
        with pytest.raises(ConnectionLostError, match=f"in {patience:.0f} s"):
            check(passed_over, 99.0, read=math.inf, waited=patience)
    assert not passed_over.too_often(ENTRY.seq)
    passed_over.check([], math.inf, passed=0.0, read=0.0, now=1e9)  # all was acknowledged
    with pytest.raises(ConnectionLostError, match="in 60 s"):
        check(passed_over, 99.0, read=math.inf)
