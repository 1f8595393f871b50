"""The broker's answers to statuses and digests: a refusal is said once, and one that passes has the message sent again."""

from __future__ import annotations

import math
import time

from arus.logs import get_logger
from arus.mqtt.packets import Ack
from arus.mqtt.refusals import PASSING, REFUSED, TOO_LARGE, UNCLEAR, name_of

logger = get_logger(__name__)

#: Seconds before a refused message is sent again; doubled each further time. A digest is large, and a status is
#: published about every 15 minutes anyway.
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 900.0


class Answers:
    """The answers to the messages of one topic that replace each other. Used by the relay's thread.

    :param what: the name of these messages, for the log.
    """

    def __init__(self, what: str, topic: str) -> None:
        self._what = what
        self._topic = topic
        #: Packet id of the last message; None once it is answered.
        self._packet_id: int | None = None
        #: Why the broker has refused the last one; None if it has not.
        self.obstacle: str | None = None
        #: Seconds of the last pause, and when it ends, in monotonic seconds.
        self._pause = 0.0
        self._paused_until = -math.inf

    def begin(self) -> None:
        """Note that a connection has begun: no answer to an earlier message will come."""
        self._packet_id = None
        self._pause = 0.0
        self._paused_until = -math.inf

    @property
    def is_paused(self) -> bool:
        """Whether a message is not to be sent yet, because the last one was refused."""
        return time.monotonic() < self._paused_until

    def sent(self, packet_id: int) -> None:
        """Note that a message was sent."""
        self._packet_id = packet_id

    def refused(self, ack: Ack) -> bool:
        """Process an acknowledgement of any message; return whether the last one is to be sent again after a pause."""
        if ack.packet_id != self._packet_id:
            return False
        self._packet_id = None
        if ack.reason < REFUSED:
            self.obstacle = None
            self._pause = 0.0
            return False
        passes = ack.reason in PASSING or ack.reason in UNCLEAR
        self._say(ack.reason, passes=passes)
        if passes:
            self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
            self._paused_until = time.monotonic() + self._pause
        return passes

    def _say(self, reason: int, *, passes: bool) -> None:
        obstacle = f"{name_of(reason)} on {self._topic}"
        if obstacle == self.obstacle:
            return
        self.obstacle = obstacle
        fix = f"allow the vessel to publish on {self._topic}"
        if reason == TOO_LARGE:
            fix = "raise the broker's limit for the size of a packet"
        logger.warning(
            "[MQTT Reliable Sync] the broker refuses the %s (%s): %s",
            self._what,
            name_of(reason),
            "it is sent again" if passes else fix,
        )
