"""What a vessel publishes, as a follower reads it. Inbound bytes are hostile until they were read here.

Reading checks what the receiver's algorithm stands on (kinds, numbers, lengths, depth, the entity for the
topic); whether a row's content fits its table is for `arus.follower.rows` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arus.errors import RefusedMessageError
from arus.message import Operation, read_object, read_time
from arus.topics import CATCHUP, CONFLICTS, DIGEST, STATUS

#: The largest message that is looked at, in bytes, and the deepest nesting.
MAX_SIZE = 4_194_304
MAX_DEPTH = 32
#: JSON's numbers are exact up to here in every language.
MAX_NUMBER = 2**53 - 1
MAX_ID = 64
MAX_EPOCH = 36
#: The log has no column for a longer one.
MAX_MESSAGE_ID = 160
_OPERATIONS = frozenset(operation.value for operation in Operation)
_MODES = frozenset({"log", "snapshot", "must_refetch"})


@dataclass(frozen=True, slots=True)
class Change:
    """A change, live or as an item of a catch-up."""

    vessel_id: str
    epoch: str
    #: Topic under the prefix, of the live changes.
    topic: str
    entity: str
    operation: str
    row_id: str
    version: int
    seq: int
    previous_seq: int
    #: Milliseconds, of the commit.
    at: int
    data: dict[str, Any]
    #: Of an item of a catch-up: which, and its place in it.
    catchup_id: str | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Numbered:
    """A message of the log that is no row of ours (a conflict report): only its number counts."""

    vessel_id: str
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Begin:
    """A catch-up of one entity begins."""

    vessel_id: str
    epoch: str
    topic: str
    entity: str
    catchup_id: str
    request_id: str | None
    mode: str
    high_seq: int
    total: int
    since_seq: int | None
    complete: bool
    buckets: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class End:
    """A catch-up of one entity ends."""

    vessel_id: str
    epoch: str
    topic: str
    catchup_id: str
    request_id: str | None
    mode: str
    high_seq: int
    total: int
    digest: str
    next: str | None


@dataclass(frozen=True, slots=True)
class Heads:
    """How far each topic of a vessel had come at one number."""

    vessel_id: str
    epoch: str
    seq: int
    topics: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """A vessel's status."""

    vessel_id: str
    online: bool
    #: None where the vessel tells nothing of its log.
    epoch: str | None
    seq: int
    #: None where the vessel does not tell.
    pending: int | None
    heads: Heads | None


@dataclass(frozen=True, slots=True)
class Digest:
    """A vessel's digest of its tables at one number."""

    vessel_id: str
    epoch: str
    seq: int
    heads: Heads
    #: The whole document.
    document: dict[str, Any]


Message = Change | Numbered | Begin | End | Status | Digest


@dataclass(frozen=True, slots=True)
class Followed:
    """What is known of an entity before its messages come."""

    entity: str
    #: Topic under the prefix.
    topic: str
    #: Key of the row's id in `data`.
    id_key: str


class Reader:
    """Reads messages.

    :param prefix: root of the topics.
    :param followed: the entities that are followed, by topic.
    """

    def __init__(self, prefix: str, followed: Mapping[str, Followed]) -> None:
        self._start = len(prefix) + 1
        self._followed = followed

    def read(self, topic: str, payload: bytes) -> Message:
        """Return what a message says.

        :raises RefusedMessageError: it is not one that a vessel publishes.
        """
        body = read_object(payload, MAX_SIZE)
        name = topic[self._start :]
        if name == STATUS:
            return _status(body)
        if name == DIGEST:
            return _digest(body)
        if name == CONFLICTS:
            return Numbered(_id(body, "vesselId"), _epoch(body), _number(body, "seq", 1))
        if name.startswith(f"{CATCHUP}/"):
            return self._catchup(name[len(CATCHUP) + 1 :], body)
        if body.get("type") != "data_change":
            raise RefusedMessageError("not a data_change")
        return self._change(name, body)

    def _entity(self, topic: str, body: dict[str, Any]) -> Followed:
        followed = self._followed.get(topic)
        if followed is None:
            raise RefusedMessageError("nothing is followed on this topic")
        if body.get("entity") != followed.entity:
            raise RefusedMessageError(f"this topic carries {followed.entity}")
        return followed

    def _change(
        self,
        topic: str,
        body: dict[str, Any],
        *,
        least_seq: int = 1,
        catchup_id: str | None = None,
        sequence: int = 0,
    ) -> Change:
        followed = self._entity(topic, body)
        operation = body.get("operation")
        if not isinstance(operation, str) or operation not in _OPERATIONS:
            raise RefusedMessageError("operation is not create, update or delete")
        data = body.get("data")
        if not isinstance(data, dict):
            raise RefusedMessageError("data is not an object")
        if too_deep(data):
            raise RefusedMessageError(f"data is nested deeper than {MAX_DEPTH} levels")
        seq = _number(body, "seq", least_seq)
        previous_seq = _number(body, "previousSeq")
        if previous_seq >= seq > 0:
            raise RefusedMessageError("previousSeq is not below seq")
        message_id = body.get("messageId")
        if not isinstance(message_id, str) or not 0 < len(message_id) <= MAX_MESSAGE_ID:
            raise RefusedMessageError("messageId is not a text of fitting length")
        return Change(
            vessel_id=_id(body, "vesselId"),
            epoch=_epoch(body),
            topic=topic,
            entity=followed.entity,
            operation=operation,
            row_id=_row_id(data.get(followed.id_key)),
            version=_number(body, "version", 1),
            seq=seq,
            previous_seq=previous_seq,
            at=read_time(body),
            data=data,
            catchup_id=catchup_id,
            sequence=sequence,
        )

    def _catchup(self, topic: str, body: dict[str, Any]) -> Message:
        kind = body.get("type")
        if kind == "catchup":
            # A row of a snapshot bears the log's head, and that is 0 where nothing was captured yet.
            return self._change(
                topic,
                body,
                least_seq=0,
                catchup_id=_id(body, "catchupId"),
                sequence=_number(body, "sequence"),
            )
        if kind == "catchup_begin":
            return self._begin(topic, body)
        if kind == "catchup_end":
            return self._end(topic, body)
        raise RefusedMessageError("not a message of a catch-up")

    def _begin(self, topic: str, body: dict[str, Any]) -> Begin:
        followed = self._entity(topic, body)
        return Begin(
            vessel_id=_id(body, "vesselId"),
            epoch=_epoch(body),
            topic=topic,
            entity=followed.entity,
            catchup_id=_id(body, "catchupId"),
            request_id=_optional_id(body, "requestId"),
            mode=_mode(body),
            high_seq=_number(body, "highSeq"),
            total=_number(body, "total"),
            since_seq=_optional_number(body, "sinceSeq"),
            complete=body.get("complete") is True,
            buckets=_buckets(body.get("buckets")),
        )

    def _end(self, topic: str, body: dict[str, Any]) -> End:
        self._entity(topic, body)
        digest = body.get("digest")
        if not isinstance(digest, str) or len(digest) > MAX_ID:
            raise RefusedMessageError("digest is not a text of fitting length")
        cursor = body.get("next")
        if cursor is not None and not isinstance(cursor, str):
            raise RefusedMessageError("next is not a text")
        return End(
            vessel_id=_id(body, "vesselId"),
            epoch=_epoch(body),
            topic=topic,
            catchup_id=_id(body, "catchupId"),
            request_id=_optional_id(body, "requestId"),
            mode=_mode(body),
            high_seq=_number(body, "highSeq"),
            total=_number(body, "total"),
            digest=digest,
            next=cursor,
        )


def too_deep(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Tell whether JSON is nested deeper than so many levels."""
    if isinstance(value, dict):
        return levels == 0 or any(too_deep(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels == 0 or any(too_deep(item, levels - 1) for item in value)
    return False


def _status(body: dict[str, Any]) -> Status:
    status = body.get("status")
    if not isinstance(status, str) or status not in {"online", "offline"}:
        raise RefusedMessageError("status is not online or offline")
    vessel_id = _id(body, "vesselId")
    if body.get("epoch") is None:
        return Status(vessel_id, status == "online", None, 0, None, None)
    epoch = _epoch(body)
    seq = _number(body, "seq")
    heads = None
    if body.get("topics") is not None:
        heads = Heads(vessel_id, epoch, seq, _heads(body["topics"]))
    pending = _optional_number(body, "pending")
    return Status(vessel_id, status == "online", epoch, seq, pending, heads)


def _digest(body: dict[str, Any]) -> Digest:
    if body.get("type") != "digest":
        raise RefusedMessageError("not a digest")
    entities = body.get("entities")
    if not isinstance(entities, dict) or not all(
        isinstance(entity, dict) for entity in entities.values()
    ):
        raise RefusedMessageError("entities is not an object of objects")
    vessel_id, epoch, seq = _id(body, "vesselId"), _epoch(body), _number(body, "seq")
    heads = _heads({str(e.get("topic")): e.get("lastSeq") for e in entities.values()})
    return Digest(vessel_id, epoch, seq, Heads(vessel_id, epoch, seq, heads), body)


def _heads(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > 1000:
        raise RefusedMessageError("topics is not an object of numbers")
    return {topic: _number(value, topic) for topic in value}


def _number(body: dict[str, Any], key: str, least: int = 0) -> int:
    value = body.get(key)
    # bool is an int in Python, but true is no number in JSON.
    if type(value) is not int or not least <= value <= MAX_NUMBER:
        raise RefusedMessageError(f"{key[:MAX_ID]} is not a whole number from {least} on")
    return value


def _optional_number(body: dict[str, Any], key: str) -> int | None:
    return None if body.get(key) is None else _number(body, key)


def _id(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID or "\0" in value:
        raise RefusedMessageError(f"{key} is not a text of 1 to {MAX_ID} characters")
    return value


def _optional_id(body: dict[str, Any], key: str) -> str | None:
    return None if body.get(key) is None else _id(body, key)


def _epoch(body: dict[str, Any]) -> str:
    value = _id(body, "epoch")
    if len(value) > MAX_EPOCH:
        raise RefusedMessageError(f"epoch is longer than {MAX_EPOCH} characters")
    return value


def _row_id(value: Any) -> str:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ID or "\0" in text:
        raise RefusedMessageError(f"the row's id is not a text of 1 to {MAX_ID} characters")
    return text


def _mode(body: dict[str, Any]) -> str:
    mode = body.get("mode")
    if not isinstance(mode, str) or mode not in _MODES:
        raise RefusedMessageError("mode is not log, snapshot or must_refetch")
    return mode


def _buckets(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise RefusedMessageError("buckets is not a list of whole numbers")
    return tuple(value)
