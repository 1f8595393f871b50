"""Waits for the two that wake the relay: the socket of the session, and the notifier."""

from __future__ import annotations

import select
from typing import NamedTuple

from arus.mqtt.client import Session, has_unread
from arus.outbox.notifier import NotificationListener


class Ready(NamedTuple):
    """What has happened."""

    #: Somebody has notified the owner.
    is_notified: bool = False
    #: The session has something to receive, or has ended.
    is_readable: bool = True


class Waiting:
    """Waits for one owner's notifier, and for the socket of whatever connection its session has.

    Each round waits, so what is registered with the system's poll is kept from one to the next.
    """

    def __init__(self, notifier: NotificationListener, session: Session) -> None:
        self._notifier = notifier
        self._session = session
        # Not select(): it fails for descriptors of 1024 and above.
        self._poll = select.poll()
        self._poll.register(notifier.fileno(), select.POLLIN)
        #: The socket that is registered, and for what.
        self._registered: tuple[int, int] | None = None

    def wait(self, timeout: float) -> Ready:
        """Wait until one of them is ready, for some seconds at most."""
        self._register()
        notifier = self._notifier.fileno()
        is_notified = is_readable = False
        for descriptor, happened in self._poll.poll(timeout * 1000):
            if descriptor == notifier:
                is_notified = self._notifier.answer()
            elif happened & ~select.POLLOUT:
                is_readable = True
        return Ready(is_notified, is_readable or has_unread(self._session))

    def _register(self) -> None:
        descriptor = self._session.fileno()
        wanted = None
        if descriptor is not None:
            writes = select.POLLOUT if self._session.wants_write else 0
            wanted = (descriptor, select.POLLIN | writes)
        if wanted == self._registered:
            return
        if self._registered is not None:
            self._poll.unregister(self._registered[0])
        if wanted is not None:
            self._poll.register(*wanted)
        self._registered = wanted
