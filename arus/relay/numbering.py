"""Numbers what was committed, and keeps the queue within its bound. Runs in the relay's thread."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from arus.outbox.eviction import Evicted, Eviction
from arus.outbox.log import ChangeLog, FencedTransaction
from arus.outbox.superseding import Replaced
from arus.protocol.entries import Entry
from arus.protocol.times import now_ms

from .backlog import Backlog

#: Entries numbered in one step.
NUMBER_BATCH = 1_000


class Unnumbered(Struct, frozen=True):
    """Committed entries without a number, and the waiting changes that they replace."""

    entries: Sequence[Entry] = ()
    replaced: Sequence[Replaced] = ()

    @property
    def is_full(self) -> bool:
        """Whether there may be more of them."""
        return len(self.entries) == NUMBER_BATCH

    @property
    def committed_just_now(self) -> int:
        """The number of transactions of the last second; all entries of a transaction have the same time."""
        since = now_ms() - 1_000
        return len({each.committed_at for each in self.entries if each.committed_at > since})


class Numbered(Struct, frozen=True):
    """What a transaction has done with the queue."""

    #: Newly numbered changes that had to wait for a connection.
    queued: Sequence[Entry] = ()
    evicted: Sequence[Evicted] = ()


class Numbering:
    """Numbers entries, and evicts changes from the queue. Lives as long as its owner."""

    def __init__(self, log: ChangeLog, backlog: Backlog, eviction: Eviction) -> None:
        self._log = log
        self._backlog = backlog
        self._eviction = eviction

    @property
    def sweep_due(self) -> bool:
        """Whether replaced changes of an earlier time are to be superseded before anything is numbered or sent."""
        return self._eviction.sweep_due

    def is_full(self, depth: int) -> bool:
        """Whether a queue of `depth` has less than a tenth of its bound left."""
        return self._eviction.is_full(depth)

    def find(self) -> Unnumbered:
        """Read the oldest entries without a number, outside the owner's transactions."""
        if self.sweep_due:
            return Unnumbered()  # what follows a change that is swept may be swept too
        entries = self._log.unnumbered(NUMBER_BATCH)
        replaced = self._log.replaced(len(entries)) if entries and self._eviction.always else ()
        return Unnumbered(entries, replaced)

    def write(self, fenced: FencedTransaction, unnumbered: Unnumbered) -> Numbered:
        """Number entries, in the owner's transaction, and bring the queue within its bound."""
        if self.sweep_due:
            return Numbered(evicted=fenced.sweep(self._eviction))
        if not unnumbered.entries:
            return Numbered()
        numbered = fenced.number(unnumbered.entries)
        queued = self._backlog.add(numbered)
        kept, evicted = fenced.supersede(unnumbered.replaced, numbered)
        for entry in kept:
            self._log.topic_queues[entry.topic].read_numbered(entry)
        evicted += fenced.relieve(self._eviction, numbered)
        return Numbered(queued, evicted)
