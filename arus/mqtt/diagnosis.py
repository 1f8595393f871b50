"""A diagnosis: what is wrong with a connection, and how to fix it. Log, health, `status` and `doctor` use its words."""

from __future__ import annotations

import re
from typing import Self

from msgspec import Struct

from arus.errors import FIX
from arus.settings import redact

#: Characters of a text of the other side that are repeated.
_MOST = 120


class Diagnosis(Struct, frozen=True):
    """What is wrong, and how to fix it; each in one line without credentials."""

    says: str
    #: None if there is nothing to do.
    fix: str | None = None

    def __str__(self) -> str:
        return self.says if self.fix is None else f"{self.says}{FIX}{self.fix}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the diagnosis that `text`, the message of an error, was made from."""
        says, _, fix = text.partition(FIX)
        return cls(says, fix or None)


def quoted(text: str | bytes) -> str:
    """Return what the other side has sent, in one short line: printable characters only, and no credentials."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    line = "".join(char if char.isprintable() else " " for char in text[: 2 * _MOST])
    line = " ".join(re.split(r"\s+", line.strip()))
    return " ".join(redact(word) if "://" in word else word for word in line.split())[:_MOST]
