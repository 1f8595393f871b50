"""A topic queue: the changes of one topic, from their number to their acknowledgement.

Only its own methods change it, and each of them is one transition. The change log writes the saved state in the
transaction that permits the resulting packets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from arus.protocol.entries import Entry
from arus.protocol.times import now_ms

from .watermark import Watermark

#: Seconds for which a topic queue pauses when the broker is too busy for it; doubled each further time.
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
#: Entries read ahead at a time, and the maximum to hold when entries are added as they are numbered.
READ_AHEAD = 500


class TopicQueue:
    """The relay's progress on one topic, and the entries that it has read ahead.

    Everything except these entries and the pause is in the database as well.

    :param topic: topic under the prefix.
    :param head_seq: highest number of a change of this topic.
    :param sent_seq: all changes up to this number may have been sent.
    :param received: the numbers that the broker has confirmed (PUBREC); QoS 2 only.
    :param acked: the numbers that need nothing more: acknowledged, or quarantined.
    :param depth: numbered changes that are neither in `acked` nor evicted.
    :param acked_at: when the broker last acknowledged a change, in milliseconds since the epoch.
    """

    __slots__ = (
        "_acked",
        "_acked_at",
        "_again",
        "_ahead",
        "_changed",
        "_depth",
        "_head_seq",
        "_news",
        "_pause",
        "_paused_until",
        "_received",
        "_refused_at",
        "_scanned",
        "_sent_seq",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        *,
        head_seq: int = 0,
        sent_seq: int = 0,
        received: Watermark | None = None,
        acked: Watermark | None = None,
        depth: int = 0,
        acked_at: int | None = None,
    ) -> None:
        self.topic = topic
        self._head_seq = head_seq
        self._sent_seq = sent_seq
        self._received = received or Watermark(0)
        self._acked = acked or Watermark(0)
        self._depth = depth
        self._acked_at = acked_at
        #: Sent in an earlier connection and unacknowledged: they are sent again before new entries.
        self._again: deque[Entry] = deque()
        #: Read from the log and not sent yet, ascending.
        self._ahead: deque[Entry] = deque()
        #: The log has no other entries to send up to this number.
        self._scanned = 0
        #: The state differs from the database.
        self._changed = False
        #: Something was acknowledged since the last save.
        self._news = False
        #: Monotonic seconds until which nothing is sent: the broker is too busy for it.
        self._paused_until = 0.0
        #: Seconds of the last pause; 0 since the broker has accepted something sent after it began.
        self._pause = 0.0
        #: When the pause began, in monotonic seconds.
        self._refused_at = 0.0

    # -- state ------------------------------------------------------------------------------------

    @property
    def head_seq(self) -> int:
        """Highest number of a change of this topic."""
        return self._head_seq

    @property
    def sent_seq(self) -> int:
        """All changes up to this number may have been sent."""
        return self._sent_seq

    @property
    def acked_seq(self) -> int:
        """All changes up to this number are acknowledged, or have another outcome."""
        return self._acked.value

    @property
    def depth(self) -> int:
        """Numbered changes that still wait for an acknowledgement or another outcome."""
        return self._depth

    @property
    def read_seq(self) -> int:
        """All entries up to this number were read from the log, or need not be read."""
        return max(self._ahead[-1].seq if self._ahead else self._sent_seq, self._scanned)

    @property
    def caught_up(self) -> bool:
        """Whether all numbered entries have been read."""
        return self.read_seq >= self._head_seq

    @property
    def again(self) -> Sequence[Entry]:
        """Entries to send again: sent in an earlier connection, or refused for the moment."""
        return self._again

    @property
    def waiting(self) -> Sequence[Entry]:
        """Entries to send next, in order: first all that are sent again, then new ones."""
        return self._again or self._ahead

    @property
    def is_changed(self) -> bool:
        """Whether the state differs from the database."""
        return self._changed

    def is_received(self, seq: int) -> bool:
        """Whether the broker has confirmed that it holds a message of QoS 2."""
        return seq in self._received

    def is_paused(self, now: float) -> bool:
        """Whether nothing is to be sent at `now`, in monotonic seconds."""
        return now < self._paused_until

    @property
    def paused_until(self) -> float:
        """Until when nothing is to be sent, in monotonic seconds."""
        return self._paused_until

    def has_next(self, now: float) -> bool:
        """Whether an entry may be sent at `now`, already read or not."""
        # Without calls of the properties above: each round asks it of each topic, several times.
        waits = self._again or self._ahead or max(self._sent_seq, self._scanned) < self._head_seq
        return bool(waits) and now >= self._paused_until

    # -- numbering and reading --------------------------------------------------------------------

    def number(self, seq: int) -> int:
        """Note the number of its newest change, and return the number of the previous one."""
        previous_seq, self._head_seq = self._head_seq, seq
        self._depth += 1
        self._changed = True
        return previous_seq

    def read(self, entries: Sequence[Entry], *, is_all: bool) -> None:
        """Add entries that were read from the log after `read_seq`.

        :param is_all: there are no more: all others up to the head have another outcome than delivery.
        """
        self._ahead.extend(entries)
        if is_all:
            self._scanned = self._head_seq

    def read_numbered(self, entry: Entry) -> None:
        """Add an entry that was just numbered without reading it, if all before it have been read."""
        if self.read_seq >= entry.previous_seq and len(self._ahead) < READ_AHEAD:
            self._ahead.append(entry)

    def resume(self, unacknowledged: Iterable[Entry]) -> None:
        """Restore the entries between `acked_seq` and `sent_seq` that an earlier connection has left."""
        for entry in unacknowledged:
            self._acked.open(entry.seq)
            if entry.seq > self._received.value:
                self._received.open(entry.seq)
            if entry.seq not in self._acked:
                self._again.append(entry)

    def begin_epoch(self, *, is_empty: bool) -> None:
        """Begin a new chain of numbers.

        :param is_empty: nothing is waiting to be sent in the new epoch.
        """
        if is_empty:
            self._head_seq = 0
        self._changed = True

    # -- sending ----------------------------------------------------------------------------------

    def send_next(self) -> Entry:
        """Remove and return the first of `waiting`, which is about to be sent."""
        if self._again:
            return self._again.popleft()
        entry = self._ahead.popleft()
        self.sent(entry)
        return entry

    def sent(self, entry: Entry) -> None:
        """Note that a new entry is about to be sent."""
        seq = entry.seq
        self._sent_seq = seq
        self._acked.open(seq)
        self._received.open(seq)
        self._changed = True

    def withdraw(self, entry: Entry) -> None:
        """Remove an entry from those to send again."""
        self._again.remove(entry)

    def forget_received(self) -> None:
        """Note that the broker no longer has the messages that it confirmed."""
        self._received = self._acked.copy()
        self._changed = True

    def postpone(self, entry: Entry, now: float) -> None:
        """Send an entry again later, before anything newer of this topic queue.

        :param now: monotonic seconds.
        """
        self._again.append(entry)
        self._again = deque(sorted(self._again, key=lambda waiting: waiting.seq))
        if not self.is_paused(now):  # several refusals in one window count as one
            self._pause = min(self._pause * 2, LONGEST_PAUSE) if self._pause else FIRST_PAUSE
            self._paused_until = now + self._pause
        self._refused_at = now

    def accepted(self, sent_at: float, now: float) -> bool:
        """Note that the broker has accepted a message of any topic: after a refusal, try again soon.

        :param sent_at: when the message was sent; one sent before the refusal says nothing. In monotonic seconds.
        :param now: monotonic seconds.
        :returns: whether it was sent after the refusal.
        """
        if sent_at <= self._refused_at:
            return False
        self._pause = 0.0
        self._paused_until = min(self._paused_until, now + FIRST_PAUSE)
        return True

    # -- outcomes ---------------------------------------------------------------------------------

    def confirmed(self, seq: int) -> None:
        """Note that the broker holds a message (PUBREC)."""
        self._received.close(seq)
        self._changed = True

    def acknowledged(self, seq: int) -> None:
        """Note that the broker has completely acknowledged a message."""
        self._news = True
        self._pause = 0.0
        self._complete(seq)

    def quarantined(self, seq: int) -> None:
        """Note that a message can't be sent, and does not block later ones any more."""
        self._complete(seq)

    def _complete(self, seq: int) -> None:
        if seq not in self._received:
            self._received.close(seq)
        self._acked.close(seq)
        self._depth -= 1
        self._changed = True

    def evicted(self) -> None:
        """Note that a change was evicted before it was sent."""
        self._depth -= 1
        self._changed = True
        # The entries read ahead may include it, or an outdated previous_seq.
        self._ahead.clear()
        self._scanned = 0

    def superseded(self, gone: Collection[int], previous: Mapping[int, int]) -> None:
        """Note that newer changes of their rows have replaced changes before they were sent.

        :param gone: their ids.
        :param previous: the new `previous_seq` of those changes that follow them, by id.
        """
        self._depth -= len(gone)
        self._changed = True
        self._ahead = deque(
            entry._replace(previous_seq=previous.get(entry.id, entry.previous_seq))
            for entry in self._ahead
            if entry.id not in gone
        )

    # -- saving -----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Return the state to write to the database, by column, and mark it as saved."""
        if self._news:
            self._acked_at = now_ms()
        self._news = self._changed = False
        return {
            "topic": self.topic,
            "head_seq": self._head_seq,
            "sent_seq": self._sent_seq,
            "received_seq": self._received.value,
            "received_above": self._received.above,
            "acked_seq": self._acked.value,
            "acked_above": self._acked.above,
            "depth": self._depth,
            "acked_at": self._acked_at,
        }
