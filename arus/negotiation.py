"""Which version of MQTT to speak with a broker: decided by what it answers, never by a hang-up or a silence.

A link that is cut between CONNECT and CONNACK looks the same as a broker that hangs up on MQTT 5. So a version is
refused by an answer (CONNACK 0x84, or return code 1 of a broker that speaks 3.1.1 alone), or by a trial: the broker
accepts 3.1.1 and does not answer 5, several times in turn within seconds (`arus.probe`). What was found is believed
for a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Version = Literal["5", "3.1.1"]

#: Connection attempts in a row without an answer to MQTT 5 before a trial is worth its connections.
UNANSWERED = 2
#: Milliseconds for which is believed what a broker was found to speak and take.
BELIEVED = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Found:
    """What a broker was found to speak."""

    version: Version
    #: Milliseconds since the epoch.
    at: int

    def holds(self, now: int) -> bool:
        """Whether it is believed still; also not if the clock was set back since."""
        return 0 <= now - self.at < BELIEVED


class Negotiation:
    """The versions tried on one broker.

    :param wanted: `auto`, or the version that the settings demand.
    """

    def __init__(self, wanted: Literal["auto"] | Version, found: Found | None = None) -> None:
        self._wanted = wanted
        self.found = found
        self._unanswered = 0

    def choose(self, now: int) -> Version:
        """Return the version of the next connection.

        :param now: milliseconds since the epoch.
        """
        if self._wanted != "auto":
            return self._wanted
        speaks_older = self.found is not None and self.found.version == "3.1.1"
        return "3.1.1" if speaks_older and self.found and self.found.holds(now) else "5"

    def accepted(self, version: Version, now: int) -> None:
        """Note that a CONNECT was accepted."""
        self._unanswered = 0
        if version == "5":  # 3.1.1 is accepted by nearly all: that is no finding
            self.found = Found("5", now)

    def refused(self, version: Version, now: int) -> bool:
        """Note that the broker does not speak a version; return whether there is another one to try."""
        self._unanswered = 0
        if self._wanted != "auto" or version == "3.1.1":
            return False
        self.found = Found("3.1.1", now)
        return True

    def answered(self) -> None:
        """Note that a CONNECT was answered with another refusal."""
        self._unanswered = 0

    def unanswered(self, version: Version) -> None:
        """Note that a connection ended before its CONNECT was answered."""
        self._unanswered += version == "5"

    def wants_trial(self, now: int) -> bool:
        """Whether to find out if the broker takes 3.1.1 alone."""
        known = self.found is not None and self.found.holds(now)
        return self._wanted == "auto" and not known and self._unanswered >= UNANSWERED

    def tried(self, found: Version | None, now: int) -> None:
        """Note what a trial has found; None if it could not tell."""
        self._unanswered = 0
        if found is not None:
            self.found = Found(found, now)
