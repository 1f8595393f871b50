"""Proposals: changes that somebody ashore proposes for rows that the vessel owns.

Proposals are accepted for the entities passed to `ReliableSync.accept`. The vessel answers each of them once, with an
ordinary change of the row whose version is above both sides' versions: the proposed row, or the vessel's own row
unchanged. So both sides have the same row in the end, whatever was lost, repeated or written meanwhile. If both sides
have changed the row, a policy decides (`arus.protocol.conflicts`), and a report is logged in the same transaction.

A proposal is untrusted until `parse` has read it, and its row until the model's schema has loaded it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from marshmallow import ValidationError
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Column, Connection, Table, inspect, update
from sqlalchemy.exc import DataError, IntegrityError, StatementError
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import flag_modified, set_committed_value
from sqlalchemy.orm.exc import StaleDataError

from arus.errors import ProposalError, RefusedMessageError, RegistrationError
from arus.logs import get_logger
from arus.outbox import sql
from arus.outbox.capture import CAPTURED, log_change
from arus.outbox.changes import lock_row
from arus.outbox.counters import PROPOSAL_REFUSALS, add_to_counters
from arus.outbox.row_versions import keep, version_in_log, versions_of
from arus.protocol.conflicts import Decision, Policy, Side, Winner, last_writer, not_after, report
from arus.protocol.encoding import MAX_STEPS, decode_proposal, encode
from arus.protocol.entries import Operation
from arus.protocol.messages import ConflictReport
from arus.protocol.rows import decode_row, encode_row, row_id_of
from arus.protocol.times import now_ms, parse_time
from arus.protocol.topics import CONFLICTS
from arus.registry import Registration

logger = get_logger(__name__)

#: Days for which an answered proposal is remembered, so that a repeat has no effect.
KEPT_DAYS = 90
#: Number of the newest conflicts that are kept.
KEPT_CONFLICTS = 10_000
#: Attempts to write a row that others write at the same time.
ATTEMPTS = 5

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_MAX_REASON = 64


class Proposal(Struct, frozen=True):
    """A proposed change of a row."""

    proposal_id: str
    #: The vessel that owns the row.
    vessel_id: str
    entity: str
    operation: Operation
    row_id: str
    #: The whole row, with keys as in messages; for a delete, the row's last content.
    data: Mapping[str, Any]
    #: The version that the proposal is based on; 0 for a new row.
    base_version: int
    #: The version of the proposer's own row.
    version: int
    #: Milliseconds since the epoch, by the proposer's clock.
    at: int
    #: Who proposes.
    origin: str


#: Checks a proposal before it is applied: returns the row's data to apply instead, or None to apply the proposed
#: data; raises ProposalError to refuse the proposal.
Check = Callable[[Proposal], Mapping[str, Any] | None]


class Acceptance(Struct, frozen=True):
    """How proposals for one entity are accepted."""

    policy: Policy = last_writer
    check: Check | None = None


def parse(payload: bytes, registration: Registration) -> Proposal:
    """Decode a proposal for an entity.

    :raises RefusedMessageError: it is not a valid proposal.
    """
    message = decode_proposal(payload)
    if message.entity != registration.entity:
        raise RefusedMessageError("it is for another entity than its topic")
    data = decode_row(memoryview(message.data))
    row_id = row_id_of(data, registration.id_key)
    if _CONTROLS.search(row_id):
        raise RefusedMessageError("the row's id holds a control character")
    return Proposal(
        proposal_id=message.proposal_id,
        vessel_id=message.vessel_id,
        entity=message.entity,
        operation=message.operation,
        row_id=row_id,
        data=data,
        base_version=message.base_version,
        version=message.version,
        at=max(0, parse_time(message.timestamp)),
        origin=message.origin,
    )


class Proposals:
    """Answers proposals, as the handler of their topics.

    :param session: returns the application's session (`db.session`).
    :param wake: called after an answer, which may have been logged without capture.
    """

    def __init__(self, session: Callable[[], Session], wake: Callable[[], None]) -> None:
        self._session = session
        self._wake = wake

    def handle(self, acceptance: Acceptance, registration: Registration, payload: bytes) -> None:
        """Answer a proposal, in a transaction of the application's session.

        A malformed proposal is only counted and logged; one for another vessel is ignored.
        """
        session = self._session()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                proposal = parse(payload, registration)
                self._answer(session, acceptance, registration, proposal)
                session.commit()
            except RefusedMessageError as error:
                session.rollback()
                logger.warning(
                    "[MQTT Reliable Sync] a proposal for %s is refused: %s",
                    registration.entity,
                    error,
                )
                add_to_counters(session.connection(), {(PROPOSAL_REFUSALS, "", "", ""): 1})
                session.commit()
                return
            except StaleDataError:
                session.rollback()  # somebody has written the row at the same time
                if attempt == ATTEMPTS:
                    raise
            except BaseException:
                session.rollback()
                raise
            else:
                self._wake()
                return

    def _answer(
        self,
        session: Session,
        acceptance: Acceptance,
        registration: Registration,
        proposal: Proposal,
    ) -> None:
        connection = session.connection()
        vessel = connection.execute(sql.session.REACH).one()
        if proposal.vessel_id != vessel.vessel_id:
            return
        now = now_ms()
        # Comes first: it takes the write lock, and a repeated proposal ends here.
        if not connection.execute(sql.inbound.ADD_PROPOSAL, _columns(proposal, now)).rowcount:
            return
        connection.execute(sql.inbound.FORGET_PROPOSALS, {"before": now - KEPT_DAYS * 86_400_000})
        row = lock_row(session, registration, proposal.row_id)
        local = self._local(connection, registration, proposal, row, vessel)
        if proposal.version > local.version + MAX_STEPS:
            raise RefusedMessageError("its versions are far above the row's")
        remote = not_after(
            Side(
                None if proposal.operation is Operation.DELETE else proposal.data,
                proposal.version,
                proposal.at,
                proposal.origin,
            ),
            now,
        )
        conflict = local.version != proposal.base_version
        decision = acceptance.policy(local, remote) if conflict else Decision(Winner.REMOTE, "")
        target = max(local.version, proposal.version) + 1
        writer = _Writer(session, registration, proposal, row, target)
        if decision.winner is Winner.REMOTE:
            refusal = self._apply(session, acceptance, writer, proposal)
            if refusal is not None:
                row = lock_row(session, registration, proposal.row_id)
                writer = _Writer(session, registration, proposal, row, target)
                decision, conflict = Decision(Winner.LOCAL, refusal[:_MAX_REASON]), True
        if decision.winner is Winner.LOCAL:
            writer.keep()
            connection.execute(
                sql.inbound.PROPOSAL_NOT_APPLIED, {"proposal_id": proposal.proposal_id}
            )
        if conflict and not (local.row is None and remote.row is None):
            told = report(
                proposal.proposal_id, proposal.entity, proposal.row_id, local, remote, decision,
                version=target, at=now,
            )  # fmt: skip
            self._report(connection, told, decision, now)

    def _local(
        self,
        connection: Connection,
        registration: Registration,
        proposal: Proposal,
        row: Any,
        vessel: Any,
    ) -> Side:
        """Return the vessel's side: its row, or the deletion of the row."""
        wanted = {"entity": proposal.entity, "row_id": proposal.row_id}
        last = connection.execute(sql.entries.LAST_OF_ROW, wanted).one_or_none()
        at = last.committed_at if last is not None else vessel.complete_since
        if row is not None:
            try:
                data = decode_row(registration.serialise(row))
            except Exception:  # noqa: BLE001  # the schema is the application's
                data = {registration.id_key: proposal.row_id}
            rows = {proposal.row_id: row}
            version = versions_of(connection, registration, rows)[proposal.row_id]
            return Side(data, version, at, vessel.vessel_id)
        if last is not None:
            return Side(None, last.version, at, vessel.vessel_id)
        if registration.version is None:
            kept = version_in_log(connection, registration, proposal.row_id)
            if kept is not None:
                return Side(None, kept, at, vessel.vessel_id)
        # If the proposal has a base version, the row existed once; the log no longer holds its deletion.
        version = proposal.base_version + 1 if proposal.base_version else 0
        return Side(None, version, at, vessel.vessel_id)

    def _apply(
        self, session: Session, acceptance: Acceptance, writer: _Writer, proposal: Proposal
    ) -> str | None:
        """Apply the proposal to the row; return why that can't be done, in which case nothing was changed."""
        try:
            if acceptance.check is not None:
                altered = acceptance.check(proposal)
                if altered is not None:
                    proposal = replace(proposal, data=altered)
            with session.begin_nested():
                writer.apply(proposal)
        except ProposalError as error:
            return f"refused: {error}"
        except ValidationError as error:
            fields = ", ".join(error.messages_dict) if error.messages else ""
            return f"invalid: {fields}"
        except (IntegrityError, DataError) as error:
            return f"impossible: {' '.join(str(error.orig).split())}"
        except StaleDataError:
            raise
        except (StatementError, ValueError, TypeError) as error:
            return f"invalid: {error}"
        return None

    def _report(
        self, connection: Connection, told: ConflictReport, decision: Decision, now: int
    ) -> None:
        data = encode(told)
        conflict = {
            "conflict_id": told.conflict_id,
            "entity": told.entity,
            "row_id": told.row_id,
            "winner": decision.winner.value,
            "rule": decision.rule,
            "at": now,
            "report": data,
        }
        connection.execute(sql.inbound.ADD_CONFLICT, conflict)
        connection.execute(sql.inbound.TRIM_CONFLICTS, {"kept": KEPT_CONFLICTS})
        log_change(
            connection,
            entity=CONFLICTS,
            topic=CONFLICTS,
            qos=1,
            operation=Operation.CREATE,
            row_id=told.conflict_id,
            version=1,
            data=data,
        )
        logger.warning(
            "[MQTT Reliable Sync] conflict about %s %s: the %s row stands (%s)",
            told.entity,
            told.row_id,
            "vessel's" if decision.winner is Winner.LOCAL else "proposed",
            decision.rule,
            extra={"fields": told.fields, "origin": told.origin},
        )


class _Writer:
    """Writes one row with the version `target`, through the ORM so that the change is captured."""

    def __init__(
        self,
        session: Session,
        registration: Registration,
        proposal: Proposal,
        row: Any,
        target: int,
    ) -> None:
        self._session = session
        self._registration = registration
        self._proposal = proposal
        self._row = row
        self._target = target
        self._mapper: Mapper[Any] = inspect(registration.model)

    def apply(self, proposal: Proposal) -> None:
        """Apply the proposal to the row."""
        if proposal.operation is Operation.DELETE:
            if self._row is None:
                self._bury()
            else:
                self._lift(self._target - 1)
                self._session.delete(self._row)
                self._session.flush()
            return
        if self._row is None:
            self._row = self._new(proposal)
            self._session.add(self._row)
            self._session.flush()
        else:
            for name, value in self._load(proposal, partial=True).items():
                setattr(self._row, name, value)
        self._lift(self._target - 1)
        self._touch()

    def keep(self) -> None:
        """Keep the row as it is, with a version above those of both sides."""
        if self._row is None:
            self._bury()
        else:
            self._lift(self._target - 1)
            self._touch()

    def _bury(self) -> None:
        """Log the deletion of a row that does not exist, with a version above those of both sides."""
        proposal, registration = self._proposal, self._registration
        last = dict(proposal.data)
        if registration.version is None:
            keep(self._session.connection(), registration, {proposal.row_id: self._target})
        else:
            last["version"] = self._target - 1
        log_change(
            self._session.connection(),
            entity=registration.entity,
            topic=registration.topic,
            qos=registration.qos,
            operation=Operation.DELETE,
            row_id=proposal.row_id,
            version=self._target,
            data=encode_row(last),
        )

    def _touch(self) -> None:
        row, version = self._row, self._registration.version
        if version is not None and self._mapper.version_id_col is None:
            setattr(row, version, self._target)
        elif not self._session.is_modified(row, include_collections=False):
            flag_modified(row, self._some_attribute())
        self._session.flush()

    def _some_attribute(self) -> str:
        """Return an attribute whose column can be written again with its current value."""
        passed_over = {self._registration.key, self._registration.version}
        loaded = inspect(self._row).dict
        plain = [
            prop.key
            for prop in self._mapper.column_attrs
            if prop.key not in passed_over
            and prop.key in loaded
            and isinstance(column := prop.columns[0], Column)
            and column.onupdate is None
        ]
        if not plain:
            raise RegistrationError(
                f"{self._registration.entity} has no column but key and version"
            )
        return plain[0]

    def _lift(self, version: int) -> None:
        """Raise the row's version to `version`; the next flush increments it once more."""
        row, name = self._row, self._registration.version
        if name is None:
            row_id = self._proposal.row_id
            keep(self._session.connection(), self._registration, {row_id: version})
            return
        column = self._mapper.version_id_col
        current = int(getattr(row, name) or 0)
        if column is None or current >= version:
            return
        table = cast("Table", column.table)
        (key,) = self._mapper.primary_key
        statement = (
            update(table)
            .where(key == getattr(row, self._registration.key), column == current)
            .values({column: version})
        )
        # The change that follows is captured: this statement is a part of it.
        options = {CAPTURED: True}
        connection = self._session.connection()
        if connection.execute(statement, execution_options=options).rowcount != 1:
            raise StaleDataError
        set_committed_value(row, name, version)

    def _load(self, proposal: Proposal, *, partial: bool) -> dict[str, Any]:
        """Return the attributes that the schema allows others to set.

        :raises ValidationError: the row is not valid.
        """
        schema: Any = self._registration.schema
        names = {
            str(field.data_key or name)
            for name, field in schema.load_fields.items()
            if name not in {self._registration.key, self._registration.version}
        }
        given = {name: value for name, value in proposal.data.items() if name in names}
        loaded: dict[str, Any] = schema.load(given, partial=partial)
        typed = self._registration.typed_value
        return {name: typed(name, value) for name, value in loaded.items()}

    def _new(self, proposal: Proposal) -> Any:
        """Return a new row; `dump_only` attributes are set too if the proposal contains them."""
        values = self._load(proposal, partial=False)
        for name, field in _fields(self._registration).items():
            attribute = field.attribute or name
            told = proposal.data.get(field.data_key or name)
            if (
                field.dump_only
                and told is not None
                and attribute != self._registration.version
                and attribute in self._mapper.column_attrs
            ):
                values[attribute] = field.deserialize(told)
        values.setdefault(self._registration.key, self._registration.typed_key(proposal.row_id))
        return self._registration.model(**values)


def check_acceptable(registration: Registration) -> None:
    """Check that rows of a model can be written from proposals.

    :raises RegistrationError: its schema can't load them.
    """
    schema: Any = registration.schema
    if not hasattr(schema, "load_fields") or getattr(schema.opts, "load_instance", False):
        raise RegistrationError(
            f"{registration.entity}: proposals need a marshmallow schema that loads plain attributes"
        )


def _fields(registration: Registration) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(registration.schema, "fields", {})
    return fields


def _columns(proposal: Proposal, now: int) -> dict[str, Any]:
    return {
        "proposal_id": proposal.proposal_id,
        "vessel_id": proposal.vessel_id,
        "entity": proposal.entity,
        "row_id": proposal.row_id,
        "operation": proposal.operation.value,
        "base_version": proposal.base_version,
        "version": proposal.version,
        "origin": proposal.origin,
        "at": proposal.at,
        "settled_at": now,
    }
