"""The backlog: the changes that had to wait for a connection, until the last of them is acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from arus.outbox.topic_queue import TopicQueue
from arus.protocol.entries import Entry


class Backlog:
    """Tracks up to which number of each topic changes had to wait. Lives as long as its owner."""

    def __init__(self) -> None:
        #: When the connection began, in milliseconds since the epoch; None without one.
        self._since: int | None = None
        #: By topic, the number of the last change that had waited.
        self._last: dict[str, int] = {}
        self._size = 0
        #: Highest id numbered by this owner.
        self._last_id = 0

    def begin(self, since: int, topic_queues: Iterable[TopicQueue]) -> None:
        """Begin a connection: all unacknowledged changes have waited for it.

        :param since: milliseconds since the epoch.
        """
        self._since = since
        for topic_queue in topic_queues:
            if topic_queue.depth:
                self._last[topic_queue.topic] = topic_queue.head_seq
                self._size += topic_queue.depth

    def end(self) -> None:
        """Note that the connection has ended."""
        self._since = None
        self._last.clear()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._last)

    def add(self, numbered: list[Entry]) -> list[Entry]:
        """Add the newly numbered entries that had to wait for a connection; return these."""
        since = self._since
        # An entry with an older id is a retried change, which did not wait for this connection.
        queued = [
            entry
            for entry in numbered
            if since is None or (entry.committed_at < since and entry.id > self._last_id)
        ]
        self._last_id = max(self._last_id, numbered[-1].id)
        if queued and since is not None:
            self._last.update((entry.topic, entry.seq) for entry in queued)
            self._size += len(queued)
        return queued

    def flush(self, topic_queues: Mapping[str, TopicQueue]) -> int:
        """Return how many changes had waited, once the last of them is acknowledged; 0 before and after."""
        if not self._last:
            return 0
        # Checks the depth too: the last change that had waited may have been evicted, and is never acknowledged.
        if any(
            topic_queues[topic].depth and topic_queues[topic].acked_seq < seq
            for topic, seq in self._last.items()
        ):
            return 0
        self._last.clear()
        flushed, self._size = self._size, 0
        return flushed
