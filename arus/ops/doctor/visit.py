"""A visit to the broker: one connection that is made as the vessel's are, under a client id of its own."""

from __future__ import annotations

import secrets
import select
import time

from msgspec import Struct

from arus.errors import SessionError
from arus.mqtt.client import Session
from arus.mqtt.diagnosis import Diagnosis
from arus.mqtt.events import Connected
from arus.mqtt.failures import CLOSED, SILENT, unanswered
from arus.mqtt.negotiation import Found
from arus.protocol.times import now_ms
from arus.settings import Settings

#: Seconds that the end of a visit may take.
_GOODBYE = 0.5


class Visit(Struct, frozen=True):
    """The result of a visit."""

    client_id: str
    #: The broker's answer, if it accepts the connection; else the error.
    connected: Connected | None = None
    error: SessionError | None = None
    #: How long the broker took, in seconds.
    seconds: float = 0.0

    @property
    def diagnosis(self) -> Diagnosis:
        """Why the broker does not accept the connection."""
        return Diagnosis.parse(str(self.error))

    @property
    def is_unanswered(self) -> bool:
        """Whether CONNECT remained without an answer."""
        return self.diagnosis.says in {SILENT, CLOSED}

    @property
    def is_silent(self) -> bool:
        """Whether nothing was received at all, although there was a connection."""
        cause = self.error.__cause__ if self.error is not None else None
        return self.diagnosis.says == SILENT or isinstance(cause, TimeoutError)


def visit(
    settings: Settings, will: tuple[str, bytes] | None = None, *, older: bool = False
) -> Visit:
    """Connect and disconnect; blocks for at most the connect timeout per step.

    The client id is one of its own, and the session ends with the connection: no live session is disturbed.

    :param will: topic and message of a will; the broker discards it at the disconnection.
    :param older: with MQTT_PROTOCOL=auto, speak 3.1.1.
    """
    client_id = f"arus_doctor_{secrets.token_hex(4)}"
    session = Session(settings, client_id, lasting=False)
    if older:
        session.negotiation.found = Found("3.1.1", now_ms())
    began = time.monotonic()
    topic, message = will or (None, None)
    try:
        session.connect(clean_start=True, will_topic=topic, will=message)
        connected = _answer(session, settings)
        seconds = time.monotonic() - began
        session.say_goodbye(time.monotonic() + _GOODBYE)
        return Visit(client_id, connected, seconds=seconds)
    except SessionError as error:
        return Visit(client_id, error=error)
    finally:
        session.close()


def _answer(session: Session, settings: Settings) -> Connected:
    """Wait for the broker's answer to CONNECT.

    :raises SessionError: it refuses the connection, or does not answer.
    """
    deadline = time.monotonic() + settings.connect_timeout
    while (left := deadline - time.monotonic()) > 0:
        for (
            event
        ) in session.receive():  # before writing: what the broker has sent is lost once it resets
            if isinstance(event, Connected):
                return event
        session.flush()
        sock = session.fileno()
        if sock is not None:
            poll = select.poll()
            poll.register(sock, select.POLLIN | (select.POLLOUT if session.wants_write else 0))
            poll.poll(left * 1000)
    silent = unanswered(settings, session.client.heard, hung_up=False)
    raise SessionError(silent.says, fix=silent.fix)
