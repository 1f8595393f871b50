"""Whether the broker gets on with what it was sent: what waits for an acknowledgement, and since when."""

from __future__ import annotations

import math

from arus.outbox.status import STALLED_AFTER


class Progress:
    """Tracks acknowledgements of any message, over the connections of one owner. All times are monotonic seconds."""

    def __init__(self) -> None:
        #: When the broker last acknowledged anything in this connection.
        self._heard_at = -math.inf
        #: Since when something waits that an earlier connection has left unanswered; infinity if nothing does.
        self._left_since = math.inf
        #: The broker has read what was sent before: it has answered something later.
        self.passed = -math.inf

    @property
    def was_heard(self) -> bool:
        """Whether the broker has acknowledged anything in this connection."""
        return self._heard_at > -math.inf

    def heard(self, now: float, sent_at: float = -math.inf) -> None:
        """Note an acknowledgement.

        :param sent_at: when the change that it names was sent; the default is for any other message.
        """
        self._heard_at = now
        self._left_since = math.inf
        if sent_at > self.passed:
            self.passed = sent_at

    def end(self, oldest: float) -> None:
        """Note that the connection has ended.

        :param oldest: when the oldest message without an answer was sent; infinity if there is none.
        """
        self._left_since = self._waiting_since(oldest)
        self._heard_at = self.passed = -math.inf

    def is_stalled(self, oldest: float, now: float) -> bool:
        """Whether a message waits for its acknowledgement, and nothing was acknowledged for a minute.

        :param oldest: as for `end`.
        """
        return now - self._waiting_since(oldest) >= STALLED_AFTER / 1000

    def _waiting_since(self, oldest: float) -> float:
        return max(min(oldest, self._left_since), self._heard_at)
