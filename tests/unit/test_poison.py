"""When a message is blamed for the end of a connection."""

from __future__ import annotations

from arus.relay.poison import (
    FRUITLESS,
    FURTHER_RELEASE_STRIKES,
    RELEASE_STRIKES,
    SMALL,
    STRIKES,
    PoisonDetector,
    Suspect,
)

LARGE = SMALL * 2


def careful() -> PoisonDetector:
    poison = PoisonDetector()
    for _ in range(FRUITLESS):
        poison.hung_up([Suspect(1, 100), Suspect(2, LARGE)], acknowledged=False)
    assert poison.careful
    return poison


def test_connections_that_bore_fruit_raise_no_suspicion() -> None:
    poison = PoisonDetector()
    for _ in range(10):
        poison.hung_up([Suspect(1, LARGE)], acknowledged=False)
        poison.hung_up([Suspect(1, LARGE)], acknowledged=True)
    assert not poison.careful


def test_connections_without_a_message_raise_no_suspicion() -> None:
    poison = PoisonDetector()
    for _ in range(10):
        poison.hung_up([], acknowledged=False)
    assert not poison.careful


def test_a_large_message_alone_in_flight_is_convicted() -> None:
    poison = careful()
    for _ in range(STRIKES):
        assert not poison.convicted(2)
        poison.hung_up([Suspect(2, LARGE)], acknowledged=True)
    assert poison.convicted(2)
    assert not poison.convicted(1)


def test_a_small_message_and_one_of_several_are_never_convicted() -> None:
    poison = careful()
    for _ in range(STRIKES * 3):
        poison.hung_up([Suspect(1, SMALL - 1)], acknowledged=False)
        poison.hung_up([Suspect(2, LARGE), Suspect(3, LARGE)], acknowledged=False)
    assert not any(map(poison.convicted, (1, 2, 3)))


def test_a_small_message_is_convicted_if_the_broker_refuses_it_and_takes_everything_else() -> None:
    poison = PoisonDetector()
    for _ in range(FRUITLESS):
        suspects = [Suspect(1, 100), Suspect(2, 100)]
        poison.hung_up(suspects, acknowledged=True, others_pass=True, refusal="not authorized")
    for _ in range(STRIKES):
        assert not poison.convicted(1)
        poison.hung_up(
            [Suspect(1, 100)], acknowledged=False, others_pass=True, refusal="not authorized"
        )
    assert poison.convicted(1)
    assert poison.reason(1) == "the broker closes the connection on it: not authorized"


def test_a_small_message_is_not_convicted_if_the_refusal_may_be_of_something_else() -> None:
    poison = careful()
    for _ in range(STRIKES * 3):
        poison.hung_up([Suspect(1, 100)], acknowledged=True, refusal="not authorized")
        poison.hung_up([], acknowledged=True, others_pass=True, refusal="not authorized")
    assert not poison.convicted(1)


def test_a_release_on_which_the_broker_always_hangs_up_counts_as_answered() -> None:
    poison = careful()
    for _ in range(RELEASE_STRIKES):
        assert not poison.convicted(2, confirmed=True)
        poison.hung_up([Suspect(2, 0, confirmed=True)], acknowledged=False)
    assert poison.convicted(2, confirmed=True)
    poison.given_up(2, confirmed=True)
    for _ in range(FURTHER_RELEASE_STRIKES):
        assert not poison.convicted(3, confirmed=True)
        poison.hung_up([Suspect(3, 0, confirmed=True)], acknowledged=False)
    assert poison.convicted(3, confirmed=True)


def test_messages_are_sent_together_once_all_suspects_have_an_outcome() -> None:
    poison = careful()
    poison.hung_up([Suspect(3, 100)], acknowledged=True)
    poison.completed([1, 2], depth=100)
    assert poison.careful
    poison.completed([3], depth=100)
    assert not poison.careful


def test_it_stays_careful_until_the_poison_message_is_found_wherever_it_is_among_the_suspects() -> (
    None
):
    poison = PoisonDetector()
    for connection in range(
        FRUITLESS
    ):  # the last is cut by the link, before the poison message was sent
        poisonous = [Suspect(seq, LARGE) for seq in range(2, 10)] if connection < 2 else []
        poison.hung_up([Suspect(1, 100), *poisonous], acknowledged=False)
    poison.completed(range(1, 9), depth=100)
    for _ in range(STRIKES):
        assert poison.careful
        poison.hung_up([Suspect(9, LARGE)], acknowledged=True)
    assert poison.convicted(9)


def test_an_empty_queue_clears_everything() -> None:
    poison = careful()
    poison.hung_up([Suspect(2, LARGE)], acknowledged=False)
    poison.completed([], depth=0)
    assert not poison.careful
    assert not poison.convicted(2)
