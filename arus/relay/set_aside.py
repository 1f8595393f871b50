"""Topics that are set aside: the broker seems to close the connection on the first change of each.

In MQTT 3.1.1 a broker has no way to say that it refuses a message: it acknowledges it, or closes the connection (3.3.5).
A link that is cut looks the same. So such a change is sent again, at growing intervals and alone in flight, while
the other topics go on; the order of its own topic is kept. What it takes to quarantine it is a bad link's opposite: no
connection ends except on this change, shortly after it was sent and with a ping answered that was sent before it, and others
are accepted between each two of these ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from msgspec import Struct

from arus.logs import get_logger
from arus.protocol.entries import Entry

logger = get_logger(__name__)

#: Ends of a connection on the same change, and on nothing else, before it is quarantined.
PROOFS = 5
#: Seconds within which the broker must have closed the connection after the change was sent.
PROMPT = 2.0
#: The first pause and the longest one, as multiples of the reconnect period.
FIRST_PAUSE, LONGEST_PAUSE = 2, 120


class Topic(Struct):
    """A topic that is set aside."""

    #: Number of the change on which the connection ended; None if the one before it was quarantined.
    seq: int | None
    #: Nothing is sent before this time while others are; monotonic seconds.
    until: float
    #: Seconds of the next pause.
    pause: float
    #: How often the connection has ended on the change and on nothing else.
    proofs: int = 0
    #: A change of another topic was accepted since that happened last.
    others_passed: bool = False


class SetAside:
    """The topics that are set aside. Lives as long as its owner.

    :param reconnect_period: seconds.
    """

    def __init__(self, reconnect_period: float) -> None:
        self._first_pause = reconnect_period * FIRST_PAUSE
        self._longest_pause = reconnect_period * LONGEST_PAUSE
        self._topics: dict[str, Topic] = {}
        #: The topic of which a change is about to be sent, or is alone in flight.
        self.trial: str | None = None

    def __bool__(self) -> bool:
        return bool(self._topics)

    @property
    def obstacle(self) -> str | None:
        """Which change waits for what, in words; None if none does."""
        for name, topic in self._topics.items():
            if topic.seq is not None:
                return f"it closes the connection on change {topic.seq} on {name}"
        return None

    def add(self, name: str, seq: int, now: float, *, others_wait: bool) -> None:
        """Set a topic aside.

        :param seq: the number of its first change.
        :param now: monotonic seconds.
        :param others_wait: other topics have something to send.
        """
        if name not in self._topics:
            until = now + self._first_pause if others_wait else now
            self._topics[name] = Topic(seq, until, self._first_pause)
            logger.warning(
                "[MQTT Reliable Sync] the broker closes the connection on change %d on %s, or the link is cut each"
                " time: the other topics are sent first",
                seq,
                name,
            )

    def holds(self, name: str, now: float) -> bool:
        """Whether nothing of a topic is to be sent at `now`, in monotonic seconds."""
        topic = self._topics.get(name)
        return topic is not None and now < topic.until

    def choose(self, ready: Collection[str], now: float) -> str | None:
        """Return the topic of which a change is to be sent alone now; None if there is none.

        :param ready: topics with something to send.
        :param now: monotonic seconds.
        """
        due = (name for name, topic in self._topics.items() if now >= topic.until)
        self.trial = next((name for name in due if name in ready), None)
        return self.trial

    def resumes_after(self, now: float) -> float:
        """When the first pause ends; infinity if none does after `now`. In monotonic seconds."""
        pauses = (topic.until for topic in self._topics.values() if topic.until > now)
        return min(pauses, default=math.inf)

    def accepted(self, entries: Collection[Entry]) -> None:
        """Note changes that the broker has acknowledged."""
        if not (self._topics and entries):
            return
        names = {entry.topic for entry in entries}
        for name in [name for name in self._topics if name in names]:
            del self._topics[name]
            if self.trial == name:
                self.trial = None
        for topic in self._topics.values():
            topic.others_passed = True

    def quarantined(self, entries: Collection[Entry]) -> None:
        """Note changes that are not sent again for another reason than the ends of connections: no trial goes on."""
        for entry in entries if self._topics else ():
            topic = self._topics.get(entry.topic)
            if topic is None or topic.seq != entry.seq:
                continue
            self.given_up(entry.topic)
            if self.trial == entry.topic:
                self.trial = None

    def failed(self, seq: int, now: float, *, counts: bool, waiting: Collection[str]) -> None:
        """Note that the broker has closed the connection on the trial's change.

        :param now: monotonic seconds.
        :param counts: soon after it was sent, and with nothing else unanswered.
        :param waiting: topics with something to send.
        """
        assert self.trial is not None, "there is a trial"
        topic, self.trial = self._topics[self.trial], None
        if topic.seq != seq:
            topic.seq, topic.proofs = seq, 0
        if not counts:
            topic.proofs = 0
        elif topic.others_passed:
            topic.proofs += 1
        self._pause(topic, now, waiting)
        for other in self._topics.values():
            if other is not topic:
                other.proofs = 0

    def _pause(self, topic: Topic, now: float, waiting: Collection[str]) -> None:
        """Have a topic wait for the sake of others: for longer each time, but not for those that are set aside themselves."""
        others = [name for name in waiting if self._topics.get(name) is not topic]
        if topic.others_passed or any(name not in self._topics for name in others):
            topic.pause = min(topic.pause * 2, self._longest_pause)
        topic.until = now + topic.pause if topic.others_passed or others else now
        topic.others_passed = False

    def cut(self, now: float, *, tried: bool, waiting: Collection[str]) -> None:
        """Note that a connection has ended in any other way: it may be a bad link that ends them.

        :param now: monotonic seconds.
        :param tried: the trial's change was sent, and not answered.
        :param waiting: topics with something to send.
        """
        for topic in self._topics.values():
            topic.proofs = 0
        if self.trial is not None:
            topic, self.trial = self._topics[self.trial], None
            if tried:
                self._pause(topic, now, waiting)

    def convicted(self, name: str, seq: int) -> bool:
        """Whether a change is not to be sent again."""
        topic = self._topics.get(name)
        return topic is not None and topic.seq == seq and topic.proofs >= PROOFS

    def given_up(self, name: str) -> None:
        """Note that a convicted change is not sent again: the next one of its topic is tried."""
        topic = self._topics[name]
        topic.seq, topic.proofs = None, 0
