"""The result of the messages of one transaction: counts, refused messages, and events for the follower's loop."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from msgspec import Struct, field

from arus.escapes import escaped
from arus.logs import get_logger
from arus.outbox.counters import CounterKey
from arus.protocol.messages import Digest

from .messages import Change
from .vessels import VesselState

logger = get_logger(__name__)

APPLIED = "follow_applied"
REPEATED = "follow_repeated"
REFUSED = "follow_refused"
LATE = "follow_late"
HELD = "follow_held"
NOT_HELD = "follow_not_held"
FORGOTTEN = "follow_forgotten"

#: Log lines about refused messages in one batch.
_LINES = 5
GAPS = "follow_gaps"
SWEPT = "follow_swept"
REQUESTS = "follow_requests"
CATCHUPS = "follow_catchups"
EPOCHS = "follow_epochs"
DOUBTED = "follow_doubted"
FOREIGN = "follow_foreign"
UNREQUESTED = "follow_unrequested"


# A named tuple, like `arus.mqtt.events.Received`.
class Inbound(NamedTuple):
    """A message as it was received."""

    topic: str
    payload: bytes
    #: The broker had retained it, so it may be of any age.
    retain: bool
    #: Why it can't be decompressed; empty if it can, or is not compressed.
    fault: str = ""


class DeadLetter(NamedTuple):
    """A refused message."""

    topic: str
    payload: bytes
    reason: str
    #: The vessel that has sent it; empty if that can't be read.
    vessel_id: str


class Outcome(Struct):
    """The result of a batch."""

    #: Rows written or deleted.
    rows: int = 0
    #: Received digests.
    digests: list[Digest] = field(default_factory=list)
    #: Vessels that have just come online.
    arrived: list[VesselState] = field(default_factory=list)
    #: Rows that the repair after an audit has changed: vessel, entity, row id.
    repaired: list[tuple[str, str, str]] = field(default_factory=list)
    #: Repairs that were answered twice: vessel, entity.
    doubted: list[tuple[str, str]] = field(default_factory=list)
    #: Vessels that have sent a change which is new here, below what is proved: its number was given out a second time by
    #: a vessel that was restored from an older copy, or it is forged.
    questioned: set[str] = field(default_factory=set)
    #: Amounts to add to the counters.
    counters: Counter[CounterKey] = field(default_factory=Counter)
    #: Refused messages.
    refused: list[DeadLetter] = field(default_factory=list)
    #: Vessels that are not known any more.
    forgotten: list[str] = field(default_factory=list)
    #: Messages by the `id()` of the object decoded from them.
    sources: dict[int, Inbound] = field(default_factory=dict)

    def count(self, name: str, entity: str = "", operation: str = "", amount: int = 1) -> None:
        """Add to a counter."""
        self.counters[name, entity, operation, ""] += amount

    def repeated(self, vessel_id: str, change: Change, *, questioned: bool) -> None:
        """Note a change that was applied before, by its number.

        :param questioned: it is new here all the same.
        """
        self.count(REPEATED, change.entity)
        if questioned:
            self.questioned.add(vessel_id)

    def refuse(self, message: Inbound, reason: str, vessel_id: str = "") -> None:
        """Note a refused message, to be kept as a dead letter.

        :param vessel_id: the vessel that has sent it; empty if that can't be read.
        """
        self.count(REFUSED)
        self.keep(message, reason, vessel_id)
        if len(self.refused) <= _LINES:
            logger.warning(
                "[MQTT Reliable Sync] refused a message on %s: %s",
                message.topic[:200],
                reason[:200],
            )
        elif len(self.refused) == _LINES + 1:
            logger.warning(
                "[MQTT Reliable Sync] more messages are refused: `flask sync inbox list` has them"
            )

    def keep(self, message: Inbound, reason: str, vessel_id: str) -> None:
        """Keep a message as a dead letter."""
        # A reason may quote the message, and PostgreSQL stores no NUL.
        letter = DeadLetter(message.topic, message.payload, escaped(reason), vessel_id)
        self.refused.append(letter)

    def refuse_change(self, change: Change, reason: str) -> None:
        """Note the message of a refused change; a change that was held has none."""
        source = self.sources.get(id(change))
        if source is not None:
            self.refuse(source, reason, change.vessel_id)
