"""How the changes of each topic are sent: from which number on as JSON, as frames, and with which dictionary.

A change that is sent again has the same bytes as before. So it is saved which dictionary was used, not for each change
but where it changes: the changes of a topic are sent in the order of their numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

#: A frame without a dictionary.
NO_DICTIONARY = 0


class Use(NamedTuple):
    """From a number on, the changes of a topic are sent in this way."""

    topic: str
    from_seq: int
    #: Id of the dictionary, or `NO_DICTIONARY`; None for JSON.
    dictionary: int | None


class Uses:
    """The ways in which changes were and are sent.

    :param saved: as in the database, ascending by number within each topic.
    """

    def __init__(self, saved: Iterable[Use] = ()) -> None:
        self._by_topic: dict[str, list[Use]] = {}
        for use in saved:
            self._by_topic.setdefault(use.topic, []).append(use)
        #: Not saved yet.
        self._new: list[Use] = []

    def __bool__(self) -> bool:
        return bool(self._by_topic)

    @property
    def new(self) -> list[Use]:
        """Those that are not saved yet; they must be before anything is sent in this way."""
        return self._new

    def of(self, topic: str, seq: int) -> int | None:
        """Return how a change was sent."""
        uses = self._by_topic.get(topic)
        if not uses or seq < uses[0].from_seq:
            return None
        if seq >= uses[-1].from_seq:
            return uses[-1].dictionary
        return uses[bisect_right(uses, seq, key=_from_seq) - 1].dictionary

    def begin(self, topic: str, seq: int, dictionary: int | None) -> None:
        """Note how a new change is sent, and those after it."""
        uses = self._by_topic.get(topic)
        last = uses[-1] if uses else None
        if (last.dictionary if last else None) == dictionary:
            return
        use = Use(topic, seq, dictionary)
        if last is not None and last.from_seq == seq:
            assert uses is not None
            uses[-1] = use
        else:
            self._by_topic.setdefault(topic, []).append(use)
        self._new.append(use)

    def saved(self) -> None:
        """Note that all of them are saved."""
        self._new.clear()

    def forget(self, topic: str, acked_seq: int) -> int | None:
        """Forget what no change above a number needs.

        :param acked_seq: all changes up to this number are acknowledged.
        :returns: the number before which all are forgotten; None if nothing is.
        """
        uses = self._by_topic.get(topic, [])
        first = max(0, bisect_right(uses, acked_seq, key=_from_seq) - 1)
        if not first:
            return None
        del uses[:first]
        return uses[0].from_seq

    def needed(self, topic: str, acked_seq: int) -> Iterator[int]:
        """Yield the dictionaries that the last change of a topic, and those that are not acknowledged, need."""
        uses = self._by_topic.get(topic, [])
        for use, after in pairwise([*uses, None]):
            if use is not None and use.dictionary and (after is None or after.from_seq > acked_seq):
                yield use.dictionary

    @property
    def topics(self) -> list[str]:
        """The topics of which changes were compressed."""
        return list(self._by_topic)


def _from_seq(use: Use) -> int:
    return use.from_seq
