"""Proposals: what somebody ashore would have changed in a row that the vessel owns.

A proposal is taken for the entities that `ReliableSync.accept` names. The vessel answers each of them once, with
an ordinary change of the row whose version is above both sides': the row as proposed, or its own row, kept.
So both sides have the same row in the end, whatever was lost, repeated or written meanwhile. Where both
had written, a policy decides (`arus.conflict`), and a report is logged in the same transaction.

A proposal is hostile until `parse` has read it, and its row until the model's schema has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import orjson
from marshmallow import ValidationError
from sqlalchemy import Column, Connection, Table, inspect, text, update
from sqlalchemy.exc import DataError, IntegrityError, StatementError
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import flag_modified, set_committed_value
from sqlalchemy.orm.exc import StaleDataError

from .capture import log_change
from .changes import lock_row
from .conflict import Decision, Policy, Side, Winner, last_writer, not_after, report
from .counters import PROPOSAL_REFUSALS, add_to_counters
from .errors import ProposalError, RefusedMessageError, RegistrationError
from .message import Operation, now_ms, read_object, read_time
from .registry import Registration
from .topics import CONFLICTS, PROPOSALS

logger = logging.getLogger(__name__)

#: Bytes of a proposal.
MAX_PAYLOAD = 262_144
#: The highest version that is believed: one more has to fit into the model's column.
MAX_VERSION = 2**31 - 10
#: How far a proposer may be ahead of the version that it started from.
MAX_STEPS = 10_000
#: Days for which a settled proposal is remembered, so that a repeat has no effect.
KEPT_DAYS = 90
#: Conflicts that are kept for people to see: the newest of them.
KEPT_CONFLICTS = 10_000
#: Tries at a row that others write at the same time.
ATTEMPTS = 5

_ID = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,64}")
_MAX_REASON = 64

_NOTE = text(
    "INSERT INTO arus_proposal (proposal_id, vessel_id, entity, row_id, operation, base_version,"
    " version, origin, at, state, settled_at) VALUES (:proposal_id, :vessel_id, :entity, :row_id,"
    " :operation, :base_version, :version, :origin, :at, 'applied', :now)"
    " ON CONFLICT (proposal_id) DO NOTHING"
)
_KEPT = text("UPDATE arus_proposal SET state = 'kept' WHERE proposal_id = :proposal_id")
_FORGET = text(
    "DELETE FROM arus_proposal WHERE state IN ('applied', 'kept') AND settled_at < :before"
)
_SESSION = text("SELECT vessel_id, complete_since FROM arus_session WHERE id = 1")
_LAST = text(
    "SELECT operation, version, committed_at, data FROM arus_change"
    " WHERE entity = :entity AND row_id = :row_id ORDER BY id DESC LIMIT 1"
)
_CONFLICT = text(
    "INSERT INTO arus_conflict (conflict_id, entity, row_id, winner, rule, at, report)"
    " VALUES (:conflict_id, :entity, :row_id, :winner, :rule, :at, :report)"
)
_TRIM_CONFLICTS = text(
    "DELETE FROM arus_conflict WHERE id <= (SELECT MAX(id) FROM arus_conflict) - :kept"
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed change of a row."""

    proposal_id: str
    #: The vessel that owns the row.
    vessel_id: str
    entity: str
    operation: Operation
    row_id: str
    #: The whole row, keys as in messages; of a delete: as it last was.
    data: Mapping[str, Any]
    #: The version that the proposer had before; 0 for a new row.
    base_version: int
    #: What the proposer calls its own version.
    version: int
    #: Milliseconds since the epoch, by the proposer's clock.
    at: int
    #: Who proposes.
    origin: str


#: Looks at a proposal before anything else does: returns the row's data to apply instead, or None for the
#: proposed; raises ProposalError to have it refused.
Check = Callable[[Proposal], Mapping[str, Any] | None]


@dataclass(slots=True)
class Acceptance:
    """How proposals for one entity are taken."""

    policy: Policy = last_writer
    check: Check | None = None


def parse(payload: bytes, registration: Registration) -> Proposal:
    """Return what a proposal for an entity says.

    :raises RefusedMessageError: it is none.
    """
    body = read_object(payload, MAX_PAYLOAD)
    if body.get("type") != "proposal":
        raise RefusedMessageError("not a proposal")
    if body.get("entity") != registration.entity:
        raise RefusedMessageError("it is for another entity than its topic")
    try:
        operation = Operation(str(body.get("operation")))
    except ValueError as error:
        raise RefusedMessageError("there is no such operation") from error
    data = body.get("data")
    if not isinstance(data, dict):
        raise RefusedMessageError("data is not an object")
    row_id = data.get(registration.id_key)
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    base, version = _version(body, "baseVersion"), _version(body, "version")
    if not base < version <= base + MAX_STEPS:
        raise RefusedMessageError("version does not follow baseVersion")
    return Proposal(
        proposal_id=_word(body.get("proposalId"), "proposalId"),
        vessel_id=_word(body.get("vesselId"), "vesselId"),
        entity=registration.entity,
        operation=operation,
        row_id=_word(row_id, "the row's id"),
        data=data,
        base_version=base,
        version=version,
        at=max(0, read_time(body)),
        origin=_word(body.get("origin"), "origin"),
    )


def encode(proposal: Proposal, timestamp: str) -> bytes:
    """Return a proposal as it is sent."""
    return orjson.dumps(
        {
            "type": "proposal",
            "proposalId": proposal.proposal_id,
            "vesselId": proposal.vessel_id,
            "entity": proposal.entity,
            "operation": proposal.operation,
            "data": proposal.data,
            "version": proposal.version,
            "baseVersion": proposal.base_version,
            "timestamp": timestamp,
            "origin": proposal.origin,
        }
    )


class Proposals:
    """Answers proposals, as the handler of their topics.

    :param session: returns the application's session (`db.session`).
    :param wake: called when something was logged past the capture.
    """

    def __init__(self, session: Callable[[], Session], wake: Callable[[], None]) -> None:
        self._session = session
        self._wake = wake

    def handle(self, acceptance: Acceptance, registration: Registration, payload: bytes) -> None:
        """Answer a proposal, in a transaction of the application's session.

        One that is malformed, or for another vessel, is counted or left, and nothing else.
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
        vessel = connection.execute(_SESSION).one()
        if proposal.vessel_id != vessel.vessel_id:
            return
        now = now_ms()
        # First of all: it takes the write lock, and a repeat ends here.
        if not connection.execute(_NOTE, _columns(proposal, now)).rowcount:
            return
        connection.execute(_FORGET, {"before": now - KEPT_DAYS * 86_400_000})
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
            connection.execute(_KEPT, {"proposal_id": proposal.proposal_id})
        if conflict and not (local.row is None and remote.row is None):
            document = report(
                proposal.proposal_id, proposal.entity, proposal.row_id, local, remote, decision,
                version=target, at=now,
            )  # fmt: skip
            self._report(connection, document, decision, now)

    def _local(
        self,
        connection: Connection,
        registration: Registration,
        proposal: Proposal,
        row: Any,
        vessel: Any,
    ) -> Side:
        """Return what the vessel has: its row, or when it was deleted."""
        wanted = {"entity": proposal.entity, "row_id": proposal.row_id}
        last = connection.execute(_LAST, wanted).one_or_none()
        at = last.committed_at if last is not None else vessel.complete_since
        if row is not None:
            try:
                data = orjson.loads(registration.serialise(row))
            except Exception:  # noqa: BLE001  # the schema is the application's
                data = {registration.id_key: proposal.row_id}
            version = int(getattr(row, registration.version) or 0)
            return Side(data, version, at, vessel.vessel_id)
        if last is not None:
            return Side(None, last.version, at, vessel.vessel_id)
        # It was there once, or the proposer would have nothing to start from; the log has forgotten it.
        version = proposal.base_version + 1 if proposal.base_version else 0
        return Side(None, version, at, vessel.vessel_id)

    def _apply(
        self, session: Session, acceptance: Acceptance, writer: _Writer, proposal: Proposal
    ) -> str | None:
        """Make the row what is proposed; return why that can't be, with nothing done."""
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
        self, connection: Connection, document: dict[str, Any], decision: Decision, now: int
    ) -> None:
        data = orjson.dumps(document)
        conflict = {
            "conflict_id": document["conflictId"],
            "entity": document["entity"],
            "row_id": document["rowId"],
            "winner": decision.winner.value,
            "rule": decision.rule,
            "at": now,
            "report": data,
        }
        connection.execute(_CONFLICT, conflict)
        connection.execute(_TRIM_CONFLICTS, {"kept": KEPT_CONFLICTS})
        log_change(
            connection,
            entity=CONFLICTS,
            topic=CONFLICTS,
            qos=1,
            operation=Operation.CREATE,
            row_id=document["conflictId"],
            version=1,
            data=data,
        )
        logger.warning(
            "[MQTT Reliable Sync] conflict about %s %s: the %s row stands (%s)",
            document["entity"],
            document["rowId"],
            "vessel's" if decision.winner is Winner.LOCAL else "proposed",
            decision.rule,
            extra={"fields": document["fields"], "origin": document["origin"]},
        )


class _Writer:
    """Writes one row so that its version becomes `target`, by the ORM, so that it is captured."""

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
        """Make the row what is proposed."""
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
        """Leave the row as it is, in a version above both sides'."""
        if self._row is None:
            self._bury()
        else:
            self._lift(self._target - 1)
            self._touch()

    def _bury(self) -> None:
        """Log the deletion of a row that is not there, in a version above both sides'."""
        proposal, registration = self._proposal, self._registration
        log_change(
            self._session.connection(),
            entity=registration.entity,
            topic=registration.topic,
            qos=registration.qos,
            operation=Operation.DELETE,
            row_id=proposal.row_id,
            version=self._target,
            data=orjson.dumps({**proposal.data, "version": self._target - 1}),
        )

    def _touch(self) -> None:
        row, version = self._row, self._registration.version
        if self._mapper.version_id_col is None:
            setattr(row, version, self._target)
        elif not self._session.is_modified(row, include_collections=False):
            flag_modified(row, self._some_attribute())
        self._session.flush()

    def _some_attribute(self) -> str:
        """Return an attribute whose column may be written once more as it is."""
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
        """Raise the row's version, so that the next flush makes it one more."""
        column = self._mapper.version_id_col
        row, name = self._row, self._registration.version
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
        if self._session.connection().execute(statement).rowcount != 1:
            raise StaleDataError
        set_committed_value(row, name, version)

    def _load(self, proposal: Proposal, *, partial: bool) -> dict[str, Any]:
        """Return the attributes that the schema lets others set.

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
        return loaded

    def _new(self, proposal: Proposal) -> Any:
        """Return a new row; what only the server sets it is given too, where it is told."""
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
    """Refuse a model whose rows can't be written from proposals.

    :raises RegistrationError: its schema can't load them.
    """
    schema: Any = registration.schema
    if not hasattr(schema, "load_fields") or getattr(schema.opts, "load_instance", False):
        raise RegistrationError(
            f"{registration.entity}: proposals need a marshmallow schema that loads plain attributes"
        )


def proposals_topic(registration: Registration) -> str:
    """Return the topic, under the prefix, on which an entity's proposals come."""
    return f"{PROPOSALS}/{registration.topic}"


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
        "now": now,
    }


def _version(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if type(value) is not int or not 0 <= value <= MAX_VERSION:
        raise RefusedMessageError(f"{key} is not a version")
    return value


def _word(value: Any, what: str) -> str:
    if not (isinstance(value, str) and _ID.fullmatch(value)):
        raise RefusedMessageError(f"{what} is not a text of 1 to 64 characters")
    return value
