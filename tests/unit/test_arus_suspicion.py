"""When a message is blamed for the end of a connection."""

from __future__ import annotations

from arus.suspicion import FRUITLESS, SMALL, STRIKES, Suspicion

LARGE = SMALL * 2


def careful() -> Suspicion:
    suspicion = Suspicion()
    for _ in range(FRUITLESS):
        suspicion.hung_up([(1, 100), (2, LARGE)], acknowledged=False)
    assert suspicion.careful
    return suspicion


def test_connections_that_bore_fruit_raise_no_suspicion() -> None:
    suspicion = Suspicion()
    for _ in range(10):
        suspicion.hung_up([(1, LARGE)], acknowledged=False)
        suspicion.hung_up([(1, LARGE)], acknowledged=True)
    assert not suspicion.careful


def test_connections_without_a_message_raise_no_suspicion() -> None:
    suspicion = Suspicion()
    for _ in range(10):
        suspicion.hung_up([], acknowledged=False)
    assert not suspicion.careful


def test_a_large_message_alone_in_flight_is_convicted() -> None:
    suspicion = careful()
    for _ in range(STRIKES):
        assert not suspicion.convicted(2)
        suspicion.hung_up([(2, LARGE)], acknowledged=True)
    assert suspicion.convicted(2)
    assert not suspicion.convicted(1)


def test_a_small_message_and_one_of_several_are_never_convicted() -> None:
    suspicion = careful()
    for _ in range(STRIKES * 3):
        suspicion.hung_up([(1, SMALL - 1)], acknowledged=False)
        suspicion.hung_up([(2, LARGE), (3, LARGE)], acknowledged=False)
    assert not any(map(suspicion.convicted, (1, 2, 3)))


def test_an_empty_queue_clears_everything() -> None:
    suspicion = careful()
    suspicion.hung_up([(2, LARGE)], acknowledged=False)
    suspicion.clear()
    assert not suspicion.careful
    assert not suspicion.convicted(2)
