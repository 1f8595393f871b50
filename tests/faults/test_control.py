"""The control: what Mosquitto does by itself to a subscriber's QoS 2 handshake, no vessel in sight.

The oracle excuses an alert that is repeated when the broker ends just as it hands the alert over.
This shows why: the publisher's handshake is long complete, and the broker repeats the message.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from tests.faults.link import Frames
from tests.support.lifecycle import Started
from tests.support.mosquitto import Mosquitto

_CONNACK, _PUBLISH, _PUBREL, _SUBACK = 2, 3, 6, 9
_REPEATED = 0x3C  # PUBLISH, DUP, QoS 2


class RawSubscriber(Started):
    """A durable subscriber of MQTT 3.1.1, packet by packet."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._frames = Frames()
        self._packets: list[tuple[int, bytes]] = []
        # clean session off, keepalive 60, client id "control"
        self.send(b"\x10\x13\x00\x04MQTT\x04\x00\x00\x3c\x00\x07control")
        assert self.next()[0] >> 4 == _CONNACK

    def close(self) -> None:
        self._socket.close()

    def send(self, packet: bytes) -> None:
        """Send a packet."""
        self._socket.sendall(packet)

    def next(self) -> tuple[int, bytes]:
        """The next packet's first byte and the rest."""
        while not self._packets:
            data = self._socket.recv(4096)
            assert data, "the broker closed the connection"
            self._packets += self._frames.feed(data)
        return self._packets.pop(0)


def test_mosquitto_may_repeat_a_message_whose_handshake_it_was_stopped_in(
    start_mosquitto: Callable[..., Mosquitto],
) -> None:
    broker = start_mosquitto()
    with RawSubscriber(broker.port) as subscriber:
        subscriber.send(b"\x82\x06\x00\x01\x00\x01t\x02")
        assert subscriber.next()[0] >> 4 == _SUBACK
        broker.publish("t", "once", "-q", "2")  # mosquitto_pub ends with its PUBCOMP
        header, body = subscriber.next()
        assert header >> 4 == _PUBLISH
        subscriber.send(b"\x50\x02" + body[3:5])
        assert subscriber.next()[0] >> 4 == _PUBREL
        # it has processed the message; its PUBCOMP is under way when the broker ends
        broker.stop()
        broker.start()
    with RawSubscriber(broker.port) as subscriber:
        again, _ = subscriber.next()
    # MQTT wants the PUBREL again; Mosquitto 2.0.11 sends the PUBLISH with DUP, though it has the PUBREC
    assert again >> 4 == _PUBREL or again == _REPEATED, f"{again:#x}"
