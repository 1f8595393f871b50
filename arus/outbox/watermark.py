"""A watermark over ascending numbers that are closed almost in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Watermark:
    """Tracks up to which number all are closed, and which numbers above that are closed.

    It works like TCP's selective acknowledgement: one number covers nearly all, and a small set the rest, so that the
    state of ten thousand messages is saved in one short row.
    """

    def __init__(self, value: int, above: Iterable[int] = ()) -> None:
        self._highest = value
        self._open: deque[int] = deque()
        self._above = set(above)

    @property
    def value(self) -> int:
        """Everything up to here is closed."""
        return self._open[0] - 1 if self._open else self._highest

    @property
    def above(self) -> list[int]:
        """Closed numbers above `value`, ascending."""
        if not self._above:
            return []
        return sorted(number for number in self._above if number > self.value)

    def __contains__(self, number: int) -> bool:
        return number <= self.value or number in self._above

    def copy(self) -> Watermark:
        """Return a watermark with the same state."""
        copy = Watermark(self._highest, self._above)
        copy._open = deque(self._open)
        return copy

    def open(self, number: int) -> None:
        """Add a number, higher than all before; it is open unless it is already in `above`."""
        self._highest = number
        self._open.append(number)
        if self._above:
            self._advance()

    def close(self, number: int) -> None:
        """Close a number that was opened."""
        if self._open and self._open[0] == number:
            self._open.popleft()  # in order, the usual case
        else:
            self._above.add(number)
        if not self._above:
            return
        self._advance()
        if not self._open and self._above:
            # Closed before a restart and never opened since.
            self._highest = max(self._highest, *self._above)
            self._above.clear()

    def _advance(self) -> None:
        while self._open and self._open[0] in self._above:
            self._above.remove(self._open.popleft())
