"""Neighbours: other vessels that publish under the same prefix, where `MQTT_TOPIC_PREFIX` lacks `{vessel_id}`.

Status, last will and the retained messages of a topic are single messages that such vessels overwrite for each other,
and a follower can't tell which topics are whose. So a vessel subscribes to the status of its own prefix, and reports
another vessel's.
"""

from __future__ import annotations

import time

from arus.errors import RefusedMessageError
from arus.logs import get_logger
from arus.mqtt.events import Received
from arus.outbox import sql
from arus.outbox.log import ChangeLog
from arus.outbox.status import shares_prefix
from arus.protocol.encoding import decode_status
from arus.protocol.times import now_ms
from arus.protocol.topics import STATUS

logger = get_logger(__name__)

#: Seconds between two records of the same neighbour in the database, and between two log lines.
RECORDED_EVERY = 60.0
LOGGED_EVERY = 3_600.0


class Neighbours:
    """Notices other vessels' statuses. Used by the relay's thread.

    :param prefix: that the vessels share.
    """

    def __init__(self, log: ChangeLog, prefix: str) -> None:
        self.topic = f"{prefix}/{STATUS}"
        self._log = log
        #: The neighbour that was heard last, until it is recorded.
        self._heard: str | None = None
        #: The one that was recorded last, and when (monotonic seconds).
        self._recorded: tuple[str, float] | None = None
        self._logged_at: float | None = None

    def take(self, received: Received) -> None:
        """Process a status."""
        try:
            vessel_id = decode_status(received.payload).vessel_id
        except RefusedMessageError:
            return
        if vessel_id != self._log.vessel_id and vessel_id.isprintable():
            self._heard = vessel_id

    def record(self) -> None:
        """Record the neighbour that was heard, and log it once in a while."""
        heard, self._heard = self._heard, None
        now = time.monotonic()
        if heard is None or (
            self._recorded is not None
            and self._recorded[0] == heard
            and now - self._recorded[1] < RECORDED_EVERY
        ):
            return
        if self._recorded is not None and now - self._recorded[1] < 1.0:
            return  # there are several: one a second is enough
        self._recorded = (heard, now)
        with self._log.fenced_transaction() as fenced:
            fenced.execute(sql.session.NEIGHBOUR, {"neighbour": heard, "now": now_ms()})
        if self._logged_at is None or now - self._logged_at >= LOGGED_EVERY:
            self._logged_at = now
            logger.error("[MQTT Reliable Sync] %s", shares_prefix(heard))


def forget_neighbour(log: ChangeLog) -> None:
    """Delete the record of a neighbour: this vessel has a prefix of its own now."""
    with log.fenced_transaction() as fenced:
        fenced.execute(sql.session.NO_NEIGHBOUR)
