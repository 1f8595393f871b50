"""Proposals of this side: a row is written here at once, and proposed to the vessel that owns it.

The vessel answers each proposal with a change of the row whose version is above the proposal's; that change
always overwrites the row that was written here. Until it arrives the proposal is sent again with the same id, with
growing pauses: not while the vessel is away, unless the broker has refused to keep it. The row's record (`arus_row`) always contains the vessel's state.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from msgspec import Raw, Struct
from sqlalchemy import Connection, Row, insert
from sqlalchemy.exc import IntegrityError

from arus.database import Reader, transaction, translated
from arus.errors import ProposalError, RefusedMessageError
from arus.protocol.encoding import encode
from arus.protocol.entries import Operation
from arus.protocol.messages import ProposedChange
from arus.protocol.rows import decode_row, encode_row
from arus.protocol.times import iso, now_ms
from arus.protocol.topics import proposals_topic

from . import sql
from .rows import Copy
from .sql.build import Some, execute_for
from .store import Known

#: Milliseconds until a proposal is sent again; doubled each time, up to the longest.
PAUSE = 5_000
LONGEST_PAUSE = 600_000
#: Maximum number of pending proposals, and of those sent at once.
MAX_PENDING = 10_000
BATCH = 100
#: Days for which an answered proposal is kept.
KEPT_DAYS = 30


class ProposalStatus(Struct, frozen=True):
    """A proposal of this side, and its state."""

    proposal_id: str
    vessel_id: str
    entity: str
    row_id: str
    operation: str
    base_version: int
    version: int
    #: pending, answered or withdrawn.
    state: str
    #: When it was made, last sent, and answered or withdrawn: milliseconds since the epoch.
    at: int
    sent_at: int | None
    settled_at: int | None
    #: How often the broker has acknowledged it.
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
    """Write a row here, and save a proposal of it to the vessel; return the proposal's id.

    A pending proposal for the same row is replaced: the new one contains the whole row.

    :param connection: of `arus.database.open_engine`; one transaction is made on it.
    :param data: keys as in messages; for an update only the changed ones.
    :param vessel_id: the owner of a new row; required if several vessels are followed.
    :raises ProposalError: there is no such row, or the data is not valid.
    :raises LogUnavailableError: the database refused; nothing was written.
    """
    entity = copy.registration.entity
    with transaction(connection):
        owner, base = _owner(connection, entity, row_id, operation, vessel_id)
        wanted = {"entity": entity, "row_id": row_id, "vessel_id": owner}
        earlier = connection.execute(sql.proposals.EARLIER, wanted).all()
        if connection.execute(sql.proposals.COUNT).scalar_one() - len(earlier) >= MAX_PENDING:
            raise ProposalError(f"{MAX_PENDING} proposals are pending already")
        # The vessel may have answered the earlier one already, with the version after it.
        version = max([base + 1, *(one.version + 2 for one in earlier)])
        encoded = _write(connection, copy, operation, row_id, data, version)
        now = now_ms()
        for one in earlier:
            connection.execute(sql.proposals.WITHDRAW, {"proposal_id": one.proposal_id, "now": now})
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
        connection.execute(sql.proposals.ADD, proposal)
    return proposal_id


def _write(
    connection: Connection,
    copy: Copy,
    operation: Operation,
    row_id: str,
    data: Mapping[str, Any],
    version: int,
) -> bytes:
    """Write a proposed row into the copy; return the whole row, as in messages."""
    entity = copy.registration.entity
    unknown = set(data) - copy.keys
    if unknown:
        raise ProposalError(f"{entity} has no {', '.join(sorted(unknown))}")
    with _explained(entity):
        encode_row(dict(data))  # else SQLite would store NaN as NULL, and NULL would be proposed
        if operation is Operation.CREATE:
            _insert(connection, copy, row_id, data)
        row = _row(connection, copy, row_id)
        if row is None:
            raise ProposalError(f"there is no row {row_id[:64]!r} in {entity}")
        changed = data if operation is Operation.UPDATE else {}
        whole = {**row, **changed, copy.followed.id_key: row[copy.followed.id_key]}
        if copy.version_column:
            whole[copy.version_key] = version
        if operation is Operation.DELETE:
            copy.delete(connection, [copy.key_of(row_id)])
        else:
            copy.upsert(connection, [copy.values(whole, version)])
        return encode_row(whole)


def read_proposals(connection: Connection, limit: int = 100) -> list[ProposalStatus]:
    """Return the latest proposals, newest first."""
    with translated():
        rows = connection.execute(sql.proposals.ALL, {"limit": limit}).mappings()
        return [ProposalStatus(**row) for row in rows]


def withdraw(connection: Connection, proposal_id: str) -> bool:
    """Withdraw a proposal; return whether it was still pending. The next audit restores the vessel's row.

    :param connection: of `arus.database.open_engine`; one transaction is made on it.
    """
    with transaction(connection):
        arguments = {"proposal_id": proposal_id, "now": now_ms()}
        return bool(connection.execute(sql.proposals.WITHDRAW, arguments).rowcount)


def answered(connection: Connection, rows: Mapping[tuple[str, str, str], Known]) -> None:
    """Mark proposals as answered by new versions of their rows, in the transaction that writes the rows.

    A proposal that the broker has not acknowledged yet is not answered by a change made without it: the vessel must
    receive it and report the conflict.

    :param rows: by vessel, entity and row id.
    """
    if not rows or connection.execute(sql.proposals.PENDING).first() is None:
        return
    now = now_ms()
    connection.execute(
        sql.proposals.ANSWERED,
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


class DueProposal(NamedTuple):
    """A proposal to be published now."""

    proposal_id: str
    vessel_id: str
    #: Under the vessel's prefix.
    topic: str
    payload: bytes


class Outbox:
    """Sends pending proposals. Used by the follower's loop only.

    :param connection: the loop's own.
    :param copies: the tables, by entity.
    """

    def __init__(self, connection: Connection, copies: Mapping[str, Copy]) -> None:
        self._connection = connection
        self._copies = copies
        self._forget_at = 0
        #: How often the broker has refused each pending proposal since it took it last, by id.
        self._refusals: dict[str, int] = {}

    def due(
        self, offline: Iterable[str] = (), *, followed: Collection[str] | None = None
    ) -> list[DueProposal]:
        """Return the proposals to publish now. Must not be called in a transaction.

        :param offline: vessels for which the broker keeps the proposals that it has taken.
        :param followed: vessels that are followed, None for all; proposals to others wait.
        """
        now = now_ms()
        away = frozenset(offline)
        with translated():
            if self._connection.execute(sql.proposals.PENDING).first() is None:
                self._refusals.clear()
                return []
            rows = [
                row
                for row in self._connection.execute(sql.proposals.DUE)
                if row.entity in self._copies
                and (followed is None or row.vessel_id in followed)
                and _is_due(row, now, away, self._refusals.get(row.proposal_id, 0))
            ][:BATCH]
        if not rows:
            return []
        with transaction(self._connection):
            self._connection.execute(
                sql.proposals.SENT, [{"proposal_id": row.proposal_id, "now": now} for row in rows]
            )
            if now >= self._forget_at:
                self._forget_at = now + 3_600_000
                self._connection.execute(
                    sql.proposals.FORGET, {"before": now - KEPT_DAYS * 86_400_000}
                )
        return [self._message(row) for row in rows]

    def taken(self, proposal_ids: Iterable[str]) -> None:
        """Note that the broker has acknowledged proposals. Must not be called in a transaction."""
        taken = [{"proposal_id": proposal_id, "now": now_ms()} for proposal_id in proposal_ids]
        if taken:
            with transaction(self._connection):
                self._connection.execute(sql.proposals.TAKEN, taken)
                self._connection.execute(sql.proposals.ANSWERED_BEFORE, taken)
        for one in taken:
            self._refusals.pop(str(one["proposal_id"]), None)

    def refused(self, proposal_ids: Iterable[str]) -> None:
        """Note that the broker has refused proposals: they are sent again, also to vessels that are away."""
        for proposal_id in proposal_ids:
            self._refusals[proposal_id] = self._refusals.get(proposal_id, 0) + 1

    def again(self, vessels: Some = None) -> None:
        """Send all pending proposals once more: they may have been lost with the connection.

        :param vessels: ids of the vessels to which; None for all.
        """
        with transaction(self._connection):
            execute_for(self._connection, sql.proposals.AGAIN, sql.proposals.AGAIN_TO, vessels)

    def _message(self, row: Row[Any]) -> DueProposal:
        proposal = ProposedChange(
            proposal_id=row.proposal_id,
            vessel_id=row.vessel_id,
            entity=row.entity,
            operation=Operation(row.operation),
            data=Raw(bytes(row.data)),
            version=row.version,
            base_version=row.base_version,
            timestamp=iso(row.at),
            origin=row.origin,
        )
        topic = proposals_topic(self._copies[row.entity].registration.topic)
        return DueProposal(row.proposal_id, row.vessel_id, topic, encode(proposal))


def _is_due(row: Row[Any], now: int, away: frozenset[str], refusals: int) -> bool:
    """Whether to send a proposal now.

    :param refusals: how often the broker has refused it since it took it last.
    """
    if row.sent_at is None or now < row.sent_at:
        return True
    if row.vessel_id in away and not refusals:
        return False
    pause = min(PAUSE * 2 ** min(row.attempts + refusals, 20), LONGEST_PAUSE)
    return bool(now - row.sent_at >= pause)


def _owner(
    connection: Connection,
    entity: str,
    row_id: str,
    operation: Operation,
    vessel_id: str | None,
) -> tuple[str, int]:
    """Return the vessel that owns a row, and the row's version there."""
    known = connection.execute(sql.proposals.OWNER, {"entity": entity, "row_id": row_id}).all()
    if vessel_id is not None and known and vessel_id not in {row.vessel_id for row in known}:
        raise ProposalError(f"the row {row_id[:64]!r} of {entity} belongs to {known[0].vessel_id}")
    for row in known:
        if operation is Operation.CREATE and not row.deleted:
            raise ProposalError(f"there is a row {row_id[:64]!r} in {entity} already")
        return row.vessel_id, row.version
    vessels = connection.execute(sql.proposals.VESSELS).scalars().all()
    if vessel_id is not None and vessel_id not in vessels:
        raise ProposalError(f"no vessel {vessel_id[:64]!r} is followed")
    if vessel_id is None and len(vessels) != 1:
        raise ProposalError(
            "name the vessel that owns the new row: "
            + (", ".join(vessels) if vessels else "none is followed yet")
        )
    return vessel_id or vessels[0], 0


def _row(connection: Connection, copy: Copy, row_id: str) -> dict[str, Any] | None:
    registration = copy.registration
    session = Reader(connection)
    row = session.get(registration.model, copy.key_of(row_id))
    if row is None:
        return None
    data = decode_row(registration.serialise(row))
    session.expunge_all()
    return data


def _insert(connection: Connection, copy: Copy, row_id: str, data: Mapping[str, Any]) -> None:
    """Write a new row; missing values are filled in with the columns' defaults."""
    if copy.makes_keys(connection.dialect):
        raise ProposalError(
            f"the database makes the keys of {copy.registration.entity}: only the vessel can create a row"
        )
    values = copy.given(data)
    values[copy.key_column.key] = copy.key_of(row_id)
    if copy.version_column:
        values[copy.version_column] = 1
    connection.execute(insert(copy.table), values)


@contextmanager
def _explained(entity: str) -> Iterator[None]:
    """Turn errors of writing a row into a `ProposalError` with the reason."""
    try:
        yield
    except (RefusedMessageError, ValueError, TypeError) as error:
        raise ProposalError(str(error)) from error
    except IntegrityError as error:
        reason = " ".join(str(error.orig).split())
        raise ProposalError(f"the {entity} row is not valid: {reason}") from error
