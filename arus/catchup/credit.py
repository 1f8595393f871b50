"""Credit: how many more items of a catch-up may be sent before its receiver has reported more of them as received.

A broker keeps a bounded number of messages for each subscriber (Mosquitto as shipped: 1,000) and drops what exceeds
it. A receiver that names itself and a window in its request is therefore sent at most that many items beyond those
that it has reported.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from msgspec import Struct

from .runs import Run

#: Items that a run may begin with, whatever its consumer has not reported of earlier runs: its first report also
#: shows that these were received.
FIRST_CREDIT = 50
#: Consumers of which unreported items are remembered.
MAX_CONSUMERS = 200


class RunKey(NamedTuple):
    """Names a run in a report."""

    catchup_id: str
    entity: str


class _Unreported(Struct):
    """The items of a consumer's finished runs that it has not reported."""

    #: The last of these runs, and how many items it had.
    last: RunKey
    published: int
    items: int


class Credits:
    """The credit of each run. Lives as long as a connection."""

    def __init__(self) -> None:
        self._unreported: OrderedDict[str, _Unreported] = OrderedDict()

    def clear(self) -> None:
        """Forget all finished runs: the connection has ended."""
        self._unreported.clear()

    def of(self, run: Run) -> int | None:
        """Return how many items of a run may be sent now; None for no limit, 0 while too few to be worth a chunk.

        :param run: at the position read so far.
        """
        window = window_of(run)
        if window is None:
            return None
        earlier = self._unreported.get(run.consumer or "")
        unreported = max(0, run.published - run.received) + (earlier.items if earlier else 0)
        credit = window - unreported
        if run.published == 0:
            credit = max(credit, min(window, FIRST_CREDIT))
        return credit if credit >= max(1, window // 4) or run.published == 0 else 0

    def reported(self, consumer: str, key: RunKey, received: int) -> None:
        """Note a consumer's report about a run, finished or not."""
        earlier = self._unreported.get(consumer)
        if earlier is None:
            return
        if key != earlier.last:
            # Runs are sent one after the other: a report about a later one covers all earlier ones.
            del self._unreported[consumer]
        else:
            earlier.items = max(0, earlier.published - received)

    def finished(self, run: Run) -> None:
        """Note that all items of a run were sent."""
        if window_of(run) is None or run.consumer is None:
            return
        earlier = self._unreported.pop(run.consumer, None)
        items = max(0, run.published - run.received) + (earlier.items if earlier else 0)
        key = RunKey(run.catchup_id, run.entity)
        self._unreported[run.consumer] = _Unreported(key, run.published, items)
        if len(self._unreported) > MAX_CONSUMERS:
            self._unreported.popitem(last=False)


def window_of(run: Run) -> int | None:
    """Return a run's window; None if it is sent without limit: no reports can be expected of an unnamed consumer."""
    return run.receive_window if run.consumer is not None else None
