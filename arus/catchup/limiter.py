"""Reads the requests on `catchup_requests`, and limits how many of each requester are carried out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from sqlalchemy import Connection

from arus.errors import CatchupRequestError
from arus.logs import get_logger
from arus.outbox.counters import CATCHUP_REFUSALS, add_to_counters
from arus.protocol.messages import CatchupRequest
from arus.protocol.requests import decode_request, read_request
from arus.protocol.topics import FOLLOWER_NAME

from .requests import known_request, requester_of

logger = get_logger(__name__)


class TokenBucket:
    """Allows a burst, then a number of requests per second."""

    __slots__ = ("_at", "_level", "burst", "clock", "per_second", "said")

    def __init__(
        self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.burst = burst
        self.per_second = per_second
        self.clock = clock
        #: The last request was refused, and this was logged.
        self.said = False
        self._level = burst
        self._at = clock()

    def take(self) -> bool:
        """Take a token; return whether there was one."""
        now = self.clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class Known(Protocol):
    """What the limiter has to know of earlier requests and of followers."""

    def requester(self, consumer: str | None) -> str:
        """Return with whom a consumer shares the rate."""
        ...

    def is_repeated(self, request_id: str) -> bool:
        """Whether a request with this id was queued before."""
        ...


class Recorded:
    """What the database knows.

    :param connection: of the owner's transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def requester(self, consumer: str | None) -> str:
        """Return with whom a consumer shares the rate."""
        return requester_of(self._connection, consumer, "mqtt")

    def is_repeated(self, request_id: str) -> bool:
        """Whether a request with this id was queued before."""
        return known_request(self._connection, request_id) is not None


class RequestLimiter:
    """Reads requests; refuses and counts malformed and excessive ones.

    Each known follower has a share of its own. All others have one together, since names are easily invented.

    :param entities: the names of all entities.
    :param vessel_id: our own; requests to another vessel are ignored.
    """

    BURST = 30
    PER_SECOND = 0.5
    #: For all requesters together.
    TOTAL_BURST = 300
    TOTAL_PER_SECOND = 10
    #: Requesters whose share is remembered.
    MAX_REQUESTERS = 128

    def __init__(
        self,
        entities: Iterable[str],
        vessel_id: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entities = tuple(entities)
        self._vessel_id = vessel_id
        self._clock = clock
        self._total = TokenBucket(self.TOTAL_BURST, self.TOTAL_PER_SECOND, clock)
        self._shares: OrderedDict[str, TokenBucket] = OrderedDict()
        #: Refusals that `journal` has not written yet.
        self.refused = 0

    def take(self, payload: bytes, known: Known) -> CatchupRequest | None:
        """Return the request in a message; None if it is refused, repeated, or meant for another vessel."""
        document: object = None
        try:
            document = decode_request(payload)
            if isinstance(document, Mapping) and document.get("vesselId") not in (
                None,
                self._vessel_id,
            ):
                return None
            request = read_request(document, self._entities)
        except CatchupRequestError as error:
            # Malformed ones count too: a flood of them must not fill the disk with log lines.
            consumer = _consumer_in(document)
            if self._pass(consumer, known):
                self.refuse(str(error), consumer)
            return None
        if request.request_id and known.is_repeated(request.request_id):
            return None  # the answer is queued, or was sent
        return request if self._pass(request.consumer, known) else None

    def journal(self, connection: Connection) -> None:
        """Write the count of refusals, in the caller's transaction."""
        if self.refused:
            add_to_counters(connection, {(CATCHUP_REFUSALS, "", "", ""): self.refused})
            self.refused = 0

    def refuse(self, reason: str, consumer: str | None = None) -> None:
        """Count and log a request that is not carried out."""
        self.refused += 1
        logger.warning(
            "[MQTT Reliable Sync] a request for a catch-up by %s is refused: %s",
            consumer or "an unnamed requester",
            reason,
            extra={"consumer": consumer},
        )

    def _pass(self, consumer: str | None, known: Known) -> bool:
        share = self._share(known.requester(consumer))
        if share.take() and self._total.take():
            share.said = False
            return True
        if share.said:
            self.refused += 1
        else:
            share.said = True
            self.refuse("more than one every 2 s; ignoring the excess", consumer)
        return False

    def _share(self, requester: str) -> TokenBucket:
        share = self._shares.pop(requester, None)
        if share is None:
            share = TokenBucket(self.BURST, self.PER_SECOND, self._clock)
        self._shares[requester] = share
        if len(self._shares) > self.MAX_REQUESTERS:
            self._shares.popitem(last=False)
        return share


def _consumer_in(document: object) -> str | None:
    """Return the consumer's name in a malformed request, if it has a valid one."""
    found = document.get("consumer") if isinstance(document, Mapping) else None
    return found if isinstance(found, str) and FOLLOWER_NAME.fullmatch(found) else None
