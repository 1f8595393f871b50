"""What a `with` statement starts, and ends however it is left."""

from __future__ import annotations

from typing import Self


class Started:
    """Started where a `with` begins, closed where it ends."""

    def start(self) -> Self:
        """Begin; what runs from its construction on has nothing to do here."""
        return self

    def close(self) -> None:
        """End, and leave nothing behind."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
