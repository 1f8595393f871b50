"""What a broker supports: the highest QoS, retained messages and wildcards; by its answers or by a trial.

A broker may announce it (MQTT 5, 3.2.2.3.4 and 3.2.2.3.5), refuse a packet that goes beyond it (0x9A, 0x9B), or
answer a QoS 2 PUBLISH with PUBACK. Others, such as NATS, close the connection on each QoS 2 PUBLISH. A link that is
cut looks the same, so a hang-up alone decides nothing: after some of them a trial is made, in which the broker
acknowledges QoS 1 and closes the connection on QoS 2, several times alternately (`arus.mqtt.probe`).

Changes keep the QoS that they were registered with; it is lowered only in the packets that are sent. The result is
valid for a day, then QoS 2 is tried again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from msgspec import Struct

from .negotiation import BELIEVED

#: Connections that end on an unanswered QoS 2 PUBLISH before a trial is made: if nothing is known of the broker, and
#: if it has confirmed QoS 2 before.
HANG_UPS = 2
HANG_UPS_OF_KNOWN = 4
EXACTLY_ONCE = 2

#: Reason codes of CONNACK and DISCONNECT (MQTT 5, 3.2.2.2 and 3.14.2.1).
RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
WILDCARDS_NOT_SUPPORTED = 0xA2


class FoundQos(NamedTuple):
    """The highest QoS that a broker was found to support."""

    maximum: int
    #: Milliseconds since the epoch.
    at: int

    def holds(self, now: int) -> bool:
        """Whether the finding is still valid; it is not if the clock was set back since."""
        return 0 <= now - self.at < BELIEVED


class _Option(Struct):
    """What a broker may do without."""

    #: It has not announced in this connection that it does.
    is_announced: bool = True
    #: When it last refused it, in milliseconds since the epoch.
    refused_at: float = -math.inf

    @property
    def is_there(self) -> bool:
        """Whether to use it."""
        return self.is_announced and self.refused_at == -math.inf

    def connected(self, *, is_announced: bool, now: int) -> None:
        """Note what a CONNACK announces; an older refusal is not believed for ever."""
        self.is_announced = is_announced
        if now - self.refused_at >= BELIEVED:
            self.refused_at = -math.inf


class Features:
    """What one broker supports, as far as it is known."""

    def __init__(self) -> None:
        #: The result of an answer or a trial; None if there was none yet.
        self.found: FoundQos | None = None
        #: It answers a QoS 2 PUBLISH with PUBACK.
        self.lowers_qos = False
        #: The maximum that it has announced in this connection; 2 if none.
        self._announced = EXACTLY_ONCE
        #: Retained messages, and filters with wildcards.
        self._retained, self._wildcards = _Option(), _Option()
        #: Connections that ended on an unanswered QoS 2 PUBLISH, since one was last answered.
        self._hung_up = 0
        self._is_stale = False

    # -- in use -------------------------------------------------------------------------------------

    @property
    def maximum_qos(self) -> int:
        """The highest QoS to send with: 1 or 2."""
        found = self.found.maximum if self.found is not None else EXACTLY_ONCE
        return max(1, min(found, self._announced))

    @property
    def retains(self) -> bool:
        """Whether to send messages with the retain flag."""
        return self._retained.is_there

    def takes(self, topic_filter: str) -> bool:
        """Whether to subscribe to a filter: a broker without wildcards ends the connection on one (MQTT 5, 3.2.2.3.11)."""
        return self._wildcards.is_there or not ("+" in topic_filter or "#" in topic_filter)

    # -- learning -----------------------------------------------------------------------------------

    def connected(
        self,
        *,
        maximum_qos: int | None,
        retains: bool,
        wildcards: bool = True,
        session_present: bool,
        now: int,
    ) -> None:
        """Note what a CONNACK announces.

        :param maximum_qos: None if not announced.
        :param session_present: whether the broker has kept the session; if not, it may have been replaced.
        :param now: milliseconds since the epoch.
        """
        self._announced = EXACTLY_ONCE if maximum_qos is None else maximum_qos
        self._retained.connected(is_announced=retains, now=now)
        self._wildcards.connected(is_announced=wildcards, now=now)
        self._is_stale = self._is_stale or not session_present

    def confirmed(self, now: int) -> None:
        """Note that the broker has confirmed a message of QoS 2 (PUBREC)."""
        self._hung_up = 0
        self.lowers_qos = False
        if self.found is None or self.found.maximum < EXACTLY_ONCE or not self.found.holds(now):
            self.found = FoundQos(EXACTLY_ONCE, now)

    def lowered(self, now: int) -> None:
        """Note that the broker has answered a QoS 2 PUBLISH with PUBACK."""
        self.lowers_qos = True
        self.tried(1, now)

    def refused(self, reason: int, now: int) -> None:
        """Note the reason code of a refusal or of a DISCONNECT; only 0x9A, 0x9B and 0xA2 tell anything."""
        if reason == QOS_NOT_SUPPORTED:
            self.lowers_qos = False
            self.tried(1, now)
        elif reason == RETAIN_NOT_SUPPORTED:
            self._retained.refused_at = now
        elif reason == WILDCARDS_NOT_SUPPORTED:
            self._wildcards.refused_at = now

    def hung_up(self) -> None:
        """Note that the broker has closed a connection in which a QoS 2 PUBLISH was not answered."""
        self._hung_up += 1

    # -- trials -------------------------------------------------------------------------------------

    def wants_trial(self) -> bool:
        """Whether to find out by a trial, before the next connection, if the broker supports QoS 2."""
        known = self.found is not None and self.found.maximum == EXACTLY_ONCE
        return self.maximum_qos == EXACTLY_ONCE and self._hung_up >= (
            HANG_UPS_OF_KNOWN if known else HANG_UPS
        )

    def wants_check(self, now: int) -> bool:
        """Whether to find out, beside an open connection, if the broker supports QoS 2 by now."""
        if self.found is None or self.found.maximum >= EXACTLY_ONCE:
            return False
        return self._announced == EXACTLY_ONCE and (self._is_stale or not self.found.holds(now))

    def tried(self, maximum: int | None, now: int) -> None:
        """Note the result of a trial; None if it was inconclusive."""
        self._hung_up = 0
        if maximum is not None:
            self.found = FoundQos(maximum, now)
            self.lowers_qos = self.lowers_qos and maximum < EXACTLY_ONCE
            self._is_stale = False
