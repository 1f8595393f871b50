"""Objects that a flush has written, brought up to date before they are logged.

An UPDATE of the ORM writes the changed columns alone. What other transactions have written to the others since the
object was loaded is in the row, and must be in its entry. A `version_id_col` refuses such an UPDATE, so the rows of these
models need no look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.mutable import MutableDict, MutableList, MutableSet
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from arus.database import chunks
from arus.protocol.rows import is_written_alike
from arus.registry import loaded_value

from .engines import connection_of
from .pending import Change


def refresh_objects(session: Session, changes: Iterable[Change]) -> None:
    """Load the attributes again that differ from the rows of flushed changes."""
    found: dict[Mapper[Any], dict[Any, InstanceState[Any]]] = {}
    for change in changes:
        state = instance_state(change.row)
        if change.may_be_old and state.session is session and state.identity:
            found.setdefault(state.mapper, {})[state.identity[0]] = state
    for mapper, states in found.items():
        with session.no_autoflush:
            _refresh(session, mapper, states)


def expire_attributes(session: Session, row: Any, names: Sequence[str]) -> None:
    """Have attributes of an object loaded again when they are next used."""
    held = _mutables(row, names)
    session.expire(row, names)
    _keep(session, row, held)


def _mutables(row: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return an object's values that tell it of their changes."""
    values = instance_state(row).dict
    kinds = (MutableDict, MutableList, MutableSet)
    return {name: values[name] for name in names if isinstance(values.get(name), kinds)}


def _keep(session: Session, row: Any, held: dict[str, Any]) -> None:
    """Load values again into the same objects: the application may hold one, and what it writes to another is lost."""
    with session.no_autoflush:
        for name, value in held.items():
            try:
                found = loaded_value(row, name)
            except InvalidRequestError:
                return  # a trigger has deleted the row
            if type(found) is type(value):
                _replace(value, found)
                set_committed_value(row, name, value)


def _replace(value: Any, found: Any) -> None:
    """Replace a value's content, without telling its row of it."""
    if isinstance(value, list):
        list.__setitem__(value, slice(None), found)
    else:
        kind: Any = dict if isinstance(value, dict) else set
        kind.clear(value)
        kind.update(value, found)


def _refresh(session: Session, mapper: Mapper[Any], states: dict[Any, InstanceState[Any]]) -> None:
    (key,) = mapper.primary_key
    key_name = mapper.get_property_by_column(key).key
    loaded = {name for state in states.values() for name in state.dict}
    known = [each.key for each in mapper.column_attrs]
    names = [name for name in known if name in loaded and name != key_name]
    columns = [getattr(mapper.class_, name) for name in (key_name, *names)]
    connection = connection_of(session, mapper.class_)
    for keys in chunks(states):
        # On the connection: a listener of the session may hide rows.
        for row in connection.execute(select(*columns).where(columns[0].in_(keys))):
            state = states.get(row[0])
            differing = _differing(state, names, row[1:]) if state is not None else []
            if state is not None and differing:
                obj = state.obj()
                held = _mutables(obj, differing)
                session.refresh(obj, differing)
                _keep(session, obj, held)


def _differing(state: InstanceState[Any], names: Sequence[str], values: Sequence[Any]) -> list[str]:
    """Return the loaded attributes whose values differ from those of the row."""
    properties = inspect(state.mapper).column_attrs
    return [
        name
        for name, value in zip(names, values, strict=True)
        if name in state.dict
        and not (
            properties[name].columns[0].type.compare_values(state.dict[name], value)
            and is_written_alike(state.dict[name], value)
        )
    ]
