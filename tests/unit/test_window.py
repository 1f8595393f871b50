"""The in-flight window: grows while it is made use of, shrinks when messages queue up."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.relay.poison import FRUITLESS, PoisonDetector, Suspect
from arus.relay.window import CEILING, FLOOR, MAX_BYTES, START, Window


def a_round(window: Window, *, round_trip: float, sent_at: float = 0.0, full: bool = True) -> float:
    """A window's worth, sent together and acknowledged together; when that was."""
    room = window.room(window.size if full else 0, 0)
    assert room == 0 if full else room == window.size
    for _ in range(window.size):
        window.acknowledged(round_trip, sent_at + round_trip)
    return sent_at + round_trip


def adapting() -> Window:
    window = Window(None, PoisonDetector())
    window.connected(None)
    return window


def with_a_queue_met(window: Window, *, shortest: float) -> float:
    """The start is over; when that was."""
    now = a_round(window, round_trip=shortest)
    for _ in range(2):
        now = a_round(window, round_trip=10 * shortest + 1, sent_at=now)
    return now


# -- rounds ---------------------------------------------------------------------------------------


def test_it_grows_while_it_is_full_and_nothing_queues() -> None:
    window = adapting()
    sizes = []
    for _ in range(9):
        sizes.append(window.size)
        a_round(window, round_trip=0.6)
    assert sizes == [16, 48, 144, 432, 1296, 3888, 11_664, 16_384, 16_384]
    assert CEILING == 16_384


def test_it_stays_where_it_is_not_made_use_of() -> None:
    window = adapting()
    now = a_round(window, round_trip=0.6, full=False)
    assert window.size == START
    for _ in range(3):
        now = a_round(window, round_trip=5.0, sent_at=now, full=False)
    assert window.size == START, "what is late is none of ours"


def test_it_needs_no_more_than_half_of_it_to_be_in_use() -> None:
    window = adapting()
    assert window.room(START // 2, 0) == START // 2
    window.acknowledged(0.6, 0.6)
    assert window.size > START


def test_a_queue_ends_the_start_and_leaves_what_the_link_carries() -> None:
    window = adapting()
    now = a_round(window, round_trip=0.6)
    grown = window.size
    now = a_round(window, round_trip=2.6, sent_at=now)
    assert window.size == grown, "it may be a lost packet"
    now = a_round(window, round_trip=2.6, sent_at=now)
    assert window.size == grown // 2, "two round trips and a tenth of a second are 1.3 s"
    a_round(window, round_trip=1.3, sent_at=now)
    assert window.size == grown, "from now on it grows to twice its size"


def test_after_the_start_less_is_put_up_with() -> None:
    window = adapting()
    now = a_round(window, round_trip=0.6)
    now = a_round(window, round_trip=2.0, sent_at=now)
    assert window.size == START * 9
    now = with_a_queue_met(window, shortest=0.6)
    left = window.size
    for _ in range(2):
        now = a_round(window, round_trip=2.0, sent_at=now)
    assert window.size < left


def test_a_short_delay_is_put_up_with() -> None:
    window = adapting()
    now = with_a_queue_met(window, shortest=0.001)
    left = window.size
    a_round(window, round_trip=0.09, sent_at=now)
    assert window.size == left * 2


def test_late_packets_are_no_queue() -> None:
    window = adapting()
    now = with_a_queue_met(window, shortest=0.6)
    for _ in range(4):
        size = window.size
        assert window.room(size, 0) == 0
        for number in range(size):
            window.acknowledged(1.8 if number % 10 else 0.6, now + 1.8)
        now += 1.8
        assert window.size > size


def test_what_was_sent_before_it_shrank_says_nothing_of_what_is_left() -> None:
    window = adapting()
    now = a_round(window, round_trip=0.1)
    grown = window.size
    for _ in range(2):
        now = a_round(window, round_trip=1.5, sent_at=now)
    assert FLOOR < window.size < grown
    left = window.size
    assert window.room(grown, 0) == 0
    for late in range(grown):
        window.acknowledged(1.5 + late / 10, now + late / 10)
    assert window.size == left


def test_it_learns_the_round_trip_anew_when_the_link_has_become_longer() -> None:
    window = adapting()
    now = with_a_queue_met(window, shortest=0.05)
    smallest = window.size
    while now < 60 and window.size < 1000:
        now = a_round(window, round_trip=0.7, sent_at=now)
        smallest = min(smallest, window.size)
    assert smallest == FLOOR, "first it looks like a queue"
    assert now < 20


def test_a_new_connection_begins_anew() -> None:
    window = adapting()
    with_a_queue_met(window, shortest=0.6)
    window.connected(None)
    assert window.size == START
    a_round(window, round_trip=3.0)
    assert window.size == START * 3, "the round trip of the old link is forgotten"


# -- links ----------------------------------------------------------------------------------------


@dataclass
class Link:
    """A link that keeps the order: what is late holds up all behind it, each way."""

    round_trip: float
    #: Seconds that each message takes for itself.
    each: float = 0.0
    #: The share of messages and of acknowledgements that are late, and by how many seconds.
    late: float = 0.0
    lateness: float = 0.0
    chance: random.Random = field(default_factory=random.Random)
    _free_at: float = 0.0
    _there_at: float = 0.0
    _back_at: float = 0.0

    def send(self, now: float) -> float:
        """When the acknowledgement comes."""
        self._free_at = max(now, self._free_at) + self.each
        self._there_at = max(self._there_at, self._free_at + self._one_way())
        self._back_at = max(self._back_at, self._there_at + self._one_way())
        return self._back_at

    def _one_way(self) -> float:
        is_late = self.chance.random() < self.late
        return self.round_trip / 2 + (self.lateness if is_late else 0.0)


def drain(window: Window, link: Link, messages: int) -> tuple[float, list[int]]:
    """Send messages as the flow does; the seconds, and how many were in flight at each acknowledgement."""
    sent, now = 0, 0.0
    in_flight: deque[tuple[float, float]] = deque()
    depths = []
    while sent < messages or in_flight:
        if window.room(len(in_flight), 0) >= window.size // 4:
            while sent < messages and window.room(len(in_flight), 0):
                in_flight.append((link.send(now), now))
                sent += 1
        now = in_flight[0][0]
        while in_flight and in_flight[0][0] <= now:
            depths.append(len(in_flight))
            _, sent_at = in_flight.popleft()
            window.acknowledged(now - sent_at, now)
    return now, depths


@pytest.mark.parametrize(("round_trip", "each"), [(0.3, 0.1), (0.7, 0.65), (0.25, 0.006)])
def test_a_slow_link_is_full_with_few_messages_in_flight(round_trip: float, each: float) -> None:
    # As 64 kbit/s, 9.6 kbit/s and 1 Mbit/s with messages of 780 bytes.
    messages = int(200 / each)
    seconds, depths = drain(adapting(), Link(round_trip, each), messages)
    assert messages * each / seconds > 0.98
    useful = (round_trip + each) / each
    assert max(depths) < max(40, 15 * useful), "at the start a queue is first to be met"
    later = depths[messages // 2 :]
    assert max(later) < 6 * useful
    assert sum(later) / len(later) < 4 * useful


@pytest.mark.parametrize("seed", range(20))
def test_late_packets_do_not_keep_it_from_filling_a_far_link(seed: int) -> None:
    # A packet carries two messages or some acknowledgements, so 2 % of late packets are 1 % of these.
    link = Link(0.6, late=0.01, lateness=0.6, chance=random.Random(seed))
    seconds, _ = drain(adapting(), link, 10_000)
    assert 10_000 / seconds > 800


def test_a_near_broker_has_its_window_opened_within_a_few_round_trips() -> None:
    window = adapting()
    seconds, _ = drain(window, Link(0.001), 1000)
    assert seconds < 0.006
    assert window.size > 1000


# -- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "size"), [(None, START), (1, 1), (10, 10), (65_535, START)])
def test_the_broker_has_the_last_word(limit: int | None, size: int) -> None:
    window = Window(None, PoisonDetector())
    window.connected(limit)
    assert window.size == size
    assert window.room(0, 0) == size


def test_it_does_not_grow_in_secret_beyond_what_the_broker_takes() -> None:
    window = Window(None, PoisonDetector())
    window.connected(20)
    now = 0.0
    for _ in range(5):
        now = a_round(window, round_trip=0.6, sent_at=now)
    assert window.size == 20
    for _ in range(2):
        now = a_round(window, round_trip=2.6, sent_at=now)
    assert window.size == 10


def test_it_is_as_wide_as_at_the_start_once_messages_need_not_be_sent_one_at_a_time() -> None:
    poison = PoisonDetector()
    window = Window(None, poison)
    for _ in range(FRUITLESS):
        poison.hung_up([Suspect(1, 100)], acknowledged=False)
    window.connected(None)
    now = 0.0
    for _ in range(3):
        assert window.size == 1
        now = a_round(window, round_trip=0.6, sent_at=now)
    poison.completed([1], depth=100)
    assert window.size == START


def test_a_fixed_window_never_changes() -> None:
    window = Window(50, PoisonDetector())
    window.connected(None)
    now = 0.0
    for round_trip in (0.1, 0.1, 9.0, 9.0):
        now = a_round(window, round_trip=round_trip, sent_at=now)
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
    window = Window(None, PoisonDetector())
    window.connected(limit)
    for round_trip, now, full in acks:
        window.room(window.size if full else 0, 0)
        window.acknowledged(round_trip, now)
        assert min(FLOOR, limit or FLOOR) <= window.size <= min(CEILING, limit or CEILING)


def test_an_answer_that_was_left_lying_is_not_late() -> None:
    window = adapting()
    window.room(window.size, 0)
    window.acknowledged(0.001, now=1.0)
    grown = window.size
    for fenced in range(100):
        window.room(window.size, 0)
        window.acknowledged(0.4, now=2.0 + fenced, unread=0.399)
    assert window.size > grown
    grown = window.size
    for fenced in range(10):
        window.room(window.size, 0)
        window.acknowledged(1.4, now=200.0 + fenced, unread=0.399)
    assert window.size < grown, "it was late even if it had come at once"
