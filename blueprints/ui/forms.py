"""Forms: the typed values and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from blueprints.work_orders.steps import listed, merged
from extensions.api import Errors, InvalidError
from extensions.database import Row, new_id

from .inputs import Input, lines_of

#: Prefix of the hidden inputs with the values that the form showed when it was opened.
WAS = "was."
#: Prefix of the inputs with the chosen side of each conflict.
USE = "use."
#: Prefixes of the inputs with a text to search options for, and of the text that was searched for last.
LOOK = "look."
LOOKED = "looked."


class Form(Struct, frozen=True):
    """A form, new or with typed values."""

    #: The id of its HTML element.
    id: str
    inputs: tuple[Input, ...]
    #: The idempotency key, so that a second click or a retry does not create a second row.
    key: str = field(default_factory=new_id)
    values: Mapping[str, str] = field(default_factory=dict)
    #: The row's values when the form was opened, and its version then; 0 for a new row.
    was: Mapping[str, str] = field(default_factory=dict)
    #: The texts to search options for, by key: of a browser without scripts.
    looks: Mapping[str, str] = field(default_factory=dict)
    #: Whether one of them is new: the form is to be shown with what was found, not saved.
    looking: bool = False
    version: int = 0
    errors: Errors = field(default_factory=dict)
    #: A message shown above a new form: the result of the previous one.
    flash: str = ""

    @classmethod
    def of_row(cls, form_id: str, inputs: tuple[Input, ...], row: Row) -> Form:
        """Return a form with a row's values."""
        values = {each.key: plain(each.text_of(row)) for each in inputs}
        return cls(form_id, inputs, values=values, was=values, version=row.version)

    @property
    def open(self) -> bool:
        """Whether it is unfolded."""
        return bool(self.errors) or self.looking

    @property
    def first_error(self) -> str | None:
        """The field to correct first."""
        return next((each.key for each in self.inputs if each.key in self.errors), None)

    @property
    def other_errors(self) -> list[str]:
        """The errors that belong to no field of the form."""
        names = {each.key for each in self.inputs}
        return [
            message
            for name, messages in self.errors.items()
            if name not in names
            for message in messages
        ]

    def value(self, each: Input) -> str:
        """Return the value that a field shows."""
        return self.values.get(each.key, each.default)

    def filled(self, typed: Mapping[str, str]) -> Form:
        """Return this form with the values that were sent."""
        version = typed.get("version", "")
        looks = {each.key: typed.get(LOOK + each.key, "").strip() for each in self.inputs}
        return replace(
            self,
            key=typed.get("idempotency_key") or self.key,
            values={each.key: _typed(each, typed, each.key) for each in self.inputs},
            was={
                each.key: plain(typed[WAS + each.key])
                for each in self.inputs
                if WAS + each.key in typed
            },
            looks=looks,
            looking=any(text != typed.get(LOOKED + key, "") for key, text in looks.items()),
            version=int(version) if version.isdecimal() and len(version) < 10 else 0,
        )

    def refused(self, errors: Errors, *, new_key: bool = False) -> Form:
        """Return this form with its errors."""
        return replace(self, errors=errors, key=new_id() if new_key else self.key)

    def done(self, flash: str) -> Form:
        """Return a new form with a message about the previous one."""
        return Form(self.id, self.inputs, flash=flash)

    def merged_with(self, row: Row) -> Form:
        """Return this form with the lists of `row`, which somebody has changed meanwhile, and what was edited in them."""
        values, was = dict(self.values), dict(self.was)
        for each in self.inputs:
            if each.control == "steps":
                theirs = plain(each.text_of(row))
                lists = (was.get(each.key, theirs), values[each.key], theirs)
                values[each.key] = "\n".join(merged(*map(lines_of, lists)))
                was[each.key] = theirs
        return replace(self, values=values, was=was)

    def data(self) -> dict[str, Any]:
        """Return the typed values as the schemas expect them; a blank field is left out.

        :raises InvalidError: a value can't be parsed.
        """
        return {key: value for key, value in self._read(self.inputs).items() if value is not None}

    def is_edited(self, each: Input, row: Row) -> bool:
        """Return whether a field was changed since the form was opened.

        A browser sends the line ends of a text in a form of its own, and never those of the row.
        """
        shown = self.was.get(each.key)
        return self.values[each.key] != (plain(each.text_of(row)) if shown is None else shown)

    def changes(self, row: Row, *, unless: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return the edited values that differ from those of `row`, as the schemas expect them.

        :param unless: keys whose values in the row are kept.
        :raises InvalidError: a value can't be parsed.
        """
        changed = tuple(
            each
            for each in self.inputs
            if each.key not in unless
            and self.is_edited(each, row)
            and self.values[each.key].strip() != plain(each.text_of(row)).strip()
        )
        return {
            key: _in_the_form_of(getattr(row, each.name), each, value)
            for each, (key, value) in zip(changed, self._read(changed).items(), strict=True)
        }

    def _read(self, inputs: tuple[Input, ...]) -> dict[str, Any]:
        read: dict[str, Any] = {}
        errors: Errors = {}
        for each in inputs:
            try:
                read[each.key] = each.value_of(self.values.get(each.key, ""))
            except ValueError as error:
                errors[each.key] = [str(error)]
        if errors:
            raise InvalidError(errors)
        return read


class Difference(Struct, frozen=True):
    """A field whose value in a stale form differs from the row's."""

    input: Input
    mine: str
    theirs: str
    #: Whether the user of the form has changed it, and whether somebody else has.
    by_me: bool
    by_them: bool

    @property
    def choice(self) -> str:
        """The preselected side: never the one that would overwrite another person's change."""
        return "mine" if self.by_me and not self.by_them else "theirs"

    @property
    def mine_said(self) -> str:
        """The form's value as people read it."""
        return self.input.said(self.mine)

    @property
    def theirs_said(self) -> str:
        """The row's value as people read it."""
        return self.input.said(self.theirs)


def differences(form: Form, row: Row) -> list[Difference]:
    """Return the differences between a stale form and the row."""
    found = []
    for each in form.inputs:
        mine, theirs = form.values[each.key], plain(each.text_of(row))
        if mine.strip() != theirs.strip():
            was = form.was.get(each.key, theirs)
            found.append(Difference(each, mine, theirs, mine != was, theirs != was))
    return found


def _typed(each: Input, typed: Mapping[str, str], name: str) -> str:
    text = typed.get(name)
    if each.control == "flag":
        # Browsers do not send a checkbox that is not ticked.
        return "true" if text in {"true", "on"} else "false"
    return each.default if text is None else plain(text)


def plain(text: str) -> str:
    """Return a text with line feeds as line ends: browsers read and send all line ends alike."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _in_the_form_of(before: Any, each: Input, value: Any) -> Any:
    """Return an edited value with what the form does not show of the one before."""
    if each.control == "steps":
        return listed([step["text"] for step in value or ()], before or ())
    return _with_line_ends_of(before, value)


def _with_line_ends_of(before: object, value: Any) -> Any:
    """Return an edited text with the line ends that it had before, if these were all of one kind."""
    if not isinstance(before, str) or not isinstance(value, str):
        return value
    for end in ("\r\n", "\r"):
        if end in before and not set("\r\n") & set(before.replace(end, "")):
            return value.replace("\n", end)
    return value
