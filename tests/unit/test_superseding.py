"""Changes that newer ones replace as they are numbered: what is written, so that receivers see no gap."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from arus.outbox.superseding import Replaced, supersede
from arus.protocol.entries import Entry, Operation

TOPICS = ("a", "b")


@dataclass
class Log:
    """A log in memory, with the rules of the contract written out: one search for each question."""

    entries: dict[int, Entry] = field(default_factory=dict)
    superseded: set[int] = field(default_factory=set)
    sent: dict[str, int] = field(default_factory=dict)
    seq: int = 0

    def waiting(self, topic: str) -> list[Entry]:
        """The changes of a topic that are numbered and not superseded, in order."""
        found = [
            e for e in self.entries.values() if e.topic == topic and e.id not in self.superseded
        ]
        return sorted(found, key=lambda each: each.seq)

    def replaced(self, new: list[Entry]) -> list[Replaced]:
        """What the database is asked for, before the new entries have numbers."""
        found = []
        known = {**self.entries, **{each.id: each for each in new}}
        for each in new:
            before = [
                old
                for old in known.values()
                if (old.topic, old.row_id) == (each.topic, each.row_id)
                and old.id < each.id
                and old.id not in self.superseded
            ]
            if not before:
                continue
            old = max(before, key=lambda one: one.id)
            numbered = old.id in self.entries
            after = [e.id for e in self.waiting(old.topic) if numbered and e.seq > old.seq]
            found.append(
                Replaced(
                    each.id,
                    old.id,
                    old.topic,
                    old.seq if numbered else None,
                    old.previous_seq if numbered else None,
                    f"m{old.id}",
                    old.entity,
                    old.operation.value,
                    after[0] if after else None,
                )
            )
        return found

    def commit(self, rows: list[tuple[str, str]]) -> None:
        """Number a batch, and supersede what it replaces."""
        first = len(self.entries) + 1
        new = [
            Entry(
                first + at,
                0,
                0,
                f"m{first + at}",
                topic,
                1,
                topic,
                Operation.UPDATE,
                row,
                1,
                0,
                b"",
            )
            for at, (topic, row) in enumerate(rows)
        ]
        replaced = self.replaced(new)
        numbered: list[Entry] = []
        for each in new:
            self.seq += 1
            chain = [*self.waiting(each.topic), *(e for e in numbered if e.topic == each.topic)]
            numbered.append(each._replace(seq=self.seq, previous_seq=chain[-1].seq if chain else 0))
        found = supersede(replaced, numbered, self.sent)
        self.entries |= {each.id: each for each in numbered}
        self.superseded |= {each.id for each in found.gone}
        for entry_id, seq in found.previous.items():
            self.entries[entry_id] = self.entries[entry_id]._replace(previous_seq=seq)
        assert list(found.kept) == [
            self.entries[e.id] for e in numbered if e.id not in self.superseded
        ]

    def send(self, topic: str, count: int) -> None:
        """Send the next changes of a topic."""
        left = [each for each in self.waiting(topic) if each.seq > self.sent.get(topic, 0)]
        for each in left[:count]:
            self.sent[topic] = each.seq


steps = st.lists(
    st.one_of(
        st.lists(
            st.tuples(st.sampled_from(TOPICS), st.sampled_from("pqrs")), min_size=1, max_size=6
        ),
        st.tuples(st.sampled_from(TOPICS), st.integers(1, 3)),
    ),
    max_size=20,
)


@given(steps)
def test_what_is_left_is_each_row_once_and_has_no_gap(
    taken: list[list[tuple[str, str]] | tuple[str, int]],
) -> None:
    log = Log()
    for step in taken:
        log.commit(step) if isinstance(step, list) else log.send(*step)
    for topic in TOPICS:
        waiting = log.waiting(topic)
        numbers = [each.seq for each in waiting]
        assert [each.previous_seq for each in waiting] == [0, *numbers][: len(numbers)]
        unsent = [each.row_id for each in waiting if each.seq > log.sent.get(topic, 0)]
        assert len(unsent) == len(set(unsent))
    rows = {(each.topic, each.row_id) for each in log.entries.values()}
    newest = {
        (t, r): max(e.id for e in log.entries.values() if (e.topic, e.row_id) == (t, r))
        for t, r in rows
    }
    assert not log.superseded & set(newest.values())


def test_a_change_that_was_sent_is_not_superseded() -> None:
    log = Log()
    log.commit([("a", "p")])
    log.send("a", 1)
    log.commit([("a", "p")])
    assert not log.superseded
