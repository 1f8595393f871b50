"""The keepalive: when a ping is due, and what counts as a sign of life."""

from __future__ import annotations

import math

import pytest

from arus.mqtt.keepalive import Keepalive

PERIOD = 10.0


class Scene:
    """A keepalive with a clock to set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.keepalive = Keepalive(PERIOD, clock=lambda: self.now)

    def ping(self, buffered: int = 2) -> None:
        assert self.keepalive.is_ping_due
        self.keepalive.pinged(buffered)
        assert not self.keepalive.is_ping_due

    def after(self, seconds: float, unsent: int = 0) -> bool:
        """Whether the connection is lost after some seconds."""
        self.now += seconds
        return self.keepalive.is_lost(unsent)


def test_a_ping_is_due_after_a_period_without_traffic_either_way() -> None:
    scene = Scene()
    scene.now += PERIOD - 1
    assert not scene.keepalive.is_ping_due
    scene.keepalive.read()
    scene.now += 1
    assert scene.keepalive.is_ping_due  # nothing was sent, so the broker would hang up
    scene.keepalive.wrote(2)
    assert not scene.keepalive.is_ping_due
    scene.now += PERIOD - 1
    assert scene.keepalive.is_ping_due  # nothing was received


def test_a_broker_may_require_pings_sooner_and_the_answer_has_the_same_time() -> None:
    scene = Scene()
    scene.keepalive.required(4)
    scene.now += 3.9
    assert not scene.keepalive.is_ping_due
    scene.now += 0.1
    assert scene.keepalive.ping_due_at == scene.now
    scene.ping()
    assert not scene.after(PERIOD - 1)
    assert scene.keepalive.is_ping_due  # the answer is late, and the broker wants to hear us
    assert scene.after(1)


@pytest.mark.parametrize("seconds", [0, int(PERIOD) + 1])
def test_a_broker_that_requires_no_pings_or_fewer_changes_nothing(seconds: int) -> None:
    scene = Scene()
    scene.keepalive.required(seconds)
    assert not scene.keepalive.is_ping_due
    scene.now += PERIOD
    assert scene.keepalive.is_ping_due


def test_a_ping_without_an_answer_ends_the_connection() -> None:
    scene = Scene()
    scene.now += PERIOD
    scene.ping()
    scene.keepalive.wrote(2)
    assert not scene.after(0)
    assert not scene.after(PERIOD - 1)
    assert scene.after(1)


def test_without_a_ping_nothing_is_lost() -> None:
    assert not Scene().after(1_000)


def test_what_arrives_is_a_sign_of_life_and_pings_go_on() -> None:
    """The answer waits behind three megabytes; the broker hangs up if it hears nothing for too long."""
    scene = Scene()
    pings = 0
    for _ in range(100):
        scene.now += 1
        scene.keepalive.read()
        assert not scene.keepalive.is_lost(0)
        if scene.keepalive.is_ping_due:
            scene.keepalive.pinged(2)
            scene.keepalive.wrote(2)
            pings += 1
    assert pings == 10
    assert scene.after(PERIOD)


def test_bytes_in_front_of_the_ping_that_leave_are_a_sign_of_life() -> None:
    scene = Scene()
    scene.keepalive.wrote(50_000)
    unsent = 50_000
    scene.now += PERIOD
    scene.ping(buffered=10_000)
    for _ in range(40):
        unsent -= 1_000
        assert not scene.after(PERIOD - 1, unsent)
    assert scene.after(PERIOD, unsent)


def test_a_broker_that_hangs_is_found_although_its_system_takes_the_pings() -> None:
    scene = Scene()
    scene.now += PERIOD
    scene.ping()
    scene.keepalive.wrote(2)
    assert not scene.after(1, unsent=2)
    assert not scene.after(1, unsent=0)  # its system has the ping
    for _ in range(8):
        scene.keepalive.wrote(100)  # and takes what follows
        assert not scene.after(1, unsent=0)
    scene.keepalive.wrote(100)
    assert not scene.after(1, unsent=0)
    assert scene.after(1, unsent=0)


def test_an_answer_belongs_to_the_oldest_ping() -> None:
    scene = Scene()
    assert scene.keepalive.answered_until == -math.inf
    scene.now += PERIOD
    scene.ping()
    first = scene.now
    scene.now += PERIOD
    scene.keepalive.read()
    scene.ping()
    scene.keepalive.answered()
    assert scene.keepalive.answered_until == first
    scene.keepalive.answered()
    assert scene.keepalive.answered_until == scene.now
    scene.keepalive.answered()  # of nothing
