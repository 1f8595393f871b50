"""The events of a session: the broker's answers and messages, in the order in which they arrived."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from .packets import Ack


class Connected(Struct, frozen=True):
    """The broker has accepted the session (CONNACK)."""

    #: The broker still holds its half of the session.
    session_present: bool
    #: Unacknowledged messages that the broker accepts at a time; None if not specified.
    receive_maximum: int | None
    #: The largest packet that the broker accepts, in bytes; None if not specified.
    maximum_packet_size: int | None
    protocol: str
    #: The highest QoS that the broker announces; None if not specified.
    maximum_qos: int | None = None
    #: Whether it has retained messages, as far as it announces that.
    retains: bool = True


# A named tuple: creating a frozen dataclass takes several times as long, and one is created for each message.
class Received(NamedTuple):
    """A message from the broker; to be acknowledged once it is handled."""

    topic: str
    payload: bytes
    packet_id: int
    qos: int
    retain: bool
    #: It may have been delivered before.
    dup: bool = False


class Discarded(Struct, frozen=True):
    """A message from the broker was logged, acknowledged and discarded: it is too large, or breaks a rule of MQTT."""

    #: The topic, as far as it can be shown.
    topic: str
    packet_id: int
    qos: int
    reason: str


class Subscribed(Struct, frozen=True):
    """The broker has answered a subscription."""

    packet_id: int
    #: A reason code per filter: 0 to 2 is the granted QoS, 0x80 and above a refusal.
    reasons: tuple[int, ...]


class LookedBack(Struct, frozen=True):
    """All retained messages requested by `look_back` have been received."""


SessionEvent = Connected | Ack | Received | Discarded | Subscribed | LookedBack
