"""Banners: what a service that is not an MQTT broker sends first, and which service that is."""

from __future__ import annotations

import re

from msgspec import Struct

from arus.settings import Broker

from .diagnosis import Diagnosis, quoted
from .reason_codes import CONNACK

#: AUTH: in MQTT 5 it may precede CONNACK (4.12).
_AUTH = 0xF0
_OTHER_PORT = "set the broker's port in MQTT_BROKER_URL (usually 1883, with TLS 8883), or start the broker there"


class _Banner(Struct, frozen=True):
    """How to recognise a service."""

    #: Matches the first bytes.
    pattern: re.Pattern[bytes]
    service: str
    fix: str = _OTHER_PORT


_BANNERS = tuple(
    _Banner(re.compile(pattern, re.DOTALL | re.IGNORECASE), *rest)
    for pattern, *rest in (
        (
            rb"HTTP/|\s*<!doctype|\s*<html|.{3}\x04[\x00\x01]\x00{4}",
            "a web server",
            f"{_OTHER_PORT}; for MQTT over WebSockets, use ws:// or wss:// and its path",
        ),
        (
            rb"\x15\x03[\x00-\x04]|\x16\x03[\x00-\x04]",
            "a TLS server",
            "use {secure}:// in MQTT_BROKER_URL",
        ),
        (rb"SSH-", "an SSH server"),
        (rb"220[ -][^\n]*SMTP|220[ -][^\n]*mail", "a mail server (SMTP)"),
        (rb"220[ -]", "an FTP or mail server"),
        (rb"\+OK", "a mail server (POP3)"),
        (rb"\* OK", "a mail server (IMAP)"),
        (
            rb"AMQP",
            "an AMQP server",
            "enable the broker's MQTT plugin, and set that plugin's port (1883) in MQTT_BROKER_URL",
        ),
        (
            rb"INFO \{",
            "the NATS protocol",
            "set the port of the server's mqtt block (1883) in MQTT_BROKER_URL",
        ),
        (rb"<\?xml|<stream:", "an XMPP server"),
        (rb"-ERR|-NOAUTH|-DENIED", "a Redis server"),
        (rb".{3}\x00\x0a\d+\.|.{3}\x00\xff", "a MySQL server"),
        (rb"RFB ", "a VNC server"),
        (rb"\xff[\xfb-\xfe]", "a Telnet server"),
    )
)


def is_mqtt(first: bytes) -> bool:
    """Whether bytes may be the beginning of a broker's answer to CONNECT (MQTT 5, 3.2)."""
    return first[:1] in {bytes((CONNACK,)), bytes((_AUTH,))}


def identify(first: bytes, broker: Broker) -> Diagnosis:
    """Return the diagnosis for a service that has answered, or sent unasked, bytes that are not MQTT."""
    for banner in _BANNERS:
        if banner.pattern.match(first):
            break
    else:
        banner = _Banner(re.compile(b""), "a service that does not speak MQTT")
    words = quoted(first.split(b"\n")[0])
    shown = f" ({words})" if re.search(r"\w{3}", words) else ""
    secure = "wss" if broker.websockets else "mqtts"
    return Diagnosis(
        f"{broker} is not an MQTT broker: {banner.service} answers{shown}",
        banner.fix.format(secure=secure),
    )
