"""Refusals: which are final, how long a topic waits, and what ends the wait."""

from __future__ import annotations

import pytest

from arus.errors import ConnectionLostError
from arus.mqtt.refusals import (
    OF_THE_CLIENT,
    OF_THE_MESSAGE,
    PASSING,
    UNCLEAR,
    is_hang_up,
    name_of,
    refusal_in,
)
from arus.outbox.topic_queue import FIRST_PAUSE, LONGEST_PAUSE, TopicQueue
from arus.protocol.entries import Entry, Operation
from arus.relay.refused import UNCLEAR_REFUSALS, Refused


def entry(seq: int) -> Entry:
    return Entry(seq, seq, 0, "m", "alerts", 2, "a", Operation.CREATE, "r", 1, 0, b"{}")


@pytest.mark.parametrize("reason", range(0x80, 0x100))
def test_a_reason_code_is_final_passes_or_is_unclear(reason: int) -> None:
    refused = Refused()
    times = [refused.is_final(1, reason) for _ in range(5)]
    if reason in PASSING or reason in UNCLEAR:  # nothing else was accepted
        assert not any(times)
    else:
        assert all(times)
    assert name_of(reason)


def test_no_reason_code_is_in_two_lists() -> None:
    lists = (OF_THE_MESSAGE, PASSING, UNCLEAR, OF_THE_CLIENT)
    assert len({code for codes in lists for code in codes}) == sum(map(len, lists))


@pytest.mark.parametrize("code", [0x8A, 0x8C, 0x8F, 0x94, 0x9E, 0xA1, 0xA2])
def test_a_disconnect_about_the_client_or_its_subscriptions_blames_no_change(code: int) -> None:
    error = ConnectionLostError("ended", code, hung_up=True)
    assert refusal_in(error) is None
    assert not is_hang_up(error)


def test_an_unclear_refusal_is_final_only_if_the_broker_accepts_others() -> None:
    refused = Refused()
    for _ in range(10):
        assert not refused.is_final(1, 0x80)  # its disk may be full: that is no change's fault
    refused.accepted(2, 5.0, 5.0)
    assert refused.is_final(1, 0x80)
    refused.accepted(1, 6.0, 6.0)
    assert [refused.is_final(1, 0x83) for _ in range(UNCLEAR_REFUSALS)] == [
        False
    ] * UNCLEAR_REFUSALS


def test_an_accepted_message_ends_the_long_pauses() -> None:
    refused, alerts, now = Refused(), TopicQueue("alerts"), 100.0
    for pause in (2, 4, 8, 16, 32, LONGEST_PAUSE):
        refused.postpone(alerts, entry(1), 0x97, now)
        alerts.send_next()
        assert alerts.paused_until == now + pause
        now += pause
    refused.postpone(alerts, entry(1), 0x97, now)
    assert refused.obstacle == "quota exceeded"
    refused.accepted(7, now - 1, now + 1)  # sent before the refusal: says nothing
    assert alerts.paused_until == now + LONGEST_PAUSE
    assert refused.obstacle
    refused.accepted(8, now + 1, now + 2)
    assert alerts.paused_until == now + 2 + FIRST_PAUSE
    assert refused.obstacle is None
    alerts.send_next()
    now = alerts.paused_until
    refused.postpone(alerts, entry(1), 0x96, now)
    assert alerts.paused_until == now + FIRST_PAUSE


def test_what_was_refused_for_the_moment_is_sent_as_a_new_message() -> None:
    refused, alerts = Refused(), TopicQueue("alerts")
    refused.postpone(alerts, entry(1), 0x97, 100.0)
    assert refused.is_postponed(1)
    refused.completed(1)
    assert not refused.is_postponed(1)
