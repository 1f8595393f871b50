"""Rows that two vessels send: a vessel was renamed, or set up from a copy of another one's disk.

The rows belong to the vessel that sent them first. Which of the two is to have them is for a person to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import orjson
from msgspec import Struct
from sqlalchemy import Connection

from . import sql


class Cause(StrEnum):
    """Why two vessels send the same rows."""

    #: The vessel has the other one's database, and the other one is away: it has probably another name now.
    RENAMED = "renamed"
    #: The vessel has a copy of the other one's database, and both are online.
    CLONED = "cloned"
    #: Only the ids of the rows are the same.
    SAME_IDS = "same_ids"


class Claim(Struct, frozen=True):
    """Rows that a vessel sends but that belong to another one here."""

    vessel_id: str
    owner: str
    #: Number of rows, by entity.
    rows: Mapping[str, int]
    cause: Cause

    @property
    def says(self) -> str:
        """What is wrong, on one line."""
        count = sum(self.rows.values())
        rows = f"{count} rows that {self.vessel_id} sends belong to {self.owner}"
        match self.cause:
            case Cause.RENAMED:
                return f"{rows}, which is offline: {self.vessel_id} has its database"
            case Cause.CLONED:
                return f"{rows}, which is online: {self.vessel_id} has a copy of its database"
            case _:
                return f"{rows}: the ids are the same"

    @property
    def fix(self) -> str:
        """What a person can do."""
        hand_over = f"flask sync hand-over {self.owner} {self.vessel_id}"
        match self.cause:
            case Cause.RENAMED:
                return f"if {self.owner} was renamed to {self.vessel_id}, hand its rows over: {hand_over}"
            case Cause.CLONED:
                return f"give {self.vessel_id} a database of its own, not only a VESSEL_ID"
            case _:
                return f"give the rows of one of them other ids, or hand them over: {hand_over}"

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "owner": self.owner,
            "rows": dict(self.rows),
            "cause": self.cause.value,
            "says": self.says,
            "fix": self.fix,
        }


def read_claims(connection: Connection) -> list[Claim]:
    """Return what vessels claim of each other's rows."""
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for row in connection.execute(sql.report.CLAIMS):
        rows.setdefault((row.vessel_id, row.owner), {})[row.entity] = row.rows
    if not rows:
        return []
    vessels = {row.vessel_id: row for row in connection.execute(sql.report.EPOCHS)}
    return [
        Claim(vessel_id, owner, counts, _cause(vessels.get(vessel_id), vessels.get(owner)))
        for (vessel_id, owner), counts in sorted(rows.items())
    ]


def pass_on(connection: Connection, vessel_id: str) -> None:
    """Make the rows of a vessel that is forgotten those of the first other vessel that has sent them.

    In the caller's transaction. The next audit of that vessel finds that they are missing, and fetches them.
    """
    heirs: dict[tuple[str, str], str] = {}
    passed = []
    for row in connection.execute(sql.store.CLAIMED_OF, {"vessel_id": vessel_id}):
        heir = heirs.setdefault((row.entity, row.row_id), row.vessel_id)
        owner = "" if heir == row.vessel_id else heir
        passed.append({**row._mapping, "owner": owner})
    if passed:
        connection.execute(sql.store.PASS_ON, passed)


def _cause(vessel: Any, owner: Any) -> Cause:
    if vessel is None or owner is None or not set(_epochs(vessel)) & set(_epochs(owner)):
        return Cause.SAME_IDS
    return Cause.CLONED if owner.online else Cause.RENAMED


def _epochs(vessel: Any) -> Iterable[str]:
    return [vessel.epoch, *orjson.loads(vessel.past_epochs)]
