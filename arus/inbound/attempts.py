"""Attempts: finds a message whose handler ends the process, so that the broker delivers it again for ever.

The first delivery of a message costs nothing. Before a redelivered message (DUP) is handled, a dead letter is stored for
it; it is deleted when the handler has returned or has failed. If the process ends meanwhile, it remains and counts.
"""

from __future__ import annotations

from sqlalchemy import Engine

from arus.database import transaction
from arus.outbox import sql
from arus.protocol.times import now_ms

#: Times that a redelivered message's handler may begin without returning.
MAX_ATTEMPTS = 3
#: Reason of the dead letter of a message that is being handled.
BEGUN = "its handler has begun and has not returned: it may have ended the process"


class Attempts:
    """Counts in the database how often the handling of a redelivered message has begun.

    :param engine: from `arus.database.open_engine`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, topic: str, payload: bytes, topic_filter: str) -> int | None:
        """Note that a handler begins; return the id of the message's dead letter, or None if it began too often.

        In that case the dead letter stays.

        :raises LogUnavailableError: the database can't be used.
        """
        message = {"topic": topic, "payload": payload, "reason": BEGUN}
        with self._engine.connect() as connection, transaction(connection):
            begun = connection.execute(sql.inbound.BEGUN_DEAD_LETTER, message).one_or_none()
            if begun is None:
                new = {
                    **message,
                    "topic_filter": topic_filter,
                    "attempts": 1,
                    "parked_at": now_ms(),
                }
                connection.execute(sql.inbound.ADD_DEAD_LETTER, new)
                begun = connection.execute(sql.inbound.BEGUN_DEAD_LETTER, message).one()
            elif begun.attempts >= MAX_ATTEMPTS:
                return None
            else:
                connection.execute(sql.inbound.COUNT_ATTEMPT, {"id": begun.id})
            return int(begun.id)

    def end(self, letter_id: int) -> None:
        """Delete the dead letter of a message whose handler has returned or failed.

        :raises LogUnavailableError: the database can't be used.
        """
        with self._engine.connect() as connection, transaction(connection):
            connection.execute(sql.inbound.FORGET_DEAD_LETTER, {"id": letter_id})
