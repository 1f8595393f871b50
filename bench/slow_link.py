"""A far or slow link: a TCP proxy that delays, throttles and counts.

It simulates a network's effect on a TCP stream: a lost packet arrives later and delays all packets behind
it. Nothing is lost within a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

from tests.support.lifecycle import Started

#: The bytes of a segment, and those of its IP and TCP headers.
SEGMENT, HEADERS = 1448, 52
#: Seconds of traffic that the modem buffers.
_MODEM_BUFFER = 1.0
_MESSAGE_ID = re.compile(rb'"messageId":"([^"]+)"')


@dataclass(frozen=True)
class Profile:
    """The properties of a link."""

    name: str
    #: The round trip in seconds, and its variation in either direction.
    round_trip: float
    jitter: float = 0.0
    #: The share of packets that arrive late, and by how many seconds, as after a retransmission.
    late: float = 0.0
    lateness: float = 0.0
    #: Bits a second each way; None for no limit.
    rate: int | None = None


class SlowLink(Started):
    """Listens on a loopback port and forwards each connection to `broker_port`."""

    def __init__(self, broker_port: int, profile: Profile, seed: int) -> None:
        self.port = 0
        #: Bytes including headers, by direction, of all connections so far.
        self.outward = 0
        self.inward = 0
        #: How often each message has passed, by message id.
        self.messages: Counter[bytes] = Counter()
        self._broker_port = broker_port
        self._profile = profile
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    @property
    def sent_twice(self) -> int:
        """The number of repeated messages, counting each repeat."""
        return sum(count - 1 for count in self.messages.values())

    def start(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        try:
            work = []
            for source, sink, outward in (
                (reader, to_broker[1], True),
                (to_broker[0], writer, False),
            ):
                under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
                work.append(self._take(source, under_way, outward))
                work.append(self._deliver(sink, under_way))
            await asyncio.gather(*work)
        finally:
            for each in (writer, to_broker[1]):
                each.close()

    async def _take(
        self,
        source: asyncio.StreamReader,
        under_way: asyncio.Queue[tuple[float, bytes]],
        outward: bool,
    ) -> None:
        profile = self._profile
        free_at = arrives_at = 0.0
        tail = b""
        while data := await _read(source):
            now = time.monotonic()
            free_at = max(now, free_at)
            if profile.rate:
                free_at += (len(data) + HEADERS) * 8 / profile.rate
            at = free_at + profile.round_trip / 2
            at += self._random.uniform(-1, 1) * profile.jitter / 2
            if self._random.random() < profile.late:
                at += profile.lateness
            arrives_at = max(at, arrives_at)
            under_way.put_nowait((arrives_at, data))
            if outward:
                self.outward += len(data) + HEADERS
                found = list(_MESSAGE_ID.finditer(tail + data))
                self.messages.update(match[1] for match in found)
                # an id may be split between two segments, and must not be counted twice
                tail = (tail + data)[found[-1].end() if found else 0 :][-100:]
            else:
                self.inward += len(data) + HEADERS
            await asyncio.sleep(max(0.0, free_at - now - _MODEM_BUFFER))
        under_way.put_nowait((arrives_at, b""))

    async def _deliver(
        self, sink: asyncio.StreamWriter, under_way: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        while True:
            at, data = await under_way.get()
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            with contextlib.suppress(
                OSError
            ):  # the peer has closed the connection: the other direction ends as well
                if data:
                    sink.write(data)
                    await sink.drain()
                else:
                    sink.write_eof()
            if not data:
                return


async def _read(source: asyncio.StreamReader) -> bytes:
    """Read at most a segment; return nothing at the end of the connection, even after an error."""
    try:
        return await source.read(SEGMENT)
    except OSError:
        return b""
