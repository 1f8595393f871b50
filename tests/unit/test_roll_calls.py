"""Roll calls: when a follower asks all vessels for their status, and when a vessel answers."""

from __future__ import annotations

import math
import random

import pytest

from arus.follower.roll_calls import RollCalls as Asked
from arus.follower.vessels import VesselState
from arus.inbound.roll_calls import ANSWERED_WITHIN, BURST, PERIOD, RollCalls
from arus.mqtt.events import Received

GOOD = b'{"requestId": "r-1", "rollCall": true}'


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def call(payload: bytes = GOOD, *, retain: bool = False) -> Received:
    return Received("fleet/_all/sync/catchup_requests", payload, 1, 1, retain)


def test_a_roll_call_is_answered_once_within_half_a_minute() -> None:
    due = []
    for seed in range(50):
        clock = Clock()
        calls = RollCalls("fleet/_all/sync", clock=clock, rng=random.Random(seed))
        assert calls.take(call())
        assert not calls.is_due()
        due.append(calls.due_at - clock.now)
        clock.now = calls.due_at
        assert calls.is_due()
        clock.now += 1000
        assert not calls.is_due()
    assert 0 <= min(due) < ANSWERED_WITHIN / 4
    assert ANSWERED_WITHIN * 3 / 4 < max(due) <= ANSWERED_WITHIN


def test_roll_calls_while_an_answer_is_pending_get_that_answer() -> None:
    clock = Clock()
    calls = RollCalls("p", clock=clock)
    calls.take(call())
    due_at = calls.due_at
    for _ in range(100):
        assert calls.take(call())
    assert calls.due_at == due_at
    clock.now = due_at
    assert calls.is_due()
    assert calls.due_at == math.inf


def test_a_flood_of_roll_calls_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    calls = RollCalls("p", clock=clock)
    answers = 0
    while clock.now < 1000.0 + 10 * PERIOD:
        calls.take(call())
        clock.now += ANSWERED_WITHIN
        answers += calls.is_due()
    assert BURST <= answers <= BURST + 10
    assert len(caplog.records) <= BURST + 10


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'{"requestId": "r"}',
        b'{"requestId": "r", "rollCall": false}',
        b'{"requestId": "r", "rollCall": 1}',
        b'{"rollCall": true}',
        b'{"requestId": "r", "entity": "all"}',
        b'{"requestId": "\\u001b[2J", "rollCall": true}',
        b'{"requestId": "' + b"x" * 5000 + b'", "rollCall": true}',
    ],
)
def test_anything_else_to_all_vessels_is_refused(payload: bytes) -> None:
    calls = RollCalls("p")
    assert not calls.take(call(payload))
    assert calls.due_at == math.inf


def test_a_retained_roll_call_is_refused() -> None:
    calls = RollCalls("p")
    assert not calls.take(call(retain=True))
    assert calls.due_at == math.inf


def test_a_follower_asks_when_it_has_subscribed_but_not_at_each_of_many_connections() -> None:
    clock = Clock()
    asked = Asked(clock=clock)
    times = []
    for _ in range(60):  # the link is cut each 10 s
        asked.subscribed()
        if asked.is_due([], 0):
            times.append(clock.now)
            asked.sent()
        clock.now += 10
    assert times == [1000.0, 1300.0]


def test_a_follower_asks_daily_and_for_an_online_vessel_that_is_silent() -> None:
    clock = Clock()
    asked = Asked(clock=clock)
    asked.sent()
    silent = VesselState("ship-1", "e", online=True, heard_at=0)
    assert not asked.is_due([silent], 3_000_000)  # asked a moment ago
    clock.now += 4_000
    assert asked.is_due([silent], 3_000_000)
    assert not asked.is_due([silent], 1_000_000)
    silent.online = False
    assert not asked.is_due([silent], 3_000_000)
    clock.now += 86_400
    assert asked.is_due([], 0)


def test_the_random_pause_of_an_answer_differs_between_vessels() -> None:
    random.seed(1)
    one = RollCalls("p")
    random.seed(1)
    other = RollCalls("p")
    assert one._rng.random() != other._rng.random()
