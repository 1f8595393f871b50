"""What a follower requests of a vessel: which catch-ups are due, and when they are requested again."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from arus.protocol.messages import ALL, CatchupRequest

from .position import MAX_EARLIER, Need, Position, Request
from .vessels import VesselState

#: Changes that were received beyond a gap are not requested with it if there are so many in a row, and this part of all
#: that are beyond the position.
MANY, PARTS = 20, 8


class Patience(Struct, frozen=True):
    """How long a follower waits, in seconds."""

    #: For the answer to a request; doubled with each attempt up to `longest`.
    answer: float = 20.0
    longest: float = 900.0
    #: After an unusable answer; doubled likewise.
    failure: float = 2.0
    #: For the next message of an answer.
    progress: float = 60.0
    #: For the last changes that were published before a status.
    grace: float = 3.0

    def until_asked_again(self, request: Request) -> int:
        """Return the pause after an attempt, in milliseconds."""
        first = self.failure if request.failed else self.answer
        return int(min(first * 2.0 ** min(request.attempts, 30), self.longest) * 1000)


def ask(
    vessel: VesselState, now: int, patience: Patience, new_id: Callable[[], str]
) -> list[CatchupRequest]:
    """Return the requests that are due, and note them in the positions."""
    due: dict[Need, list[Position]] = {}
    for position in vessel.positions.values():
        if position.wants is Need.NOTHING:
            vessel.changed = vessel.changed or position.request is not None
            position.request = None
        elif _is_due(position, vessel, now, patience):
            if position.wants is Need.CHANGES:
                # The request begins after the watermark: the answer must not look like one with a gap before it.
                position.reach(vessel.seq)
            due.setdefault(position.wants, []).append(position)
    requests = []
    for need, wanting in due.items():
        groups = [[position] for position in wanting]
        # One request for all entities is one catch-up at one number.
        by_topic = need is Need.ROWS or all(position.need is Need.NOTHING for position in wanting)
        if not by_topic and len(wanting) == len(vessel.positions) > 1:
            groups = [wanting]
        for group in groups:
            request_id = _id_again(group) or new_id()
            for position in group:
                position.request = _asked(vessel, position, request_id, now)
            requests.append(_body(vessel, need, group, request_id))
    requests += _digests(vessel, now, patience, new_id)
    vessel.changed = vessel.changed or bool(requests)
    return requests


def is_to_be_asked(vessel: VesselState, now: int, patience: Patience) -> bool:
    """Whether a request for rows or changes of a vessel is due."""
    return any(
        position.wants is not Need.NOTHING and _is_due(position, vessel, now, patience)
        for position in vessel.positions.values()
    )


def _fields_of(vessel: VesselState) -> dict[str, tuple[str, ...]]:
    """Return the fields over which waiting sweeps need a digest, by entity."""
    return {
        position.entity: position.sweep.fields
        for position in vessel.positions.values()
        if position.sweep is not None and position.sweep.fields
    }


def _digests(
    vessel: VesselState, now: int, patience: Patience, new_id: Callable[[], str]
) -> list[CatchupRequest]:
    """Return the request for a digest that waiting sweeps need."""
    sweeps = [one.sweep for one in vessel.positions.values() if one.sweep and not one.wants]
    if not sweeps or vessel.online is False or now < vessel.paused_until:
        return []
    last, attempts = max((sweep.asked_at, sweep.attempts) for sweep in sweeps)
    pause = min(patience.failure * 2.0 ** min(attempts, 30), patience.longest) if attempts else 0
    if last <= now < last + pause * 1000:
        return []
    for sweep in sweeps:
        sweep.asked_at, sweep.attempts = now, attempts + 1
    return [
        CatchupRequest(
            request_id=new_id(),
            vessel_id=vessel.vessel_id,
            entity=ALL,
            mode="digest",
            fields=_fields_of(vessel) or None,
        )
    ]


def _asked(vessel: VesselState, position: Position, request_id: str, now: int) -> Request:
    before = position.request
    known = max(vessel.reached(position), position.highest, position.disbelieved)
    if before is None:
        return Request(request_id, now, now, known=known)
    if before.failed:
        return Request(
            request_id,
            now,
            now,
            before.attempts + 1,
            known=known,
            gaps=before.gaps,
            answers=before.answers,
        )
    ids = [one for one in (*before.earlier, before.id) if one and one != request_id]
    # Answers to earlier attempts may still arrive, and contain no more than was known at that time.
    return Request(
        request_id,
        now,
        now,
        before.attempts + 1,
        known=min(known, before.known),
        earlier=ids[-MAX_EARLIER:],
        unanswered=0 if before.begun else before.unanswered + 1,
    )


def is_silent(vessel: VesselState, now: int, patience: Patience) -> bool:
    """Whether a vessel has left a request unanswered."""
    return any(
        not request.begun
        and not request.failed
        and (request.unanswered > 0 or abs(now - request.asked_at) >= patience.answer * 1000)
        for request in (position.request for position in vessel.positions.values())
        if request is not None
    )


def unanswered(vessel: VesselState) -> list[CatchupRequest]:
    """Return the requests whose answer has not begun: they may have been lost with the connection."""
    groups: dict[tuple[str, Need], list[Position]] = {}
    for position in vessel.positions.values():
        request = position.request
        if request is not None and not request.begun and not request.failed and position.wants:
            groups.setdefault((request.id, position.wants), []).append(position)
    return [_body(vessel, need, group, request_id) for (request_id, need), group in groups.items()]


def _is_new(vessel: VesselState, position: Position) -> bool:
    """Whether all that is known of a vessel is that it has left before its first change.

    Its log has nothing to request. Its next status tells whether all it has will arrive live, and a request that the
    broker keeps for it until then would have it sent twice.
    """
    return position.need is Need.EVERYTHING and vessel.online is False and not vessel.head


def _is_sending(vessel: VesselState, position: Position, now: int, patience: Patience) -> bool:
    """Whether a topic may still be received from its first change on: the vessel is sending all that its log has."""
    return (
        position.need is Need.EVERYTHING
        and not position.beyond
        and vessel.untouched is not None
        and vessel.is_draining
        and now - vessel.heard_at < patience.progress * 1000
    )


def _is_due(position: Position, vessel: VesselState, now: int, patience: Patience) -> bool:
    request = position.request
    if position.need is Need.NOTHING and position.is_repaired(now):
        return False
    if request is None:
        return not (_is_new(vessel, position) or _is_sending(vessel, position, now, patience))
    if now < request.asked_at:  # the clock was set back
        request.asked_at = request.heard_at = now
    waited = now - request.asked_at
    if request.failed:
        return waited >= patience.until_asked_again(request)
    if vessel.online is False:
        return False  # the broker keeps the request until the vessel is online
    # While its data budget makes catch-ups wait, the vessel keeps the request.
    waited = min(waited, now - vessel.paused_until)
    if request.begun:
        return min(waited, now - request.heard_at) >= patience.progress * 1000
    return waited >= patience.until_asked_again(request)


def _id_again(group: list[Position]) -> str | None:
    """Return the id to repeat the request with, at every other attempt: the request may have been lost.

    A vessel treats the same id as the same request. If it has already answered and the answer was lost, only a new
    id helps; hence the other attempts.
    """
    ids = {
        position.request.id
        for position in group
        if position.request
        and not position.request.begun
        and not position.request.failed
        and position.request.attempts % 2 == 0
    }
    alike = len(ids) == 1 and all(position.request for position in group)
    return ids.pop() if alike else None


def _most_missing(vessel: VesselState, position: Position) -> int | None:
    """Return how many changes are missing at most before many that were received beyond a gap; None if there are not many.

    They are requested without what follows them. To fill each small gap by itself would cost more than to receive again
    what is between them, and a vessel answers a limited number of requests.
    """
    reached = vessel.reached(position)
    many = max(MANY, (position.highest - reached) // PARTS)
    return next((start - reached for start, end in position.beyond if end - start >= many), None)


def _body(
    vessel: VesselState, need: Need, group: list[Position], request_id: str
) -> CatchupRequest:
    of_changes = need is Need.CHANGES
    return CatchupRequest(
        request_id=request_id,
        vessel_id=vessel.vessel_id,
        entity=group[0].entity if len(group) == 1 else ALL,
        limit=_most_missing(vessel, group[0]) if of_changes and len(group) == 1 else None,
        since_seq=min(vessel.reached(position) for position in group) if of_changes else None,
        epoch=vessel.epoch if of_changes else None,
        mode="snapshot" if need in {Need.SNAPSHOT, Need.ROWS} else None,
        buckets=group[0].buckets if need is Need.ROWS else None,
    )
