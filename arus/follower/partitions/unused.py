"""Ends sessions at the broker that nobody uses any more: their queues would grow for ever."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable

from sqlalchemy import URL, Connection

from arus.database import open_engine, transaction, translated
from arus.errors import LogUnavailableError, ProtocolRefusedError, SessionError
from arus.follower import sql
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.events import Connected
from arus.settings import Settings

logger = get_logger(__name__)

#: Attempts to end a session, since the broker may refuse a version of MQTT.
_ATTEMPTS = 3
#: Seconds before a session that could not be ended is tried again.
RETRY = 30.0


def read_unused(connection: Connection) -> list[str]:
    """Return the client ids of sessions that are to be ended."""
    return list(connection.execute(sql.partitions.UNUSED).scalars())


def end_session(settings: Settings, client_id: str) -> bool:
    """Make the broker forget a session; return whether it has. May block for some seconds."""
    session = Session(settings.of_all(), client_id, lasting=False)
    for _ in range(_ATTEMPTS):
        try:
            session.connect(clean_start=True)
            if _is_accepted(session, settings.connect_timeout):
                session.say_goodbye(time.monotonic() + 1)
                return True
        except ProtocolRefusedError:
            continue
        except SessionError as error:
            logger.debug("[MQTT Reliable Sync] session %s can't be ended: %s", client_id, error)
            return False
        finally:
            session.close()
    return False


def _is_accepted(session: Session, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        session.flush()
        if (sock := session.fileno()) is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if session.wants_write else 0))
        poll.poll(left * 1000)
        if any(isinstance(event, Connected) for event in session.receive()):
            return True
    return False


def forget_session(connection: Connection, client_id: str) -> None:
    """Note that a session is ended."""
    with transaction(connection):
        connection.execute(sql.partitions.REMOVE_UNUSED, {"client_ids": [client_id]})
    logger.info("[MQTT Reliable Sync] the session %s is ended: it is not used any more", client_id)


class UnusedSessions:
    """A thread that ends the unused sessions of a follower without partitions."""

    def __init__(self, url: URL, settings: Settings, waits: Callable[[float], bool]) -> None:
        self._url = url
        self._settings = settings
        self._waits = waits
        self._thread = threading.Thread(target=self._run, name="arus sessions", daemon=True)

    def start(self) -> None:
        """Start; it ends when no session is left, or when the follower stops."""
        self._thread.start()

    def _run(self) -> None:
        engine = open_engine(self._url)
        try:
            while not self._step(engine.connect) and not self._waits(RETRY):
                pass
        finally:
            engine.dispose()

    def _step(self, connect: Callable[[], Connection]) -> bool:
        try:
            with translated(), connect() as connection:
                for client_id in read_unused(connection):
                    if end_session(self._settings, client_id):
                        forget_session(connection, client_id)
                return not read_unused(connection)
        except LogUnavailableError as error:
            logger.warning("[MQTT Reliable Sync] unused sessions can't be ended: %s", error)
            return False
