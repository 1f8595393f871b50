"""A row's history from the change log: who changed what, when, from which value to which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import orjson
from msgspec import Struct

from arus.outbox.changes import ChangeRecord
from arus.protocol.casing import camel
from blueprints.work_orders.steps import keyed
from extensions import sync
from extensions.database import Row

from .derived import Column, columns_of
from .i18n import _, local_number, local_time
from .inputs import pairs_text, step_mark, word
from .kinds import KINDS, Kind, names

#: Maximum number of changes that a row's page shows.
MOST = 20
#: Maximum number of characters of a value; the change's own page shows all of it.
MOST_SHOWN = 200
#: Stands for no value.
NONE = "\N{EN DASH}"
#: The fields that every change changes, and those that none does.
_NOT_TOLD = frozenset({"id", "version", "createdAt", "updatedAt"})
_WORDS = frozenset({"word", "flag", "status", "severity", "priority"})
_TIMES = frozenset({"time", "due"})

Values = Mapping[str, Any]


class FieldChange(Struct, frozen=True):
    """A field that a change has changed, with its values as people read them."""

    label: Any
    before: Any
    after: Any
    #: Whether the log still knows the value before.
    is_known: bool


class Step(Struct, frozen=True):
    """One change of a row."""

    record: ChangeRecord
    #: By whom it was made, as people read it; blank if that is not known.
    actor: str
    fields: tuple[FieldChange, ...]
    #: Whether the log has the row as it was before; and after.
    is_known: bool
    has_values: bool


class RowHistory(Struct, frozen=True):
    """The latest changes of a row, newest first."""

    steps: tuple[Step, ...]
    #: Whether the row has more changes than are shown.
    has_more: bool
    #: Whether the log has all changes of the row, from its creation on.
    is_whole: bool


def history_of(kind: Kind, row: Row) -> RowHistory | None:
    """Return the history of a row; None where nothing is captured."""
    if not sync.runtime().settings.local_mode:
        return None
    records = sync.runtime().changes.of_row(kind.entity, row.id, MOST + 1)
    values = [_values(record) for record in records]
    known = _names(kind, values)
    steps = []
    for number, record in enumerate(records[:MOST]):
        is_new = record.operation == "create"
        before = values[number + 1] if number + 1 < len(records) else {}
        fields = () if is_new else _differences(kind, before, values[number], known)
        is_known = is_new or bool(before)
        steps.append(Step(record, said(record.actor), fields, is_known, bool(values[number])))
    has_more = len(records) > MOST
    is_whole = not has_more and bool(records) and records[-1].operation == "create"
    return RowHistory(tuple(steps), has_more, is_whole)


def said(actor: str | None) -> str:
    """Return by whom a change was made, as people read it; blank if it is not known."""
    if actor is None:
        return ""
    if actor == "unauthenticated":
        return _("without login")
    kind, _colon, name = actor.partition(":")
    match kind:
        case "user":
            return _("by %(actor)s", actor=name)
        case "token":
            return _("by the token %(name)s", name=name)
        case "command":
            return _("by the command %(name)s", name=name)
        case _:
            return _("by %(actor)s", actor=actor)


def retention_days() -> str:
    """Return how many days the log keeps delivered changes."""
    return local_number(sync.runtime().settings.retention_days)


def _values(record: ChangeRecord) -> Values:
    """Return the fields of a row in a change; empty if the change holds only the row's id and version."""
    found: dict[str, Any] = orjson.loads(record.data or b"{}")
    return {key: value for key, value in found.items() if key not in _NOT_TOLD}


@cache
def _columns(slug: str) -> dict[str, Column]:
    """Return the fields of a kind by their keys in messages, in the schema's order."""
    resource = KINDS[slug].resource
    fields = resource.schema().fields
    labelled = [name for name, field in fields.items() if "label" in field.metadata]
    return {camel(column.name): column for column in columns_of(resource, " ".join(labelled))}


def _differences(
    kind: Kind, before: Values, after: Values, known: Mapping[str, Mapping[str, str]]
) -> tuple[FieldChange, ...]:
    if not before:
        return ()
    found = []
    for key, column in _columns(kind.slug).items():
        if key not in after or (key in before and before[key] == after[key]):
            continue
        was, now = before.get(key), after[key]
        if column.shape == "steps":
            was, now = _changed_steps(was or [], now or [])
        before_said, after_said = (_text(column, value, known) for value in (was, now))
        found.append(FieldChange(column.label, before_said, after_said, key in before))
    return tuple(found)


def _changed_steps(before: list[Any], after: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the steps that differ, before and after: a list is long, and one of them was ticked off."""
    was, now = keyed(before), keyed(after)
    return (
        [step for key, step in was.items() if now.get(key) != step],
        [step for key, step in now.items() if was.get(key) != step],
    )


def _names(kind: Kind, values: Iterable[Values]) -> dict[str, dict[str, str]]:
    """Return the names of all rows that the values refer to, by the slug of their kind."""
    wanted: dict[str, set[str]] = {}
    for key, column in _columns(kind.slug).items():
        if column.shape in KINDS:
            ids = {str(each[key]) for each in values if each.get(key)}
            wanted.setdefault(column.shape, set()).update(ids)
    return {slug: names(slug, ids) for slug, ids in wanted.items()}


def _text(column: Column, value: Any, known: Mapping[str, Mapping[str, str]]) -> Any:
    """Return a value of a message as people read it."""
    if value is None or value == "":
        return NONE
    if column.shape in _TIMES:
        return local_time(value)
    if column.shape in _WORDS:
        return word(value)
    if column.shape in known:
        return known[column.shape].get(value, value)
    if column.shape == "steps":
        texts = (f"{step_mark(step)} {step['text']}" for step in value)
        return _short(", ".join(texts) or NONE)
    if isinstance(value, dict):
        return _short(", ".join(pairs_text(value).splitlines()) or NONE)
    if isinstance(value, int | float):
        return local_number(value)
    text = str(value)
    return _short(text.replace("_", " ") if column.shape == "spaced" else text)


def _short(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
