"""The inbound part of the relay: maintains the subscriptions at the broker, and receives their messages.

Two kinds of messages are the sync's own and handled here, in the owner's transaction: requests for a catch-up, and
the watermarks of followers. All others are passed to the application's handlers (`arus.inbound.handlers`).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from arus.audit.auditor import Auditor
from arus.catchup.limiter import Recorded, RequestLimiter
from arus.catchup.requests import queue
from arus.errors import ArusError, CatchupBusyError, ConnectionLostError, RefusedMessageError
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.events import Connected, Received, Subscribed
from arus.mqtt.packets import in_packets
from arus.outbox import sql
from arus.outbox.counters import WATERMARK_REFUSALS, add_to_counters
from arus.outbox.followers import note_watermark
from arus.outbox.log import ChangeLog
from arus.protocol.encoding import is_about_another
from arus.protocol.messages import Progress
from arus.protocol.topics import CATCHUP_REQUESTS, WATERMARKS, TopicTree
from arus.registry import Registry

from .handlers import Inbox
from .neighbours import Neighbours, forget_neighbour
from .roll_calls import RollCalls
from .watermark_limiter import WatermarkLimiter
from .watermark_lines import WatermarkLines

logger = get_logger(__name__)

#: Reason codes of SUBACK from this one on are refusals (MQTT 5, 3.9.3).
_REFUSED = 0x80


class Claim(NamedTuple):
    """A watermark, and whether it is above the log's head."""

    #: The follower's.
    name: str
    #: The number above the head; None if it is not.
    ahead: int | None
    retained: bool


class Served(NamedTuple):
    """What the sync's own messages were about."""

    #: A catch-up was queued.
    requested: bool = False
    #: How much of a catch-up a follower has received, with the follower's name.
    reports: tuple[tuple[str, Progress], ...] = ()
    #: The watermarks.
    claims: tuple[Claim, ...] = ()

    def plus(self, other: Served) -> Served:
        """Return both together."""
        return Served(
            self.requested or other.requested,
            self.reports + other.reports,
            self.claims + other.claims,
        )


class InboundRouter:
    """Maintains the subscriptions and passes inbound messages on. Runs in the relay's thread.

    :param tree: the topics of all vessels.
    :param own: topics that a look-back unsubscribes from, even if the session had subscribed to them.
    """

    def __init__(
        self,
        log: ChangeLog,
        session: Session,
        inbox: Inbox,
        auditor: Auditor,
        registry: Registry,
        *,
        tree: TopicTree,
        own: Collection[str],
    ) -> None:
        self._log = log
        self._session = session
        self._inbox = inbox
        self._auditor = auditor
        self._registry = registry
        self._prefix = tree.prefix_of(log.vessel_id)
        self._own = frozenset(own)
        self._roll_calls = RollCalls(tree.of_all) if tree.is_per_vessel else None
        self._neighbours = None if tree.is_per_vessel else Neighbours(log, self._prefix)
        #: The record of a neighbour, from the time when this vessel shared its prefix, is deleted.
        self._forgot_neighbour = False
        self._requests = RequestLimiter(
            [registration.entity for registration in registry], log.vessel_id
        )
        #: Watermarks that were not accepted and are not counted yet, and the log lines about them.
        self._refused = 0
        self._lines = WatermarkLines()
        #: Revision of the subscriptions that were sent to the broker; None without a connection.
        self._told: int | None = None
        #: The subscriptions in the broker's half of the session.
        self._held: dict[str, int] = {}
        #: Filters of each SUBSCRIBE, by packet id.
        self._asked: dict[int, list[str]] = {}
        self._watermarks = WatermarkLimiter()
        #: The sync's own messages that the next `serve` handles.
        self._waiting: list[Received] = []
        #: The connection is to end once the broker has read everything queued before this time (monotonic seconds).
        self._reconnects_after: float | None = None
        #: A retained request was ignored, and was logged.
        self._ignored_retained = False

    # -- subscriptions ----------------------------------------------------------------------------

    def begin(self, connected: Connected) -> None:
        """Begin a connection: a broker that has kept the session sends the unacknowledged messages again."""
        self._inbox.connected(session_present=connected.session_present)
        self._waiting.clear()
        self._watermarks.begin()
        self._asked.clear()
        if self._roll_calls is not None:
            self._roll_calls.clear()

    def opened(self, connected: Connected, *, looked_back: bool) -> None:
        """Send all subscriptions to the broker.

        Also if it has kept the session: the session may have begun in a connection that ended before we received
        the broker's answer, and before we sent any subscription.

        :param looked_back: this connection has begun with a look-back.
        """
        if connected.session_present:
            self._held = self._log.subscriptions()
        else:
            self._held = {}
            with self._log.fenced_transaction() as fenced:
                fenced.execute(sql.inbound.ALL_UNSUBSCRIBED)
        if looked_back:
            for topic in self._own:
                self._held.pop(topic, None)
        if self._neighbours is None and not self._forgot_neighbour:
            forget_neighbour(self._log)
            self._forgot_neighbour = True
        self._tell(every=True)

    def lost(self) -> None:
        """Note that the connection has ended."""
        self._told = None
        self._reconnects_after = None
        self._watermarks.begin()  # the broker sends them again: until then nothing is due

    def mind(self) -> None:
        """Send changed subscriptions to the broker, start digests that are due, and record a neighbour."""
        if self._told is not None and self._told != self._inbox.subscriptions.revision:
            self._tell()
        self._auditor.step()
        self._lines.write()
        if self._neighbours is not None:
            self._neighbours.record()

    def status_is_due(self) -> bool:
        """Return whether the status is to be published for a roll call; true once for each answer."""
        return self._roll_calls is not None and self._roll_calls.is_due()

    def _tell(self, *, every: bool = False) -> None:
        self._told = self._inbox.subscriptions.revision
        wanted = {
            f"{self._prefix}/{CATCHUP_REQUESTS}": 1,
            f"{self._prefix}/{WATERMARKS}/+": 1,
            **self._about_others(),
            **self._inbox.subscriptions.filters(),
        }
        new = [(name, qos) for name, qos in wanted.items() if every or self._held.get(name) != qos]
        # A handler of the application may want our own messages.
        quiet = self._about_others().keys() - self._inbox.subscriptions.filters().keys()
        for some in in_packets(new):
            asked = self._session.ask(some, others_only=quiet)
            self._asked[asked] = [name for name, _ in some]
        old = [name for name in self._held if name not in wanted]
        for some_old in in_packets(old):
            self._session.forget(some_old)
        if old:
            with self._log.fenced_transaction() as fenced:
                fenced.execute(sql.inbound.UNSUBSCRIBED, [{"topic_filter": name} for name in old])
            for name in old:
                del self._held[name]

    def _about_others(self) -> dict[str, int]:
        """Return the filter of what concerns the whole fleet, with its QoS."""
        if self._roll_calls is not None:
            return {self._roll_calls.topic: 1}
        # QoS 0: a broker need not keep other vessels' statuses for a vessel that is away.
        return {} if self._neighbours is None else {self._neighbours.topic: 0}

    def answered(self, event: Subscribed) -> None:
        """Process the broker's answer to a subscription."""
        names = self._asked.pop(event.packet_id, [])
        answers = dict(zip(names, event.reasons, strict=False))
        if not answers:
            return
        granted = {name: qos for name, qos in answers.items() if qos < _REFUSED}
        for name, reason in answers.items():
            if name not in granted:
                self._held.pop(name, None)
                logger.error(
                    "[MQTT Reliable Sync] the broker refuses the subscription to %s (reason code 0x%02x)",
                    name,
                    reason,
                )
        self._held |= granted
        with self._log.fenced_transaction() as fenced:
            if granted:
                rows = [{"topic_filter": name, "qos": qos} for name, qos in granted.items()]
                fenced.execute(sql.inbound.SUBSCRIBED, rows)
            if refused := [{"topic_filter": name} for name in answers.keys() - granted.keys()]:
                fenced.execute(sql.inbound.UNSUBSCRIBED, refused)

    # -- messages ---------------------------------------------------------------------------------

    def take(self, received: Received) -> None:
        """Process a message: keep it for the next `serve`, or pass it to the application."""
        if self._neighbours is not None and received.topic == self._neighbours.topic:
            self._neighbours.take(received)  # the application's handlers may subscribe to it too
        prefix, _, name = received.topic.rpartition("/")
        if self._roll_calls is not None and received.topic == self._roll_calls.topic:
            self._roll_calls.take(received)
            self._acknowledge(received)
        elif prefix == f"{self._prefix}/{WATERMARKS}":
            self._take_watermark(name, received)
        elif received.topic == f"{self._prefix}/{CATCHUP_REQUESTS}":
            self._waiting.append(received)
        elif self._inbox.take(received):
            self._session.acknowledge(received.packet_id)

    def _acknowledge(self, received: Received) -> None:
        if received.qos:
            self._session.acknowledge(received.packet_id)

    def _take_watermark(self, name: str, received: Received) -> None:
        """Keep a watermark for the next `serve`; one for a vessel that shares the prefix must not cost a transaction."""
        is_ours = not is_about_another(received.payload, self._log.vessel_id)
        done = self._watermarks.take(name, received) if is_ours else received
        if done is not None:
            self._acknowledge(done)

    @property
    def wake_at(self) -> float:
        """When `serve` is to be called even if nothing arrives before, in monotonic seconds."""
        return self._watermarks.wake_at

    def serve(self) -> Served:
        """Handle the sync's own messages, and acknowledge all messages that are done.

        :raises ConnectionLostError: the broker must send messages again for which there was no room.
        """
        for packet_id in self._inbox.finished():
            self._session.acknowledge(packet_id)
        self._fetch_postponed()
        self._waiting += self._watermarks.due()
        if not self._waiting:
            return Served()
        served = Served()
        with self._log.fenced_transaction() as fenced:
            for received in self._waiting:
                served = served.plus(self._handle(fenced.connection, received))
            self._requests.journal(fenced.connection)
            self._count_refused(fenced.connection)
        for received in self._waiting:
            self._acknowledge(received)
        self._waiting.clear()
        return served

    def _count_refused(self, connection: Connection) -> None:
        refused = self._watermarks.discarded + self._refused
        if refused:
            add_to_counters(connection, {(WATERMARK_REFUSALS, "", "", ""): refused})
            self._watermarks.discarded = self._refused = 0

    def _fetch_postponed(self) -> None:
        """Reconnect for messages for which there was no room: the broker sends them again only then.

        It must have read our acknowledgements before, or it would send the same messages each time.
        """
        if self._told is None or not self._inbox.wants_redelivery:
            return
        if self._reconnects_after is None:
            self._reconnects_after = time.monotonic()
            self._session.ping()
        elif self._session.answered_until >= self._reconnects_after:
            raise ConnectionLostError("reconnecting for messages that waited for their handlers")

    def _handle(self, connection: Connection, received: Received) -> Served:
        """Handle one of the sync's own messages."""
        try:
            if received.topic.endswith(f"/{CATCHUP_REQUESTS}"):
                return Served(self._serve_request(connection, received))
            name = received.topic.rpartition("/")[2]
            try:
                noted = note_watermark(
                    connection, name, received.payload, vessel_id=self._log.vessel_id
                )
            except RefusedMessageError as error:
                self._refuse_watermark(name, f"a watermark is refused: {error}")
                return Served()
            if noted.says is not None:
                self._refuse_watermark(name, noted.says)
            if noted.removed is not None:
                self._lines.removed(noted.removed)
            reports = () if noted.progress is None else ((name, noted.progress),)
            return Served(False, reports, (Claim(name, noted.ahead, received.retain),))
        except (ArusError, SQLAlchemyError):
            raise  # a problem of ours: the message is handled in the next connection
        except Exception:
            # The broker would send it again in each connection, and the relay would fail each time.
            logger.exception(
                "[MQTT Reliable Sync] a message on %s can't be handled and is discarded",
                received.topic,
            )
        return Served()

    def _refuse_watermark(self, name: str, reason: str) -> None:
        self._refused += 1
        self._lines.refused(name, reason)

    def _serve_request(self, connection: Connection, received: Received) -> bool:
        if received.retain:
            # It would be carried out again in each new session.
            if not self._ignored_retained:
                self._ignored_retained = True
                logger.warning(
                    "[MQTT Reliable Sync] a retained message on %s is ignored: requests are not retained",
                    received.topic,
                )
            return False
        request = self._requests.take(received.payload, Recorded(connection))
        if request is None:
            return False
        if request.fields is not None:
            self._auditor.include(request.fields)
        try:
            queue(connection, request, self._registry, "mqtt")
        except CatchupBusyError as error:
            self._requests.refuse(str(error), request.consumer)
            return False
        return True
