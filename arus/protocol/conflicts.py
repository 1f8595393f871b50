"""Conflicts: two sides have written the same row. A policy decides which side wins; a report says what and why.

The functions are pure: the same row results whoever decides, and in whichever order the two sides arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from .digests import canonical
from .messages import ConflictReport
from .rows import encode_row
from .times import iso

#: Keys of a row that are bookkeeping, not content.
_BOOKKEEPING = frozenset({"version"})


class Winner(StrEnum):
    """The side that wins."""

    #: The row of the side that decides: the vessel's.
    LOCAL = "local"
    #: The proposed one.
    REMOTE = "remote"


class Side(Struct, frozen=True):
    """One side's state of a row."""

    #: Keys as in messages; None if deleted.
    row: Mapping[str, Any] | None
    version: int
    #: When it was written, in milliseconds since the epoch.
    at: int
    #: Who wrote it: a vessel's id, a follower's name.
    origin: str


class Decision(Struct, frozen=True):
    """The side that wins, and the rule that decided it."""

    winner: Winner
    rule: str


#: Decides between the local and the remote side. It may be called again, and must return the same decision.
Policy = Callable[[Side, Side], Decision]


def last_writer(local: Side, remote: Side) -> Decision:
    """Let the higher version win, then the later time, then the greater name, then the greater content.

    It is symmetric: if the sides are swapped, the same row wins.
    """
    for rule, mine, theirs in (
        ("version", local.version, remote.version),
        ("time", local.at, remote.at),
        ("origin", local.origin, remote.origin),
        ("content", _content(local), _content(remote)),
    ):
        if mine != theirs:
            return Decision(Winner.LOCAL if mine > theirs else Winner.REMOTE, rule)  # type: ignore[operator]
    return Decision(Winner.LOCAL, "same")


def vessel_wins(_local: Side, _remote: Side) -> Decision:
    """Let the vessel's row win each conflict."""
    return Decision(Winner.LOCAL, "vessel")


def proposal_wins(_local: Side, _remote: Side) -> Decision:
    """Let the proposed row win each conflict."""
    return Decision(Winner.REMOTE, "proposal")


def fields_that_differ(
    local: Mapping[str, Any] | None, remote: Mapping[str, Any] | None
) -> list[str]:
    """Return the keys in which two rows differ; if one is deleted, all keys of the other."""
    mine, theirs = local or {}, remote or {}
    return sorted(
        key
        for key in {*mine, *theirs} - _BOOKKEEPING
        if (key in mine) != (key in theirs) or not _same(mine[key], theirs[key])
    )


def report(
    conflict_id: str,
    entity: str,
    row_id: str,
    local: Side,
    remote: Side,
    decision: Decision,
    *,
    version: int,
    at: int,
) -> ConflictReport:
    """Return the report of a conflict for publishing.

    :param version: of the row after the decision, higher than the versions of both sides.
    :param at: when it was decided, in milliseconds since the epoch.
    """
    return ConflictReport(
        id=conflict_id,
        conflict_id=conflict_id,
        entity=entity,
        row_id=row_id,
        local=_encoded(local),
        remote=_encoded(remote),
        fields=fields_that_differ(local.row, remote.row),
        winner=decision.winner.value,
        rule=decision.rule,
        version=version,
        resolved_at=iso(at),
        origin=remote.origin,
    )


def not_after(side: Side, now: int) -> Side:
    """Return the side with its time limited to `now`: a clock that is ahead must not win."""
    return replace(side, at=min(side.at, now))


def _encoded(side: Side) -> Raw:
    return Raw(encode_row(side.row))


def _content(side: Side) -> bytes:
    return b"" if side.row is None else canonical(dict(side.row))


def _same(mine: Any, theirs: Any) -> bool:
    return canonical(mine) == canonical(theirs)
