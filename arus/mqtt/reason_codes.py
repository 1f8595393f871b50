"""Reason codes: what each code of CONNACK and DISCONNECT means, and how to fix it.

The codes are those of MQTT 5, 3.2.2.2 and 3.14.2.1; the return codes of MQTT 3.1.1, 3.2.2.3 have their counterparts
there. A refusal is read from the bytes of the packet: paho accepts no code that it does not know.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from msgspec import Struct
from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from arus.errors import ONE_ID_EACH, ConnectionLostError, RefusedError
from arus.settings import Settings

from .diagnosis import Diagnosis, quoted

#: First bytes of the packets.
CONNACK, DISCONNECT = 0x20, 0xE0
#: The reason codes from which on a CONNACK refuses the connection.
FAILURE = 0x80

UNSUPPORTED_PROTOCOL = 0x84

#: The reason code of MQTT 5 for each return code of MQTT 3.1.1.
RETURN_CODES = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}


class Kind(IntEnum):
    """The packet with a reason code."""

    CONNACK = CONNACK
    DISCONNECT = DISCONNECT


class RefusedClient(Struct, frozen=True):
    """What a fix may name of the client that was refused."""

    client_id: str
    #: MQTT_TOPIC_PREFIX.
    prefix: str
    #: MQTT_PROTOCOL.
    protocol: str

    @classmethod
    def of(cls, settings: Settings, client_id: str) -> RefusedClient:
        """Return the client of a session."""
        return cls(client_id, settings.topic_prefix, settings.protocol)


class Refusal(Struct, frozen=True):
    """The broker's reason for refusing or ending a connection."""

    kind: Kind
    #: Reason code of MQTT 5.
    code: int
    #: Return code of MQTT 3.1.1; None if the broker has sent a reason code of MQTT 5.
    return_code: int | None = None
    #: The server reference (3.2.2.3.16) and the reason string (3.2.2.3.9), in one line each.
    reference: str | None = None
    reason_string: str | None = None

    @property
    def name(self) -> str:
        """The name of the code in the specification, the code, and the broker's own words."""
        name = NAMES.get(self.code)
        if self.kind is Kind.DISCONNECT and self.code == 0:
            name = "Normal disconnection"
        code = f"return code {self.return_code}" if self.return_code else f"0x{self.code:02X}"
        known = f"{name} ({code})" if name else f"unknown reason code ({code})"
        return f"{known}: {self.reason_string}" if self.reason_string else known

    def diagnose(self, client: RefusedClient) -> Diagnosis:
        """Return the diagnosis for a client."""
        if self.code == UNSUPPORTED_PROTOCOL:
            return Diagnosis(self.name, version_fix(client.protocol))
        if self.code in _ELSEWHERE and self.reference:
            fix = f"set MQTT_BROKER_URL to the server that it names: {self.reference}"
            return Diagnosis(self.name, fix)
        fix = _ONLY_OF.get((self.kind, self.code)) or _FIXES.get(self.code, _READ_ITS_LOG)
        if self.return_code == _CLIENT_ID_REJECTED:
            fix += _KEEPALIVE_TOO_LONG
        return Diagnosis(self.name, fix.format(client_id=client.client_id, prefix=client.prefix))

    def error(self, client: RefusedClient) -> RefusedError | ConnectionLostError:
        """Return the error for a client."""
        found = self.diagnose(client)
        if self.kind is Kind.CONNACK:
            return RefusedError(found.says, self.code, fix=found.fix)
        return ConnectionLostError(
            f"the broker ended the connection: {found.says}", self.code, hung_up=True, fix=found.fix
        )


def read_refusal(header: int, body: bytes, *, v5: bool) -> Refusal | None:
    """Return the refusal in a packet; None if it contains none.

    :param v5: the connection speaks MQTT 5.
    """
    if header == CONNACK and len(body) > 1 and body[1]:
        return _connack(body)
    if header == DISCONNECT and v5:
        code = body[0] if body else 0
        reference, words = _properties(PacketTypes.DISCONNECT, body[1:])
        return Refusal(Kind.DISCONNECT, code, reference=reference, reason_string=words)
    return None


def _connack(body: bytes) -> Refusal:
    code = body[1]
    if code < FAILURE:
        # Also the answer of a broker that speaks only 3.1.1 to a CONNECT of MQTT 5.
        return Refusal(Kind.CONNACK, RETURN_CODES.get(code, code), return_code=code)
    reference, words = _properties(PacketTypes.CONNACK, body[2:])
    return Refusal(Kind.CONNACK, code, reference=reference, reason_string=words)


def _properties(kind: int, encoded: bytes) -> tuple[str | None, str | None]:
    if not encoded:
        return None, None
    properties = Properties(kind)  # type: ignore[no-untyped-call]  # paho's
    try:
        properties.unpack(encoded)  # type: ignore[no-untyped-call]
    except (ArithmeticError, LookupError, MQTTException, ValueError, struct.error):
        return None, None  # the code is known, and that is what matters
    reference = getattr(properties, "ServerReference", None)
    words = getattr(properties, "ReasonString", None)
    return reference and quoted(reference), words and quoted(words)


def version_fix(protocol: str) -> str:
    """Return what to do about a broker that does not speak the version of a connection.

    :param protocol: MQTT_PROTOCOL.
    """
    if protocol != "auto":
        return f"set MQTT_PROTOCOL=auto: MQTT_PROTOCOL={protocol} allows no other version"
    return "use a broker that speaks MQTT 5 or 3.1.1"


#: The codes with a server reference.
_ELSEWHERE = (0x9C, 0x9D)

NAMES = {
    0x04: "Disconnect with will message",
    0x80: "Unspecified error",
    0x81: "Malformed packet",
    0x82: "Protocol error",
    0x83: "Implementation specific error",
    0x84: "Unsupported protocol version",
    0x85: "Client identifier not valid",
    0x86: "Bad user name or password",
    0x87: "Not authorized",
    0x88: "Server unavailable",
    0x89: "Server busy",
    0x8A: "Banned",
    0x8B: "Server shutting down",
    0x8C: "Bad authentication method",
    0x8D: "Keep alive timeout",
    0x8E: "Session taken over",
    0x8F: "Topic filter invalid",
    0x90: "Topic name invalid",
    0x93: "Receive maximum exceeded",
    0x94: "Topic alias invalid",
    0x95: "Packet too large",
    0x96: "Message rate too high",
    0x97: "Quota exceeded",
    0x98: "Administrative action",
    0x99: "Payload format invalid",
    0x9A: "Retain not supported",
    0x9B: "QoS not supported",
    0x9C: "Use another server",
    0x9D: "Server moved",
    0x9E: "Shared subscriptions not supported",
    0x9F: "Connection rate exceeded",
    0xA0: "Maximum connect time",
    0xA1: "Subscription identifiers not supported",
    0xA2: "Wildcard subscriptions not supported",
}

_READ_ITS_LOG = "the broker's log says why"
_PASSED_ON = (
    "the broker's log says which packet; a proxy in between must pass MQTT on unchanged;"
    " if it lasts, set MQTT_PROTOCOL=3.1.1"
)
_NEW_ADDRESS = "ask the broker's administrator for its new address, and set MQTT_BROKER_URL"

#: The return code of MQTT 3.1.1 with which Mosquitto refuses a keepalive above its `max_keepalive`, and what to do.
_CLIENT_ID_REJECTED = 2
_KEEPALIVE_TOO_LONG = "; Mosquitto refuses a keepalive in the same way: set MQTT_KEEPALIVE to its max_keepalive or less"

#: What to do about each code.
_FIXES = {
    0x80: _READ_ITS_LOG,
    0x81: _PASSED_ON,
    0x82: _PASSED_ON,
    0x83: _READ_ITS_LOG,
    0x85: "allow the client id {client_id} at the broker, or set MQTT_CLIENT_ID to one that it accepts"
    " (23 letters and digits suit every broker)",
    0x86: "set MQTT_USERNAME and MQTT_PASSWORD to those of a user of the broker",
    0x87: "set MQTT_USERNAME and MQTT_PASSWORD to those of a user of the broker, and allow that user"
    " the client id {client_id} and the topics {prefix}/#",
    0x88: "wait: the broker starts, or a part of it is down; if it lasts, its log says what",
    0x89: "wait: the broker is overloaded; if it lasts, raise its limits or reduce its load",
    0x8A: "have the broker's administrator lift the ban on client id {client_id}, its user or this address",
    0x8B: "none needed: the sync reconnects once the broker runs again",
    0x8C: "allow clients without MQTT 5's enhanced authentication at the broker: this one does not use it",
    0x8D: "none needed if the link was down; otherwise lower MQTT_KEEPALIVE if the connection was idle, and raise it"
    " if the link is slow",
    0x8E: ONE_ID_EACH,
    0x8F: "check MQTT_TOPIC_PREFIX={prefix} and the filters of the application's subscriptions against"
    " the broker's rules for topics",
    0x90: "check MQTT_TOPIC_PREFIX={prefix} against the broker's rules for topics",
    0x93: "set MQTT_MAX_INFLIGHT lower",
    0x94: "none needed: the sync uses no topic aliases in its next connection",
    0x95: "raise the broker's limit for the size of a packet",
    0x96: "raise the broker's limit for the rate of messages of a client",
    0x97: "wait, or raise the broker's quota for this client",
    0x98: "ask the broker's administrator: a person or a rule has ended the connection",
    0x99: "allow JSON payloads at the broker",
    0x9A: "allow retained messages in the broker's configuration",
    0x9B: "allow QoS 1 and 2 in the broker's configuration, or use a broker that supports them",
    0x9C: _NEW_ADDRESS,
    0x9D: _NEW_ADDRESS,
    0x9E: "remove filters with $share from the application's subscriptions, or use another broker",
    0x9F: "wait; if it lasts, raise the broker's limit for new connections, or MQTT_RECONNECT_PERIOD",
    0xA0: "none needed: the broker limits how long a connection may last, and the sync reconnects",
    0xA1: "the broker's log says why: this client sends no subscription identifiers",
    0xA2: "allow wildcards in the broker's configuration, or use another broker",
}

#: What to do about a code in one kind of packet, where that differs.
_ONLY_OF = {
    (Kind.CONNACK, 0x90): "allow the will on {prefix}/system/status at the broker, or check"
    " MQTT_TOPIC_PREFIX against the broker's rules for topics",
    (
        Kind.CONNACK,
        0x95,
    ): "raise the broker's limit for the size of a packet: CONNECT with its will exceeds it",
    (Kind.CONNACK, 0x99): "allow JSON payloads at the broker, also of the will",
    (Kind.DISCONNECT, 0x87): "allow the user to publish and subscribe to {prefix}/# at the broker",
    (
        Kind.DISCONNECT,
        0x95,
    ): "raise the broker's limit for the size of a packet; the log names the change"
    " that exceeds it once it is quarantined",
}
