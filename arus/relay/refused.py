"""Changes that the broker has refused: for good, or for the moment.

A refusal that passes (MQTT 5, 2.4: such as 0x96 and 0x97) never quarantines a change: it is sent again after a pause,
which doubles until the broker accepts a message that was sent after the refusal.
"""

from __future__ import annotations

from arus.mqtt.refusals import PASSING, UNCLEAR, name_of
from arus.outbox.topic_queue import TopicQueue
from arus.protocol.entries import Entry

#: How often a change is refused with an unclear reason code, such as 0x80 (unspecified error) or 0x83 (implementation
#: specific error), before it counts as refused for good; only if the broker has accepted others meanwhile.
UNCLEAR_REFUSALS = 3


class Refused:
    """The refused changes of one owner."""

    def __init__(self) -> None:
        #: Refusals with an unclear reason code, by the change's number; and those changes since whose first refusal
        #: the broker has accepted another message.
        self._unclear: dict[int, int] = {}
        self._passed: set[int] = set()
        #: Numbers of changes that are to be sent again as new messages (MQTT 5, 4.3.2).
        self._postponed: set[int] = set()
        #: The topic queues that wait.
        self._waiting: list[TopicQueue] = []
        #: Nothing is refused: a question asked for each acknowledgement.
        self.is_empty = True
        #: The last refusal for the moment in words; None once the broker has accepted a message sent after it.
        self.obstacle: str | None = None

    def end(self) -> None:
        """Note that the connection has ended."""
        self._postponed.clear()
        self._waiting.clear()
        self.obstacle = None
        self._look()

    def is_postponed(self, seq: int) -> bool:
        """Whether the broker has refused a change for the moment, and does not hold its message."""
        return seq in self._postponed

    def is_final(self, seq: int, reason: int) -> bool:
        """Note a refusal; return whether the change is to be quarantined.

        :param seq: the change's number.
        """
        if reason not in UNCLEAR:
            return reason not in PASSING
        self._unclear[seq] = self._unclear.get(seq, 0) + 1
        self.is_empty = False
        return self._unclear[seq] >= UNCLEAR_REFUSALS and seq in self._passed

    def postpone(self, topic_queue: TopicQueue, entry: Entry, reason: int, now: float) -> None:
        """Send a change again later, before anything newer of its topic.

        :param now: monotonic seconds.
        """
        self._postponed.add(entry.seq)
        self.is_empty = False
        topic_queue.postpone(entry, now)
        if topic_queue not in self._waiting:
            self._waiting.append(topic_queue)
        self.obstacle = name_of(reason)

    def accepted(self, seq: int | None, sent_at: float, now: float) -> None:
        """Note that the broker has accepted a message.

        :param seq: the number of its change; None if it is no change.
        :param sent_at: when it was sent, in monotonic seconds.
        """
        if self._unclear:
            if seq is not None:
                self._unclear.pop(seq, None)
                self._passed.discard(seq)
            self._passed.update(self._unclear)
        if self._waiting:
            self._waiting = [each for each in self._waiting if not each.accepted(sent_at, now)]
            if not self._waiting:
                self.obstacle = None
        self._look()

    def completed(self, seq: int) -> None:
        """Note that a change is not in flight any more."""
        self._postponed.discard(seq)
        self._look()

    def _look(self) -> None:
        self.is_empty = not (self._unclear or self._waiting or self._postponed)
