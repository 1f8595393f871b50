"""The runs that wait to be sent, and whose is next: each requester in its turn, so that none delays all others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Protocol

#: Requesters of which it is remembered when they were served last.
MAX_REQUESTERS = 200


class Waiting(Protocol):
    """A run that is not finished, as `arus_catchup` has it."""

    id: int
    #: With whom it shares the queue; None in rows of older versions.
    requester: str | None
    consumer: str | None
    entity: str
    origin: str


class RunQueue:
    """The unfinished runs that were not taken in this connection."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        #: Ids of runs that were taken and may still be unfinished in the database.
        self._taken: set[int] = set()
        #: Requesters by when they were served, the last one at the end.
        self._served: OrderedDict[str, None] = OrderedDict()

    def clear(self) -> None:
        """Forget what was taken: the connection has ended."""
        self._waiting.clear()
        self._taken.clear()

    def refresh(self, unfinished: Iterable[Waiting]) -> None:
        """Set the unfinished runs, oldest first."""
        rows = list(unfinished)
        self._taken &= {row.id for row in rows}
        self._waiting = [row for row in rows if row.id not in self._taken]

    def requesters(self) -> set[str]:
        """Return the requesters of the waiting runs."""
        return {requester_of_run(row) for row in self._waiting}

    def take(self, busy: Collection[str], exhausted: Collection[str] = ()) -> int | None:
        """Return the id of the next run: the oldest one of the requester that was served longest ago.

        :param busy: consumers that are being sent a run: their next one has to wait.
        :param exhausted: requesters that have used up their quota.
        """
        first: dict[str, Waiting] = {}
        for row in self._waiting:
            requester = requester_of_run(row)
            if requester not in exhausted and (row.consumer is None or row.consumer not in busy):
                first.setdefault(requester, row)
        if not first:
            return None
        order = {requester: at for at, requester in enumerate(self._served, 1)}
        requester = min(first, key=lambda one: order.get(one, 0))
        row = first[requester]
        self._waiting.remove(row)
        self._taken.add(row.id)
        self._served.pop(requester, None)
        self._served[requester] = None
        if len(self._served) > MAX_REQUESTERS:
            self._served.popitem(last=False)
        return row.id

    def is_requested_again(self, run_id: int, consumer: str | None, entity: str) -> bool:
        """Whether a consumer has requested an entity again, later than with a run."""
        return consumer is not None and any(
            row.id > run_id and row.consumer == consumer and row.entity == entity
            for row in self._waiting
        )

    def __bool__(self) -> bool:
        return bool(self._waiting)


def requester_of_run(row: Waiting) -> str:
    """Return with whom a run shares the queue and the quota."""
    return row.requester or f"/{row.origin}"
