"""What leaves is counted when the socket accepts it, by what it is for."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from arus.mqtt.meter import Kind, Meter

kinds = st.sampled_from(list(Kind))


@given(st.lists(st.one_of(st.tuples(kinds, st.integers(1, 50)), st.integers(0, 120))))
def test_bytes_are_counted_in_the_order_of_the_buffer(
    steps: list[tuple[Kind, int] | int],
) -> None:
    meter = Meter()
    buffer: list[Kind] = []
    sent: Counter[Kind] = Counter()
    for step in steps:
        if isinstance(step, int):
            accepted, buffer = buffer[:step], buffer[step:]
            sent.update(accepted)
            meter.wrote(len(accepted))
        else:
            kind, size = step
            buffer += [kind] * size
            meter.queued(kind, size)
    assert +meter.take() == sent
    assert not meter.take()


def test_what_was_queued_and_never_left_is_not_counted() -> None:
    meter = Meter()
    meter.queued(Kind.CHANGES, 100)
    meter.wrote(30)
    meter.discarded()
    meter.queued(Kind.CONNECTION, 20)
    meter.wrote(20)
    assert meter.take() == {Kind.CHANGES: 30, Kind.CONNECTION: 20}


def test_a_meter_that_has_counted_nothing_shares_no_count() -> None:
    idle, busy = Meter(), Meter()
    assert not idle.take()
    busy.add(Kind.CHANGES, 7)
    assert busy.take() == {Kind.CHANGES: 7}
    assert not busy.take()
    assert not idle.take()
