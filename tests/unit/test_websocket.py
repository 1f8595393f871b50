"""WebSocket frames: the payload is passed on as it arrives, whatever the pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import MalformedPacketError
from arus.mqtt.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, Control, WebSocketReader


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame as a server sends it."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 65_536:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes((0x80 | opcode,)) + length + payload


DATA = st.tuples(
    st.sampled_from([BINARY, CONTINUATION]),
    st.binary(max_size=200) | st.sampled_from([126, 3_000]).map(bytes),
)
CONTROLS = st.tuples(st.sampled_from([CLOSE, PING, PONG]), st.binary(max_size=125))


@given(st.lists(DATA | CONTROLS, max_size=8), st.lists(st.integers(1, 900), min_size=1))
def test_frames_cut_anywhere_give_the_same_payload(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(frame(*one) for one in frames)
    reader = WebSocketReader()
    payload, controls = b"", []
    sizes = itertools.cycle(cuts)
    at = 0
    while at < len(stream):
        size = next(sizes)
        more, found = reader.feed(stream[at : at + size])
        at += size
        payload += more
        controls += found
        assert len(reader._buffer) < 2 + 8 + 125
    assert payload == b"".join(body for opcode, body in frames if not opcode & 8)
    assert controls == [Control(*one) for one in frames if one[0] & 8]


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536, 200_000])
def test_a_frame_of_any_size_is_passed_on(size: int) -> None:
    data, body = frame(BINARY, bytes(size)), b""
    reader = WebSocketReader()
    for at in range(0, len(data), 4_096):
        body += reader.feed(data[at : at + 4_096])[0]
        assert not reader._left or not reader._buffer
    assert body == bytes(size)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(b"\x82\x81", "masked"), (b"\x81\x01", "of type 1"), (b"\x89\x7e", "too large")],
)
def test_what_a_server_may_not_send_is_malformed(data: bytes, complaint: str) -> None:
    with pytest.raises(MalformedPacketError, match=complaint):
        WebSocketReader().feed(data)
