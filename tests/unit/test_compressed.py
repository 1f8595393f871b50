"""How the changes of a topic were sent, so that they are sent again in the same way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arus.outbox.compressed import Use, Uses

CREW = "crew"


def test_nothing_is_saved_while_nothing_is_compressed() -> None:
    uses = Uses()
    for seq in (1, 2, 5):
        uses.begin(CREW, seq, None)
    assert not uses
    assert not uses.new
    assert uses.of(CREW, 5) is None


def test_each_change_is_sent_again_as_it_was_sent() -> None:
    uses = Uses()
    for seq, dictionary in ((3, None), (4, 0), (7, 0), (9, 70_000), (12, 80_000), (15, None)):
        uses.begin(CREW, seq, dictionary)
    assert [uses.of(CREW, seq) for seq in (1, 3, 4, 7, 9, 11, 12, 14, 15, 99)] == [
        None, None, 0, 0, 70_000, 70_000, 80_000, 80_000, None, None,
    ]  # fmt: skip
    assert [use.from_seq for use in uses.new] == [4, 9, 12, 15]
    assert uses.of("alerts", 9) is None


def test_what_is_acknowledged_is_forgotten_except_for_the_last_of_each_topic() -> None:
    uses = Uses([Use(CREW, 4, 0), Use(CREW, 9, 70_000), Use(CREW, 12, 80_000)])
    assert set(uses.needed(CREW, 5)) == {70_000, 80_000}
    assert uses.forget(CREW, 8) is None
    assert uses.forget(CREW, 11) == 9  # the message that the broker retains is number 11
    assert set(uses.needed(CREW, 11)) == {70_000, 80_000}
    assert uses.forget(CREW, 12) == 12
    assert set(uses.needed(CREW, 12)) == {80_000}
    assert uses.forget(CREW, 99) is None
    assert uses.of(CREW, 99) == 80_000


@given(
    steps=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([None, 0, 1, 2]))),
    acked=st.integers(0, 60),
)
def test_unacknowledged_changes_keep_theirs_whatever_is_forgotten(
    steps: list[tuple[int, int | None]], acked: int
) -> None:
    uses, sent, seq = Uses(), {}, 0
    for step, dictionary in steps:
        seq += step
        uses.begin(CREW, seq, dictionary)
        sent[seq] = dictionary
    saved: list[Use] = list(uses.new)
    before = uses.forget(CREW, acked)
    loaded = Uses(use for use in saved if before is None or use.from_seq >= before)
    for one in (uses, loaded):
        left = {seq: one.of(CREW, seq) for seq in sent if seq > acked}
        assert left == {seq: dictionary for seq, dictionary in sent.items() if seq > acked}
        needed = {dictionary for dictionary in left.values() if dictionary}
        assert needed <= set(one.needed(CREW, acked))
