"""The choice of the MQTT version: by the broker's answers, never because a connection closed or stayed silent.

A link that is cut between CONNECT and CONNACK looks the same as a broker that closes the connection on MQTT 5. So a
version counts as refused only after an answer (CONNACK 0x84, or return code 1 from a broker that supports only
3.1.1) or after a trial: the broker accepts 3.1.1 and does not answer 5, several times alternately within seconds
(`arus.mqtt.probe`). The result is valid for a day.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Version = Literal["5", "3.1.1"]

#: Consecutive connection attempts without an answer to MQTT 5 before a trial is made.
UNANSWERED = 2
#: Milliseconds for which the findings about a broker are valid.
BELIEVED = 24 * 3600 * 1000


class Found(Struct, frozen=True):
    """The MQTT version that a broker was found to support."""

    version: Version
    #: Milliseconds since the epoch.
    at: int

    def holds(self, now: int) -> bool:
        """Whether the finding is still valid; it is not if the clock was set back since."""
        return 0 <= now - self.at < BELIEVED


class Negotiation:
    """The negotiation with one broker.

    :param wanted: `auto`, or the version that the settings require.
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
        if version == "5":  # nearly all brokers accept 3.1.1: that proves nothing
            self.found = Found("5", now)

    def refused(self, version: Version, now: int) -> bool:
        """Note that the broker does not support a version; return whether there is another one to try."""
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
        """Whether to find out by a trial if the broker supports only 3.1.1."""
        known = self.found is not None and self.found.holds(now)
        return self._wanted == "auto" and not known and self._unanswered >= UNANSWERED

    def tried(self, found: Version | None, now: int) -> None:
        """Note the result of a trial; None if it was inconclusive."""
        self._unanswered = 0
        if found is not None:
            self.found = Found(found, now)
