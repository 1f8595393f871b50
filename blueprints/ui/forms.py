"""A form as the page shows it: what was typed, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from extensions.database import new_id


@dataclass(frozen=True, slots=True)
class Form:
    """A form, fresh or with what was typed into it."""

    #: Id of the element that holds it.
    id: str
    #: The fields that it shows, by their JSON keys, in order.
    names: tuple[str, ...]
    #: Sent along, so that a second click or a retry creates nothing twice.
    key: str = field(default_factory=new_id)
    values: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, list[str]] = field(default_factory=dict)
    #: Said above a fresh form: what the last one has done.
    flash: str = ""

    @property
    def open(self) -> bool:
        """Whether it is unfolded."""
        return bool(self.errors)

    @property
    def first_error(self) -> str | None:
        """The field to correct first."""
        return next((name for name in self.names if name in self.errors), None)

    @property
    def other_errors(self) -> list[str]:
        """What is wrong, but at no field of the form."""
        return [
            message
            for name, messages in self.errors.items()
            if name not in self.names
            for message in messages
        ]

    def filled(self, typed: Mapping[str, str]) -> Form:
        """Return this form with what was typed, for another look at it."""
        values = {name: typed[name] for name in self.names if name in typed}
        return Form(self.id, self.names, typed.get("idempotency_key") or self.key, values)

    def refused(self, errors: Mapping[str, list[str]], *, new_key: bool = False) -> Form:
        """Return this form with its errors."""
        key = new_id() if new_key else self.key
        return Form(self.id, self.names, key, self.values, errors)

    def done(self, flash: str) -> Form:
        """Return a fresh form that says what was done."""
        return Form(self.id, self.names, flash=flash)

    def data(self) -> dict[str, str]:
        """Return what was typed as the schemas take it: a blank field is one not given."""
        return {name: value for name, value in self.values.items() if value.strip()}
