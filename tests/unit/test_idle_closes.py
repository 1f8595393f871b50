"""Idle closes are told from a bad link by the time that the connections carried nothing."""

from __future__ import annotations

import random

import pytest

from arus.mqtt.diagnosis import Diagnosis
from arus.mqtt.idle_closes import TIMES, IdleCloses, IdleTime, idle_limit

PING = b"\xc0\x00"


class Scene:
    """Connections with a clock to set."""

    def __init__(self, keepalive: int = 60) -> None:
        self.now = 100.0
        self.closes = IdleCloses(keepalive)

    def close(self, *gaps: float, ping_after: float | None = None) -> Diagnosis | None:
        """Make a connection with a packet after each of `gaps` but the last, after which it is closed."""
        idle = IdleTime(lambda: self.now)
        for gap in gaps[:-1]:
            self.now += gap
            idle.read()
        self.now += gaps[-1]
        if ping_after is not None:
            idle.wrote(PING)
            self.now += ping_after
        return self.closes.closed(idle)


def test_several_equal_ones_in_a_row_are_named_with_the_keepalive_to_set() -> None:
    scene = Scene()
    found = [scene.close(0.1, 3.0, 30.0 + jitter) for jitter in (0.0, 0.3, 0.1, 0.2, 0.4, 0.1)]
    assert found[: TIMES - 1] == [None] * (TIMES - 1)
    first, second = found[TIMES - 1 :]
    assert first is not None
    assert (
        first.says
        == f"the connection was closed after 30 s without a packet, {TIMES} times in a row"
    )
    assert first.fix
    assert first.fix.startswith("set MQTT_KEEPALIVE to 21: ")
    assert second is not None
    assert f"{TIMES + 1} times in a row" in second.says
    assert idle_limit(str(second)) == 30


def test_a_reset_at_the_first_ping_counts_from_the_packet_before_it() -> None:
    scene = Scene(keepalive=60)
    found = [scene.close(0.1, 60.0, ping_after=0.2) for _ in range(TIMES)][-1]
    assert found is not None
    assert "after 60 s without a packet" in found.says


@pytest.mark.parametrize(
    "gaps",
    [
        # as long or longer without a packet before, and not closed
        [(40.0, 30.0)] * TIMES,
        # at different times
        [(30.0,), (12.0,), (30.0,), (55.0,), (30.0,), (8.0,)],
        # soon
        [(1.0,)] * TIMES,
    ],
)
def test_other_closes_are_not(gaps: list[tuple[float, ...]]) -> None:
    scene = Scene()
    assert [scene.close(*each) for each in gaps] == [None] * len(gaps)


def test_another_end_begins_anew() -> None:
    scene = Scene()
    for _ in range(3):
        for _ in range(TIMES - 1):
            assert scene.close(30.0) is None
        scene.closes.clear()


def test_a_bad_link_raises_no_alarm() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    alarms = 0
    for _ in range(200):
        scene = Scene()
        for _ in range(100):
            gaps = [min(60.0, rng.expovariate(1 / 20)) for _ in range(rng.randrange(4))]
            alarms += scene.close(*gaps, rng.expovariate(1 / 60)) is not None
    assert alarms <= 2, f"{alarms} alarms in 20,000 ends"


def test_an_idle_limit_is_read_from_the_diagnosis_alone() -> None:
    assert idle_limit("the broker closed the connection") is None
