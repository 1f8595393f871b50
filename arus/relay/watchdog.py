"""The watchdog: notices that the broker does not get on with what it was sent, and journals that for health."""

from __future__ import annotations

from arus.logs import get_logger
from arus.outbox.log import ChangeLog
from arus.protocol.times import now_ms
from arus.settings import Broker

from .publisher import Publisher
from .status_reports import StatusReports

logger = get_logger(__name__)


class Watchdog:
    """Watches one owner's connections. Runs in the relay's thread."""

    def __init__(
        self, log: ChangeLog, publisher: Publisher, reports: StatusReports, broker: Broker
    ) -> None:
        self._log = log
        self._publisher = publisher
        self._reports = reports
        self._broker = broker
        #: As journalled: whether nothing is acknowledged, and why the broker refuses messages for the moment.
        self._journalled: tuple[bool, str | None] = (False, None)

    def begin(self) -> None:
        """Note that a connection has begun; its transaction has reset what was journalled."""
        self._journalled = (False, None)

    def check(self, now: float) -> None:
        """Check the messages in flight; to be called about once a second.

        :param now: monotonic seconds.
        :raises ConnectionLostError: the broker has passed over some; they are sent again in the next connection.
        """
        stalled, obstacle = self._publisher.trouble(now)
        found = (stalled, obstacle or self._reports.obstacle)
        if found != self._journalled:
            self._journal(*found)
        self._publisher.check_unanswered(now)

    def _journal(self, stalled: bool, obstacle: str | None) -> None:
        with self._log.fenced_transaction() as fenced:
            fenced.stalled(now_ms() if stalled else None, obstacle)
        was_stalled, last_obstacle = self._journalled
        self._journalled = (stalled, obstacle)
        if stalled and not was_stalled:
            logger.warning(
                "[MQTT Reliable Sync] messages are waiting, and %s has acknowledged nothing for a minute",
                self._broker,
            )
        # A refused status or digest was logged before.
        if obstacle not in {None, last_obstacle, self._reports.obstacle}:
            logger.info(
                "[MQTT Reliable Sync] %s refuses messages for the moment (%s); trying again",
                self._broker,
                obstacle,
            )
