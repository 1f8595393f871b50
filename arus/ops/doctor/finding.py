"""A finding: the result of one check of the doctor."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    #: It works, but will not for long, or not as might be expected.
    WARN = "warn"
    #: It does not work.
    FAIL = "fail"


class Finding(Struct, frozen=True):
    """The result of one check."""

    #: What was checked.
    name: str
    verdict: Verdict
    #: The result, in one line.
    says: str
    #: What to do about it.
    fix: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return {"name": self.name, "verdict": self.verdict, "says": self.says, "fix": self.fix}


def one_line(words: object) -> str:
    """Return a text in one line."""
    return " ".join(str(words).split())
