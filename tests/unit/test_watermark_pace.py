"""How often a follower publishes a vessel's watermark."""

from __future__ import annotations

from arus.follower.vessels import VesselState
from arus.follower.watermarks import LONGEST_PERIOD, Watermarks, pause_of
from arus.protocol.messages import Message


class Scene:
    def __init__(self) -> None:
        self.now = 0.0
        self.published: list[tuple[float, str, str]] = []
        self.watermarks = Watermarks("shore", self._publish, clock=lambda: self.now)

    def _publish(self, vessel_id: str, name: str, message: Message) -> None:
        assert message
        self.published.append((self.now, vessel_id, name))

    def run(self, vessels: list[VesselState], seconds: int, *, idle: bool) -> None:
        """Each vessel's seq grows ten times a second."""
        for _ in range(seconds * 10):
            self.now += 0.1
            for vessel in vessels:
                vessel.seq += 1
                self.watermarks.publish(vessel, pause=pause_of(len(vessels), idle=idle))


def test_a_watermark_goes_to_its_vessel_alone() -> None:
    scene = Scene()
    scene.watermarks.publish(VesselState("ship-2", "e", seq=1), pause=2)
    assert scene.published == [(0.0, "ship-2", "watermarks/shore")]


def test_a_vessel_gets_at_most_one_each_two_seconds_also_between_bursts() -> None:
    scene = Scene()
    scene.run([VesselState("ship-1", "e")], 60, idle=True)
    assert 25 <= len(scene.published) <= 31


def test_a_large_fleet_gets_fewer_while_changes_keep_coming() -> None:
    scene = Scene()
    vessels = [VesselState(f"ship-{number}", "e") for number in range(150)]
    scene.run(vessels, 60, idle=False)
    assert pause_of(150, idle=False) == LONGEST_PERIOD
    assert 150 <= len(scene.published) <= 150 * (60 / LONGEST_PERIOD + 1)


def test_a_catch_up_is_reported_without_a_pause() -> None:
    scene = Scene()
    vessel = VesselState("ship-1", "e", seq=1)
    scene.watermarks.publish(vessel, pause=2)
    vessel.items += 200
    vessel.seq += 200
    assert scene.watermarks.is_overdue(vessel, 800)
    scene.watermarks.publish(vessel, pause=0)
    assert len(scene.published) == 2
    assert not scene.watermarks.is_overdue(vessel, 800)


def test_a_watermark_that_the_broker_refuses_is_published_again_after_a_pause() -> None:
    scene = Scene()
    vessel = VesselState("ship-1", "e", seq=1)
    scene.watermarks.publish(vessel, pause=2)
    scene.watermarks.refused("ship-1")
    for _ in range(200):
        scene.now += 0.1
        vessel.seq += 1
        scene.watermarks.publish(vessel, pause=0)
        scene.watermarks.refused("ship-1")
    assert len(scene.published) == 2
    assert scene.watermarks.is_published(vessel) is False
