"""The in-flight window: grows while it is full, shrinks when messages queue up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.window import CEILING, FLOOR, MAX_BYTES, START, Window


def a_round(window: Window, *, round_trip: float, now: float = 0.0, full: bool = True) -> None:
    """As many acknowledgements as make the window think."""
    if full:
        assert window.room(window.size, 0) == 0
    for _ in range(window.size):
        window.acknowledged(round_trip, now)


def adapting() -> Window:
    window = Window(None)
    window.connected(None)
    return window


def test_it_grows_while_it_is_full_and_nothing_queues() -> None:
    window = adapting()
    sizes = []
    for _ in range(6):
        sizes.append(window.size)
        a_round(window, round_trip=0.6)
    assert sizes == [128, 512, 2048, 8192, 16_384, 16_384]
    assert CEILING == 16_384


def test_it_stays_where_it_is_not_full() -> None:
    window = adapting()
    a_round(window, round_trip=0.6, full=False)
    assert window.size == START


def test_it_shrinks_when_messages_queue_and_never_below_its_floor() -> None:
    window = adapting()
    a_round(window, round_trip=0.6)
    grown = window.size
    a_round(window, round_trip=1.4)
    assert window.size == int(grown * 0.7)
    for _ in range(20):
        a_round(window, round_trip=1.4)
    assert window.size == FLOOR


def test_a_short_delay_is_put_up_with() -> None:
    window = adapting()
    a_round(window, round_trip=0.001)
    a_round(window, round_trip=0.09)
    assert window.size == START * 4 * 2, "it grows, but less steeply"


def test_late_packets_are_no_queue() -> None:
    window = adapting()
    for _ in range(4):
        grown = window.size
        assert window.room(grown, 0) == 0
        for number in range(grown):
            window.acknowledged(0.6 if number % 50 == 0 else 1.8, 0)
        assert window.size > grown


def test_it_learns_the_round_trip_anew_when_the_link_has_changed() -> None:
    window = adapting()
    a_round(window, round_trip=0.05, now=0)
    a_round(window, round_trip=0.7, now=1)
    small = window.size
    assert small < START * 4
    for _ in range(2):
        a_round(window, round_trip=0.7, now=400)
    assert window.size > small


def test_a_new_connection_begins_anew() -> None:
    window = adapting()
    a_round(window, round_trip=0.6)
    window.connected(None)
    assert window.size == START
    a_round(window, round_trip=3.0)
    assert window.size == START * 4, "the round trip of the old link is forgotten"


@pytest.mark.parametrize(("limit", "size"), [(None, START), (1, 1), (20, 20), (65_535, START)])
def test_the_broker_has_the_last_word(limit: int | None, size: int) -> None:
    window = Window(None)
    window.connected(limit)
    assert window.size == size
    assert window.room(0, 0) == size


def test_a_fixed_window_never_changes() -> None:
    window = Window(50)
    window.connected(None)
    for round_trip in (0.1, 0.1, 9.0, 9.0):
        a_round(window, round_trip=round_trip)
        assert window.size == 50
    window.connected(10)
    assert window.size == 10
    window.connected(None)
    assert window.size == 50


def test_bytes_in_flight_are_bounded_too() -> None:
    window = adapting()
    assert window.room(3, MAX_BYTES - 1) == START - 3
    assert window.room(3, MAX_BYTES) == 0


@given(
    st.integers(1, 65_535) | st.none(),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000), st.booleans()), max_size=400),
)
def test_it_stays_within_its_bounds(
    limit: int | None, acks: list[tuple[float, float, bool]]
) -> None:
    window = Window(None)
    window.connected(limit)
    for round_trip, now, full in acks:
        if full:
            window.room(window.size, 0)
        window.acknowledged(round_trip, now)
        assert min(FLOOR, limit or FLOOR) <= window.size <= min(CEILING, limit or CEILING)
