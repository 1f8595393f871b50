"""Messages that a broker passes over: it has answered later ones, and never answers these.

Such a message is sent again in a new connection, which is given twice as long. After the third time its change is
quarantined, because it would block the log for ever; but only the times count in which the broker has acknowledged a change
that was sent after it. If all it does is to answer pings, it is slow, or it is stalled: that is no message's fault.
Messages that the broker has confirmed (PUBREC) are the matter of `arus.relay.releases`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from arus.errors import ConnectionLostError
from arus.protocol.entries import Entry

#: Seconds after which an answer is not expected any more, if the broker has answered something sent later; and by how much
#: they grow at most, each time a connection has ended so: some brokers acknowledge a message when it is stored elsewhere.
UNANSWERED = 60.0
MOST_PATIENT = 16
#: Connections in which a broker may pass over the same change.
MAX_UNANSWERED = 3


class PassedOver:
    """Counts the connections in which a change was passed over. Lives as long as its owner."""

    def __init__(self) -> None:
        #: By the change's number.
        self._connections: Counter[int] = Counter()
        #: How many times as long as at first an answer is awaited.
        self._patience = 1

    def check(
        self,
        in_flight: Iterable[tuple[Entry, float]],
        oldest_other: float,
        *,
        passed: float,
        read: float,
        now: float,
    ) -> None:
        """Check for messages that should have been answered; all times are monotonic seconds.

        :param in_flight: each change without an answer, and when it was sent.
        :param oldest_other: when the oldest other message without an answer was sent.
        :param passed: when the last change was sent that the broker has acknowledged in this connection.
        :param read: when the last ping was sent that it has answered.
        :raises ConnectionLostError: there is one.
        """
        patience = UNANSWERED * self._patience
        before = min(max(passed, read), now - patience)
        waiting = list(in_flight)
        late = [(entry, sent_at) for entry, sent_at in waiting if sent_at < before]
        self._connections.update(entry.seq for entry, sent_at in late if sent_at < passed)
        if late or oldest_other < before:
            self._patience = min(2 * self._patience, MOST_PATIENT)
            entry = late[0][0] if late else None
            which = f"change {entry.seq} on {entry.topic}" if entry else "a message"
            raise ConnectionLostError(
                f"the broker has not acknowledged {which} in {patience:.0f} s"
            )
        if not waiting and oldest_other == math.inf:
            self._patience = 1

    def too_often(self, seq: int) -> bool:
        """Whether a change was passed over too often to be sent again."""
        return self._connections[seq] >= MAX_UNANSWERED

    def forget(self, seq: int) -> None:
        """Forget a change that is not sent any more."""
        del self._connections[seq]
        self._patience = 1
