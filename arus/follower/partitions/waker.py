"""Wakes a thread that waits in `poll`."""

from __future__ import annotations

import os
import weakref


class Waker:
    """A pipe; `fileno` becomes readable by `wake`."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader

    def wake(self) -> None:
        """Make it readable; safe from any thread."""
        os.write(self._writer, b"\0")

    def clear(self) -> None:
        """Make it unreadable again. `wake` was called before."""
        os.read(self._reader, 4096)
