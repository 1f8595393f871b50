"""Waiting for what must come true, and ports to listen on."""

from __future__ import annotations

import random
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
    """A loopback port that nobody listens on.

    Below the range the kernel hands out to outgoing connections, so that a server that is
    stopped for a while finds its port free when it comes back.
    """
    port = first_free(random.sample(range(20_000, 32_000), 200))
    assert port is not None, "no free port between 20000 and 32000"
    return port
