"""Topic aliases: a short number in the place of a topic that was sent before in this connection (MQTT 5, 3.3.2.3.4).

An alias belongs to one connection, and the packets of a connection arrive in order. A message that is sent again in a
later connection is encoded anew, so it never refers to an alias of the earlier one.
"""

from __future__ import annotations

import math

from .packets import ALIAS_OVERHEAD, PUBLISH_OVERHEAD, encode_publish

#: The most aliases that are used, whatever the broker accepts.
MOST = 64
#: Reason codes of a DISCONNECT with which a broker shows that it does not understand an alias: malformed packet,
#: protocol error, topic alias invalid (MQTT 5, 3.14.2.1).
NOT_UNDERSTOOD = frozenset({0x81, 0x82, 0x94})


class TopicAliases:
    """The aliases of one connection.

    A topic gets an alias when it is used for the second time: many topics are used once, and brokers accept few.

    :param most: how many the broker accepts; 0 for none.
    :param maximum_packet: bytes of the largest packet that it accepts.
    """

    def __init__(self, most: int = 0, maximum_packet: float = math.inf) -> None:
        self._left = min(most, MOST)
        #: Bytes of topic and payload of a message that can introduce an alias.
        self._room = maximum_packet - PUBLISH_OVERHEAD - ALIAS_OVERHEAD
        self.is_used = False
        #: By topic: the alias that the broker knows; 0 for a topic that was used once.
        self._known: dict[bytes, int] = {}

    def encode_publish(
        self,
        topic: bytes,
        payload: bytes,
        *,
        packet_id: int,
        qos: int,
        retain: bool,
        dup: bool,
        v5: bool,
    ) -> bytes:
        """Return a PUBLISH packet that is sent next in this connection, as short as possible."""
        alias = self._known.get(topic)
        if alias:
            topic = b""
        elif self._left and len(topic) + len(payload) <= self._room:
            alias = self._introduce(topic, is_second=alias == 0)
        return encode_publish(
            topic,
            payload,
            packet_id=packet_id,
            qos=qos,
            retain=retain,
            dup=dup,
            v5=v5,
            alias=alias or 0,
        )

    def _introduce(self, topic: bytes, *, is_second: bool) -> int:
        if not is_second:
            self._known[topic] = 0
            return 0
        self.is_used = True
        alias = 1 + sum(1 for each in self._known.values() if each)
        self._known[topic] = alias
        self._left -= 1
        return alias
