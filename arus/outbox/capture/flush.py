"""Finds the rows that a flush of the ORM changes, by the events of the mappers."""

from __future__ import annotations

from datetime import date, datetime
from types import NoneType
from typing import Any

from msgspec import Struct
from sqlalchemy import Column, Connection, event, inspect
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    PassiveFlag,
    Session,
    SessionTransaction,
    UOWTransaction,
    object_session,
)
from sqlalchemy.orm.attributes import get_history, instance_state
from sqlalchemy.orm.util import identity_key
from sqlalchemy.sql import ClauseElement

from arus.errors import CaptureError
from arus.protocol.entries import Operation
from arus.registry import Registration, Registry, loaded_value

from .engines import find_engine
from .pending import find_pending, note
from .refreshed import expire_attributes
from .stored import reloaded_attributes, stored_key
from .versions import grows_by_itself, is_counted_by_mapper, version_column
from .writer import change_of, content_of, write_if_sealed

_BEFORE = "arus_before"
#: The content of a row that the same flush deletes and, as another object with its key is added, updates instead.
_REPLACED = "arus_replaced"
_FLUSHING = "arus_flushing"
#: The most frequent types that are no SQL expressions; an object's attributes have its state among them.
_PLAIN = frozenset({NoneType, bool, int, float, str, date, datetime, list, dict, InstanceState})


class _Before(Struct):
    """The state of a row when its flush begins."""

    #: Attributes were set to SQL expressions: the mapper emits an UPDATE, whatever they evaluate to.
    expressions: bool
    #: The version in the database; None if it is not loaded.
    version: Any


class FlushEvents:
    """Notes the rows that a flush changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def watch(self, model: type[Any]) -> None:
        """Attach to a registered model."""
        # Mapper events, unlike the session's lists, also see orphans that the flush itself deletes.
        event.listen(model, "before_update", self._before_update, propagate=True)
        event.listen(model, "after_insert", self._after_insert, propagate=True)
        event.listen(model, "after_update", self._after_update, propagate=True)
        event.listen(model, "before_delete", self._before_delete, propagate=True)
        registration = self._registry.of_model(model)
        assert registration is not None, "a model is registered before it is watched"
        if registration.version is not None and inspect(model).version_id_col is None:
            event.listen(model, "before_insert", self._before_insert, propagate=True)
        base = inspect(model).base_mapper.class_
        # A row of any class of the table may be made one of this class.
        if base is not model and not event.contains(base, "before_update", self._refuse_class):
            event.listen(base, "before_insert", self._refuse_class, propagate=True)
            event.listen(base, "before_insert", self._refuse_replaced, propagate=True)
            event.listen(base, "before_update", self._refuse_class, propagate=True)

    def registration(self, row: Any) -> Registration:
        """Return the registration of a row's model.

        :raises CaptureError: it has none.
        """
        registration = self._registry.of_model(type(row))
        if registration is None:
            raise CaptureError(f"{type(row).__name__} is not registered for reliable sync")
        return registration

    def _refuse_class(self, mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        """Raise for a discriminator by which a row becomes one of another entity: its object would stay what it is."""
        session, told = object_session(row), mapper.polymorphic_on
        if session is None or told is None or not self._captures(session):
            return
        name = mapper.get_property_by_column(told).key
        added = get_history(row, name, PassiveFlag.PASSIVE_NO_INITIALIZE).added
        if not added or added[0] == mapper.polymorphic_identity:
            return
        other = mapper.polymorphic_map.get(added[0])
        becomes = None if other is None else self._registry.of_model(other.class_)
        if becomes is not self._registry.of_model(mapper.class_):
            raise CaptureError(
                f"the session can't make a {mapper.class_.__name__} a row of another entity by its {name}: the object would"
                f" stay a {mapper.class_.__name__}. Execute an UPDATE statement, or register the base class alone"
            )

    def _refuse_replaced(self, mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        """Raise if the same flush deletes a row with this key and of another entity: it updates that one, and deletes none."""
        session = object_session(row)
        if session is None or not self._captures(session):
            return
        deleted = session.identity_map.get(mapper.identity_key_from_instance(row))
        if deleted is not None and self._registry.of_model(
            type(deleted)
        ) is not self._registry.of_model(mapper.class_):
            raise CaptureError(
                f"a {mapper.class_.__name__} can't take the place of a {type(deleted).__name__} in one flush: flush the deletion"
                " before the row is added"
            )

    def _before_insert(self, _mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        """Give a row its first version, if neither the application nor a default gives it one; note which row it replaces."""
        session = object_session(row)
        registration = self._captured(session, row)
        if session is None or registration is None:
            return
        name = registration.version
        if name is None:
            return
        if _is_none_yet(getattr(row, name), version_column(registration)):
            setattr(row, name, 1)
        row_id = getattr(row, registration.key)
        if row_id is None:
            return  # a default makes the key: it is a new one
        deleted = session.identity_map.get(identity_key(registration.model, row_id))
        if deleted is not None:
            instance_state(row).info[_REPLACED] = content_of(registration, deleted)

    def _before_update(self, mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        session = object_session(row)
        registration = self._captured(session, row)
        if session is None or registration is None:
            return
        state = instance_state(row)
        name = registration.version
        if mapper.version_id_col is None:
            _raise_version(session, registration, row)
        # Checked now: after the statement an expression can't be detected any more, its attribute is expired.
        expressions = _expressions(state)
        if registration.key in expressions:
            _refuse_key(mapper, registration, expressions[registration.key])
        version = None
        if name is not None:
            version = state.dict.get(name)
            if version is None and mapper.version_id_col is not None:
                version = loaded_value(row, name)  # the mapper is about to load it
            version = state.committed_state.get(name, version)
        state.info[_BEFORE] = _Before(bool(expressions), version)

    def _after_insert(self, _mapper: Mapper[Any], connection: Connection, row: Any) -> None:
        self._flushed(Operation.CREATE, connection, row)

    def _after_update(self, mapper: Mapper[Any], connection: Connection, row: Any) -> None:
        session = object_session(row)
        registration = self._captured(session, row)
        # Also called for rows that turned out to have no net change.
        if session is None or registration is None:
            return
        if self._is_updated(session, mapper, row, registration):
            self._flushed(Operation.UPDATE, connection, row)

    def _is_updated(
        self, session: Session, mapper: Mapper[Any], row: Any, registration: Registration
    ) -> bool:
        """Whether the flush has emitted an UPDATE of the row."""
        state = instance_state(row)
        before: _Before | None = state.info.pop(_BEFORE, None)
        if before is not None and before.expressions:
            return True
        if before is not None and before.version is not None:
            # Another before_update listener may have set an expression after ours had run.
            key = registration.version
            assert key is not None, "else nothing was noted"
            if state.dict.get(key) != before.version:
                return True
            if is_counted_by_mapper(registration):
                return _is_updated_later(mapper, row)
        return session.is_modified(row, include_collections=False)

    def _before_delete(self, mapper: Mapper[Any], connection: Connection, row: Any) -> None:
        session, changed = object_session(row), instance_state(row).committed_state
        # Their new values are never written: a deletion has the row as it last was.
        names = [name for name in changed if name in mapper.column_attrs]
        if session is not None and names:
            session.expire(row, names)
        self._flushed(Operation.DELETE, connection, row)

    def _captured(self, session: Session | None, row: Any) -> Registration | None:
        """Return the registration of a row that a session writes; None if its changes are not captured."""
        if session is None or not self._captures(session):
            return None
        return self._registry.of_model(type(row))

    def _captures(self, session: Session) -> bool:
        """Whether the session writes to a database of an application that this registry belongs to."""
        engine = find_engine(session)
        return engine is not None and engine.registry is self._registry

    def _flushed(self, operation: Operation, connection: Connection, row: Any) -> None:
        session = object_session(row)
        registration = self._captured(session, row)
        if session is None or registration is None:
            return
        if operation is Operation.UPDATE and get_history(row, registration.key).deleted:
            raise changed_key(registration)
        state = instance_state(row)
        change = change_of(operation, registration, row)
        reloaded = (
            []
            if operation is Operation.DELETE
            else reloaded_attributes(operation, state, connection.dialect)
        )
        if operation is Operation.CREATE and registration.key in reloaded:
            key = stored_key(connection, registration, getattr(row, registration.key))
            change.row_id = str(key)
        change.replaced = state.info.pop(_REPLACED, None)
        change.may_be_old = operation is Operation.UPDATE and state.mapper.version_id_col is None
        pending = note(session, change)
        if operation is Operation.DELETE:
            return
        if operation is Operation.UPDATE and state.pending:
            pending.incomplete.append((row, None))
        # The mapper does not fetch an expression that is a bound value: the object would keep the expression.
        if expressions := _expressions(state):
            pending.incomplete.append((row, list(expressions)))
        # Nor does it fetch what the database has made of a value.
        if reloaded:
            pending.incomplete.append((row, reloaded))


def before_flush(session: Session, _context: UOWTransaction, _instances: Any) -> None:
    """Note that statements are those of a flush, whose rows the mappers report."""
    session.info[_FLUSHING] = True


def after_flush(session: Session, _context: UOWTransaction) -> None:
    """Note that the flush has executed its statements."""
    session.info.pop(_FLUSHING, None)


def after_soft_rollback(session: Session, _transaction: SessionTransaction) -> None:
    """Note that a flush may have failed."""
    session.info.pop(_FLUSHING, None)


def is_flushing(session: Session) -> bool:
    """Whether a session executes the statements of a flush: not of a legacy bulk method, which the mappers ignore."""
    return session._flushing and _FLUSHING in session.info


def after_flush_postexec(session: Session, _context: UOWTransaction) -> None:
    """Expire attributes that the flush has left incomplete, and write entries if the commit has begun."""
    pending = find_pending(session)
    if pending is None:
        return
    while pending.incomplete:
        row, attributes = pending.incomplete.pop()
        attributes = attributes or list(instance_state(row).unloaded)
        if attributes and row in session:
            expire_attributes(session, row, attributes)
    # Another before_commit hook may have changed rows after ours had run.
    if pending.sealed:
        write_if_sealed(session)


def changed_key(registration: Registration) -> CaptureError:
    """Return the error for a changed primary key."""
    return CaptureError(
        f"the primary key of a {registration.model.__name__} can't be changed: "
        "followers would keep the old row; delete it and add a new one"
    )


def _expressions(state: InstanceState[Any]) -> dict[str, Any]:
    """Return the attributes that the next flush sets to SQL expressions."""
    values = state.dict
    if _PLAIN.issuperset(map(type, values.values())):
        return {}  # as nearly always
    return {
        key: value
        for key in state.committed_state
        if type(value := values.get(key)) not in _PLAIN
        and (isinstance(value, ClauseElement) or hasattr(value, "__clause_element__"))
    }


def _raise_version(session: Session, registration: Registration, row: Any) -> None:
    """Raise the version of a row that is about to be updated, if nothing else does."""
    name = registration.version
    if name is None or grows_by_itself(registration):
        return
    if not session.is_modified(row, include_collections=False):
        return
    version = loaded_value(row, name)
    history = get_history(row, name)
    if not history.has_changes():
        setattr(row, name, int(version or 0) + 1)
    elif history.deleted and _is_at_most(version, history.deleted[0] or 0):
        setattr(row, name, int(history.deleted[0]) + 1)


def _is_none_yet(version: Any, column: Column[Any]) -> bool:
    """Whether a new row would get no version of a message: none at all, or one below 1 (a counter that begins at 0)."""
    if version is None:
        if column.default is None and column.server_default is None:
            return True
        default = getattr(column.default or column.server_default, "arg", None)
        text = str(getattr(default, "text", default)).strip("'")
        version = int(text) if text.lstrip("-").isdecimal() else None
    return type(version) is int and version < 1


def _is_at_most(version: Any, other: int) -> bool:
    return version is None or (isinstance(version, int) and version <= other)


def _is_updated_later(mapper: Mapper[Any], row: Any) -> bool:
    """Whether the mapper emits an UPDATE for a relationship with `post_update`, which no event reports."""
    passive = PassiveFlag.PASSIVE_NO_INITIALIZE
    return any(
        relation.post_update and get_history(row, relation.key, passive).has_changes()
        for relation in mapper.relationships
    )


def _refuse_key(mapper: Mapper[Any], registration: Registration, expression: Any) -> None:
    """Raise for a primary key set to an expression, unless that is the key itself (set to increment the version)."""
    if hasattr(expression, "__clause_element__"):
        expression = expression.__clause_element__()
    if not any(column.compare(expression) for column in mapper.primary_key):
        raise changed_key(registration)
