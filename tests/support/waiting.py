"""Waiting for what must come true, and ports to listen on."""

from __future__ import annotations

import functools
import itertools
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from tools.ports import first_free

T = TypeVar("T")

#: What each wait is multiplied with: what must come takes longer on a machine that is busy, and a wait that
#: ends early is the only thing that is wrong then. It costs nothing where all is well.
PATIENCE = 4


def eventually(
    probe: Callable[[], T],
    timeout: float = 10,
    *,
    interval: float = 0.02,
    message: str = "",
) -> T:
    """The first true value of `probe()`, asked again until `timeout` seconds (and more) have passed.

    An AssertionError or OSError of the probe counts as "not yet"; the last one is shown.
    """
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        trouble: Exception | None = None
        value: T | None = None
        try:
            value = probe()
            if value:
                return value
        except (AssertionError, OSError) as error:
            trouble = error
        if time.monotonic() >= deadline:
            what = message or getattr(probe, "__qualname__", repr(probe))
            raise AssertionError(
                f"not within {timeout * PATIENCE} s: {what}; last: {trouble if trouble else value!r}"
            ) from trouble
        time.sleep(interval)


def free_port() -> int:
    """A loopback port that nobody listens on, and that no other run of the tests is given.

    Below the range the kernel hands out to outgoing connections, so that a server that is
    stopped for a while finds its port free when it comes back.
    """
    block = _block()
    port = first_free(block.next() for _ in range(len(block)))
    assert port is not None, f"no free port in {block}"
    return port


class PortBlock:
    """Ports that belong to one process, handed out in turn: the one used longest ago comes first.

    The reservation is a socket in the kernel's abstract namespace, not a file: it ends with the process,
    however that ends, and two workers that look at the same moment can't both get it.
    """

    FIRST, LAST, SIZE = 20_000, 32_000, 100

    def __init__(self) -> None:
        starts = list(range(self.FIRST, self.LAST, self.SIZE))
        random.shuffle(starts)
        for start in starts:
            reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                reservation.bind(f"\0arus-test-ports-{start}")
            except OSError:
                reservation.close()
                continue
            self._reservation = reservation
            self.ports = range(start, start + self.SIZE)
            self._turn = itertools.cycle(self.ports)
            return
        raise AssertionError("every block of ports is taken by another process")

    def __len__(self) -> int:
        return len(self.ports)

    def __repr__(self) -> str:
        return f"the ports {self.ports.start} to {self.ports.stop - 1}"

    def next(self) -> int:
        """The next port in turn, free or not."""
        return next(self._turn)

    def close(self) -> None:
        """Let another process have it."""
        self._reservation.close()


@functools.cache
def _block() -> PortBlock:
    """This process's own."""
    return PortBlock()
