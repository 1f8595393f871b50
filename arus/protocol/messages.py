"""Every message on the wire, as a typed struct with its fields in the order in which they are sent.

`arus.protocol.encoding` encodes and decodes them. docs/protocol.md explains them. Keys are in camelCase on the
wire; unknown keys are ignored. Fields with a default may be missing in received messages, but are always sent.

A row is not typed here: its content belongs to the application. It is JSON (`msgspec.Raw`), which
`arus.protocol.rows` writes and reads.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import force_setattr

from arus.errors import RefusedMessageError

from .digests import BUCKETS
from .entries import Operation
from .times import parse_time, read_moment

#: JSON's numbers are exact up to here in every language (RFC 7493, 2.2).
MAX_NUMBER = 2**53 - 1
#: Maximum number of row ids in a verdict, for each entity; further ones are left out.
MAX_NAMED = 20
#: The highest accepted version of a proposal: the next version has to fit into the model's column.
MAX_VERSION = 2**31 - 10
#: Maximum number of ranges that a repair names; what is in others is requested.
MAX_COVERS = 5_000
#: Requests every entity.
ALL = "all"
#: Items of each entity if a request contains no limit.
DEFAULT_LIMIT = 100

#: A number of the log, or a count.
Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
#: A number of the log that was assigned to a change; a row's version.
Positive = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
Bucket = Annotated[int, Meta(ge=0, lt=BUCKETS)]
#: Texts that every database can store.
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[^\0]*\Z")]
Epoch = Annotated[str, Meta(min_length=1, max_length=36, pattern=r"\A[^\0]*\Z")]
#: Text that a terminal or a page can show.
Word = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]{1,64}\Z")]
#: Characters of a reason in a verdict.
MAX_REASON = 200
#: Why something is so, in a line.
Reason = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]{0,200}\Z")]
#: Text that may be a time.
Time = Annotated[str, Meta(max_length=40)]
Presence = Literal["online", "offline"]
Mode = Literal["log", "snapshot", "must_refetch"]


class Message(Struct, frozen=True, kw_only=True, rename="camel"):
    """The base of all messages."""


# -- from a vessel ------------------------------------------------------------------------------------


class RowMessage(Message, frozen=True, kw_only=True):
    """The common fields of a change and an item of a catch-up."""

    entity: str
    operation: Operation
    data: Raw
    timestamp: Time
    #: As long as the log's column.
    message_id: Annotated[str, Meta(min_length=1, max_length=160)]
    vessel_id: Id
    epoch: Epoch
    seq: Number
    #: `seq` of the change before this one on the same topic; 0 for the first.
    previous_seq: Number
    #: 0 in a snapshot, for a row that another program has written without one.
    version: Number
    #: Who made the change; sent only if the vessel is set to. Receivers ignore it.
    actor: Any = UNSET


class DataChange(RowMessage, frozen=True, kw_only=True, tag_field="type", tag="data_change"):
    """A change, on its entity's topic."""


class CatchupItem(RowMessage, frozen=True, kw_only=True, tag_field="type", tag="catchup"):
    """One item of a catch-up."""

    catchup_id: Id
    #: The index of the item, from 0.
    sequence: Number
    total: Number = 0


class CatchupMessage(Message, frozen=True, kw_only=True):
    """The common fields of the beginning and the end of a catch-up."""

    catchup_id: Id
    request_id: Id | None = None
    vessel_id: Id
    entity: str
    epoch: Epoch
    mode: Mode
    high_seq: Number
    timestamp: str = ""
    total: Number


class CatchupBegin(
    CatchupMessage, frozen=True, kw_only=True, tag_field="type", tag="catchup_begin"
):
    """A catch-up of one entity begins."""

    #: Mode log: it contains all changes above this number.
    since_seq: Number | None = None
    #: Mode snapshot: it contains all rows (of its buckets).
    complete: bool = False
    buckets: tuple[Bucket, ...] | None = None
    #: The requester's name, if it gave one: it reports how much it has received.
    consumer: Id | None = None
    #: A repair: the ranges of dropped changes that it stands for, each as the number before it on the topic and its
    #: last number.
    covers: (
        Annotated[tuple[tuple[Number, Number], ...], Meta(max_length=MAX_COVERS)] | UnsetType | None
    ) = UNSET


class CatchupEnd(CatchupMessage, frozen=True, kw_only=True, tag_field="type", tag="catchup_end"):
    """A catch-up of one entity ends."""

    #: Over the items; empty if there were none.
    digest: Annotated[str, Meta(max_length=64)]
    #: The cursor for the rest if the limit was reached.
    next: str | None = None


class Heads(Struct, frozen=True):
    """The head of each topic of a vessel at one number."""

    vessel_id: str
    epoch: str
    seq: int
    topics: dict[str, int]


class Status(Message, frozen=True, kw_only=True):
    """Whether a vessel is online, and the head of its log. A bare last will contains only the presence."""

    status: Presence
    vessel_id: Id
    timestamp: str = ""
    generation: Number = 0
    epoch: Epoch | None = None
    #: The highest number assigned so far.
    seq: Number | None = None
    #: The highest number of each topic; None if not reported.
    topics: Annotated[dict[str, Number], Meta(max_length=1000)] | None = None
    #: Number of undelivered changes; None if not reported.
    pending: Number | None = None
    #: By topic: changes above this number were dropped, and the vessel is about to send their rows in a repair.
    repairs: Annotated[dict[str, Number], Meta(max_length=1000)] | UnsetType | None = UNSET
    #: Until when its data budget makes catch-ups wait, a time; not there if it does not.
    paused_until: str | UnsetType = UNSET
    #: The log has all changes of all rows, so there is nothing before a topic's first change; sent only if it is so.
    complete: bool | UnsetType | None = UNSET
    #: The dictionary that messages are compressed with, as long as no change was numbered since it was made.
    dictionary: Number | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if self.epoch is not None and self.seq is None:
            raise ValueError("seq is missing: it is required with epoch")

    @property
    def online(self) -> bool:
        """Whether the vessel is online."""
        return self.status == "online"

    @property
    def pauses_until(self) -> int | None:
        """Until when catch-ups wait, in milliseconds since the epoch; None if they do not, or it is no time."""
        if self.paused_until is UNSET:
            return None
        try:
            return parse_time(self.paused_until)
        except RefusedMessageError:
            return None

    @property
    def heads(self) -> Heads | None:
        """The heads of the topics; None if not reported."""
        if self.epoch is None or self.seq is None or self.topics is None:
            return None
        return Heads(self.vessel_id, self.epoch, self.seq, self.topics)


#: The name of a field of a row: a key of `data`.
FieldName = Annotated[str, Meta(max_length=200)]
FieldNames = Annotated[tuple[FieldName, ...], Meta(max_length=1000)]


class PartialDigest(Message, frozen=True, kw_only=True):
    """A digest of one table over some fields of its rows."""

    fields: FieldNames
    digest: str = ""
    buckets: tuple[str, ...] = ("0" * 16,) * BUCKETS


class EntityDigest(Message, frozen=True, kw_only=True):
    """A vessel's digest of one table."""

    topic: str
    #: The number of the topic's last change.
    last_seq: Number
    count: Number = 0
    digest: str = ""
    #: The digest of each bucket of rows.
    buckets: tuple[str, ...] = ("0" * 16,) * BUCKETS
    #: The fields of its rows, if they are known.
    fields: FieldNames | UnsetType = UNSET
    #: Digests over some of the fields, for followers that have asked for them: their tables lack the others.
    partial: Annotated[tuple[PartialDigest, ...], Meta(max_length=100)] | UnsetType = UNSET

    @property
    def known_fields(self) -> frozenset[str] | None:
        """The fields of its rows; None if they are not known."""
        return None if self.fields is UNSET else frozenset(self.fields)

    def over(self, fields: frozenset[str]) -> PartialDigest | None:
        """Return the digest over exactly these fields; None if there is none."""
        partial = () if self.partial is UNSET else self.partial
        return next((one for one in partial if frozenset(one.fields) == fields), None)


class Digest(Message, frozen=True, kw_only=True, tag_field="type", tag="digest"):
    """A vessel's digest of its tables at one number."""

    vessel_id: Id
    epoch: Epoch
    seq: Number
    timestamp: str = ""
    entities: Annotated[dict[str, EntityDigest], Meta(max_length=1000)]

    @property
    def heads(self) -> Heads:
        """The heads of the topics at the number of the digest."""
        topics = {entity.topic: entity.last_seq for entity in self.entities.values()}
        return Heads(self.vessel_id, self.epoch, self.seq, topics)


class Numbered(Message, frozen=True, kw_only=True):
    """Any message of a vessel about its log of which only the number is used."""

    vessel_id: Id
    epoch: Epoch
    seq: Positive


class ConflictReport(Message, frozen=True, kw_only=True):
    """A report of a row that both sides had written: the `data` of a change on `conflicts`."""

    id: str
    conflict_id: str
    entity: str
    row_id: str
    #: Rows; null if deleted.
    local: Raw
    remote: Raw
    #: The keys that differ.
    fields: list[str]
    winner: str
    rule: str
    #: Of the row after the decision.
    version: int
    resolved_at: str
    origin: str


class Claim(Message, frozen=True, kw_only=True, tag_field="type", tag="claim"):
    """The claim of a client to its client id (`arus.mqtt.rivals`); compared as bytes."""

    client_id: str
    claim: str
    timestamp: str


# -- from a follower ----------------------------------------------------------------------------------


class CatchupRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A request for a catch-up. Without a time, a number or a cursor it requests everything.

    A vessel reads it with `arus.protocol.requests`, which reports the errors of each key.
    """

    #: Chosen by the requester: a request that is received twice counts once.
    request_id: str | None = None
    #: The vessel that is addressed; None for every vessel that reads it.
    vessel_id: str | None = None
    #: Name of an entity, or `ALL`.
    entity: str
    #: Maximum number of items of each entity; None for all.
    limit: int | None = DEFAULT_LIMIT
    #: Changes above this number, of this epoch of the log.
    since_seq: int | None = None
    epoch: str | None = None
    #: Changes committed since this time: ISO 8601.
    since: str | None = None
    #: `next` from the end of an earlier catch-up that this one continues.
    cursor: str | None = None
    #: `snapshot`: the current rows, even if the log goes back far enough. `digest`: only the digest of the tables.
    mode: Literal["snapshot", "digest"] | None = None
    #: Only rows in these buckets.
    buckets: tuple[int, ...] | None = None
    #: Mode digest: also digests over these fields, by entity.
    fields: dict[str, tuple[str, ...]] | None = None
    #: The name under which the requester publishes watermarks.
    consumer: str | None = None
    #: Items that the vessel may send beyond those that the requester's watermark reports as received; None for no
    #: limit.
    window: int | None = None

    @property
    def since_at(self) -> int | None:
        """`since` in milliseconds since the epoch."""
        return None if self.since is None else int(read_moment(self.since).timestamp() * 1000)


class RollCall(Message, frozen=True, kw_only=True):
    """A request to all vessels to publish their status again."""

    request_id: Annotated[str, Meta(pattern=r"\A[\x21-\x7e]{1,64}\Z")]
    #: Always true.
    roll_call: bool


class FieldDifference(Message, frozen=True, kw_only=True):
    """The fields of a table that one side lacks: the rows are compared by the others."""

    #: Fields of the vessel that the copy does not store.
    missing_here: tuple[Word, ...] = ()
    #: Fields of the copy that the vessel does not send.
    missing_aboard: tuple[Word, ...] = ()
    #: Those of them without which no row can be written.
    needed: tuple[Word, ...] = ()


class Comparison(Message, frozen=True, kw_only=True):
    """The result of comparing one table with the vessel's digest."""

    equal: bool
    #: The buckets that differ.
    buckets: Annotated[tuple[Bucket, ...], Meta(max_length=BUCKETS)] = ()
    #: Ids of rows that are known to differ.
    rows: tuple[Word, ...] = ()
    #: Rows that belong to another vessel ashore: that vessel by row id.
    held_by: dict[Word, Word] | UnsetType | None = UNSET
    #: Rows that another vessel has sent too, although they are this one's: that vessel by row id. No difference.
    claimed_by: dict[Word, Word] | UnsetType | None = UNSET
    #: Rows that do not show the vessel's state for a known reason: the reason by row id.
    unapplied: dict[Word, Reason] | UnsetType | None = UNSET
    #: Rows that the follower can't read or write: the reason by row id; the id is empty for rows that never arrive.
    refused: dict[Annotated[str, Meta(max_length=64)], Reason] | UnsetType | None = UNSET
    fields: FieldDifference | UnsetType | None = UNSET
    #: The side on which there is no such entity.
    absent: Literal["here", "aboard"] | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if len(self.rows) > MAX_NAMED:
            force_setattr(self, "rows", self.rows[:MAX_NAMED])
        for name in ("held_by", "claimed_by", "unapplied", "refused", "fields", "absent"):
            value = getattr(self, name)
            if value is None:
                force_setattr(self, name, UNSET)
            elif isinstance(value, dict) and len(value) > MAX_NAMED:
                force_setattr(self, name, dict(list(value.items())[:MAX_NAMED]))


class Verdict(Message, frozen=True, kw_only=True):
    """The result of the last comparison of a copy with a digest of its vessel."""

    #: Number of the digest.
    seq: Number
    #: When it was compared; for display only.
    timestamp: Any = None
    equal: bool
    entities: Annotated[dict[Word, Comparison], Meta(max_length=100)] = {}

    @property
    def at(self) -> int | None:
        """When it was compared, in milliseconds since the epoch; None if the timestamp is not a time."""
        return _time_or_none(self.timestamp)


class Progress(Message, frozen=True, kw_only=True):
    """How much of a catch-up of one entity a follower has durably received."""

    catchup_id: Word
    entity: Word
    #: Items; an item that was missing counts if a later one was received.
    received: Number


class Watermark(Message, frozen=True, kw_only=True):
    """A follower's progress: everything up to `seq` is durably applied there."""

    #: The vessel that it is about; None if not specified.
    vessel_id: Word | None = None
    #: Of the vessel's log.
    epoch: Annotated[str, Meta(pattern=r"\A[0-9A-Za-z-]{1,36}\Z")]
    seq: Number
    #: For display only.
    timestamp: Any = None
    audit: Verdict | None = None
    #: Of the last catch-up that it requested.
    catchup: Progress | None = None

    @property
    def reported_at(self) -> int | None:
        """When it was published, in milliseconds since the epoch; None if the timestamp is not a time."""
        return _time_or_none(self.timestamp)


class Addressed(Message, frozen=True, kw_only=True):
    """Any message to a vessel of which only the addressee is used."""

    vessel_id: Any = None


#: Names and ids in a proposal.
_Name = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{1,64}\Z")]
_ProposedVersion = Annotated[int, Meta(ge=0, le=MAX_VERSION)]


class ProposedChange(Message, frozen=True, kw_only=True, tag_field="type", tag="proposal"):
    """A change that somebody ashore proposes for a row that the vessel owns."""

    proposal_id: _Name
    vessel_id: _Name
    entity: str
    operation: Operation
    #: The whole row as proposed; for a delete, its last state.
    data: Raw
    #: The version of the proposed row.
    version: _ProposedVersion
    #: The version that the proposer started from; 0 for a new row.
    base_version: _ProposedVersion
    timestamp: Time
    origin: _Name


def _time_or_none(value: Any) -> int | None:
    try:
        milliseconds = parse_time(value)
    except RefusedMessageError:
        return None
    return milliseconds if milliseconds >= 0 else None
