"""The inputs of forms: convert a row's values to editable text, and typed text to JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from msgspec import Struct

from arus.protocol.casing import camel
from blueprints.common.fields import is_blank, one_line

from .i18n import _, lazy, number_input, ship_input, ship_moment, typed_number

#: Values and their labels.
Options = list[tuple[str, str]]

#: Labels of the enumerated values.
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
    "5": lazy("5, when time permits"),
}


def word(value: object) -> str:
    """Return the label of an enumerated value."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return str(WORDS.get(text, text))


def words(values: Sequence[object]) -> Options:
    """Return enumerated values as options."""
    return [(str(value), word(value)) for value in values]


class Input(Struct, frozen=True):
    """One field of a form."""

    #: The row's attribute.
    name: str
    label: Any
    #: text, area, choice, reference, number, whole, moment, flag, pairs or steps.
    control: str = "text"
    required: bool = False
    #: For a choice: its values. For a reference: the function that offers rows (`choices.Offer`).
    values: tuple[object, ...] = ()
    offered: Callable[[Sequence[str], str], Any] | None = None
    hint: Any = ""
    #: half, third, or blank for the full width.
    width: str = ""
    default: str = ""

    @property
    def key(self) -> str:
        """Its name in the form, which is the JSON key."""
        return camel(self.name)

    def options(self, present: str = "") -> Options:
        """Return the options that are offered at a time; `present` is always among them."""
        if self.offered:
            options: Options = self.offered([present] if present else [], "").options
        else:
            options = words(self.values)
        if present and present not in dict(options):
            # Written by another program: a form must not replace it by the first option.
            options = [(present, word(present)), *options]
        return options

    def text_of(self, row: object) -> str:
        """Return the row's value as text for the form."""
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
            case "steps":
                return "\n".join(step["text"] for step in value)
            case _:
                return str(value)

    def said(self, text: str) -> str:
        """Return a form's text as people read it."""
        if self.control in {"choice", "reference"}:
            return dict(self.options(text)).get(text, text)
        if self.control == "flag":
            return word(text)
        return text.replace("T", " ") if self.control == "moment" else text

    def value_of(self, text: str) -> Any:
        """Return the typed text as the schemas expect it; blank is null.

        :raises ValueError: the text is not valid as pairs or as a time; the message says why.
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
            case "steps":
                return [{"text": line} for line in lines_of(text)]
            case _:
                return text


def step_mark(step: dict[str, Any]) -> str:
    """Return the box that shows whether a step is done."""
    return "\N{BALLOT BOX WITH CHECK}" if step["done"] else "\N{BALLOT BOX}"


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that are not blank, each as it is stored as a step."""
    return [one_line(line) for line in text.split("\n") if not is_blank(line)]


def pairs_text(document: dict[str, Any]) -> str:
    """Return a JSON object as lines of `name: value`; as JSON if its names don't allow that."""
    if any(not _plain(name) or ":" in name or name.startswith("{") for name in document):
        return json.dumps(document, ensure_ascii=False, indent=1)
    return "\n".join(f"{name}: {_scalar_text(value)}" for name, value in document.items())


def pairs_of(text: str) -> Any:
    """Parse lines of `name: value`, or JSON, to a JSON object.

    :raises ValueError: the text is neither.
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
                _('Each line must be "name: value"; this one is not: %(line)s', line=line[:80])
            )
        if name in document:
            raise ValueError(_("%(name)s appears twice.", name=name[:80]))
        document[name] = _scalar_of(value.strip())
    return document


def _scalar_text(value: Any) -> str:
    # A text that would be parsed as something else, such as a number, is quoted.
    if isinstance(value, str) and _plain(value) and _scalar_of(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> bool:
    """Return whether a text is unchanged by writing it as a line, or part of one, and parsing it again."""
    return bool(text) and text.isprintable() and text == text.strip()


def _scalar_of(text: str) -> Any:
    try:
        value = orjson.loads(text)
    except ValueError:
        return text
    # As numbers, version 1.10 would become 1.1, and a part number lose its last digits.
    if type(value) in {int, float} and json.dumps(value) != text:
        return text
    return value
