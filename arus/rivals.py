"""Rivals: another client that uses our client id, such as a copy of a vessel's disk or a follower of the same name.

A broker ends the older of two connections with one client id. In MQTT 5 it may say so (0x8E); Mosquitto 2.0.11 does
not, and in MQTT 3.1.1 no broker can. Two that reconnect at once would displace each other for ever, and each of them
would take it for a bad link.

So a client whose connection ended soon after it was accepted leaves a retained claim, which nobody but a user of the
same client id overwrites. If it reads another claim than its own the next time, it has a rival. A bad link
changes no claim.
"""

from __future__ import annotations

import secrets

import orjson

from .errors import ConnectionLostError, SessionError, TakenOverError
from .message import iso, now_ms
from .topics import SESSION, level_of

#: Reason code of a DISCONNECT: another connection uses our client id (MQTT 5, 3.14.2.1).
_TAKEN_OVER = 0x8E
#: Seconds before the session is tried again when there is a rival.
STAND_DOWN = 60.0
#: Seconds, and reconnect periods, within which a rival displaces an accepted connection.
_SOON, _SOON_PERIODS = 10.0, 3


class Rivals:
    """What tells a rival from a bad link, over the connections of one client.

    :param period: seconds between connection attempts.
    """

    def __init__(self, client_id: str, prefix: str, period: float) -> None:
        self._client_id = client_id
        self._soon = max(_SOON, _SOON_PERIODS * period)
        #: Topic name of the claim.
        self.topic = f"{prefix}/{SESSION}/{level_of(client_id)}"
        #: The claim as it was written last, and as it was read in this connection.
        self._own: bytes | None = None
        self._read: bytes | None = None
        #: Monotonic seconds; None while no connection was accepted.
        self._accepted_at: float | None = None
        #: The last connection ended soon, by the broker's hand: the claim is to be read.
        self.suspicious = False
        self._stood_down = False

    def accepted(self, now: float) -> None:
        """Note that the broker has accepted a connection, at `now` in monotonic seconds."""
        self._accepted_at = now
        self._read = None

    def heard(self, claim: bytes) -> None:
        """Take the claim that the broker has retained."""
        self._read = claim

    def check(self) -> None:
        """Compare the claim that was read with our own.

        :raises TakenOverError: somebody has written another one since.
        """
        if self._own is not None and self._read is not None and self._read != self._own:
            raise TakenOverError(self._client_id)

    def claim(self) -> bytes:
        """Return a new claim, to be published and retained."""
        self._own = orjson.dumps(
            {
                "type": "claim",
                "clientId": self._client_id,
                "claim": secrets.token_hex(8),
                "timestamp": iso(now_ms()),
            }
        )
        return self._own

    def ended(self, error: SessionError, now: float) -> bool:
        """Note that a connection ended, or was not made; return whether a rival did it.

        :param now: monotonic seconds.
        """
        accepted_at, self._accepted_at = self._accepted_at, None
        soon = accepted_at is not None and now - accepted_at < self._soon
        if accepted_at is not None:
            hung_up = isinstance(error, ConnectionLostError) and error.hung_up
            self.suspicious = soon and hung_up
            # Whoever comes back from standing down and is displaced again need not ask why.
            if self.suspicious and self._stood_down:
                return True
            self._stood_down = self._stood_down and soon
        told = isinstance(error, ConnectionLostError) and error.code == _TAKEN_OVER
        self._stood_down = self._stood_down or told or isinstance(error, TakenOverError)
        return told or isinstance(error, TakenOverError)
