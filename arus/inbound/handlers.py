"""The inbox: subscriptions, and the messages that come in on them.

Handlers run in a separate thread, in an application context; messages of one topic are handled in order. A message is
acknowledged to the broker only after its handler has returned, so the broker sends it again after a power cut. A
handler that fails is called again after growing pauses while other topics continue; after the last retry the message
becomes a dead letter in the database, where a person can see and replay it.

Waiting messages are bounded in bytes. Beyond the bound, a QoS 0 message is dropped. Others are neither kept nor
acknowledged; once there is room again, the relay reconnects, and the broker sends them again. The socket is read all
the time, because the acknowledgements of our own messages arrive on it too.

The relay's thread owns the session. The two threads share `Inbox`, whose lock is held only briefly.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import orjson
from msgspec import Struct, field
from msgspec.structs import replace
from sqlalchemy import Engine

from arus.database import transaction
from arus.errors import LogUnavailableError, TopicError, UnknownMessageError
from arus.logs import get_logger
from arus.mqtt.events import Received
from arus.outbox.notifier import Notifier
from arus.protocol.topics import VESSEL_ID_LEVEL, matches, validate_filter

from .attempts import Attempts
from .dead_letters import DeadLetter, add_dead_letter

logger = get_logger(__name__)

#: Seconds before each retry of a handler; after the last one its message becomes a dead letter.
RETRIES = (0.2, 1.0, 5.0, 15.0)
#: Seconds before storing a dead letter is retried when the database can't be used.
_PARK_RETRY = 2.0
#: Bytes of waiting messages in memory. A message is always kept if no other waits.
MAX_WAITING = 8 * 1_048_576
#: Bytes that a waiting message takes in addition to its topic and payload, roughly.
_OVERHEAD = 1_024
#: Maximum characters of a filter, as stored in the database.
MAX_FILTER = 512
#: Placeholder in a declared filter for the application's `MQTT_TOPIC_PREFIX`, which may itself contain the level
#: `{vessel_id}`.
PREFIX = "{prefix}"


class Message(Struct, frozen=True):
    """An inbound message, as passed to a handler: untrusted until the handler has validated it."""

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


class Subscription(Struct, frozen=True):
    """A topic filter and the handler of its messages."""

    topic_filter: str
    qos: int
    handler: Handler


class Subscriptions:
    """The subscriptions of an application. May be changed at any time, from any thread.

    :param declared: subscriptions declared on the extension, for this and other applications.
    :param prefix: the application's `MQTT_TOPIC_PREFIX`, which replaces `PREFIX` in declared filters.
    """

    def __init__(self, declared: Subscriptions | None = None, *, prefix: str = PREFIX) -> None:
        self._declared = declared
        self._prefix = prefix
        self._by_filter: dict[str, list[Subscription]] = {}
        self._lock = threading.Lock()
        self._prefixes: tuple[str, ...] | None = None
        #: Replaces `{vessel_id}` in filters; None until it is known.
        self._vessel_id: str | None = None
        self._revision = 0
        #: Declared filters that are not allowed here, and were logged.
        self._refused: set[str] = set()
        #: The last merge, and its revision.
        self._merged: tuple[int, dict[str, list[Subscription]]] | None = None

    @property
    def revision(self) -> int:
        """Grows with each change."""
        return self._revision + (self._declared.revision if self._declared is not None else 0)

    def allow(self, prefixes: Iterable[str]) -> None:
        """Set the prefixes that filters may have, and check the existing filters.

        :raises TopicError: a filter has another prefix.
        """
        self._prefixes = tuple(prefixes)
        self._merged = None
        for topic_filter in (*self._expanded(), *self._by_filter):
            self._check(topic_filter)

    def name_vessel(self, vessel_id: str) -> None:
        """Set the vessel's id, which replaces `{vessel_id}` in filters; the owner's log knows it at the latest."""
        if vessel_id != self._vessel_id:
            with self._lock:
                self._vessel_id = vessel_id
                self._revision += 1

    def add(self, topic_filter: str, qos: int, handler: Handler) -> None:
        """Add a handler for the messages of a filter; adding the same again has no effect.

        :raises TopicError: the filter breaks the rules of MQTT 5, section 4.7, has no allowed prefix, or the
            QoS is neither 0 nor 1.
        """
        validate_filter(topic_filter)
        if qos not in {0, 1}:
            # A QoS 2 message is lost by a client that dies between PUBREC and PUBREL (paho-mqtt #382).
            raise TopicError(f"qos is {qos!r}; messages are received at 0 or 1")
        self._check(topic_filter)
        subscription = Subscription(topic_filter, qos, handler)
        with self._lock:
            known = self._by_filter.setdefault(topic_filter, [])
            if subscription not in known:
                known.append(subscription)
                self._revision += 1

    def remove(self, topic_filter: str) -> None:
        """Remove the subscriptions to a filter; an unknown or declared filter is left as it is."""
        with self._lock:
            if self._by_filter.pop(topic_filter, None) is not None:
                self._revision += 1

    def filters(self) -> dict[str, int]:
        """Return the filters, each with its QoS."""
        return {name: max(s.qos for s in found) for name, found in self._all().items()}

    def of(self, topic: str) -> list[Subscription]:
        """Return the subscriptions that match `topic`."""
        return [
            subscription
            for name, found in self._all().items()
            if matches(name, topic)
            for subscription in found
        ]

    def named(self, topic_filter: str) -> list[Subscription]:
        """Return the subscriptions of one filter."""
        return list(self._all().get(topic_filter, ()))

    def _all(self) -> dict[str, list[Subscription]]:
        """Return the declared subscriptions and those added here, by filter."""
        revision = self.revision
        merged = self._merged
        if merged is None or merged[0] != revision:
            self._merged = merged = (revision, self._merge())
        return merged[1]

    def _merge(self) -> dict[str, list[Subscription]]:
        found: dict[str, list[Subscription]] = {}
        for name, declared in self._expanded().items():
            try:
                self._check(name)
            except TopicError as error:
                if name not in self._refused:
                    self._refused.add(name)
                    logger.error("[MQTT Reliable Sync] not subscribed: %s", error)  # noqa: TRY400
            else:
                found[name] = declared
        with self._lock:
            for name, own in self._by_filter.items():
                found[name] = found.get(name, []) + own
        if self._vessel_id is None:
            return found
        named: dict[str, list[Subscription]] = {}
        for name, subscriptions in found.items():
            own_name = name.replace(VESSEL_ID_LEVEL, self._vessel_id)
            named.setdefault(own_name, []).extend(
                replace(one, topic_filter=own_name) for one in subscriptions
            )
        return named

    def _expanded(self) -> dict[str, list[Subscription]]:
        """Return the declared subscriptions, with this application's prefix."""
        found: dict[str, list[Subscription]] = {}
        if self._declared is not None:
            for name, declared in self._declared._all().items():
                own_name = name.replace(PREFIX, self._prefix)
                found.setdefault(own_name, []).extend(
                    replace(one, topic_filter=own_name) for one in declared
                )
        return found

    def _check(self, topic_filter: str) -> None:
        if len(topic_filter) > MAX_FILTER:
            raise TopicError(f"a filter can't be longer than {MAX_FILTER} characters here")
        shared = topic_filter.startswith("$share/")
        plain = topic_filter.split("/", 2)[2] if shared else topic_filter
        if self._prefixes is not None and not plain.startswith((*self._prefixes, *self._named())):
            allowed = " or ".join(self._prefixes)
            raise TopicError(f"{topic_filter!r} is not allowed: a filter begins with {allowed}")

    def _named(self) -> tuple[str, ...]:
        """Return the allowed prefixes with this vessel's id in them."""
        if self._prefixes is None or self._vessel_id is None:
            return ()
        return tuple(one.replace(VESSEL_ID_LEVEL, self._vessel_id) for one in self._prefixes)


class _Delivery(Struct):
    """A message that is being handled."""

    message: Message
    #: 0 for a QoS 0 message, which is not acknowledged.
    packet_id: int
    #: The connection that it arrived on: its packet id is meaningless in another one.
    connection: int
    waiting: deque[Subscription]
    #: It may have been delivered before.
    dup: bool = False
    attempts: int = 0
    #: Its dead letter while a redelivered message is handled.
    letter_id: int | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, roughly."""
        return len(self.message.topic) + len(self.message.payload) + _OVERHEAD

    @property
    def identity(self) -> tuple[str, bytes]:
        """Topic and digest: what a redelivery of the message is recognised by."""
        return _identity(self.message)


def _identity(message: Message) -> tuple[str, bytes]:
    return message.topic, hashlib.blake2b(message.payload, digest_size=16).digest()


class _Topic(Struct):
    """The waiting messages of one topic, oldest first."""

    deliveries: deque[_Delivery] = field(default_factory=deque)
    #: The first is not tried again before this time, in monotonic seconds.
    not_before: float = 0.0


class Inbox:
    """Passes messages to their handlers, in a thread of its own.

    :param engine: where dead letters are stored, from `arus.database.open_engine`.
    :param context: returns the context that a handler runs in (an application context).
    :param notifier: notifies the owner of messages to acknowledge; not shared with others.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        engine: Engine,
        context: Callable[[], AbstractContextManager[Any]],
        notifier: Notifier,
    ) -> None:
        self.subscriptions = subscriptions
        self._engine = engine
        self._attempts = Attempts(engine)
        self._context = context
        self._notifier = notifier
        self._topics: dict[str, _Topic] = {}
        self._changed = threading.Condition()
        self._connection = 0
        #: Handled messages that may be acknowledged in this connection.
        self._done: list[_Delivery] = []
        #: Bytes of the waiting messages.
        self._bytes = 0
        #: There was no room for a message of this connection: the broker must send it again.
        self._postponing = False
        #: QoS 0 messages that were dropped since there was room.
        self._dropped = 0
        #: Handled, but not acknowledged in their connection: the broker's session will send them again.
        self._redeliveries: deque[tuple[str, bytes]] = deque(maxlen=1_000)
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- the relay's side -------------------------------------------------------------------------

    def connected(self, *, session_present: bool) -> None:
        """Begin a connection: the broker will send the waiting messages of the last one again, if it has its session."""
        with self._changed:
            self._connection += 1
            self._redeliveries.extend(delivery.identity for delivery in self._done)
            self._done.clear()
            self._postponing = False
            if not session_present:
                self._forget_session()
            for topic in self._topics.values():
                # The first may be in its handler now; `_settle` completes it.
                keep = [d for n, d in enumerate(topic.deliveries) if n == 0 or not d.packet_id]
                topic.deliveries = deque(keep)
            self._bytes = sum(d.size for topic in self._topics.values() for d in topic.deliveries)

    def _forget_session(self) -> None:
        """Keep what waits, without a packet id: the broker will neither send it again nor wait for its acknowledgement."""
        self._redeliveries.clear()
        for topic in self._topics.values():
            for delivery in topic.deliveries:
                delivery.packet_id = 0

    def take(self, received: Received) -> bool:
        """Queue a message; return whether it can be acknowledged at once: nobody subscribes, or it was handled."""
        found = self.subscriptions.of(received.topic)
        message = Message(received.topic, received.payload, received.retain)
        packet_id = received.packet_id if received.qos else 0
        with self._changed:
            if not found or (packet_id and received.dup and self._was_handled(message)):
                return packet_id > 0
            delivery = _Delivery(message, packet_id, self._connection, deque(found), received.dup)
            if not self._in_handler(delivery) and self._has_room(delivery):
                self._queue(delivery)
        return False

    def _was_handled(self, message: Message) -> bool:
        if not self._redeliveries or (identity := _identity(message)) not in self._redeliveries:
            return False
        self._redeliveries.remove(identity)
        return True

    def _in_handler(self, delivery: _Delivery) -> bool:
        """Whether a message arrived on an earlier connection and is in its handler: only the packet id is new."""
        topic = self._topics.get(delivery.message.topic)
        first = topic.deliveries[0] if topic is not None else None
        if (
            first is None
            or not delivery.dup
            or not first.packet_id
            or first.connection == self._connection
            or first.message.payload != delivery.message.payload
        ):
            return False
        first.packet_id, first.connection = delivery.packet_id, self._connection
        return True

    def _has_room(self, delivery: _Delivery) -> bool:
        """Whether to keep a message; if not, it is dropped (QoS 0) or left to the broker."""
        fits = not self._bytes or self._bytes + delivery.size <= MAX_WAITING
        if delivery.packet_id:
            if not fits and not self._postponing:
                logger.warning(
                    "[MQTT Reliable Sync] messages for the handlers wait at the broker: %d bytes wait in memory"
                    " (last topic: %s)",
                    self._bytes,
                    delivery.message.topic,
                )
            # Once one was left to the broker, all later ones are: they are handled in order.
            self._postponing = self._postponing or not fits
            return not self._postponing
        if not fits:
            if not self._dropped:
                logger.warning(
                    "[MQTT Reliable Sync] a QoS 0 message on %s is dropped: %d bytes wait for their handlers",
                    delivery.message.topic,
                    self._bytes,
                )
            self._dropped += 1
        return fits

    def _queue(self, delivery: _Delivery) -> None:
        topic = self._topics.setdefault(delivery.message.topic, _Topic())
        topic.deliveries.append(delivery)
        self._bytes += delivery.size
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="arus-inbox", daemon=True)
            self._thread.start()
        self._changed.notify()

    @property
    def wants_redelivery(self) -> bool:
        """Whether there is room again for messages of this connection that were left to the broker."""
        if not self._postponing:
            return False  # the relay alone sets it: no lock in each of its rounds
        with self._changed:
            return self._bytes <= MAX_WAITING // 4

    def finished(self) -> list[int]:
        """Return the packet ids to acknowledge now."""
        if not self._done:
            return []  # without the lock, in each round: whoever adds one notifies the relay afterwards
        with self._changed:
            done, self._done = self._done, []
        return [delivery.packet_id for delivery in done]

    def stop(self, timeout: float) -> None:
        """Stop after the running handler; waiting messages are not acknowledged, so the broker sends them again."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    # -- the handlers' side -----------------------------------------------------------------------

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                if not self._may_begin(delivery):
                    self._settle(delivery)
                    continue
                self._handle(delivery)
            except Exception as error:  # noqa: BLE001  # the handler is the application's: any failure is one
                self._finish(delivery)
                self._failed(delivery, error)
            else:
                self._finish(delivery)
                self._settle(delivery)
        self._notifier.close()

    def _may_begin(self, delivery: _Delivery) -> bool:
        """Note that a redelivered message is handled; False if its handler has ended the process too often."""
        if not delivery.dup or delivery.attempts:
            return True
        message = delivery.message
        try:
            delivery.letter_id = self._attempts.begin(
                message.topic, message.payload, delivery.waiting[0].topic_filter
            )
        except LogUnavailableError:
            return True  # handling it matters more than counting
        if delivery.letter_id is None:
            logger.error(
                "[MQTT Reliable Sync] a message on %s is a dead letter: the process ended each time that its handler ran",
                message.topic,
            )
        return delivery.letter_id is not None

    def _finish(self, delivery: _Delivery) -> None:
        """Note that a redelivered message's handler has not ended the process."""
        letter_id, delivery.letter_id = delivery.letter_id, None
        if letter_id is None:
            return
        try:
            self._attempts.end(letter_id)
        except LogUnavailableError as error:
            logger.warning("[MQTT Reliable Sync] a dead letter can't be deleted: %s", error)

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
        while delivery.waiting:  # handlers that have returned are not called again
            with self._context():
                delivery.waiting[0].handler(delivery.message)
            delivery.waiting.popleft()

    def _settle(self, delivery: _Delivery) -> None:
        with self._changed:
            topic = self._topics[delivery.message.topic]
            topic.deliveries.popleft()
            topic.not_before = 0.0
            self._bytes -= delivery.size
            if self._dropped and self._bytes <= MAX_WAITING // 4:
                logger.warning(
                    "[MQTT Reliable Sync] %d QoS 0 messages were dropped; there is room again",
                    self._dropped,
                )
                self._dropped = 0
            if not topic.deliveries:
                del self._topics[delivery.message.topic]
            if delivery.packet_id and delivery.connection == self._connection:
                self._done.append(delivery)
            elif delivery.packet_id:
                self._redeliveries.append(delivery.identity)
        self._notifier.notify()

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
        """Store a message as a dead letter; return False if the database can't be used now."""
        try:
            with self._engine.connect() as connection, transaction(connection):
                for subscription in delivery.waiting:
                    add_dead_letter(
                        connection,
                        topic=delivery.message.topic,
                        payload=delivery.message.payload,
                        topic_filter=subscription.topic_filter,
                        reason=f"{type(error).__name__}: {error}",
                        attempts=delivery.attempts,
                    )
        except LogUnavailableError as unavailable:
            logger.warning("[MQTT Reliable Sync] a dead letter can't be stored: %s", unavailable)
            return False
        logger.error(
            "[MQTT Reliable Sync] a message on %s is a dead letter: its handler failed %d times",
            delivery.message.topic,
            delivery.attempts,
            exc_info=error,
        )
        return True


def replay(message: DeadLetter, subscriptions: Subscriptions) -> None:
    """Pass a dead letter to its handlers again, in the context of the caller.

    Exceptions of a handler are passed on to the caller.

    :raises UnknownMessageError: nobody subscribes to its filter any more.
    """
    found = subscriptions.named(message.topic_filter)
    if not found:
        raise UnknownMessageError(f"nobody subscribes to {message.topic_filter!r} any more")
    for subscription in found:
        subscription.handler(Message(message.topic, message.payload))
