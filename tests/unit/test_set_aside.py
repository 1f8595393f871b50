"""When a topic is set aside, and what it takes to quarantine its first change."""

from __future__ import annotations

import time
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from arus.protocol.entries import Entry, Operation
from arus.relay.poison import FRUITLESS, LEFT_OVER, STRIKES, PoisonDetector, Suspect
from arus.relay.set_aside import FIRST_PAUSE, PROMPT, PROOFS, SetAside

PERIOD = 5.0


def entry(topic: str, seq: int = 1) -> Entry:
    return Entry(
        id=1,
        seq=seq,
        previous_seq=0,
        message_id="1",
        entity=topic,
        topic=topic,
        qos=1,
        operation=Operation.CREATE,
        row_id="1",
        version=1,
        committed_at=0,
        data=b"{}",
    )


class Clock:
    """Topics in a time of their own: `crew` is set aside, `equipment` goes on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.aside = SetAside(PERIOD)
        self.aside.add("crew", 7, self.now, others_wait=True)

    def try_again(self, *, counts: bool = True, others_pass: bool = True) -> float:
        """Have the next trial fail; return for how long the topic waits then."""
        if self.aside.holds("crew", self.now):
            self.now = self.aside.resumes_after(self.now)
        if others_pass:
            self.aside.accepted([entry("equipment")])
        assert self.aside.choose(["crew", "equipment"], self.now) == "crew"
        waiting = ["crew", "equipment"] if others_pass else ["crew"]
        self.aside.failed(7, self.now, counts=counts, waiting=waiting)
        if not self.aside.holds("crew", self.now):
            return 0.0
        return self.aside.resumes_after(self.now) - self.now


def test_it_is_tried_again_at_growing_intervals_until_it_is_proved() -> None:
    clock = Clock()
    assert clock.aside.holds("crew", clock.now)
    assert not clock.aside.holds("equipment", clock.now)
    assert clock.aside.choose(["crew", "equipment"], clock.now) is None
    pauses = []
    for _ in range(PROOFS):
        assert not clock.aside.convicted("crew", 7)
        pauses.append(clock.try_again())
    assert pauses == [PERIOD * FIRST_PAUSE * 2**times for times in range(1, PROOFS + 1)]
    assert clock.aside.convicted("crew", 7)
    assert not clock.aside.convicted("crew", 8)


def test_nothing_is_proved_while_no_other_change_is_accepted_and_it_does_not_wait_for_none() -> (
    None
):
    clock = Clock()
    for _ in range(PROOFS * 3):
        assert clock.try_again(others_pass=False) == 0.0
    assert not clock.aside.convicted("crew", 7)


def end_late(clock: Clock) -> None:
    clock.try_again(counts=False)


def end_on_another(clock: Clock) -> None:
    clock.aside.cut(clock.now, tried=False, waiting=["crew", "equipment"])


@given(
    ends=st.lists(st.sampled_from([end_late, end_on_another]), min_size=1),
    between=st.integers(0, PROOFS - 1),
)
def test_a_link_that_also_ends_otherwise_proves_nothing(
    ends: list[Callable[[Clock], None]], between: int
) -> None:
    clock = Clock()
    for end in ends:
        for _ in range(between):
            clock.try_again()
        end(clock)
        assert not clock.aside.convicted("crew", 7)


def test_it_waits_longer_each_time_too_if_the_broker_takes_long_to_hang_up() -> None:
    clock = Clock()
    pauses = [clock.try_again(counts=False) for _ in range(3)]
    assert pauses == [PERIOD * FIRST_PAUSE * 2**times for times in (1, 2, 3)]
    assert clock.try_again(counts=False, others_pass=False) == 0.0


def cut(*suspects: Suspect, waiting: list[str], others_pass: bool = True) -> list[float]:
    """Have the link be cut three times in the trial of `crew`; return for how long the topic waits each time."""
    poison = PoisonDetector(PERIOD)
    poison.aside.add("crew", 7, 0.0, others_wait=True)
    pauses = []
    for _ in range(3):
        if others_pass:
            poison.aside.accepted([entry("equipment")])
        assert poison.aside.choose(["crew"], 1e12) == "crew"
        began = time.monotonic()
        poison.cut(suspects, waiting)
        assert poison.aside.trial is None
        is_held = poison.aside.holds("crew", began)
        pauses.append(round(poison.aside.resumes_after(began) - began) if is_held else 0.0)
    return pauses


def test_it_waits_longer_each_time_too_if_the_link_is_cut_in_its_trial() -> None:
    tried = Suspect(7, 100, topic="crew")
    assert cut(tried, waiting=["crew"]) == [PERIOD * FIRST_PAUSE * 2**times for times in (1, 2, 3)]


def test_it_waits_for_nobody_if_the_link_is_cut_and_no_other_topic_has_anything() -> None:
    tried = Suspect(7, 100, topic="crew")
    assert cut(tried, waiting=["crew"], others_pass=False) == [0.0] * 3


def test_it_waits_longer_each_time_if_others_wait_and_are_not_accepted_but_not_for_those_set_aside() -> (
    None
):
    """A broker of 3.1.1 may accept others only after a probe, for which the connection has to last."""
    clock = Clock()
    clock.aside.add("alerts", 3, clock.now, others_wait=True)
    pauses: list[float] = []
    for waiting in (["crew", "equipment"], ["crew", "alerts"], ["crew", "alerts", "equipment"]):
        clock.now = 1e6 * (1 + len(pauses))
        assert clock.aside.choose(["crew"], clock.now) == "crew"
        clock.aside.failed(7, clock.now, counts=True, waiting=waiting)
        pauses.append(clock.aside.resumes_after(clock.now) - clock.now)
    assert pauses == [PERIOD * FIRST_PAUSE * times for times in (2, 2, 4)]


def test_a_cut_before_its_change_was_sent_is_no_trial() -> None:
    earlier = Suspect(3, 100, topic="equipment")
    assert cut(earlier, waiting=["crew", "equipment"]) == [0.0] * 3


def test_it_is_forgotten_once_a_change_of_its_topic_is_accepted() -> None:
    clock = Clock()
    assert clock.aside.obstacle == "it closes the connection on change 7 on crew"
    clock.aside.accepted([entry("crew")])
    assert not clock.aside
    assert clock.aside.obstacle is None
    assert not clock.aside.holds("crew", clock.now)


def test_a_trial_ends_if_its_change_is_quarantined_for_another_reason() -> None:
    poison = PoisonDetector(PERIOD)
    poison.aside.add("crew", 7, 1000.0, others_wait=False)
    assert poison.aside.choose(["crew"], 1000.0) == "crew"
    assert poison.careful
    poison.completed([], [(entry("crew", 7), "the broker refused it")], depth=0)
    assert not poison.careful
    assert poison.aside.obstacle is None


def test_the_next_change_of_the_topic_is_tried_alone_too() -> None:
    clock = Clock()
    for _ in range(PROOFS):
        clock.try_again()
    clock.aside.given_up("crew")
    assert clock.aside.obstacle is None
    clock.now = clock.aside.resumes_after(clock.now)
    assert clock.aside.choose(["crew"], clock.now) == "crew"
    clock.aside.failed(8, clock.now, counts=True, waiting=["crew", "equipment"])
    assert clock.aside.obstacle == "it closes the connection on change 8 on crew"
    assert not clock.aside.convicted("crew", 8)


def test_a_topic_is_set_aside_after_three_ends_on_its_small_change_alone() -> None:
    poison = PoisonDetector(PERIOD)
    suspect = Suspect(7, 100, topic="crew")
    for _ in range(FRUITLESS + STRIKES):
        assert not poison.aside
        poison.hung_up([suspect], acknowledged=False, waiting=["crew", "equipment"])
    assert poison.aside
    assert not poison.careful


def test_a_topic_is_set_aside_if_its_first_change_is_left_over_while_others_are_accepted() -> None:
    poison = PoisonDetector(PERIOD)
    for connection in range(LEFT_OVER):
        assert not poison.aside
        suspects = [
            Suspect(7, 100, topic="crew"),
            Suspect(8, 100, topic="crew"),
            Suspect(100 + connection, 100, topic="equipment"),
        ]
        poison.hung_up(suspects, acknowledged=True)
    assert poison.aside.obstacle == "it closes the connection on change 7 on crew"
    assert not poison.careful


def test_an_end_of_the_connection_soon_after_the_trial_counts_and_a_later_one_does_not() -> None:
    poison = PoisonDetector(0.0)
    poison.aside.add("crew", 7, 0.0, others_wait=True)
    for age in (PROMPT, PROMPT * 2, *[PROMPT] * PROOFS):
        assert not poison.aside.convicted("crew", 7)
        poison.aside.accepted([entry("equipment")])
        poison.aside.choose(["crew"], 1e12)
        assert poison.careful
        suspect = Suspect(7, 100, topic="crew", age=age, was_alive=True)
        poison.hung_up([suspect], acknowledged=True, others_pass=True)
    assert poison.aside.convicted("crew", 7)


def test_an_end_counts_only_if_the_connection_was_alive_when_the_change_was_sent() -> None:
    """A proxy that forgets idle connections ends them on whatever is sent next: five times on a trial, at growing intervals."""
    poison = PoisonDetector(0.0)
    poison.aside.add("crew", 7, 0.0, others_wait=True)
    for was_alive in (*[True] * (PROOFS - 1), *[False] * PROOFS, *[True] * (PROOFS - 1)):
        poison.aside.accepted([entry("equipment")])
        poison.aside.choose(["crew"], 1e12)
        suspect = Suspect(7, 100, topic="crew", was_alive=was_alive)
        poison.hung_up([suspect], acknowledged=True, others_pass=True)
        assert not poison.aside.convicted("crew", 7)
