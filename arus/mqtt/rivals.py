"""Rivals: another client that uses our client id, such as a copy of a vessel's disk or a follower of the same name.

A broker ends the older of two connections with the same client id. In MQTT 5 it may report this (0x8E); Mosquitto
2.0.11 does not, and in MQTT 3.1.1 no broker can. Two clients that reconnect at once would displace each other for
ever, and each of them would mistake it for a bad link.

So a client whose connection ended soon after it was accepted publishes a retained claim, which only a client with
the same client id overwrites. If it reads a claim at a later connection that is neither its own nor the one that it
read before, it has a rival. A bad link does not make new claims; it may lose one, so that the older one stays.

Two vessels that have only MQTT_CLIENT_ID in common publish their claims under different prefixes, where neither may read
the other's. But they share the broker's half of the session. So each subscribes to its own claim too, and does not
acknowledge it for a while: a client that takes the session over is sent it again, under a prefix that is not its own.
"""

from __future__ import annotations

import secrets
from collections import deque

from arus.errors import ConnectionLostError, SessionError, TakenOverError
from arus.protocol.encoding import encode
from arus.protocol.messages import Claim
from arus.protocol.times import iso, now_ms
from arus.protocol.topics import SESSION, level_of

#: Reason code of a DISCONNECT: another connection uses our client id (MQTT 5, 3.14.2.1).
_TAKEN_OVER = 0x8E
#: Seconds before the session is tried again when there is a rival.
STAND_DOWN = 60.0
#: Claims of ours that are recognised: the broker may keep an older one if the link has lost those after it.
_OWN_CLAIMS = 16
#: Seconds, and number of reconnect periods, within which a rival displaces an accepted connection.
_SOON, _SOON_PERIODS = 10.0, 3


class Rivals:
    """Distinguishes a rival from a bad link, over the connections of one client.

    :param period: seconds between connection attempts.
    """

    def __init__(self, client_id: str, prefix: str, period: float) -> None:
        self._client_id = client_id
        self._soon = max(_SOON, _SOON_PERIODS * period)
        #: Topic name of the claim, and how that of a claim under any prefix ends.
        self._ending = f"/{SESSION}/{level_of(client_id)}"
        self.topic = prefix + self._ending
        #: Our last claims, the claim that was read last and, once read, that of this connection.
        self._own: deque[bytes] = deque(maxlen=_OWN_CLAIMS)
        self._before: bytes | None = None
        self._read: bytes | None = None
        #: Monotonic seconds; None if no connection is accepted.
        self._accepted_at: float | None = None
        #: The broker closed the last connection soon after accepting it: the claim must be read.
        self.suspicious = False
        #: For how many connections in a row that was so.
        self.in_a_row = 0
        self._stood_down = False

    def accepted(self, now: float) -> None:
        """Note that the broker has accepted a connection, at `now` in monotonic seconds."""
        self._accepted_at = now
        self._read = None

    def heard(self, claim: bytes) -> None:
        """Note the claim that the broker has retained."""
        self._read = claim

    def check(self) -> None:
        """Compare the claim that was read with the known ones.

        :raises TakenOverError: another client has published a claim since our last one.
        """
        before, self._before = self._before, self._read
        is_known = self._read in (None, before, *self._own)
        if self._own and not is_known:
            raise TakenOverError(self._client_id)

    def is_claim(self, topic: str) -> bool:
        """Whether a topic is that of a claim to our client id, under any prefix."""
        return topic.endswith(self._ending)

    def heard_elsewhere(self) -> None:
        """Note a claim under another prefix, for which only another client can have subscribed our session.

        :raises TakenOverError: the last connection ended as if another client had displaced us. Otherwise the claim may
            have been left by this client, under a prefix that it had before.
        """
        if self.suspicious:
            raise TakenOverError(self._client_id)

    def holds(self, claim: bytes) -> bool:
        """Whether a received claim is left unacknowledged for a client that takes the session over: our last one."""
        return self.suspicious and bool(self._own) and claim == self._own[-1]

    def is_past(self, now: float) -> bool:
        """Whether no rival has displaced this connection by `now`, in monotonic seconds."""
        return self._accepted_at is not None and now - self._accepted_at >= self._soon

    def claim(self) -> bytes:
        """Return a new claim, to be published and retained."""
        claim = Claim(
            client_id=self._client_id, claim=secrets.token_hex(8), timestamp=iso(now_ms())
        )
        payload = encode(claim)
        self._own.append(payload)
        return payload

    def ended(self, error: SessionError, now: float) -> bool:
        """Note that a connection ended, or could not be made; return whether a rival caused it.

        :param now: monotonic seconds.
        """
        accepted_at, self._accepted_at = self._accepted_at, None
        soon = accepted_at is not None and now - accepted_at < self._soon
        if accepted_at is not None:
            # A broker that gives another reason has not displaced us.
            hung_up = (
                isinstance(error, ConnectionLostError)
                and error.hung_up
                and error.code in {None, _TAKEN_OVER}
            )
            self.suspicious = soon and hung_up
            self.in_a_row = self.in_a_row + 1 if self.suspicious else 0
            # A client that has stood down and is displaced again need not read the claim: it has a rival.
            if self.suspicious and self._stood_down:
                return True
            self._stood_down = self._stood_down and soon
        told = isinstance(error, ConnectionLostError) and error.code == _TAKEN_OVER
        self._stood_down = self._stood_down or told or isinstance(error, TakenOverError)
        return told or isinstance(error, TakenOverError)
