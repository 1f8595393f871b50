"""The watermark against a model that keeps every number."""

from __future__ import annotations

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arus.outbox.watermark import Watermark


class WatermarkMachine(RuleBasedStateMachine):
    """Numbers are opened ascending with gaps, closed in any order, and saved and restored between."""

    @initialize(start=st.integers(0, 5))
    def begin(self, start: int) -> None:
        self.mark = Watermark(start)
        self.start = start
        self.opened: list[int] = []
        self.closed: set[int] = set()
        #: Closed with another outcome than delivery: not read back.
        self.gone: set[int] = set()

    @property
    def open_numbers(self) -> list[int]:
        return [number for number in self.opened if number not in self.closed]

    @rule(gap=st.integers(1, 3))
    def open_next(self, gap: int) -> None:
        number = max([self.start, *self.opened]) + gap
        self.mark.open(number)
        self.opened.append(number)

    @precondition(lambda self: self.open_numbers)
    @rule(data=st.data(), gone=st.booleans())
    def close(self, data: st.DataObject, gone: bool) -> None:
        number = data.draw(st.sampled_from(self.open_numbers))
        self.mark.close(number)
        self.closed.add(number)
        if gone:
            self.gone.add(number)

    @precondition(lambda self: self.closed)
    @rule(data=st.data())
    def close_again(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.closed)))
        if number not in self.mark:
            self.mark.close(number)

    @rule()
    def save_and_restore(self) -> None:
        saved = self.mark.value, json.loads(json.dumps(self.mark.above))
        self.mark = Watermark(*saved)
        for number in self.opened:
            if number > saved[0] and number not in self.gone:
                self.mark.open(number)

    @rule()
    def copy(self) -> None:
        before = self.mark
        self.mark = before.copy()
        before.open(10**9)
        before.close(10**9)

    @invariant()
    def knows_what_is_closed(self) -> None:
        still_open = self.open_numbers
        for number in self.opened:
            assert (number in self.mark) == (number in self.closed)
        if still_open:
            assert self.mark.value < still_open[0]
            assert self.mark.value >= max(
                [n for n in self.opened if n < still_open[0]], default=self.start
            )
        else:
            assert all(number in self.mark for number in self.opened)

    @invariant()
    def keeps_no_more_than_it_must(self) -> None:
        above = self.mark.above
        assert above == sorted(n for n in self.closed if n > self.mark.value)
        if not self.open_numbers and not self.gone:
            assert above == []
            assert self.mark.value == max([self.start, *self.opened])


WatermarkMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
test_it_agrees_with_a_set_of_all_numbers = WatermarkMachine.TestCase


def test_one_number_says_nearly_all() -> None:
    mark = Watermark(0)
    for number in range(1, 10_001):
        mark.open(number)
    for number in range(1, 10_001):
        if number != 9_000:
            mark.close(number)
    assert (mark.value, len(mark.above)) == (8_999, 1_000)
    mark.close(9_000)
    assert (mark.value, mark.above) == (10_000, [])
