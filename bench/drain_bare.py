"""One drain with a bare socket, as the upper limit: packets are encoded beforehand, and none is stored or decoded.

`python -m bench.drain_bare PORT TOPIC QOS PAYLOADS` publishes each line of a file and prints JSON: seconds
from the first byte on an open connection to the last acknowledgement.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
import uuid
from pathlib import Path

from arus.mqtt.packets import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    encode_publish,
    encode_pubrel,
    encode_remaining,
)

#: Messages in flight by QoS: the best of 100 to 65,000. With more, the broker's search in its own list is slow.
WINDOW = {1: 4_000, 2: 300}


def run(port: int, topic: str, qos: int, payloads: list[bytes]) -> dict[str, float]:
    """Write as fast as the socket accepts data, and read as fast as data arrives."""
    packets = [
        encode_publish(
            topic.encode(),
            payload,
            packet_id=n % 65_000 + 1,
            qos=qos,
            retain=True,
            dup=False,
            v5=False,
        )
        for n, payload in enumerate(payloads)
    ]
    name = f"bare-{uuid.uuid4().hex}".encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"\x10" + encode_remaining(len(body)) + body)
        if connection.recv(4) != b"\x20\x02\x00\x00":
            raise SystemExit("not connected")
        connection.setblocking(False)
        began, cpu = time.perf_counter(), time.process_time()
        _drain(connection, packets, WINDOW[qos])
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def _drain(connection: socket.socket, packets: list[bytes], window: int) -> None:
    following = done = 0
    out, come = bytearray(), b""
    poll = select.poll()
    while done < len(packets):
        while following < len(packets) and following - done < window and len(out) < 65_536:
            out += packets[following]
            following += 1
        poll.register(connection, select.POLLIN | (select.POLLOUT if out else 0))
        poll.poll()
        if out:
            with contextlib.suppress(BlockingIOError):
                del out[: connection.send(out)]
        try:
            come += connection.recv(65_536)
        except BlockingIOError:
            continue
        whole = len(come) // 4 * 4  # each acknowledgement of 3.1.1 is four bytes
        for at in range(0, whole, 4):
            kind = come[at] & 0xF0
            if kind in {PUBACK, PUBCOMP}:
                done += 1
            elif kind == PUBREC:
                out += encode_pubrel(int.from_bytes(come[at + 2 : at + 4], "big"))
            else:
                raise SystemExit(f"not expected: {come[at : at + 4].hex()}")
        come = come[whole:]


if __name__ == "__main__":
    _, port_, topic_, qos_, path_ = sys.argv
    print(json.dumps(run(int(port_), topic_, int(qos_), Path(path_).read_bytes().splitlines())))
