"""The inbox: subscriptions, and the messages that come in on them.

A message's handler runs in a thread of its own, in an application context, in the order of its topic. Only
when it has returned is the message acknowledged to the broker, so a power cut brings it again. A handler that
fails is tried again with a growing pause while other topics go on; in the end the message is parked in the
database, where a person can see and replay it.

The relay's thread owns the session; the two meet in `Inbox`, whose lock is held for a few lines at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Engine

from .bell import Bell
from .database import transaction
from .errors import LogUnavailableError, TopicError, UnknownMessageError
from .parked import ParkedMessage, park
from .session import Received
from .topics import matches, validate_filter

logger = logging.getLogger(__name__)

#: Seconds before a handler is tried again, each time; then its message is parked.
RETRIES = (0.2, 1.0, 5.0, 15.0)
#: Seconds before parking itself is tried again when the database can't be used.
_PARK_RETRY = 2.0
#: Characters that the database keeps of a filter.
MAX_FILTER = 512


@dataclass(frozen=True, slots=True)
class Message:
    """An inbound message, as a handler gets it: hostile until the handler has validated it."""

    topic: str
    payload: bytes
    #: It was the topic's retained message when we subscribed.
    retain: bool = False

    def json(self) -> Any:
        """Return the payload decoded.

        :raises ValueError: it is not JSON.
        """
        return orjson.loads(self.payload)


Handler = Callable[[Message], object]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter and what its messages are handed to."""

    topic_filter: str
    qos: int
    handler: Handler


class Subscriptions:
    """What an application subscribes to. May be changed at any time, from any thread."""

    def __init__(self) -> None:
        self._by_filter: dict[str, list[Subscription]] = {}
        self._lock = threading.Lock()
        self._prefixes: tuple[str, ...] | None = None
        #: Grows with each change.
        self.revision = 0

    def allow(self, prefixes: Iterable[str]) -> None:
        """Set the prefixes that filters may have, and check those that are there.

        :raises TopicError: one has another.
        """
        self._prefixes = tuple(prefixes)
        for topic_filter in self.filters():
            self._check(topic_filter)

    def add(self, topic_filter: str, qos: int, handler: Handler) -> None:
        """Hand the messages of a filter to a handler; the same again changes nothing.

        :raises TopicError: the filter breaks the rules of MQTT 5, section 4.7, has no allowed prefix, or the
            QoS is neither 0 nor 1.
        """
        validate_filter(topic_filter)
        if len(topic_filter) > MAX_FILTER:
            raise TopicError(f"a filter can't be longer than {MAX_FILTER} characters here")
        if qos not in {0, 1}:
            # A QoS 2 message is lost by a client that dies between PUBREC and PUBREL (paho-mqtt #382).
            raise TopicError(f"qos is {qos!r}; messages are received at 0 or 1")
        self._check(topic_filter)
        subscription = Subscription(topic_filter, qos, handler)
        with self._lock:
            known = self._by_filter.setdefault(topic_filter, [])
            if subscription not in known:
                known.append(subscription)
                self.revision += 1

    def remove(self, topic_filter: str) -> None:
        """End the subscription to a filter; one that is not there changes nothing."""
        with self._lock:
            if self._by_filter.pop(topic_filter, None) is not None:
                self.revision += 1

    def filters(self) -> dict[str, int]:
        """Return the filters, each with its QoS."""
        with self._lock:
            return {name: max(s.qos for s in found) for name, found in self._by_filter.items()}

    def of(self, topic: str) -> list[Subscription]:
        """Return the subscriptions that a message on `topic` reaches."""
        with self._lock:
            return [
                subscription
                for name, found in self._by_filter.items()
                if matches(name, topic)
                for subscription in found
            ]

    def named(self, topic_filter: str) -> list[Subscription]:
        """Return the subscriptions of one filter."""
        with self._lock:
            return list(self._by_filter.get(topic_filter, ()))

    def _check(self, topic_filter: str) -> None:
        shared = topic_filter.startswith("$share/")
        plain = topic_filter.split("/", 2)[2] if shared else topic_filter
        if self._prefixes is not None and not plain.startswith(self._prefixes):
            allowed = " or ".join(self._prefixes)
            raise TopicError(f"{topic_filter!r} is not allowed: a filter begins with {allowed}")


@dataclass(slots=True)
class _Delivery:
    """A message on its way through its handlers."""

    message: Message
    #: 0 for a QoS 0 message, which is not acknowledged.
    packet_id: int
    #: The connection that it came by: its packet id means nothing in another one.
    connection: int
    waiting: deque[Subscription]
    attempts: int = 0


@dataclass(slots=True)
class _Topic:
    """The messages of one topic that wait, oldest first."""

    deliveries: deque[_Delivery] = field(default_factory=deque)
    #: Monotonic seconds before which the first is not tried again.
    not_before: float = 0.0


class Inbox:
    """Hands messages to their handlers, off the relay's thread.

    :param engine: where messages are parked, from `arus.database.open_engine`.
    :param context: what a handler runs in (an application context).
    :param bell: rung when there is something to acknowledge; the inbox's own.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        engine: Engine,
        context: Callable[[], AbstractContextManager[Any]],
        bell: Bell,
    ) -> None:
        self.subscriptions = subscriptions
        self._engine = engine
        self._context = context
        self._bell = bell
        self._topics: dict[str, _Topic] = {}
        self._changed = threading.Condition()
        self._connection = 0
        #: Packet ids that may be acknowledged in this connection.
        self._done: list[int] = []
        #: Handled, but their connection had ended by then: the broker will send them once more.
        self._redeliveries: deque[tuple[str, bytes]] = deque(maxlen=1_000)
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- the relay's side -------------------------------------------------------------------------

    def connected(self) -> None:
        """Begin a connection: what waits from the last one will come again."""
        with self._changed:
            self._connection += 1
            self._done.clear()
            for topic in self._topics.values():
                # The first may be with its handler now; its end is noted by `_settle`.
                keep = [d for n, d in enumerate(topic.deliveries) if n == 0 or not d.packet_id]
                topic.deliveries = deque(keep)

    def take(self, received: Received) -> bool:
        """Take a message; return whether it can be acknowledged at once: nobody wants it."""
        found = self.subscriptions.of(received.topic)
        message = Message(received.topic, received.payload, received.retain)
        with self._changed:
            again = (message.topic, message.payload)
            if not found or (received.qos and again in self._redeliveries):
                if found:
                    self._redeliveries.remove(again)
                return received.qos > 0
            packet_id = received.packet_id if received.qos else 0
            delivery = _Delivery(message, packet_id, self._connection, deque(found))
            topic = self._topics.setdefault(message.topic, _Topic())
            first = topic.deliveries[0] if topic.deliveries else None
            if (
                first is not None
                and first.packet_id
                and first.connection != self._connection
                and first.message.payload == message.payload
            ):
                # It came by an earlier connection and is with its handler: only the packet id is new.
                first.packet_id, first.connection = packet_id, self._connection
                return False
            topic.deliveries.append(delivery)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="arus-inbox", daemon=True)
                self._thread.start()
            self._changed.notify()
        return False

    def settled(self) -> list[int]:
        """Return the packet ids to acknowledge now."""
        with self._changed:
            done, self._done = self._done, []
        return done

    def stop(self, timeout: float) -> None:
        """End after the handler that runs; what waits is not acknowledged, so it comes again."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    # -- the handlers' side -----------------------------------------------------------------------

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                self._handle(delivery)
            except Exception as error:  # noqa: BLE001  # the handler is the application's: any failure is one
                self._failed(delivery, error)
            else:
                self._settle(delivery)
        self._bell.close()

    def _next(self) -> _Delivery | None:
        """Wait for a topic whose first message may be tried now."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                soonest: float | None = None
                for topic in self._topics.values():
                    if topic.not_before <= now:
                        return topic.deliveries[0]
                    soonest = min(soonest or topic.not_before, topic.not_before)
                self._changed.wait(None if soonest is None else soonest - now)
        return None

    def _handle(self, delivery: _Delivery) -> None:
        while delivery.waiting:  # those that have returned are not called again
            with self._context():
                delivery.waiting[0].handler(delivery.message)
            delivery.waiting.popleft()

    def _settle(self, delivery: _Delivery) -> None:
        with self._changed:
            topic = self._topics[delivery.message.topic]
            topic.deliveries.popleft()
            topic.not_before = 0.0
            if not topic.deliveries:
                del self._topics[delivery.message.topic]
            if delivery.packet_id and delivery.connection == self._connection:
                self._done.append(delivery.packet_id)
            elif delivery.packet_id:
                self._redeliveries.append((delivery.message.topic, delivery.message.payload))
        self._bell.ring()

    def _failed(self, delivery: _Delivery, error: Exception) -> None:
        delivery.attempts += 1
        topic = delivery.message.topic
        if delivery.attempts <= len(RETRIES):
            pause = RETRIES[delivery.attempts - 1]
            logger.warning(
                "[MQTT Reliable Sync] a handler of %s failed (%s: %s); trying again in %g s",
                topic,
                type(error).__name__,
                error,
                pause,
            )
        elif self._parked(delivery, error):
            self._settle(delivery)
            return
        else:
            pause = _PARK_RETRY
        with self._changed:
            self._topics[topic].not_before = time.monotonic() + pause

    def _parked(self, delivery: _Delivery, error: Exception) -> bool:
        """Park a message; False where the database can't be used now."""
        try:
            with self._engine.connect() as connection, transaction(connection):
                for subscription in delivery.waiting:
                    park(
                        connection,
                        topic=delivery.message.topic,
                        payload=delivery.message.payload,
                        topic_filter=subscription.topic_filter,
                        reason=f"{type(error).__name__}: {error}",
                        attempts=delivery.attempts,
                    )
        except LogUnavailableError as unavailable:
            logger.warning("[MQTT Reliable Sync] a message can't be parked: %s", unavailable)
            return False
        logger.error(
            "[MQTT Reliable Sync] a message on %s is parked: its handler failed %d times",
            delivery.message.topic,
            delivery.attempts,
            exc_info=error,
        )
        return True


def replay(message: ParkedMessage, subscriptions: Subscriptions) -> None:
    """Hand a parked message to its handlers once more, in the context of the caller.

    :raises UnknownMessageError: nobody subscribes to its filter any more. What a handler raises comes through.
    """
    found = subscriptions.named(message.topic_filter)
    if not found:
        raise UnknownMessageError(f"nobody subscribes to {message.topic_filter!r} any more")
    for subscription in found:
        subscription.handler(Message(message.topic, message.payload))
