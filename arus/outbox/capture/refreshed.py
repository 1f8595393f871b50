"""Objects that a flush has updated, brought up to date before they are logged.

An UPDATE of the ORM writes the changed columns alone. What other transactions have written to the others since the
object was loaded is in the row, and must be in its entry. A `version_id_col` refuses such an UPDATE, so the rows of these
models need no look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.attributes import instance_state

from arus.database import chunks
from arus.protocol.rows import is_written_alike

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
                session.refresh(state.obj(), differing)


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
