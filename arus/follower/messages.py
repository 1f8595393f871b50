"""A follower's reader of a vessel's messages: the type of message on a topic, and the row that it is about.

Decoding (`arus.protocol.encoding`) checks the fields that the receiver's algorithm depends on. This module checks
that a message matches its topic. `arus.follower.rows` checks whether a row's content fits its table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct

from arus.errors import RefusedMessageError
from arus.protocol.encoding import (
    decode_damaged,
    decode_numbered,
    decode_published,
    decode_status,
)
from arus.protocol.entries import Operation
from arus.protocol.messages import (
    CatchupBegin,
    CatchupEnd,
    CatchupItem,
    DataChange,
    Digest,
    Numbered,
    Status,
)
from arus.protocol.rows import MAX_DEPTH, decode_row, refused_id, row_id_of, too_deep
from arus.protocol.times import now_ms, parse_time
from arus.protocol.topics import CATCHUP, CONFLICTS, DIGEST, STATUS, TopicTree

#: Topics whose parts are remembered: a fleet has fewer.
_MAX_TOPICS = 20_000
#: Characters; a longer topic is split anew each time.
_LONGEST_TOPIC = 500


class Change(Struct, frozen=True):
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
    #: Time of the commit, in milliseconds since the epoch.
    at: int
    data: dict[str, Any]
    #: For an item of a catch-up: the catch-up's id, and the item's index in it.
    catchup_id: str | None = None
    sequence: int = 0
    #: Why the row can't be read; empty if it can. It counts as received, and is refused.
    fault: str = ""


class Unreadable(Struct, frozen=True):
    """A change of which nothing can be read, not even its number: it counts as received, and is refused."""

    vessel_id: str
    #: Topic under the prefix.
    topic: str
    #: Not known.
    epoch: None = None


Message = Change | Numbered | CatchupBegin | CatchupEnd | Status | Digest | Unreadable


class Followed(Struct, frozen=True):
    """An entity that is followed."""

    entity: str
    #: Topic under the prefix.
    topic: str
    #: Key of the row's id in `data`.
    id_key: str


class Reader:
    """Reads messages.

    :param prefix: `MQTT_TOPIC_PREFIX`.
    :param followed: the entities that are followed, by topic.
    """

    def __init__(self, prefix: str, followed: Mapping[str, Followed]) -> None:
        self._tree = TopicTree(prefix)
        self._followed = followed
        #: The vessel's id and the name of each topic so far.
        self._topics: dict[str, tuple[str | None, str]] = {}

    def read(self, topic: str, payload: bytes) -> Message:
        """Decode a message.

        :raises RefusedMessageError: it is not one that a vessel publishes, or not one of the vessel in its topic.
        """
        vessel_id, name = self._topics.get(topic) or self._split(topic)
        message = self._decode(name, payload)
        if vessel_id is not None and message.vessel_id != vessel_id:
            raise RefusedMessageError(
                f"vesselId is {message.vessel_id!r}, but the topic is {vessel_id}'s"
            )
        return message

    def unreadable(self, topic: str, known: Collection[str]) -> Unreadable | None:
        """Return what is known of a live message that can't be decompressed; None if it is not a change.

        :param known: ids of the vessels that are followed.
        """
        found = self._tree.split(topic)
        if found is None or found[1] not in self._followed:
            return None
        # On a shared prefix the message alone says whose it is.
        vessel_id = found[0] or (next(iter(known)) if len(known) == 1 else None)
        if vessel_id is None or vessel_id not in known:
            return None
        return Unreadable(vessel_id, found[1])

    def _split(self, topic: str) -> tuple[str | None, str]:
        found = self._tree.split(topic)
        if found is None:
            raise RefusedMessageError("not a topic of a vessel")
        if len(self._topics) >= _MAX_TOPICS:
            self._topics.clear()
        if len(topic) <= _LONGEST_TOPIC:
            self._topics[topic] = found
        return found

    def _decode(self, name: str, payload: bytes) -> Message:
        if name == STATUS:
            return decode_status(payload)
        if name == CONFLICTS:
            return decode_numbered(payload)
        fault = ""
        message: object
        try:
            message = decode_published(payload)
        except RefusedMessageError as error:
            message, fault = decode_damaged(payload), str(error)
            if message is None:
                raise
        if name == DIGEST:
            if not isinstance(message, Digest):
                raise RefusedMessageError("not a digest")
            return message
        if name.startswith(f"{CATCHUP}/"):
            return self._catchup(name[len(CATCHUP) + 1 :], message, fault)
        if not isinstance(message, DataChange):
            raise RefusedMessageError("not a data_change")
        return _change(self._entity(name, message.entity), message, fault)

    def _catchup(self, topic: str, message: object, fault: str) -> Message:
        if not isinstance(message, CatchupItem | CatchupBegin | CatchupEnd):
            raise RefusedMessageError("not a message of a catch-up")
        followed = self._entity(topic, message.entity)
        return _change(followed, message, fault) if isinstance(message, CatchupItem) else message

    def _entity(self, topic: str, entity: str) -> Followed:
        followed = self._followed.get(topic)
        if followed is None:
            raise RefusedMessageError("no entity is followed on this topic")
        if entity != followed.entity:
            raise RefusedMessageError(f"this topic carries {followed.entity}")
        return followed


def _change(followed: Followed, message: DataChange | CatchupItem, fault: str) -> Change:
    """Return a change; if its row can't be read, with the reason as its `fault`.

    :param fault: why the message as a whole can't be read.
    """
    data, row_id, row_fault = _row(followed, message)
    try:
        at = parse_time(message.timestamp)
    except RefusedMessageError as error:
        at, row_fault = now_ms(), row_fault or str(error)
    item = message if isinstance(message, CatchupItem) else None
    return Change(
        vessel_id=message.vessel_id,
        epoch=message.epoch,
        topic=followed.topic,
        entity=followed.entity,
        operation=message.operation.value,
        row_id=row_id,
        version=message.version,
        seq=message.seq,
        previous_seq=message.previous_seq,
        at=at,
        data=data,
        catchup_id=None if item is None else item.catchup_id,
        sequence=0 if item is None else item.sequence,
        fault=fault or row_fault,
    )


def _row(followed: Followed, message: DataChange | CatchupItem) -> tuple[dict[str, Any], str, str]:
    """Return a message's row, its id, and why the row can't be read: then the row is empty."""
    encoded = memoryview(message.data)
    try:
        data = decode_row(encoded)
        row_id = row_id_of(data, followed.id_key)
        if message.operation == Operation.DELETE:
            return {followed.id_key: data[followed.id_key]}, row_id, ""
        if too_deep(data):
            raise RefusedMessageError(f"data is nested deeper than {MAX_DEPTH} levels")
    except RefusedMessageError as error:
        return {}, refused_id(encoded, followed.id_key), str(error)
    return data, row_id, ""
