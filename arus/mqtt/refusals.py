"""Reason codes of refusals: whether one is about the message, or passes (MQTT 5, 2.4)."""

from __future__ import annotations

from arus.errors import ConnectionLostError, SessionError

#: Lowest reason code of a refusal.
REFUSED = 0x80
NOT_AUTHORIZED = 0x87
QUOTA_EXCEEDED = 0x97
TOO_LARGE = 0x95

#: About the message: it will be refused again. So will it be with a reason code that is in none of these lists.
OF_THE_MESSAGE = {
    NOT_AUTHORIZED: "not authorized",
    0x90: "topic name invalid",
    TOO_LARGE: "packet too large",
    0x99: "payload format invalid",
}
#: About the broker or the connection: the message is accepted later.
PASSING = {
    0x88: "server unavailable",
    0x89: "server busy",
    0x8B: "server shutting down",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x93: "receive maximum exceeded",
    0x96: "message rate too high",
    QUOTA_EXCEEDED: "quota exceeded",
    0x98: "administrative action",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
}
#: About the client or its subscriptions: in a DISCONNECT no message is to blame. Banned, authentication method, topic
#: filter, topic alias, shared subscriptions, subscription identifiers, wildcards.
OF_THE_CLIENT = frozenset({0x8A, 0x8C, 0x8F, 0x94, 0x9E, 0xA1, 0xA2})
#: The broker is asked too much: clients that come back at once make it worse.
BUSY = frozenset({0x89, 0x96, QUOTA_EXCEEDED, 0x9F})

#: Brokers give these for the one as for the other reason.
UNCLEAR = {0x80: "unspecified error", 0x83: "implementation specific error"}


def name_of(reason: int) -> str:
    """Return a reason code in words."""
    names = OF_THE_MESSAGE | PASSING | UNCLEAR
    return names.get(reason, f"reason code 0x{reason:02x}")


def refusal_in(error: SessionError) -> str | None:
    """Return what the broker's DISCONNECT says against a message, in words; None if it says nothing of that kind."""
    code = error.code if isinstance(error, ConnectionLostError) else None
    return None if code is None or code < REFUSED or _blames_nothing(code) else name_of(code)


def is_hang_up(error: SessionError) -> bool:
    """Whether the broker's side closed the connection, and no DISCONNECT says that it was for no message's sake."""
    return (
        isinstance(error, ConnectionLostError) and error.hung_up and not _blames_nothing(error.code)
    )


def _blames_nothing(code: int | None) -> bool:
    """Whether the reason code of a DISCONNECT is about no message."""
    return code in PASSING or code in OF_THE_CLIENT
