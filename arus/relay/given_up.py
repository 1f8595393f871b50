"""Changes that are not sent again: the broker never answers them, or closes the connection on each of them."""

from __future__ import annotations

from arus.logs import get_logger
from arus.protocol.entries import Entry

from .passed_over import PassedOver
from .poison import PoisonDetector

logger = get_logger(__name__)


class GivenUp:
    """Decides at the beginning of a connection which changes are not sent again: they would block the log for ever."""

    def __init__(self, poison: PoisonDetector, passed_over: PassedOver) -> None:
        self._poison = poison
        self._passed_over = passed_over

    def why(self, entry: Entry, *, confirmed: bool) -> str | None:
        """Return why a change is not sent again; None if it is.

        :param confirmed: the broker has confirmed it (PUBREC): it has the message, and no longer the handshake.
        """
        if self._poison.convicted(entry.seq, confirmed=confirmed):
            reason = self._poison.reason(entry.seq)
            self._poison.given_up(entry.seq, confirmed=confirmed)
            if confirmed:
                logger.warning(
                    "[MQTT Reliable Sync] change %d on %s counts as delivered: the broker has confirmed it, and closes"
                    " the connection on its release",
                    entry.seq,
                    entry.topic,
                )
            return reason
        if self._poison.aside.convicted(entry.topic, entry.seq):
            self._poison.aside.given_up(entry.topic)
            return "the broker closes the connection on it, and accepts others"
        if self._passed_over.too_often(entry.seq):
            self._passed_over.forget(entry.seq)
            return "the broker does not answer it"
        return None
