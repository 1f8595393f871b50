"""A broker that serves any client, and lacks what a test takes from it: a version, QoS 2, retained messages."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from arus.mqtt.packets import encode_remaining
from tests.support.scripted_broker import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Link,
    Packet,
    Publish,
    ScriptedBroker,
    packet,
)

QOS_2, PROBE = 2, "_probe"


@dataclass
class Abilities:
    """What it does; to be changed at any time."""

    #: Announced in CONNACK (MQTT 5); None for nothing.
    maximum_qos: int | None = None
    retain_available: bool | None = None
    #: It has no subscriptions with wildcards, and announces that or not (MQTT 5).
    takes_wildcards: bool = True
    announces_wildcards: bool = False
    #: It closes the connection on each QoS 2 PUBLISH; with this reason code, if any.
    hangs_up_on_qos_2: bool = False
    hang_up_reason: int | None = None
    #: It answers QoS 2 with PUBACK.
    lowers_qos: bool = False
    #: It refuses a CONNECT with a retained will (0x9A).
    refuses_retained_will: bool = False
    #: The reason code of its answer to a PUBLISH, or to CONNECT; 0 to accept it.
    refusal: Callable[[Publish], int] = lambda _publish: 0
    connect_refusal: int = 0
    #: It acknowledges nothing.
    silent: bool = False


class LimitedBroker(ScriptedBroker):
    """Serves each connection in a thread of its own."""

    def __init__(self, abilities: Abilities | None = None) -> None:
        super().__init__()
        self.abilities = abilities or Abilities()
        #: All that was published, but for probes and claims; and the client ids of all connections.
        self.published: list[Publish] = []
        self.clients: list[str] = []
        #: QoS 2 messages that were released.
        self.released: list[int] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> LimitedBroker:
        self._listening.start()
        return self

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        super().close()
        self._listening.join()

    def changes(self, topic: str = "alerts") -> list[Publish]:
        """What was published on the topic of an entity."""
        return [each for each in self.published if each.topic == f"vessel/sync/{topic}"]

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link = self.accept(3600)
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: Link) -> None:
        with contextlib.suppress(ConnectionError, OSError, AssertionError):
            connect = link.connect()
            self.clients.append(connect.client_id)
            if connect.will_retain and self.abilities.refuses_retained_will:
                link.connack(0x9A)
            elif self.abilities.connect_refusal:
                link.connack(self.abilities.connect_refusal)
            else:
                self._welcome(link)
                while (got := link.next(3600)) is not None:
                    self._answer(link, got, is_probe=connect.client_id.endswith(PROBE))
        link.close()

    def _welcome(self, link: Link) -> None:
        abilities = self.abilities
        properties = b""
        if abilities.maximum_qos is not None:
            properties += bytes((0x24, abilities.maximum_qos))
        if abilities.retain_available is not None:
            properties += bytes((0x25, abilities.retain_available))
        if abilities.announces_wildcards:
            properties += bytes((0x28, abilities.takes_wildcards))
        link.takes_wildcards = abilities.takes_wildcards
        tail = encode_remaining(len(properties)) + properties if link.level == 5 else b""
        link.send(packet(CONNACK, bytes((0, 0)) + tail))

    def _answer(self, link: Link, got: object, *, is_probe: bool) -> None:
        abilities = self.abilities
        if isinstance(got, Packet) and got.kind == PUBREL:
            self.released.append(got.packet_id)
            link.ack(PUBCOMP, got.packet_id)
        if not isinstance(got, Publish):
            return
        if not is_probe:
            self.published.append(got)
        if abilities.silent:
            return
        if got.qos == QOS_2 and abilities.hangs_up_on_qos_2:
            if abilities.hang_up_reason is not None:
                link.send(packet(DISCONNECT, bytes((abilities.hang_up_reason, 0))))
            raise ConnectionError("hangs up")
        reason = abilities.refusal(got)
        link.ack(
            PUBREC if got.qos == QOS_2 and not abilities.lowers_qos else PUBACK,
            got.packet_id,
            reason,
        )
