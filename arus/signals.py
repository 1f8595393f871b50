"""Blinker signals for events of the session and the changes, sent in the owner's process.

The sender is the application. A receiver runs in the relay's thread: it must be quick, and its exceptions are
only logged.
"""

from __future__ import annotations

from typing import Any

from blinker import NamedSignal, Namespace

from arus.logs import get_logger

logger = get_logger(__name__)

_signals = Namespace()

#: The broker accepted the session. `session_present`, `protocol`.
connected = _signals.signal("connected")
#: The session ended. `reason`.
disconnected = _signals.signal("disconnected")
#: A connection attempt or a message failed. `error`.
error = _signals.signal("error")
#: A message arrived. `topic`, `payload`.
message = _signals.signal("message")
#: The broker acknowledged a change. `message_id`, `entity`, `operation`, `seq`.
message_published = _signals.signal("message_published")
#: A change found no connection when it was committed. `message_id`, `entity`, `operation`.
message_queued = _signals.signal("message_queued")
#: A change was dropped because the queue was full. `message_id`, `entity`, `operation`.
message_dropped = _signals.signal("message_dropped")
#: All changes that had waited for the connection were acknowledged. `count`.
queue_flushed = _signals.signal("queue_flushed")
#: A catch-up was published. `catchup_id`, `entity`, `published`.
catchup_published = _signals.signal("catchup_published")


def send(signal: NamedSignal, sender: Any, **values: Any) -> None:
    """Send a signal; exceptions of its receivers are logged."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **values)
        except Exception:  # a receiver is the application's code: it must not stop the relay
            logger.exception("[MQTT Reliable Sync] a receiver of signal %r failed", signal.name)
