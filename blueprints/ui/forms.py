"""A form as the page shows it: what was typed, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from extensions.api import Errors, InvalidError
from extensions.database import Row, new_id

from .inputs import Input

#: Names the inputs that carry what a form showed when it was opened.
WAS = "was."
#: Names the inputs that carry which side of a conflict is taken.
USE = "use."


@dataclass(frozen=True, slots=True)
class Form:
    """A form, fresh or with what was typed into it."""

    #: Id of the element that holds it.
    id: str
    inputs: tuple[Input, ...]
    #: Sent along, so that a second click or a retry creates nothing twice.
    key: str = field(default_factory=new_id)
    values: Mapping[str, str] = field(default_factory=dict)
    #: What the row had when the form was opened, and its version then; 0 for a new row.
    was: Mapping[str, str] = field(default_factory=dict)
    version: int = 0
    errors: Errors = field(default_factory=dict)
    #: Said above a fresh form: what the last one has done.
    flash: str = ""

    @classmethod
    def of_row(cls, form_id: str, inputs: tuple[Input, ...], row: Row) -> Form:
        """Return a form that shows a row."""
        values = {each.key: each.text_of(row) for each in inputs}
        return cls(form_id, inputs, values=values, was=values, version=row.version)

    @property
    def open(self) -> bool:
        """Whether it is unfolded."""
        return bool(self.errors)

    @property
    def first_error(self) -> str | None:
        """The field to correct first."""
        return next((each.key for each in self.inputs if each.key in self.errors), None)

    @property
    def other_errors(self) -> list[str]:
        """What is wrong, but at no field of the form."""
        names = {each.key for each in self.inputs}
        return [
            message
            for name, messages in self.errors.items()
            if name not in names
            for message in messages
        ]

    def value(self, each: Input) -> str:
        """Return what a field shows."""
        return self.values.get(each.key, each.default)

    def filled(self, typed: Mapping[str, str]) -> Form:
        """Return this form with what was sent, for another look at it."""
        version = typed.get("version", "")
        return replace(
            self,
            key=typed.get("idempotency_key") or self.key,
            values={each.key: _typed(each, typed, each.key) for each in self.inputs},
            was={each.key: _plain(typed.get(WAS + each.key, "")) for each in self.inputs},
            version=int(version) if version.isdecimal() and len(version) < 10 else 0,
        )

    def refused(self, errors: Errors, *, new_key: bool = False) -> Form:
        """Return this form with its errors."""
        return replace(self, errors=errors, key=new_id() if new_key else self.key)

    def done(self, flash: str) -> Form:
        """Return a fresh form that says what was done."""
        return Form(self.id, self.inputs, flash=flash)

    def data(self) -> dict[str, Any]:
        """Return what was typed as the schemas take it: a blank field is one not given.

        :raises InvalidError: a text can't be read at all.
        """
        return {key: value for key, value in self._read(self.inputs).items() if value is not None}

    def changes(self, row: Row, *, unless: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return, as the schemas take it, what was typed otherwise than `row` has it.

        :param unless: keys to leave as the row has them.
        :raises InvalidError: a text can't be read at all.
        """
        changed = tuple(
            each
            for each in self.inputs
            if each.key not in unless and self.values[each.key].strip() != each.text_of(row).strip()
        )
        return self._read(changed)

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


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that a stale form and the row have differently."""

    input: Input
    mine: str
    theirs: str
    #: Whether the person at the form has changed it, and whether somebody else has.
    by_me: bool
    by_them: bool

    @property
    def choice(self) -> str:
        """The side taken unless a person says otherwise: never the overwriting one."""
        return "mine" if self.by_me and not self.by_them else "theirs"

    @property
    def mine_said(self) -> str:
        """The form's value for a reader."""
        return self.input.said(self.mine)

    @property
    def theirs_said(self) -> str:
        """The row's value for a reader."""
        return self.input.said(self.theirs)


def differences(form: Form, row: Row) -> list[Difference]:
    """Return where a stale form and the row differ."""
    found = []
    for each in form.inputs:
        mine, theirs, was = form.values[each.key], each.text_of(row), form.was[each.key]
        if mine.strip() != theirs.strip():
            found.append(Difference(each, mine, theirs, mine != was, theirs != was))
    return found


def _typed(each: Input, typed: Mapping[str, str], name: str) -> str:
    text = typed.get(name)
    if each.control == "flag":
        # A box that is not ticked is not sent.
        return "true" if text in {"true", "on"} else "false"
    return each.default if text is None else _plain(text)


def _plain(text: str) -> str:
    """Return a text with the line ends that rows have."""
    return text.replace("\r\n", "\n")
