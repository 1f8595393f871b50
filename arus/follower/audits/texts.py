"""Texts in verdicts: short, and without control characters."""

from __future__ import annotations

from arus.protocol.messages import MAX_REASON


def word(text: str, longest: int = 64) -> str:
    """Return a text of 1 to `longest` characters without control characters."""
    plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return plain[:longest] or "?"


def reason(text: str) -> str:
    """Return a reason on one line."""
    return word(" ".join(text.split()), MAX_REASON)
