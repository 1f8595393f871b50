"""The pause after a broker has said that it is asked too much, by a refusal of CONNECT or in a DISCONNECT."""

from __future__ import annotations

from arus.errors import ConnectionLostError, RefusedError, SessionError

from .refusals import BUSY

#: Seconds of the longest pause before the next attempt.
LONGEST = 60.0


class BackOff:
    """Doubles the pause each time, until the broker accepts a message.

    A CONNECT that is accepted does not end it: a broker that limits a client's rate may accept each connection.

    :param period: seconds between connection attempts; the first pause is twice as long.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._pause = 0.0

    def ended(self, error: SessionError) -> float:
        """Note why a connection ended, or could not be made; return the shortest pause in seconds before the next."""
        code = error.code if isinstance(error, ConnectionLostError | RefusedError) else None
        if code not in BUSY:
            return 0.0
        self._pause = min(2 * max(self._pause, self._period), LONGEST)
        return self._pause

    def accepted(self) -> None:
        """Note that the broker has accepted a message: the next pause is short again."""
        self._pause = 0.0
