"""Conflicts: two sides have written one row. A policy decides which of them stands; a report says what and why.

Pure: whoever decides, in whatever order the two are told, comes to the same row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from .digest import canonical
from .message import iso

#: Keys of a row that tell about its versions, not about what it says.
_BOOKKEEPING = frozenset({"version"})


class Winner(StrEnum):
    """Which side stands."""

    #: The row of the side that decides: the vessel's.
    LOCAL = "local"
    #: The proposed one.
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class Side:
    """A row as one side has it."""

    #: Keys as in messages; None: deleted.
    row: Mapping[str, Any] | None
    version: int
    #: When it was written, in milliseconds since the epoch.
    at: int
    #: Who wrote it: a vessel's id, a follower's name.
    origin: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Which side stands, and what has decided it."""

    winner: Winner
    rule: str


#: Decides between the local and the remote side. It may be called again, and must decide alike.
Policy = Callable[[Side, Side], Decision]


def last_writer(local: Side, remote: Side) -> Decision:
    """Let the higher version stand, then the later time, then the greater name, then the greater content.

    Symmetric: told the other way round, the same row stands.
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
    """Let the vessel's row stand in each conflict."""
    return Decision(Winner.LOCAL, "vessel")


def proposal_wins(_local: Side, _remote: Side) -> Decision:
    """Let the proposed row stand in each conflict."""
    return Decision(Winner.REMOTE, "proposal")


def fields_that_differ(
    local: Mapping[str, Any] | None, remote: Mapping[str, Any] | None
) -> list[str]:
    """Return the keys in which two rows differ; of a row that is deleted, all of the other's."""
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
) -> dict[str, Any]:
    """Return the report of a conflict, as it is published.

    :param version: of the row after the decision, above both sides'.
    :param at: when it was decided, in milliseconds since the epoch.
    """
    return {
        "id": conflict_id,
        "conflictId": conflict_id,
        "entity": entity,
        "rowId": row_id,
        "local": local.row,
        "remote": remote.row,
        "fields": fields_that_differ(local.row, remote.row),
        "winner": decision.winner.value,
        "rule": decision.rule,
        "version": version,
        "resolvedAt": iso(at),
        "origin": remote.origin,
    }


def not_after(side: Side, now: int) -> Side:
    """Return the side as one that was not written later than now: a clock may be wrong, and must not win."""
    return replace(side, at=min(side.at, now))


def _content(side: Side) -> bytes:
    return b"" if side.row is None else canonical(dict(side.row))


def _same(mine: Any, theirs: Any) -> bool:
    return canonical(mine) == canonical(theirs)
