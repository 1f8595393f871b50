"""Deliveries: the messages that the broker sends, and their acknowledgements.

A message that is larger than `MQTT_MAX_PACKET_SIZE`, or breaks a rule of MQTT, is logged, acknowledged and discarded.
Without the acknowledgement the broker would send it again in each connection, for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from arus.logs import get_logger

from .events import Discarded, Received
from .packets import PUBACK, PUBREC, Frame, Publish, decode_publish, encode_ack

logger = get_logger(__name__)

#: Log lines about discarded messages in each period, and the period in seconds: a flood must not fill the disk.
LINES, PERIOD = 10, 60.0
#: Maximum characters of a topic in a log line.
_SHOWN = 200


class Deliveries:
    """The messages of one session. Used by one thread.

    :param limit: bytes of the largest packet (`MQTT_MAX_PACKET_SIZE`).
    :param clock: returns monotonic seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        #: Packet ids of QoS 2 messages of this connection that are not acknowledged.
        self._exactly_once: set[int] = set()
        #: When the present period of log lines began, in monotonic seconds; its lines, and discards without one.
        self._period_began = clock()
        self._lines = 0
        self._unlogged = 0

    def begin(self) -> None:
        """Begin a connection: the broker sends all unacknowledged messages again."""
        self._exactly_once.clear()

    def take(self, frame: Frame, *, v5: bool) -> Received | Discarded:
        """Return the message in a PUBLISH packet.

        :raises MalformedPacketError: not even its packet id can be read.
        """
        publish = decode_publish(frame, v5=v5)
        if publish.qos == 2:
            self._exactly_once.add(publish.packet_id)
        if publish.fault is not None:
            return self._discard(publish, too_large=frame.left_out > 0)
        return Received(
            topic=publish.topic.decode(),
            payload=publish.payload,
            packet_id=publish.packet_id,
            qos=publish.qos,
            retain=publish.retain,
            dup=publish.dup,
        )

    def acknowledgement(self, packet_id: int) -> bytes:
        """Return the packet that acknowledges a message of this connection.

        A message of QoS 2 is acknowledged once it is handled, like one of QoS 1. The vessel subscribes at QoS 0 and 1
        only, so the broker sends QoS 2 for a subscription that another program made with this client id.
        """
        if packet_id in self._exactly_once:
            self._exactly_once.discard(packet_id)
            return encode_ack(PUBREC, packet_id)
        return encode_ack(PUBACK, packet_id)

    def _discard(self, publish: Publish, *, too_large: bool) -> Discarded:
        topic = publish.topic.decode(errors="backslashreplace")[:_SHOWN]
        reason = publish.fault or ""
        if self._may_log():
            logger.warning(
                "[MQTT Reliable Sync] a message on %r is discarded: %s; %s",
                topic,
                reason,
                f"MQTT_MAX_PACKET_SIZE is {self._limit}: raise it, or find out who publishes this"
                if too_large
                else "find out who publishes this",
            )
        return Discarded(topic, publish.packet_id, publish.qos, reason)

    def _may_log(self) -> bool:
        now = self._clock()
        if now - self._period_began >= PERIOD:
            if self._unlogged:
                logger.warning(
                    "[MQTT Reliable Sync] %d more messages were discarded in the last %d s",
                    self._unlogged,
                    now - self._period_began,
                )
            self._period_began, self._lines, self._unlogged = now, 0, 0
        self._lines += 1
        self._unlogged += self._lines > LINES
        return self._lines <= LINES
