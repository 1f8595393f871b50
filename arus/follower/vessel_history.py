"""What people may want to know of a vessel later: since when, until when, and its latest events."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct, field

from arus.errors import RefusedMessageError
from arus.protocol.messages import Status, Verdict
from arus.protocol.times import now_ms, parse_time

from .messages import Change, Message


class VesselEvent(NamedTuple):
    """Something that has happened to a vessel or its copy."""

    #: In milliseconds since the epoch.
    at: int
    #: audit, catchup, epoch, online or offline.
    kind: str
    #: Of a catch-up.
    entity: str = ""
    #: The number of an audit, or that a catch-up has reached.
    seq: int | None = None
    #: Items of a catch-up.
    items: int | None = None
    #: The result of an audit.
    equal: bool | None = None
    #: Entities that an audit has found to differ, separated by commas.
    differing: str | None = None


class VesselHistory(Struct):
    """The history of one vessel. Times are in milliseconds since the epoch."""

    #: When it came online or went offline; None if that is not known.
    online_since: int | None = None
    #: When it last sent something itself: no last will, and not a message that the broker had kept.
    spoke_at: int | None = None
    #: Since when numbers are missing here; None if none is.
    behind_since: int | None = None
    #: When an audit last found the copy equal, in this epoch.
    equal_at: int | None = None
    #: Events that are not saved yet.
    events: list[VesselEvent] = field(default_factory=list)

    def heard(self, message: Message, was_online: bool | None, now: int, *, retained: bool) -> None:
        """Note when the vessel has sent a message, and since when it is online or offline.

        :param was_online: whether it was online before this message; None if that was not known.
        """
        status = message if isinstance(message, Status) else None
        if not retained and (status is None or status.online):
            self.spoke_at = now
        elif (sent_at := _sent_at(message)) is not None:
            # The broker has kept the message, or sent it in the vessel's name: it was made earlier.
            self.spoke_at = max(self.spoke_at or 0, min(sent_at, now))
        if status is not None and status.online is not was_online:
            # When a retained status was published is not known, but the vessel was there when it last sent something.
            self.online_since = self.spoke_at if retained else now
            kind = "online" if status.online else "offline"
            self.events.append(VesselEvent(self.online_since or now, kind))

    def judged(self, verdict: Verdict, before: Verdict | None) -> None:
        """Note the result of an audit; it is an event if it differs from that of the audit before."""
        if verdict.equal:
            self.equal_at = verdict.at
        differing = _differing(verdict)
        if before is None or (before.equal, _differing(before)) != (verdict.equal, differing):
            names = ", ".join(differing)
            at = verdict.at or now_ms()
            self.events.append(
                VesselEvent(at, "audit", "", verdict.seq, None, verdict.equal, names)
            )

    def caught_up(self, entity: str, seq: int, items: int, now: int) -> None:
        """Note the end of a catch-up that was requested; one without items is no event."""
        if items:
            self.events.append(VesselEvent(now, "catchup", entity, seq, items))

    def measured(self, behind: int, now: int) -> None:
        """Note how many numbers are missing here."""
        if behind <= 0:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now

    def new_epoch(self) -> None:
        """Note that an epoch has begun: what was found equal was another one's."""
        self.equal_at = self.behind_since = None
        self.events.append(VesselEvent(now_ms(), "epoch"))


def _differing(verdict: Verdict) -> list[str]:
    return sorted(entity for entity, told in verdict.entities.items() if not told.equal)


def _sent_at(message: Message) -> int | None:
    """Return when a message was sent by its vessel's clock, in milliseconds; None if it does not say."""
    if isinstance(message, Change):
        return message.at
    try:
        return parse_time(getattr(message, "timestamp", None))
    except RefusedMessageError:
        return None
