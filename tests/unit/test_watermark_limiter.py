"""Watermarks: each is a write to the vessel's disk, so the newest of each follower is written, and not too often."""

from __future__ import annotations

import logging
import math

import pytest

from arus.inbound.watermark_limiter import WatermarkLimiter
from arus.mqtt.events import Received


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def message(number: int, name: str = "shore") -> Received:
    return Received(f"p/watermarks/{name}", b"", number, 1, retain=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> WatermarkLimiter:
    return WatermarkLimiter(clock=clock)


def test_a_watermark_is_written_at_once(limiter: WatermarkLimiter, clock: Clock) -> None:
    assert limiter.due() == []
    assert limiter.wake_at == math.inf
    assert limiter.take("shore", message(1)) is None
    assert limiter.wake_at <= clock.now
    assert [one.packet_id for one in limiter.due()] == [1]
    assert limiter.wake_at == math.inf


def test_of_several_that_wait_the_newest_is_written(limiter: WatermarkLimiter) -> None:
    limiter.take("shore", message(1))
    earlier = limiter.take("shore", message(2))
    assert earlier is not None
    assert earlier.packet_id == 1, "it is to be acknowledged"
    assert [one.packet_id for one in limiter.due()] == [2]


def test_a_flood_is_written_at_a_limited_rate_and_its_last_one_is_written(
    limiter: WatermarkLimiter, clock: Clock
) -> None:
    written: list[int] = []
    for number in range(10_000):  # in ten seconds
        limiter.take("shore", message(number))
        written += [one.packet_id for one in limiter.due()]
        clock.now += 0.001
    assert len(written) <= limiter.BURST + 10 * limiter.PER_SECOND + 1
    while limiter.wake_at < math.inf:
        clock.now = max(clock.now, limiter.wake_at)
        written += [one.packet_id for one in limiter.due()]
    assert written[-1] == 9_999
    assert written == sorted(written)


def test_the_flood_of_one_follower_leaves_room_for_another(
    limiter: WatermarkLimiter, clock: Clock
) -> None:
    for number in range(1000):
        limiter.take("flood", message(number, "flood"))
        limiter.due()
        clock.now += 0.001
    limiter.take("shore", message(7))
    assert 7 in [one.packet_id for one in limiter.due()]


def test_invented_names_use_no_room_for_long(
    limiter: WatermarkLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    refused = 0
    with caplog.at_level(logging.WARNING):
        for number in range(5_000):
            refused += limiter.take(f"f{number}", message(number)) is not None
    assert refused == limiter.discarded == 5_000 - limiter.MAX_NAMES
    assert len(caplog.records) == 1
    limiter.begin()
    assert limiter.take("shore", message(1)) is None
