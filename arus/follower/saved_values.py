"""Reads values of the follower's tables back as what they were saved from."""

from __future__ import annotations

from typing import Any

import msgspec

from arus.protocol.messages import FieldDifference, Verdict


def flag(value: Any) -> bool | None:
    """Return a nullable boolean; SQLite returns numbers."""
    return None if value is None else bool(value)


def saved_verdict(saved: str | None) -> Verdict | None:
    """Return the verdict of an audit; None also for one with a row id that is not valid in a watermark: compare again."""
    if not saved:
        return None
    try:
        return msgspec.json.decode(saved, type=Verdict)
    except msgspec.ValidationError:
        return None


def saved_difference(saved: str) -> FieldDifference:
    """Return the fields that one side lacks."""
    return msgspec.json.decode(saved, type=FieldDifference)
