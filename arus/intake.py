"""The relay's inbound half: keeps the subscriptions at the broker, and takes what comes in on them.

Two kinds of messages are the sync's own and served here, in the owner's transaction: requests for a catch-up,
and the watermarks of followers. All others go to the application's handlers (`arus.inbox`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from sqlalchemy import Connection, text

from .audit import Auditor
from .changelog import ChangeLog
from .errors import CatchupBusyError
from .followers import note_watermark
from .inbox import Inbox
from .registry import Registry
from .requests import RequestIntake, queue
from .session import Connected, Received, Session, Subscribed
from .topics import CATCHUP_REQUESTS, WATERMARKS

logger = logging.getLogger(__name__)

_HELD = text("SELECT topic_filter, qos FROM arus_subscription")
_HOLD = text(
    "INSERT INTO arus_subscription (topic_filter, qos) VALUES (:topic_filter, :qos)"
    " ON CONFLICT (topic_filter) DO UPDATE SET qos = excluded.qos"
)
_LET_GO = text("DELETE FROM arus_subscription WHERE topic_filter = :topic_filter")
_LET_ALL_GO = text("DELETE FROM arus_subscription")
#: From here on a reason code of SUBACK is a refusal (MQTT 5, 3.9.3).
_REFUSED = 0x80


class Intake:
    """Lives in the relay's thread.

    :param own: topics that a look-back takes out of the session, if they were in it.
    """

    def __init__(
        self,
        log: ChangeLog,
        session: Session,
        inbox: Inbox,
        auditor: Auditor,
        registry: Registry,
        *,
        prefix: str,
        own: Collection[str],
    ) -> None:
        self._log = log
        self._session = session
        self._inbox = inbox
        self._auditor = auditor
        self._registry = registry
        self._prefix = prefix
        self._own = frozenset(own)
        self._requests = RequestIntake(
            [registration.entity for registration in registry], log.vessel_id
        )
        #: Revision of the subscriptions that the broker was told of; None in no connection.
        self._told: int | None = None
        #: What the broker's half of the session holds.
        self._held: dict[str, int] = {}
        #: What was asked for, by packet id.
        self._asked: dict[int, list[str]] = {}
        #: The sync's own messages that the next `serve` takes.
        self._waiting: list[Received] = []

    # -- subscriptions ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a connection: what came by the last one comes again."""
        self._inbox.connected()
        self._waiting.clear()
        self._asked.clear()

    def opened(self, connected: Connected, *, looked_back: bool) -> None:
        """Give the broker all subscriptions.

        Also where it has kept the session: it may be one that began with a connection of ours which ended
        before we heard of it, and before it got any subscription.

        :param looked_back: this connection has begun with a look-back.
        """
        if connected.session_present:
            rows = self._log.rows(_HELD, {})
            self._held = {row.topic_filter: row.qos for row in rows}
        else:
            self._held = {}
            with self._log.turn() as turn:
                turn.execute(_LET_ALL_GO)
        if looked_back:
            for topic in self._own:
                self._held.pop(topic, None)
        self._tell(every=True)

    def lost(self) -> None:
        """Note that the connection has ended."""
        self._told = None

    def mind(self) -> None:
        """Tell the broker of subscriptions that have changed, and begin digests that are due."""
        if self._told is not None and self._told != self._inbox.subscriptions.revision:
            self._tell()
        self._auditor.step()

    def _tell(self, *, every: bool = False) -> None:
        self._told = self._inbox.subscriptions.revision
        wanted = {
            f"{self._prefix}/{CATCHUP_REQUESTS}": 1,
            f"{self._prefix}/{WATERMARKS}/+": 1,
            **self._inbox.subscriptions.filters(),
        }
        new = [(name, qos) for name, qos in wanted.items() if every or self._held.get(name) != qos]
        if new:
            self._asked[self._session.ask(new)] = [name for name, _ in new]
        old = [name for name in self._held if name not in wanted]
        if old:
            self._session.forget(old)
            with self._log.turn() as turn:
                turn.execute(_LET_GO, [{"topic_filter": name} for name in old])
            for name in old:
                del self._held[name]

    def answered(self, event: Subscribed) -> None:
        """Take the broker's answer to a subscription."""
        names = self._asked.pop(event.packet_id, [])
        granted = {}
        for name, reason in zip(names, event.reasons, strict=False):
            if reason < _REFUSED:
                granted[name] = reason
            else:
                logger.error(
                    "[MQTT Reliable Sync] the broker refuses the subscription to %s (reason code 0x%02x)",
                    name,
                    reason,
                )
        self._held |= granted
        if granted:
            with self._log.turn() as turn:
                rows = [{"topic_filter": name, "qos": qos} for name, qos in granted.items()]
                turn.execute(_HOLD, rows)

    # -- messages ---------------------------------------------------------------------------------

    def take(self, received: Received) -> None:
        """Take a message: serve it with the next `serve`, or hand it to the application."""
        if self._is_own(received.topic):
            self._waiting.append(received)
        elif self._inbox.take(received):
            self._session.acknowledge(received.packet_id)

    def _is_own(self, topic: str) -> bool:
        return topic == f"{self._prefix}/{CATCHUP_REQUESTS}" or topic.startswith(
            f"{self._prefix}/{WATERMARKS}/"
        )

    def serve(self) -> bool:
        """Serve what has come for the sync itself, and acknowledge what is done.

        :returns: whether a catch-up was asked for.
        """
        for packet_id in self._inbox.settled():
            self._session.acknowledge(packet_id)
        if not self._waiting:
            return False
        asked = False
        with self._log.turn() as turn:
            for received in self._waiting:
                if received.topic.endswith(f"/{CATCHUP_REQUESTS}"):
                    asked = self._serve_request(turn.connection, received.payload) or asked
                else:
                    name = received.topic.rpartition("/")[2]
                    note_watermark(
                        turn.connection, name, received.payload, vessel_id=self._log.vessel_id
                    )
            self._requests.journal(turn.connection)
        for received in self._waiting:
            if received.qos:
                self._session.acknowledge(received.packet_id)
        self._waiting.clear()
        return asked

    def _serve_request(self, connection: Connection, payload: bytes) -> bool:
        request = self._requests.take(payload)
        if request is None:
            return False
        try:
            queue(connection, request, self._registry, "mqtt")
        except CatchupBusyError as error:
            self._requests.refuse(str(error))
            return False
        return True
