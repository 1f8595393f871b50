"""A change that was made without the ORM (raw SQL), reported by the application."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from arus.errors import CaptureError
from arus.outbox import sql
from arus.protocol.entries import Operation
from arus.registry import Registration

from .pending import Change, Content
from .versions import raise_versions, version_of
from .writer import content_of, newer


def recorded(
    session: Session, operation: Operation, registration: Registration, row: Any
) -> Change:
    """Return a change made without the ORM, with the row as it is in the database.

    :raises CaptureError: there is no such row, or its version is not known or below 1.
    """
    if not session._flushing:
        session.flush()  # or the read below would overwrite unflushed changes
    state = instance_state(row)
    key = state.identity[0] if state.identity else getattr(row, registration.key)
    if key is None:
        raise CaptureError(
            f"a {registration.model.__name__} without a primary key can't be recorded"
        )
    found = session.get(registration.model, key, populate_existing=True)
    if found is not None:
        # Expires it if the savepoint is rolled back: otherwise the row's next entry would tell what was undone.
        session._register_altered([instance_state(found)])
    last = None
    if operation is Operation.DELETE:
        last = _last(session, registration, found or row, str(key))
        version = last.version
    elif found is None and not state.transient:
        raise CaptureError(f"there is no {registration.model.__name__} {key} to record")
    else:
        version = version_of(registration, found or row)
    if registration.version is not None and version < 1:
        raise CaptureError(
            f"the version of {registration.model.__name__} {key} is not known: receivers would mistake"
            f" its change for an old one; set {registration.version!r} to 1 or more"
        )
    if found is not None and operation is not Operation.DELETE:
        _raise_version(session, registration, found)
    return Change(operation, registration, str(key), row, last)


def _raise_version(session: Session, registration: Registration, row: Any) -> None:
    """Raise a row's version if the log has said it before: the statement has left it as it was."""
    if registration.version is None:
        return
    wanted = {"entity": registration.entity, "row_id": registration.row_id(row)}
    connection = session.connection(bind_arguments={"mapper": registration.model})
    logged = connection.execute(sql.entries.LAST_OF_ROW, wanted).one_or_none()
    if logged is not None and version_of(registration, row) <= logged.version:
        key = getattr(row, registration.key)
        raise_versions(connection, registration, [key], above=logged.version)
        set_committed_value(row, registration.version, logged.version + 1)


def _last(session: Session, registration: Registration, row: Any, row_id: str) -> Content:
    """Return the last content of a deleted row, from the object or from the log, whichever is newer."""
    content = content_of(registration, row)
    bind = {"mapper": registration.model}
    wanted = {"entity": registration.entity, "row_id": row_id}
    logged = session.execute(sql.entries.LAST_OF_ROW, wanted, bind_arguments=bind).one_or_none()
    known = content.version if registration.version is not None else 0
    return content if logged is None or logged.version <= known else newer(content, logged)
