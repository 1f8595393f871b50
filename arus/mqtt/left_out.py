"""Filters that were left out of a SUBSCRIBE because the broker takes no wildcards; they count as refused."""

from __future__ import annotations

from collections.abc import Sequence

from .features import WILDCARDS_NOT_SUPPORTED


class LeftOut:
    """The filters that were left out in one connection."""

    def __init__(self) -> None:
        #: By packet id of the SUBSCRIBE: whether each filter was left out. Only those that lack one.
        self._asked: dict[int, Sequence[bool]] = {}

    def note(self, packet_id: int, left_out: Sequence[bool]) -> None:
        """Note a SUBSCRIBE.

        :param left_out: whether each of its filters was left out.
        """
        if any(left_out):
            self._asked[packet_id] = left_out

    def answers(self, packet_id: int, reasons: Sequence[int] = ()) -> tuple[int, ...]:
        """Return a reason code for each filter.

        :param reasons: the broker's, for those that were sent.
        """
        rest = iter(reasons)
        if packet_id not in self._asked:
            return tuple(reasons)
        left_out = self._asked.pop(packet_id)
        return tuple(WILDCARDS_NOT_SUPPORTED if each else next(rest, 0x80) for each in left_out)
