"""Proposals of this side: a row is written here at once, and proposed to the vessel that owns it.

The vessel answers each proposal with a change of the row whose version is above the proposal's; that change
overwrites what was written here, whatever it says. Until it comes the proposal is sent again, with growing
pauses, under the same id. What is known of the row (`arus_row`) stays the vessel's word all the while.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from arus.database import transaction, translated
from arus.errors import ProposalError, RefusedMessageError
from arus.message import Operation, encode_row, iso, now_ms
from arus.proposals import Proposal, encode, proposals_topic

from .rows import Copy
from .store import Known

#: Milliseconds until a proposal is sent again; doubled each time, up to the longest.
PAUSE = 5_000
LONGEST_PAUSE = 600_000
#: Proposals that may wait for their answers, and those sent at once.
MAX_PENDING = 10_000
BATCH = 100
#: Days for which an answered proposal is kept.
KEPT_DAYS = 30

_OWNER = text(
    "SELECT vessel_id, version, deleted FROM arus_row WHERE vessel_id IN"
    " (SELECT vessel_id FROM arus_vessel) AND entity = :entity AND row_id = :row_id"
    " AND owner = '' AND version >= 0"
    " ORDER BY deleted, vessel_id"
)
_VESSELS = text("SELECT vessel_id FROM arus_vessel ORDER BY vessel_id")
_EARLIER = text(
    "SELECT proposal_id, version FROM arus_proposal WHERE state = 'pending' AND entity = :entity"
    " AND row_id = :row_id AND vessel_id = :vessel_id"
)
_COUNT = text("SELECT COUNT(*) FROM arus_proposal WHERE state = 'pending'")
_INSERT = text(
    "INSERT INTO arus_proposal (proposal_id, vessel_id, entity, row_id, operation, base_version,"
    " version, data, origin, at, state, attempts) VALUES (:proposal_id, :vessel_id, :entity, :row_id,"
    " :operation, :base_version, :version, :data, :origin, :at, 'pending', 0)"
)
_WITHDRAW = text(
    "UPDATE arus_proposal SET state = 'withdrawn', data = NULL, settled_at = :now"
    " WHERE proposal_id = :proposal_id AND state = 'pending'"
)
_PENDING = text("SELECT 1 FROM arus_proposal WHERE state = 'pending' LIMIT 1")
_ANSWERED = text(
    "UPDATE arus_proposal SET state = 'answered', data = NULL, settled_at = :now"
    " WHERE state = 'pending' AND attempts > 0 AND entity = :entity AND row_id = :row_id"
    " AND vessel_id = :vessel_id AND version < :version"
)
_TAKEN = text(
    "UPDATE arus_proposal SET attempts = attempts + 1"
    " WHERE proposal_id = :proposal_id AND state = 'pending'"
)
_ANSWERED_BEFORE = text(
    "UPDATE arus_proposal SET state = 'answered', data = NULL, settled_at = :now"
    " WHERE proposal_id = :proposal_id AND state = 'pending' AND EXISTS (SELECT 1 FROM arus_row r"
    " WHERE r.vessel_id = arus_proposal.vessel_id AND r.entity = arus_proposal.entity"
    " AND r.row_id = arus_proposal.row_id AND r.version > arus_proposal.version)"
)
_DUE = text(
    "SELECT proposal_id, vessel_id, entity, row_id, operation, base_version, version, data, origin, at,"
    " attempts, sent_at FROM arus_proposal WHERE state = 'pending' ORDER BY at, proposal_id"
)
_SENT = text("UPDATE arus_proposal SET sent_at = :now WHERE proposal_id = :proposal_id")
_AGAIN = text("UPDATE arus_proposal SET sent_at = NULL WHERE state = 'pending'")
_FORGET = text(
    "DELETE FROM arus_proposal WHERE state IN ('answered', 'withdrawn') AND settled_at < :before"
)
_ALL = text(
    "SELECT proposal_id, vessel_id, entity, row_id, operation, base_version, version, at, state, sent_at,"
    " attempts, settled_at FROM arus_proposal WHERE state IN ('pending', 'answered', 'withdrawn')"
    " ORDER BY at DESC, proposal_id LIMIT :limit"
)


@dataclass(frozen=True, slots=True)
class ProposalStatus:
    """A proposal of this side, and what became of it."""

    proposal_id: str
    vessel_id: str
    entity: str
    row_id: str
    operation: str
    base_version: int
    version: int
    #: pending, answered or withdrawn.
    state: str
    #: When it was made, sent last, and settled: milliseconds since the epoch.
    at: int
    sent_at: int | None
    settled_at: int | None
    #: How often the broker has taken it.
    attempts: int


def propose(
    connection: Connection,
    copy: Copy,
    operation: Operation,
    row_id: str,
    data: Mapping[str, Any],
    *,
    origin: str,
    vessel_id: str | None = None,
) -> str:
    """Write a row here, and note the proposal that the vessel write it too; return the proposal's id.

    One that waits already for the same row is replaced: its successor says all that it would have said.

    :param connection: of `arus.database.open_engine`; one transaction is made on it.
    :param data: of an update: the keys that change; keys as in messages.
    :param vessel_id: who is to own a new row; needed where several vessels are followed.
    :raises ProposalError: there is no such row, or the data does not fit.
    :raises LogUnavailableError: the database refused; nothing was written.
    """
    entity = copy.registration.entity
    with transaction(connection):
        owner, base = _owner(connection, entity, row_id, operation, vessel_id)
        wanted = {"entity": entity, "row_id": row_id, "vessel_id": owner}
        earlier = connection.execute(_EARLIER, wanted).all()
        if connection.execute(_COUNT).scalar_one() - len(earlier) >= MAX_PENDING:
            raise ProposalError(f"{MAX_PENDING} proposals wait for their answers already")
        # The vessel may have answered the earlier one by now, in a version one above it.
        version = max([base + 1, *(one.version + 2 for one in earlier)])
        unknown = set(data) - copy.keys
        if unknown:
            raise ProposalError(f"{entity} has no {', '.join(sorted(unknown))}")
        with _explained(entity):
            encode_row(dict(data))  # SQLite would store NaN as NULL, and that be proposed
            if operation is Operation.CREATE:
                _insert(connection, copy, row_id, data)
            row = _row(connection, copy, row_id)
            if row is None:
                raise ProposalError(f"there is no row {row_id[:64]!r} in {entity}")
            changed = data if operation is Operation.UPDATE else {}
            whole = {**row, **changed, copy.followed.id_key: row[copy.followed.id_key]}
            whole[copy.version_key] = version
            if operation is Operation.DELETE:
                copy.delete(connection, [copy.key_of(row_id)])
            else:
                copy.upsert(connection, [copy.values(whole, version)])
            encoded = encode_row(whole)
        now = now_ms()
        for one in earlier:
            connection.execute(_WITHDRAW, {"proposal_id": one.proposal_id, "now": now})
        proposal_id = str(uuid.uuid4())
        proposal = {
            **wanted,
            "proposal_id": proposal_id,
            "operation": operation.value,
            "base_version": base,
            "version": version,
            "data": encoded,
            "origin": origin,
            "at": now,
        }
        connection.execute(_INSERT, proposal)
    return proposal_id


def read_proposals(connection: Connection, limit: int = 100) -> list[ProposalStatus]:
    """Return the proposals that were made last, newest first."""
    with translated():
        rows = connection.execute(_ALL, {"limit": limit}).mappings()
        return [ProposalStatus(**row) for row in rows]


def withdraw(connection: Connection, proposal_id: str) -> bool:
    """Give a proposal up; return whether it still waited. The next audit brings the vessel's row back.

    :param connection: of `arus.database.open_engine`; one transaction is made on it.
    """
    with transaction(connection):
        arguments = {"proposal_id": proposal_id, "now": now_ms()}
        return bool(connection.execute(_WITHDRAW, arguments).rowcount)


def answered(connection: Connection, rows: Mapping[tuple[str, str, str], Known]) -> None:
    """Note that rows have come to a version, in the transaction that writes them.

    A proposal that the broker has not taken yet is not answered by a change that was made without it: the
    vessel is to see it, and to tell of the conflict.

    :param rows: by vessel, entity and row id.
    """
    if not rows or connection.execute(_PENDING).first() is None:
        return
    now = now_ms()
    connection.execute(
        _ANSWERED,
        [
            {
                "vessel_id": vessel_id,
                "entity": entity,
                "row_id": row_id,
                "version": known.version,
                "now": now,
            }
            for (vessel_id, entity, row_id), known in sorted(rows.items())
        ],
    )


class Outbox:
    """Sends the proposals that wait. Lives in the follower's loop.

    :param connection: the loop's own.
    :param copies: the tables, by entity.
    """

    def __init__(self, connection: Connection, copies: Mapping[str, Copy]) -> None:
        self._connection = connection
        self._copies = copies
        self._forget_at = 0

    def due(self, offline: Iterable[str] = ()) -> list[tuple[str, str, bytes]]:
        """Return ids, topics (under the prefix) and payloads to publish now. Not to be called in a transaction.

        :param offline: vessels for which the broker keeps what was sent already.
        """
        now = now_ms()
        away = frozenset(offline)
        with translated():
            if self._connection.execute(_PENDING).first() is None:
                return []
            rows = [
                row
                for row in self._connection.execute(_DUE)
                if row.entity in self._copies and _is_due(row, now, away)
            ][:BATCH]
        if not rows:
            return []
        with transaction(self._connection):
            self._connection.execute(
                _SENT, [{"proposal_id": row.proposal_id, "now": now} for row in rows]
            )
            if now >= self._forget_at:
                self._forget_at = now + 3_600_000
                self._connection.execute(_FORGET, {"before": now - KEPT_DAYS * 86_400_000})
        return [self._message(row) for row in rows]

    def taken(self, proposal_ids: Iterable[str]) -> None:
        """Note that the broker has acknowledged proposals. Not to be called in a transaction."""
        taken = [{"proposal_id": proposal_id, "now": now_ms()} for proposal_id in proposal_ids]
        if taken:
            with transaction(self._connection):
                self._connection.execute(_TAKEN, taken)
                self._connection.execute(_ANSWERED_BEFORE, taken)

    def again(self) -> None:
        """Have all that waits sent once more: a connection's end may have eaten it."""
        with transaction(self._connection):
            self._connection.execute(_AGAIN)

    def _message(self, row: Row[Any]) -> tuple[str, str, bytes]:
        proposal = Proposal(
            proposal_id=row.proposal_id,
            vessel_id=row.vessel_id,
            entity=row.entity,
            operation=Operation(row.operation),
            row_id=row.row_id,
            data=orjson.loads(bytes(row.data)),
            base_version=row.base_version,
            version=row.version,
            at=row.at,
            origin=row.origin,
        )
        topic = proposals_topic(self._copies[row.entity].registration)
        return row.proposal_id, topic, encode(proposal, iso(row.at))


def _is_due(row: Row[Any], now: int, away: frozenset[str]) -> bool:
    if row.sent_at is None or now < row.sent_at:
        return True
    if row.vessel_id in away:
        return False
    pause = min(PAUSE * 2 ** min(row.attempts, 20), LONGEST_PAUSE)
    return bool(now - row.sent_at >= pause)


def _owner(
    connection: Connection,
    entity: str,
    row_id: str,
    operation: Operation,
    vessel_id: str | None,
) -> tuple[str, int]:
    """Return the vessel that owns a row, and the version that it has there."""
    known = connection.execute(_OWNER, {"entity": entity, "row_id": row_id}).all()
    if vessel_id is not None and known and vessel_id not in {row.vessel_id for row in known}:
        raise ProposalError(f"the row {row_id[:64]!r} of {entity} belongs to {known[0].vessel_id}")
    for row in known:
        if operation is Operation.CREATE and not row.deleted:
            raise ProposalError(f"there is a row {row_id[:64]!r} in {entity} already")
        return row.vessel_id, row.version
    vessels = connection.execute(_VESSELS).scalars().all()
    if vessel_id is not None and vessel_id not in vessels:
        raise ProposalError(f"no vessel {vessel_id[:64]!r} is followed")
    if vessel_id is None and len(vessels) != 1:
        raise ProposalError(
            "say which vessel is to own the new row: "
            + (", ".join(vessels) if vessels else "none is followed yet")
        )
    return vessel_id or vessels[0], 0


def _row(connection: Connection, copy: Copy, row_id: str) -> dict[str, Any] | None:
    registration = copy.registration
    session = Session(connection)
    row = session.get(registration.model, copy.key_of(row_id))
    if row is None:
        return None
    data: dict[str, Any] = orjson.loads(registration.serialise(row))
    session.expunge_all()
    return data


def _insert(connection: Connection, copy: Copy, row_id: str, data: Mapping[str, Any]) -> None:
    """Write a new row; the columns' defaults fill in what is not given."""
    values = copy.given(data)
    values[copy.key_column.key] = copy.key_of(row_id)
    values[copy.version_column] = 1
    connection.execute(insert(copy.table), values)


@contextmanager
def _explained(entity: str) -> Iterator[None]:
    """Tell the proposer why a row can't be written."""
    try:
        yield
    except (RefusedMessageError, ValueError, TypeError) as error:
        raise ProposalError(str(error)) from error
    except IntegrityError as error:
        reason = " ".join(str(error.orig).split())
        raise ProposalError(f"the {entity} row is not valid: {reason}") from error
