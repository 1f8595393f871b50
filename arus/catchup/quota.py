"""Quotas: how much of the link each requester of catch-ups may use in an hour, in messages.

A request of a few bytes may be answered with all rows. So a requester that was sent several copies of everything within
an hour waits: its runs stay queued, and begin once the hour has passed. What it has begun is finished. A new owner
counts what the runs of the last hour have sent, so that a takeover gives nobody a new quota.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Protocol

from arus.logs import get_logger

logger = get_logger(__name__)

#: Seconds in which messages are counted, and the resolution.
PERIOD = 3_600.0
STEP = 60.0
#: Messages that each requester may be sent in that time, whatever the size of the tables; and complete copies of them.
MIN_MESSAGES = 100_000
COPIES = 4
#: Requesters that are remembered.
MAX_REQUESTERS = 200
#: The requester of the vessel's own repairs, which have no quota.
REPAIR = "/repair"


class EarlierRun(Protocol):
    """What `arus_catchup` has of a run."""

    requester: str | None
    entity: str
    total: int | None
    #: Items that were acknowledged.
    published: int
    #: Milliseconds since the epoch; None while it is not finished.
    finished_at: int | None


class Quotas:
    """Counts what each requester was sent. Used by the relay's thread, over all connections."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: By requester: the beginning of each step (monotonic seconds) and the messages sent in it, oldest first.
        self._sent: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()
        #: The largest run of each entity, in items: the size of a complete copy is their sum.
        self._largest: dict[str, int] = {}
        #: Requesters whose runs wait, which was logged.
        self._waiting: set[str] = set()

    @property
    def allowance(self) -> int:
        """Messages that a requester may be sent within `PERIOD` before its next run has to wait."""
        return max(MIN_MESSAGES, COPIES * sum(self._largest.values()))

    def planned(self, entity: str, total: int) -> None:
        """Note the number of items of a run."""
        self._largest[entity] = max(total, self._largest.get(entity, 0))

    def resume(self, earlier: Iterable[EarlierRun], now: int) -> None:
        """Note what earlier owners have sent, by the record of their runs.

        :param earlier: oldest first.
        :param now: milliseconds since the epoch.
        """
        for run in earlier:
            self.planned(run.entity, run.total or 0)
            # If the clock was set back, it counts as sent just now.
            ago = 0 if run.finished_at is None else max(0, now - run.finished_at)
            if run.published and ago < PERIOD * 1000:
                # With its begin and its end.
                self._count(run.requester or "", run.published + 2, self._clock() - ago / 1000)

    def sent(self, requester: str, messages: int) -> None:
        """Note messages that were sent for a requester."""
        self._count(requester, messages, self._clock())

    def _count(self, requester: str, messages: int, at: float) -> None:
        if requester == REPAIR:
            return
        steps = self._sent.pop(requester, None) or deque()
        self._sent[requester] = steps
        if steps and at - steps[-1][0] < STEP:
            began, before = steps.pop()
            steps.append((began, before + messages))
        else:
            steps.append((at, messages))
        if len(self._sent) > MAX_REQUESTERS:
            self._sent.popitem(last=False)

    def exhausted(self, requesters: Iterable[str]) -> set[str]:
        """Return those requesters whose runs have to wait, and log each once."""
        found = {one for one in set(requesters) if self._used(one) >= self.allowance}
        for requester in sorted(found - self._waiting):
            logger.warning(
                "[MQTT Reliable Sync] catch-ups for %s wait: it was sent %d messages of them in the last hour",
                requester,
                self._used(requester),
                extra={"requester": requester},
            )
        self._waiting = found
        return found

    def _used(self, requester: str) -> int:
        steps = self._sent.get(requester)
        if not steps:
            return 0
        while steps and self._clock() - steps[0][0] >= PERIOD:
            steps.popleft()
        return sum(messages for _, messages in steps)
