"""The sync's clock: the system's, unless a test has replaced it (`arus.testing.set_clock`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_read: Callable[[], int] = time.time_ns


def now_ns() -> int:
    """Return the time in nanoseconds since the epoch."""
    return _read()


@contextmanager
def replaced(read: Callable[[], int]) -> Iterator[None]:
    """Use another clock in the whole process for the duration of the context."""
    global _read
    before, _read = _read, read
    try:
        yield
    finally:
        _read = before
