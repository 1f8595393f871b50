"""Fields of the JSON representation, each with its limits, and the base schema of all resources."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from flask_babel import lazy_gettext as lazy
from marshmallow import ValidationError, fields, validate

from arus.protocol.casing import CamelSchema

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def is_id(text: object) -> bool:
    """Return whether `text` has the form of a row id."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def iso(moment: datetime) -> str:
    """Format `moment` for messages and responses: UTC, ISO 8601, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def shown(label: Any, *, shape: str = "", hint: Any = "", initial: str = "") -> dict[str, Any]:
    """Return field metadata for the pages that can't be derived from the field's type.

    :param label: the field's name for people.
    :param shape: how a list and a page show it, if not like other fields of its type.
    :param hint: an example, shown in an empty input.
    :param initial: the initial value in a new form, if the table has no default.
    """
    given = {"label": label, "shape": shape, "hint": hint, "initial": initial}
    return {name: value for name, value in given.items() if value}


def is_blank(text: str) -> bool:
    """Return whether nothing is seen of a text: it has only spaces and characters without a width."""
    return all(each.isspace() or unicodedata.category(each) == "Cf" for each in text)


class Text(fields.String):
    """A text without surrounding whitespace; a blank text counts as missing."""

    default_error_messages = {
        "control": "Control characters are not accepted.",
        "too_long": "Longer than {maximum} characters.",
    }

    def __init__(self, maximum: int = 255, **kwargs: Any) -> None:
        if not kwargs.get("required"):
            kwargs.setdefault("allow_none", True)
        super().__init__(**kwargs)
        self.maximum = maximum
        self.metadata = {"maxLength": maximum, **self.metadata}

    def deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the text; a blank one is treated as null, before validation."""
        if isinstance(value, str) and is_blank(value):
            value = None
        return super().deserialize(value, *args, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs).strip()
        if len(text) > self.maximum:
            raise self.make_error("too_long", maximum=self.maximum)
        # PostgreSQL can't store NUL in a text, and the other control characters are never intended.
        if any(ord(character) < 32 and character not in "\n\r\t" for character in text):
            raise self.make_error("control")
        return text


class Choice(Text):
    """One of a fixed set of words."""

    def __init__(self, choices: tuple[str, ...], **kwargs: Any) -> None:
        kwargs.setdefault("allow_none", False)
        super().__init__(50, validate=validate.OneOf(choices), **kwargs)
        self.choices = choices


class Reference(Text):
    """The id of another row."""

    default_error_messages = {"id": "Not an id (a UUID)."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(36, **kwargs)
        self.metadata = {**self.metadata, "format": "uuid"}

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> str:
        if isinstance(value, str) and is_id(value.strip().lower()):
            return value.strip().lower()
        raise self.make_error("id")


def _is_python(value: Any) -> bool:
    """Return whether a text is a number in Python alone: `1_000`."""
    return isinstance(value, str) and "_" in value


class Whole(fields.Integer):
    """A whole number within limits; 3 and "3" are accepted, 3.5 is not."""

    def __init__(self, minimum: int, maximum: int, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(minimum, maximum), **kwargs)

    def _validated(self, value: Any) -> int:
        if _is_python(value) or (isinstance(value, float) and not value.is_integer()):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Priority(Whole):
    """A priority from 1 (at once) to 5 (when time permits)."""

    LEVELS = (1, 2, 3, 4, 5)

    def __init__(self, **kwargs: Any) -> None:
        metadata = shown(lazy("Priority"), shape="priority")
        super().__init__(self.LEVELS[0], self.LEVELS[-1], metadata=metadata, **kwargs)


class Real(fields.Float):
    """A number within limits."""

    def __init__(self, minimum: float = -1e15, maximum: float = 1e15, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(minimum, maximum), **kwargs)

    def _validated(self, value: Any) -> float:
        if _is_python(value):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Timestamp(fields.Field[datetime]):
    """A time in UTC: ISO 8601 with milliseconds and Z; a time without an offset is read as UTC."""

    default_error_messages = {
        "invalid": "Not a valid time: ISO 8601 is expected, like 2026-11-22T08:00:00.000Z.",
        "range": "Not between the years 1970 and 2200.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = {**self.metadata, "type": "string", "format": "date-time"}

    def _serialize(self, value: Any, *_args: Any, **_kwargs: Any) -> str | None:
        return None if value is None else iso(value)

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> datetime:
        if not isinstance(value, str) or len(value) > 40:
            raise self.make_error("invalid")
        try:
            moment = datetime.fromisoformat(value.strip())
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except ValueError as error:
            raise self.make_error("invalid") from error
        except OverflowError as error:
            raise self.make_error("range") from error
        if not EARLIEST <= moment < LATEST:
            raise self.make_error("range")
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class Document(fields.Dict):
    """A small JSON object, limited in size and in levels of nesting."""

    LEVELS = 6
    SIZE = 16_384

    default_error_messages = {
        "deep": "Nested deeper than {levels} levels.",
        "large": "Larger than {size} bytes as JSON.",
        "text": "A text in it has control characters.",
        "number": "A number in it is not finite.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keys=fields.String(), allow_none=True, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> dict[Any, Any]:
        document: dict[Any, Any] = super()._deserialize(value, attr, data, **kwargs)
        self._check(document, self.LEVELS)
        if len(json.dumps(document)) > self.SIZE:
            raise self.make_error("large", size=self.SIZE)
        return document

    def _check(self, value: Any, levels: int) -> None:
        if levels < 0:
            raise self.make_error("deep", levels=self.LEVELS)
        if isinstance(value, str) and "\0" in value:
            raise self.make_error("text")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.make_error("number")
        if isinstance(value, dict):
            for key, item in value.items():
                self._check(key, levels)
                self._check(item, levels - 1)
        elif isinstance(value, list):
            for item in value:
                self._check(item, levels - 1)


def one_line(text: str) -> str:
    """Return a text with a space for each run of whitespace, and none around it."""
    return " ".join(text.split())


class Line(Text):
    """A text of one line."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        return one_line(super()._deserialize(value, attr, data, **kwargs))


class StepSchema(CamelSchema):
    """Something to tick off."""

    text = Line(200, required=True)
    done = fields.Boolean(load_default=False)


class Steps(fields.List[Any]):
    """A list of things to tick off, in order."""

    MOST = 100

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            fields.Nested(StepSchema),
            allow_none=True,
            validate=validate.Length(max=self.MOST),
            **kwargs,
        )

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[Any]:
        # A PATCH gives some fields of a row, but whole steps.
        return super()._deserialize(value, attr, data, **{**kwargs, "partial": False})

    def _serialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        return value  # it was checked when it was written


class AnyOf(fields.List[Any]):
    """A filter of a list: repeated in a query, it stands for either value."""

    def __init__(self, inner: fields.Field[Any]) -> None:
        super().__init__(inner, metadata=inner.metadata)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[Any]:
        try:
            return super()._deserialize(value, attr, data, **kwargs)
        except ValidationError as error:
            # The same message for each wrong value says no more.
            messages = error.messages_dict.values() if isinstance(error.messages, dict) else []
            said = [text for each in messages for text in each] or error.messages
            raise ValidationError(list(dict.fromkeys(said))) from error


def example_row(row_id: str, **fields: Any) -> dict[str, Any]:
    """Return a row as an example of its schema."""
    times = {"createdAt": "2026-11-22T08:00:00.000Z", "updatedAt": "2026-11-22T08:00:00.000Z"}
    return {"id": row_id, "version": 1, **times, **fields}


class RowSchema(CamelSchema):
    """The fields that every row has."""

    #: Examples of a row and of a PATCH, for the OpenAPI document.
    example: ClassVar[dict[str, Any]] = {}
    patch_example: ClassVar[dict[str, Any]] = {}

    id = Reference(dump_only=True)
    version = fields.Integer(dump_only=True)
    created_at = Timestamp(dump_only=True, metadata=shown(lazy("Created")))
    updated_at = Timestamp(dump_only=True)

    def handle_error(self, error: Any, data: Any, **_kwargs: Any) -> None:
        """Report a read-only key as such, not as an unknown one."""
        if not isinstance(data, Mapping) or not isinstance(error.messages, dict):
            return
        for field in self.dump_fields.values():
            if field.dump_only and field.data_key in error.messages:
                error.messages[field.data_key] = ["Read-only: the server sets it."]
