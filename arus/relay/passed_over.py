"""Messages that a broker passes over: it has answered later ones, and never answers these.

Such a message is sent again in a new connection. After the third time its change is quarantined, because it would
block the log for ever. Messages that the broker has confirmed (PUBREC) are the matter of `arus.relay.releases`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from arus.errors import ConnectionLostError
from arus.protocol.entries import Entry

#: Seconds after which an answer is not expected any more, if the broker has answered something sent later.
UNANSWERED = 60.0
#: Connections in which a broker may pass over the same change.
MAX_UNANSWERED = 3


class PassedOver:
    """Counts the connections in which a change was passed over. Lives as long as its owner."""

    def __init__(self) -> None:
        #: By the change's number.
        self._connections: Counter[int] = Counter()

    def check(
        self,
        in_flight: Iterable[tuple[Entry, float]],
        oldest_other: float,
        *,
        passed: float,
        now: float,
        acknowledges: bool = True,
    ) -> None:
        """Check for messages that should have been answered; all times are monotonic seconds.

        :param in_flight: each change without an answer, and when it was sent.
        :param oldest_other: when the oldest other message without an answer was sent.
        :param passed: the broker has read everything sent before this time.
        :param acknowledges: it has acknowledged anything in this connection. One that only answers pings is stalled:
            that is no message's fault.
        :raises ConnectionLostError: there is one.
        """
        before = min(passed, now - UNANSWERED)
        late = [entry for entry, sent_at in in_flight if sent_at < before]
        if acknowledges:
            self._connections.update(entry.seq for entry in late)
        if late or oldest_other < before:
            which = f"change {late[0].seq} on {late[0].topic}" if late else "a message"
            raise ConnectionLostError(
                f"the broker has not acknowledged {which} in {UNANSWERED:.0f} s"
            )

    def too_often(self, seq: int) -> bool:
        """Whether a change was passed over too often to be sent again."""
        return self._connections[seq] >= MAX_UNANSWERED

    def forget(self, seq: int) -> None:
        """Forget a change that is not sent any more."""
        del self._connections[seq]
