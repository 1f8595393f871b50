"""The inputs of forms: from a row to what a person edits, and from what was typed to JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from blueprints.common.fields import camel

from .i18n import _, lazy, number_input, ship_input, ship_moment, typed_number

#: Values and what they are called.
Options = list[tuple[str, str]]

#: What the enumerated values are called.
WORDS = {
    "open": lazy("open"),
    "in_progress": lazy("in progress"),
    "completed": lazy("completed"),
    "cancelled": lazy("cancelled"),
    "scheduled": lazy("scheduled"),
    "pending": lazy("pending"),
    "overdue": lazy("overdue"),
    "warning": lazy("warning"),
    "critical": lazy("critical"),
    "low": lazy("low"),
    "medium": lazy("medium"),
    "high": lazy("high"),
    "true": lazy("yes"),
    "false": lazy("no"),
    "1": lazy("1, urgent"),
    "2": lazy("2, high"),
    "3": lazy("3, normal"),
    "4": lazy("4, low"),
    "5": lazy("5, when there is time"),
}


def word(value: object) -> str:
    """Return what a person calls an enumerated value."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return str(WORDS.get(text, text))


def words(values: Sequence[object]) -> Options:
    """Return options of enumerated values."""
    return [(str(value), word(value)) for value in values]


@dataclass(frozen=True, slots=True)
class Input:
    """One field of a form."""

    #: The attribute of the row.
    name: str
    label: Any
    #: text, area, choice, reference, number, whole, moment, flag or pairs.
    control: str = "text"
    required: bool = False
    #: Of a choice: its values. Of a reference: what offers rows; takes the present id.
    values: tuple[object, ...] = ()
    offered: Callable[[str], Options] | None = None
    hint: Any = ""
    #: half, third or blank for the whole width.
    width: str = ""
    default: str = ""

    @property
    def key(self) -> str:
        """Its name in the form, which is that of the JSON."""
        return camel(self.name)

    def options(self, present: str = "") -> Options:
        """Return what can be chosen."""
        if self.offered:
            return self.offered(present)
        return words(self.values)

    def text_of(self, row: object) -> str:
        """Return the row's value as the form has it."""
        value = getattr(row, self.name)
        if value is None:
            return ""
        match self.control:
            case "moment":
                return ship_input(value)
            case "number":
                return number_input(value)
            case "flag":
                return "true" if value else "false"
            case "pairs":
                return pairs_text(value)
            case _:
                return str(value)

    def said(self, text: str) -> str:
        """Return a form's text as a person reads it."""
        if self.control in {"choice", "reference"}:
            return dict(self.options(text)).get(text, text)
        if self.control == "flag":
            return word(text)
        return text.replace("T", " ") if self.control == "moment" else text

    def value_of(self, text: str) -> Any:
        """Return what was typed as the schemas take it; blank is null.

        :raises ValueError: the text of pairs is none; its message says why.
        """
        if not text.strip():
            return None
        match self.control:
            case "moment":
                return ship_moment(text)
            case "number":
                return typed_number(text)
            case "pairs":
                return pairs_of(text)
            case _:
                return text


def pairs_text(document: dict[str, Any]) -> str:
    """Return a JSON object as lines of `name: value`; one whose names don't allow it, as JSON."""
    if any(not _plain(name) or ":" in name or name.startswith("{") for name in document):
        return json.dumps(document, ensure_ascii=False, indent=1)
    return "\n".join(f"{name}: {_scalar_text(value)}" for name, value in document.items())


def pairs_of(text: str) -> Any:
    """Return the JSON object that lines of `name: value`, or JSON, stand for.

    :raises ValueError: they stand for none.
    """
    if text.lstrip().startswith("{"):
        try:
            return orjson.loads(text)
        except ValueError as error:
            raise ValueError(_("This is not valid JSON.")) from error
    document: dict[str, Any] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name = name.strip()
        if not colon or not name:
            raise ValueError(
                _('Each line is expected as "name: value"; this is none: %(line)s', line=line[:80])
            )
        if name in document:
            raise ValueError(_("%(name)s is there twice.", name=name[:80]))
        document[name] = _scalar_of(value.strip())
    return document


def _scalar_text(value: Any) -> str:
    # What would be read as something else, a number for one, is quoted.
    if isinstance(value, str) and _plain(value) and _scalar_of(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> bool:
    """Whether a text is the same after it was a line, or a part of one, in a form."""
    return bool(text) and text.isprintable() and text == text.strip()


def _scalar_of(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return text
