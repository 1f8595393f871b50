"""A follower of vessels that compress: with the dictionary, without it, and with what can't be read at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import orjson
import pytest
from flask import Flask

from arus.follower import received_queue
from arus.protocol.frames import Compressor
from tests.support.compressing import CompressingVessel
from tests.support.follower import FollowerThread
from tests.support.mosquitto import Mosquitto
from tests.support.ship_messages import dictionary
from tests.support.waiting import eventually

StartFollower = Callable[..., FollowerThread]
TOPIC = f"system/dictionary/{dictionary().id}"


@pytest.fixture
def database_kind() -> str:
    """The SQL is tested on both databases by the plans of all statements."""
    return "sqlite"


@pytest.fixture
def start_follower(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> Iterator[StartFollower]:
    with ExitStack() as stack:

        def start(**settings: str) -> FollowerThread:
            app = make_app(
                migrated_database_url,
                LOCAL_MODE="false",
                MQTT_BROKER_URL=mosquitto.url,
                MQTT_RECONNECT_PERIOD="0.2",
                **settings,
            )
            return stack.enter_context(FollowerThread(app))

        yield start


@pytest.fixture
def ship(mosquitto: Mosquitto) -> Iterator[CompressingVessel]:
    with CompressingVessel(mosquitto.port) as ship:
        yield ship


def counted(shore: FollowerThread, name: str) -> int:
    (value,) = shore.query("SELECT sum(value) FROM arus_counter WHERE name = :name", name=name)
    return int(value[0] or 0)


def test_live_changes_and_catch_ups_are_read_with_and_without_a_dictionary(
    start_follower: StartFollower, ship: CompressingVessel
) -> None:
    ship.publish(TOPIC, dictionary().content)
    for number in range(20):
        ship.change("crew", {"name": f"before {number}"})
    shore = start_follower()
    ship.status()
    shore.wait_equal(ship)
    ship.known = None
    ship.change("crew", {"name": "without"})
    ship.known = dictionary()
    ship.change("crew", {"name": "with"})
    shore.wait_equal(ship)
    assert counted(shore, "follow_refused") == 0


def test_it_waits_for_a_dictionary_that_comes_later_and_asks_for_nothing_else(
    start_follower: StartFollower, ship: CompressingVessel
) -> None:
    shore = start_follower()
    ship.known = None
    ship.change("crew", {"name": "first"})
    ship.status()
    shore.wait_equal(ship)
    asked = len(ship.requests)
    ship.known = dictionary()
    ship.change("crew", {"name": "second"})
    ship.known = None
    ship.change("crew", {"name": "third"})
    ship.publish(TOPIC, dictionary().content)
    shore.wait_equal(ship)
    assert len(ship.requests) == asked
    assert counted(shore, "follow_refused") == 0


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["dictionary", "bomb", "bytes"])
def test_a_frame_that_cannot_be_read_is_refused_and_is_no_gap(
    start_follower: StartFollower,
    ship: CompressingVessel,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    monkeypatch.setattr(received_queue, "PATIENCE", 0.2)
    shore = start_follower()
    ship.known = None
    ship.change("crew", {"name": "first"})
    ship.status()
    shore.wait_equal(ship)
    asked = len(ship.requests)
    lost = ship.change("crew", {"name": "unreadable"}, lost=True)
    frame = Compressor(dictionary()).compress(orjson.dumps(lost))
    if damage == "bomb":
        block = (2**17 << 3 | 0b010).to_bytes(3, "little") + b"0"
        frame = b"\x28\xb5\x2f\xfd\xa0" + (2**30).to_bytes(4, "little") + block * 200
    elif damage == "bytes":
        frame = frame[:4] + b"\xff" * 80
    ship.publish("crew", frame)
    ship.change("crew", {"name": "third"})
    eventually(lambda: counted(shore, "follow_refused") == 1, 20)
    shore.wait_seq(ship.seq)
    assert len(ship.requests) == asked
    assert counted(shore, "follow_gaps") == 0
    ((payload, reason),) = shore.query("SELECT payload, reason FROM arus_parked")
    assert (bytes(payload), bool(reason)) == (frame, True)
    # The audit finds the row that is not here, and gets it.
    ship.describes = True
    ship.publish("system/digest", ship.digest_document())
    shore.wait_equal(ship)
