"""Reads the frames of a WebSocket as they arrive.

paho holds a frame in memory until all of it has arrived, and copies it at each read. A broker may send one message of
256 MB in one frame, so the payload is passed on here in the pieces in which it arrives.
"""

from __future__ import annotations

from typing import NamedTuple

from arus.errors import MalformedPacketError

CONTINUATION, BINARY = 0x0, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA

#: Most bytes of a control frame's payload (RFC 6455, 5.5).
_MAX_CONTROL = 125


class Control(NamedTuple):
    """A control frame: close, ping or pong."""

    opcode: int
    payload: bytes


class WebSocketReader:
    """Splits the bytes of a connection into payload and control frames (RFC 6455, 5.2)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Bytes of the present data frame that are still to arrive.
        self._left = 0

    def feed(self, data: bytes) -> tuple[bytes, list[Control]]:
        """Add received bytes; return the MQTT bytes in them, and each control frame that is now complete.

        :raises MalformedPacketError: a frame that a server may not send, or that is neither binary nor control.
        """
        buffer = self._buffer
        buffer += data
        payload = bytearray()
        controls = []
        while buffer:
            if self._left:
                taken = min(self._left, len(buffer))
                payload += buffer[:taken]
                del buffer[:taken]
                self._left -= taken
                continue
            header = self._header()
            if header is None:
                break
            opcode, start, length = header
            if opcode in {CONTINUATION, BINARY}:
                self._left = length
                del buffer[:start]
                continue
            if len(buffer) < start + length:
                break
            controls.append(Control(opcode, bytes(buffer[start : start + length])))
            del buffer[: start + length]
        return bytes(payload), controls

    def _header(self) -> tuple[int, int, int] | None:
        """Return the opcode, the bytes of the header and the length of the payload; None if it is not complete."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, length, start = buffer[0] & 0x0F, buffer[1], 2
        if length & 0x80:
            raise MalformedPacketError("the broker sent a masked WebSocket frame")
        if opcode not in {CONTINUATION, BINARY, CLOSE, PING, PONG}:
            raise MalformedPacketError(f"the broker sent a WebSocket frame of type {opcode}")
        if opcode & 0x08 and length > _MAX_CONTROL:
            raise MalformedPacketError(
                "the broker sent a WebSocket control frame that is too large"
            )
        if length > _MAX_CONTROL:
            start += 2 if length == 126 else 8
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        return opcode, start, length
