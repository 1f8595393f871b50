"""The poison detector: finds the message on which a broker closes the connection, if the broker does not name it.

In MQTT 3.1.1 a broker that finds a packet too large can only close the connection; in MQTT 5 some brokers send a
DISCONNECT with the reason, which names no message either. The message would be sent again in each connection, and
nothing after it would ever be delivered. So once the broker has closed several connections in a row without a single
acknowledgement, or with such a reason, messages are sent one at a time; if the broker closes the connection three times
on the same message, that message is quarantined. It is among those that were unacknowledged when these connections
ended: once all of them are acknowledged there is none, and messages are sent together again in the same connection.

Bad links end connections too. A small message is therefore not blamed for a close without a reason: it can't be too large
for any broker, and would be quarantined because of a bad link. Its topic is set aside instead (`arus.relay.set_aside`).
No link makes up a DISCONNECT with a reason, but the reason may be about the client as a whole. It counts against a
small message only if the broker has acknowledged everything else that was sent in the connection.

Some brokers (aedes) close the connection on a PUBREL whose message they have released before, where MQTT requires a
PUBCOMP (4.3.3). An owner that was killed before it journalled the PUBCOMP sends such a PUBREL. PUBRELs are then sent one
at a time too, and one on which the broker closes the connection again and again counts as answered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from arus.protocol.entries import Entry

from .set_aside import PROMPT, SetAside

#: Connections without a single acknowledgement before messages are sent one at a time.
FRUITLESS = 3
#: Connections closed on the same message before it is quarantined.
STRIKES = 3
#: The same for the first change of its topic, if others are acknowledged in these connections, before the topic is set
#: aside: on a bad link it need not be the message's fault.
LEFT_OVER = 6
#: The same for a PUBREL, for the first and for later ones: a bad link could release nothing as well.
RELEASE_STRIKES, FURTHER_RELEASE_STRIKES = 6, 2
#: Bytes of payload below which a message is not blamed for a close without a reason.
SMALL = 16 * 1024


class Suspect(NamedTuple):
    """A message that was unacknowledged when a connection ended."""

    #: Of its change.
    seq: int
    #: Bytes of payload.
    size: int
    #: The broker has confirmed it, and its PUBREL was unanswered.
    confirmed: bool = False
    #: Topic of its change, and for how many seconds it was unanswered.
    topic: str = ""
    age: float = 0.0
    #: The broker has answered a ping that was sent after this time: the connection was not dead before.
    was_alive: bool = False


class PoisonDetector:
    """Counts connections that the broker has closed. Lives as long as its owner.

    :param reconnect_period: seconds.
    """

    def __init__(self, reconnect_period: float = 5.0) -> None:
        self.aside = SetAside(reconnect_period)
        self._fruitless = 0
        #: Numbers of the changes that were unacknowledged when these connections ended, or later ones.
        self._suspects: set[int] = set()
        self._strikes: Counter[int] = Counter()
        #: Of the connections that ended on small messages, for no reason that the broker gave.
        self._unexplained: Counter[int] = Counter()
        #: In how many connections in a row the first change of its topic was left over, by its number.
        self._left_over: dict[int, int] = {}
        #: What the broker's last DISCONNECT said against each message.
        self._refusals: dict[int, str] = {}
        #: The broker has closed the connection on a PUBREL before.
        self._forgets_releases = False

    @property
    def careful(self) -> bool:
        """Whether messages are to be sent one at a time."""
        return self._searching or self.aside.trial is not None

    @property
    def _searching(self) -> bool:
        return self._fruitless >= FRUITLESS

    def hung_up(
        self,
        suspects: Sequence[Suspect],
        *,
        acknowledged: bool,
        others_pass: bool = False,
        refusal: str | None = None,
        waiting: Collection[str] = (),
    ) -> None:
        """Note that the broker has closed a connection.

        :param suspects: all changes that were unacknowledged.
        :param acknowledged: whether any change was acknowledged in this connection.
        :param others_pass: there were other messages than changes, and all of them were acknowledged.
        :param refusal: what the broker's DISCONNECT said against a message; None if nothing.
        :param waiting: topics of which changes wait.
        """
        tried = self._failed_trial(suspects, others_pass=others_pass, waiting=waiting)
        self._suspects.update(suspect.seq for suspect in suspects)
        self._note_left_over(suspects if acknowledged else (), waiting)
        if tried or self._searching:
            if len(suspects) == 1:
                self._suspect(suspects[0], refusal if others_pass else None, waiting)
        elif suspects and (refusal or not acknowledged):
            self._fruitless += 1
        else:
            self.clear()

    def cut(self, suspects: Sequence[Suspect], waiting: Collection[str]) -> None:
        """Note that a connection has ended, and no message is to blame.

        :param suspects: all changes that were unacknowledged.
        :param waiting: topics of which changes wait.
        """
        trial = self.aside.trial
        self.aside.cut(
            time.monotonic(),
            tried=any(each.topic == trial and not each.confirmed for each in suspects),
            waiting=waiting,
        )

    def _failed_trial(
        self, suspects: Sequence[Suspect], *, others_pass: bool, waiting: Collection[str]
    ) -> bool:
        """Note an end that concerns what is set aside; return whether it was on the change that was tried."""
        first = suspects[0] if len(suspects) == 1 else None
        trial = self.aside.trial
        if trial is None or first is None or first.topic != trial or first.confirmed:
            self.cut(suspects, waiting)
            return False
        self.aside.failed(
            first.seq,
            time.monotonic(),
            counts=others_pass and first.was_alive and first.age <= PROMPT,
            waiting=waiting,
        )
        return True

    def _note_left_over(self, suspects: Sequence[Suspect], waiting: Collection[str]) -> None:
        first: dict[str, int] = {}
        for suspect in suspects:
            if not suspect.confirmed:
                first.setdefault(suspect.topic, suspect.seq)
        self._left_over = {seq: self._left_over.get(seq, 0) + 1 for seq in first.values()}
        for topic, seq in first.items():
            if self._left_over[seq] >= LEFT_OVER:
                self._set_aside(topic, seq, waiting)

    def _suspect(self, suspect: Suspect, refusal: str | None, waiting: Collection[str]) -> None:
        seq = suspect.seq
        if suspect.confirmed or suspect.size >= SMALL or refusal:
            self._strikes[seq] += 1
        else:
            self._unexplained[seq] += 1
            if self._unexplained[seq] >= STRIKES:
                self._set_aside(suspect.topic, seq, waiting)
                self.clear()
        if refusal:
            self._refusals[seq] = refusal

    def _set_aside(self, topic: str, seq: int, waiting: Collection[str]) -> None:
        others_wait = any(each != topic for each in waiting)
        self.aside.add(topic, seq, time.monotonic(), others_wait=others_wait)

    def completed(
        self,
        acknowledged: Collection[int],
        quarantined: Sequence[tuple[Entry, str]] = (),
        *,
        depth: int,
    ) -> None:
        """Note outcomes of changes: once no suspect is left, the counts are reset.

        :param acknowledged: numbers of changes.
        :param quarantined: changes, with the reason of each.
        :param depth: changes that are left in the queue.
        """
        dropped = [entry for entry, _ in quarantined]
        self.aside.quarantined(dropped)
        if self._searching:
            self._suspects.difference_update(acknowledged, (entry.seq for entry in dropped))
        if not depth or (self._searching and not self._suspects):
            self.clear()

    def convicted(self, seq: int, *, confirmed: bool = False) -> bool:
        """Whether a message is not to be sent again.

        :param confirmed: the broker has confirmed it, and its PUBREL was sent.
        """
        if not confirmed:
            return self._strikes[seq] >= STRIKES
        further = self._forgets_releases
        return self._strikes[seq] >= (FURTHER_RELEASE_STRIKES if further else RELEASE_STRIKES)

    def reason(self, seq: int) -> str:
        """Return why a convicted message is not sent again."""
        refusal = self._refusals.get(seq)
        return "the broker closes the connection on it" + (f": {refusal}" if refusal else "")

    def given_up(self, seq: int, *, confirmed: bool) -> None:
        """Note that a convicted message is not sent again."""
        if confirmed:  # there may be more of them
            self._forgets_releases = True
            del self._strikes[seq]
        else:
            self.clear()

    def clear(self) -> None:
        """Reset the counts: nothing is suspicious, or the poison message is found."""
        self._fruitless = 0
        self._suspects.clear()
        self._strikes.clear()
        self._unexplained.clear()
        self._refusals.clear()
        self._forgets_releases = False
