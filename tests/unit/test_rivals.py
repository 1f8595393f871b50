"""Who else uses our client id is told by its claims, never by a bad link."""

from __future__ import annotations

import random

import pytest

from arus.errors import ConnectionLostError, TakenOverError
from arus.mqtt.rivals import Rivals

HUNG_UP = ConnectionLostError("the broker closed the connection", hung_up=True)


class Topic:
    """What the broker has retained on the claim's topic, and two clients with one id."""

    def __init__(self) -> None:
        self.retained: bytes | None = None

    def connect(self, client: Rivals, now: float) -> None:
        client.accepted(now)
        if client.suspicious:
            if self.retained is not None:
                client.heard(self.retained)
            client.check()
            self.retained = client.claim()


def rivals() -> Rivals:
    return Rivals("arus_sync_ship 1/#", "vessel/sync", 5.0)


def test_a_bad_link_is_never_taken_for_a_rival() -> None:
    topic, client = Topic(), rivals()
    for now in range(0, 1000, 2):
        topic.connect(client, now)
        assert not client.ended(HUNG_UP, now + 1)


@pytest.mark.parametrize("left", [None, b"of an owner that was killed"])
def test_a_claim_that_the_link_loses_is_no_rival(left: bytes | None) -> None:
    """The broker then keeps the claim before it: an own one, or that of an earlier process."""
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    topic, client = Topic(), rivals()
    topic.retained = left
    for now in range(0, 400, 2):
        before = topic.retained
        topic.connect(client, now)
        if chance.random() < 0.5:
            topic.retained = before
        assert not client.ended(HUNG_UP, now + 1)


def test_two_with_one_id_find_each_other_within_five_connections() -> None:
    topic, clients = Topic(), [rivals(), rivals()]
    topic.connect(clients[0], 0)

    def displace_each_other() -> None:
        for number in range(1, 6):
            topic.connect(clients[number % 2], number * 2)
            assert not clients[1 - number % 2].ended(HUNG_UP, number * 2)

    with pytest.raises(TakenOverError) as raised:
        displace_each_other()
    assert "arus_sync_ship 1/#" in str(raised.value)


def test_who_is_displaced_after_standing_down_stands_down_again() -> None:
    client = rivals()
    client.accepted(0)
    assert client.ended(TakenOverError("x"), 1)
    client.accepted(61)
    assert client.ended(HUNG_UP, 63)
    client.accepted(130)
    assert not client.ended(HUNG_UP, 1000)  # it was alone for a long time
    client.accepted(1010)
    assert not client.ended(HUNG_UP, 1011)


def test_a_broker_of_mqtt_5_may_say_so_itself() -> None:
    client = rivals()
    client.accepted(0)
    assert client.ended(ConnectionLostError("taken over", 0x8E, hung_up=True), 500)


def test_a_broker_that_gives_another_reason_has_displaced_nobody() -> None:
    one = rivals()
    one.accepted(100.0)
    assert not one.ended(ConnectionLostError("quota exceeded", 0x97, hung_up=True), 101.0)
    assert not one.suspicious


def test_an_attempt_that_was_not_accepted_tells_nothing() -> None:
    client = rivals()
    assert not client.ended(HUNG_UP, 1)
    assert not client.suspicious


def test_the_topic_holds_any_client_id_in_one_level() -> None:
    assert rivals().topic == "vessel/sync/system/session/arus_sync_ship%201%2F%23"
