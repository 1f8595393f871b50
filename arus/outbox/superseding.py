"""Supersedes waiting changes as newer ones of their rows are numbered (`MQTT_SUPERSEDE=always`).

A row that changes a thousand times during an outage is sent once. The owner does this in its own transactions, for
all changes that it numbers at a time; a request that writes pays nothing. What is replaced is read before the
transaction: only the owner changes a numbered entry, so that the transaction only writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from arus.protocol.entries import Entry


class Replaced(NamedTuple):
    """A change that one without a number replaces, as it is in the log."""

    #: The entry that replaces it.
    new_id: int
    id: int
    topic: str
    #: None while it has no number: it is about to get one in the same transaction.
    seq: int | None
    previous_seq: int | None
    message_id: str
    entity: str
    operation: str
    #: The next numbered change of its topic that receivers get, or notice as missing; None if it is the last.
    next_id: int | None


class Superseded(Struct, frozen=True):
    """What a transaction writes to supersede changes."""

    #: The superseded changes, in the order of their numbers.
    gone: Sequence[Replaced]
    #: By id: the number of the change before it that is not superseded, of each change that follows a superseded one.
    previous: Mapping[int, int]
    #: The newly numbered changes that are not superseded, with the right `previous_seq`.
    kept: Sequence[Entry]


def supersede(
    replaced: Sequence[Replaced], numbered: Sequence[Entry], sent: Mapping[str, int]
) -> Superseded:
    """Return what is to be written so that receivers see no gap where a change is superseded.

    :param numbered: the newly numbered changes, in the order of their numbers.
    :param sent: by topic, the number up to which changes may have been sent: these are not superseded any more.
    """
    new = {entry.id: entry for entry in numbered}
    gone: dict[int, Replaced] = {}
    for one in replaced:
        seq = new[one.id].seq if one.id in new else one.seq
        if one.new_id in new and seq is not None and seq > sent.get(one.topic, 0):
            gone[one.id] = one._replace(seq=seq)
    if not gone:
        return Superseded((), {}, numbered)
    following = _following(numbered)
    previous = {entry.id: entry.previous_seq for entry in numbered}
    for one in sorted(gone.values(), key=_number):
        before = previous.pop(one.id, one.previous_seq or 0)
        next_id = following.get(one.id) if one.id in new else one.next_id
        if next_id is None:
            next_id = following[one.topic]
        previous[next_id] = before
    return Superseded(
        sorted(gone.values(), key=_number),
        {
            entry_id: seq
            for entry_id, seq in previous.items()
            if entry_id not in new or new[entry_id].previous_seq != seq
        },
        [
            entry._replace(previous_seq=previous[entry.id])
            for entry in numbered
            if entry.id not in gone
        ],
    )


def _number(replaced: Replaced) -> int:
    return replaced.seq or 0


def _following(numbered: Sequence[Entry]) -> dict[int | str, int]:
    """Return the id of the entry that follows each on its topic, by its id, and that of the first one, by topic."""
    following: dict[int | str, int] = {}
    last: dict[str, int] = {}
    for entry in numbered:
        following[last.get(entry.topic, entry.topic)] = entry.id
        last[entry.topic] = entry.id
    return following
