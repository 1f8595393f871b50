"""A lane: the changes of one topic on their way through the in-flight window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .message import Entry
from .watermark import Watermark

#: Seconds for which a lane holds still when the broker is too busy for it; doubled each further time.
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0


@dataclass(slots=True)
class Lane:
    """How far the relay has come on one topic, and what it has read ahead.

    Everything but the two queues is in the database as well, written in the transaction that licenses the
    packets which follow from it.
    """

    #: Topic under the prefix.
    topic: str
    #: Highest number given to a change of this topic.
    head_seq: int
    #: All up to here may be on the wire.
    sent_seq: int
    #: What the broker has confirmed to hold (PUBREC); QoS 2 alone.
    received: Watermark
    #: What is settled: acknowledged, or given another outcome.
    acked: Watermark
    #: Changes numbered and not settled.
    depth: int
    #: When the broker acknowledged something last, in milliseconds since the epoch.
    acked_at: int | None = None
    #: Sent in an earlier connection and unacknowledged: they go again, before anything new.
    again: deque[Entry] = field(default_factory=deque)
    #: Read from the log and not sent yet, ascending.
    ahead: deque[Entry] = field(default_factory=deque)
    #: Up to here the log was found to hold nothing that is to be sent.
    scanned: int = 0
    #: Differs from what the database holds.
    dirty: bool = False
    #: Monotonic seconds until which nothing is sent on this lane: the broker is too busy for it.
    held_until: float = 0.0
    #: Seconds that it held still the last time; 0 since something was acknowledged.
    pause: float = 0.0

    @property
    def read_seq(self) -> int:
        """Everything up to here was read from the log or needs no reading."""
        return max(self.ahead[-1].seq if self.ahead else self.sent_seq, self.scanned)

    @property
    def caught_up(self) -> bool:
        """Whether all that is numbered has been read."""
        return self.read_seq >= self.head_seq

    def sent(self, entry: Entry) -> None:
        """Note that a new entry is about to be sent."""
        self.sent_seq = entry.seq
        self.acked.open(entry.seq)
        self.received.open(entry.seq)
        self.dirty = True

    def confirmed(self, seq: int) -> None:
        """Note that the broker holds a message (PUBREC)."""
        self.received.close(seq)
        self.dirty = True

    def settled(self, seq: int) -> None:
        """Note that a message needs nothing more."""
        if seq not in self.received:
            self.received.close(seq)
        self.acked.close(seq)
        self.pause = 0.0
        self.depth -= 1
        self.dirty = True

    def postpone(self, entry: Entry, now: float) -> None:
        """Send an entry again later, before anything newer of this lane.

        :param now: monotonic seconds.
        """
        self.again.append(entry)
        self.again = deque(sorted(self.again, key=lambda waiting: waiting.seq))
        if not self.held(now):  # several of one window are refused at once: that is one refusal
            self.pause = min(self.pause * 2, LONGEST_PAUSE) if self.pause else FIRST_PAUSE
            self.held_until = now + self.pause

    def held(self, now: float) -> bool:
        """Whether the lane holds still, at `now` in monotonic seconds."""
        return now < self.held_until
