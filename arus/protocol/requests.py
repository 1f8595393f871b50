"""Validation of requests for a catch-up from all sources (HTTP, the command line, MQTT).

The requester gets the errors of every key. msgspec stops at the first error, so this one message is read with a
marshmallow schema; the result is the struct of `arus.protocol.messages`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, cast

import orjson
from marshmallow import (
    EXCLUDE,
    ValidationError,
    fields,
    post_load,
    validate,
    validates_schema,
)

from arus.errors import CatchupError, CatchupRequestError

from .casing import CamelSchema
from .catchups import Cursor
from .digests import BUCKETS
from .messages import ALL, DEFAULT_LIMIT, CatchupRequest
from .times import now_ms, read_moment
from .topics import FOLLOWER_NAME

#: The highest limit.
MAX_LIMIT = 1_000_000_000
#: The highest window.
MAX_WINDOW = 100_000
#: Fields of an entity in a request for a digest, and characters of the name of one.
MAX_FIELDS = 1000
MAX_FIELD = 200
#: Bytes of a request over MQTT.
MAX_REQUEST = 65_536

_MAX_SEQ = 2**63 - 1
_DURATION = re.compile(r"(\d{1,5})\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
#: Keys for the starting point, of which at most one may be given.
_STARTS = ("since", "sinceSeq", "cursor")

#: A key and its error message.
_Wrong = tuple[str, str]


def decode_request(payload: bytes) -> object:
    """Decode a request that was received over MQTT, for `read_request`.

    :raises CatchupRequestError: it is too large, or not JSON.
    """
    if len(payload) > MAX_REQUEST:
        raise CatchupRequestError({"_schema": [f"Larger than {MAX_REQUEST} bytes."]})
    try:
        document: object = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise CatchupRequestError({"_schema": ["Not valid JSON."]}) from error
    return document


def read_request(document: object, entities: Collection[str]) -> CatchupRequest:
    """Validate a request and return it as a struct; unknown keys are ignored.

    :param document: the request's JSON, decoded but not validated.
    :param entities: the names of the existing entities.
    :raises CatchupRequestError: the request is not valid; `errors` says why, by key.
    """
    if not isinstance(document, Mapping):
        raise CatchupRequestError({"_schema": ["A JSON object is expected."]})
    schema = _schema(tuple(entities))
    try:
        return cast("CatchupRequest", schema.load(document))
    except ValidationError as error:
        keys = [str(field.data_key) for field in schema.fields.values()]
        found = error.messages_dict
        raise CatchupRequestError({key: found[key] for key in keys if key in found}) from error


def parse_since(given: str, now: datetime | None = None) -> datetime:
    """Parse a time that a person has entered: how long ago (`30m`, `2h`, `3d`, `1w`), or an ISO 8601 time.

    A time without a zone is UTC.

    :raises ValueError: it is neither; the message says what is expected.
    """
    given = given.strip()
    ago = _DURATION.fullmatch(given.lower())
    try:
        if ago:
            length = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return max(
                (now or datetime.fromtimestamp(now_ms() / 1000, UTC)) - length,
                datetime(1970, 1, 1, tzinfo=UTC),
            )
        return read_moment(given)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{given[:40]!r} is neither a time (2026-11-22T08:00:00Z) nor how long ago"
            " (30m, 2h, 3d, 1w)"
        ) from error


def _text(pattern: str, characters: str) -> fields.String:
    message = f"Must be {characters}."
    return fields.String(
        allow_none=True,
        error_messages={"invalid": message},
        validate=validate.Regexp(rf"{pattern}\Z", error=message),
    )


def _whole(minimum: int, maximum: int, **options: Any) -> fields.Integer:
    message = f"Must be a whole number from {minimum} to {maximum}."
    return fields.Integer(
        strict=True,
        error_messages={"invalid": message, "too_large": message, "null": message},
        validate=validate.Range(minimum, maximum, error=message),
        **options,
    )


_BUCKET = _whole(0, BUCKETS - 1)


class _Since(fields.String):
    """A time; stays the text that it is."""

    default_error_messages = {
        "invalid": "Not a valid time: ISO 8601 is expected, like 2026-11-22T08:00:00.000Z."
    }

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        try:
            read_moment(text)
        except (ValueError, OverflowError) as error:
            raise self.make_error("invalid") from error
        return text


class _Cursor(fields.String):
    default_error_messages = {"invalid": "Not a cursor of a catch-up."}

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> str:
        try:
            return str(Cursor.parse(value))
        except CatchupError as error:
            raise self.make_error("invalid") from error


class _Buckets(fields.Field[tuple[int, ...]]):
    default_error_messages = {"invalid": f"Must be a list of 1 to {BUCKETS} buckets."}

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= BUCKETS:
            raise self.make_error("invalid")
        return tuple(sorted({cast("int", _BUCKET.deserialize(one)) for one in value}))


class _Fields(fields.Field[dict[str, tuple[str, ...]]]):
    default_error_messages = {
        "invalid": f"Must be an object: of each entity, a list of up to {MAX_FIELDS} names of fields."
    }

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> dict[str, tuple[str, ...]]:
        if not isinstance(value, dict) or not all(map(_are_names, value.values())):
            raise self.make_error("invalid")
        return {entity: tuple(sorted(set(names))) for entity, names in value.items()}


def _are_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_FIELDS
        and all(isinstance(name, str) and len(name) <= MAX_FIELD for name in value)
    )


class _RequestSchema(CamelSchema):
    """Validates a request. A null value counts as missing, except for `limit`, where it means no limit."""

    class Meta:
        unknown = EXCLUDE

    mode = fields.String(
        allow_none=True,
        error_messages={"invalid": "Must be one of: snapshot, digest."},
        validate=validate.OneOf(["snapshot", "digest"], error="Must be one of: {choices}."),
    )
    entity = fields.Raw(allow_none=True)
    request_id = _text(r"[\x21-\x7e]{1,64}", "1 to 64 printable ASCII characters")
    vessel_id = _text(r"[^\x00-\x1f]{1,64}", "1 to 64 characters")
    since = _Since(allow_none=True)
    since_seq = _whole(0, _MAX_SEQ, allow_none=True)
    epoch = _text(r"[0-9A-Za-z-]{1,36}", "1 to 36 letters, digits and -")
    cursor = _Cursor(allow_none=True)
    limit = _whole(1, MAX_LIMIT, allow_none=True, load_default=DEFAULT_LIMIT)
    buckets = _Buckets(allow_none=True)
    fields_ = _Fields(allow_none=True, data_key="fields", attribute="fields")
    consumer = _text(FOLLOWER_NAME.pattern, "1 to 64 letters, digits, dots, dashes, underscores")
    window = _whole(1, MAX_WINDOW, allow_none=True)

    def __init__(self, entities: Collection[str]) -> None:
        super().__init__()
        self._entities = entities

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data: dict[str, Any], original: Mapping[str, Any], **_: Any) -> None:
        """Find keys that can't be combined, whether or not their values are valid."""
        mode = data.get("mode")
        wrong = [*self._wrong_entity(original, mode), *_wrong_start(original)]
        wrong += _wrong_snapshot(original, mode)
        errors: dict[str, Any] = {}
        for key, message in wrong:
            errors.setdefault(key, []).append(message)
        if errors:
            raise ValidationError(errors)

    def _wrong_entity(self, document: Mapping[str, Any], mode: str | None) -> Iterator[_Wrong]:
        entity = document.get("entity")
        if entity is None and mode != "digest":
            yield "entity", "Missing data for required field."
        elif entity is not None and not self._is_known(entity):
            yield "entity", f"Must be one of: {', '.join([*self._entities, ALL])}."
        elif mode == "digest" and entity not in {None, ALL}:
            yield "entity", "A digest covers all entities."
        elif _has(document, "cursor") and entity in {None, ALL}:
            yield "entity", "A cursor continues the catch-up of one entity: name it."

    def _is_known(self, entity: object) -> bool:
        return isinstance(entity, str) and (entity == ALL or entity in self._entities)

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> CatchupRequest:
        return CatchupRequest(**{**data, "entity": data.get("entity") or ALL})


@lru_cache(maxsize=8)
def _schema(entities: tuple[str, ...]) -> _RequestSchema:
    # Creating a schema takes longer than reading a request, and anybody may send many.
    return _RequestSchema(entities)


def _has(document: Mapping[str, Any], key: str) -> bool:
    """Whether a key has a value, valid or not."""
    return document.get(key) is not None


def _wrong_start(document: Mapping[str, Any]) -> Iterator[_Wrong]:
    given = [key for key in _STARTS if _has(document, key)]
    for key in given[1:]:
        yield key, f"Can't be given together with {given[0]}."
    if _has(document, "sinceSeq") and not _has(document, "epoch"):
        yield "epoch", "Required with sinceSeq: numbers are valid only within one epoch."
    if _has(document, "epoch") and not _has(document, "sinceSeq"):
        yield "sinceSeq", "Required with epoch."


def _wrong_snapshot(document: Mapping[str, Any], mode: str | None) -> Iterator[_Wrong]:
    if mode != "snapshot" and _has(document, "buckets"):
        yield "buckets", "Only a snapshot can be limited to buckets."
    if mode != "digest" and _has(document, "fields"):
        yield "fields", "Only a digest is limited to fields."
    if mode == "snapshot":
        for key in ("since", "sinceSeq"):
            if _has(document, key):
                yield key, "A snapshot contains all rows: it can't have a starting point."
