"""The port of the broker, when no broker answers there as the settings say: what else answers."""

from __future__ import annotations

import contextlib
import re
import socket

from msgspec import structs

from arus.errors import RefusedError
from arus.mqtt.banners import identify
from arus.mqtt.diagnosis import Diagnosis
from arus.settings import Scheme, Settings

from .visit import Visit, visit

#: Seconds that one attempt may take.
_PATIENCE = 2.0
_SCHEMES: tuple[Scheme, ...] = ("mqtt", "mqtts", "ws", "wss")
_REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def look(settings: Settings, seen: Visit) -> Diagnosis | None:
    """Return what answers at the port of the broker; None if no more can be told than a visit has.

    Sends no credentials: each attempt may be without TLS.
    """
    patience = min(_PATIENCE, settings.connect_timeout)
    broker = settings.broker
    try:
        socket.create_connection((broker.host, broker.port), patience).close()
    except (OSError, UnicodeError):
        return None
    if not seen.is_silent:  # a port that is silent to one scheme is silent to the others
        found = _other_scheme(settings, patience)
        if found is not None:
            return found
    told = re.search("answers|refuses the WebSocket", seen.diagnosis.says)
    return None if told else _web_server(settings, patience)


def _other_scheme(settings: Settings, patience: float) -> Diagnosis | None:
    broker = settings.broker
    for scheme in _SCHEMES:
        if scheme != broker.scheme:
            other = structs.replace(broker, scheme=scheme, username=None, password=None)
            anonymous = structs.replace(
                settings,
                broker=other,
                username=None,
                password=None,
                tls_verify=False,
                connect_timeout=patience,
            )
            seen = visit(anonymous)
            if seen.connected is not None or isinstance(seen.error, RefusedError):
                fix = f"use {scheme}:// in MQTT_BROKER_URL, or another port"
                if broker.tls and not other.tls:
                    fix = (
                        "set the broker's port for TLS in MQTT_BROKER_URL (usually 8883), or use"
                        f" {scheme}://, which is not encrypted"
                    )
                return Diagnosis(f"an MQTT broker answers at {other}, not at {broker}", fix)
    return None


def _web_server(settings: Settings, patience: float) -> Diagnosis | None:
    """Return the diagnosis for a server that speaks only once it got a line of text."""
    broker = settings.broker
    with contextlib.suppress(OSError), socket.create_connection((broker.host, broker.port), patience) as sock:  # fmt: skip
        sock.settimeout(patience)
        sock.sendall(_REQUEST)
        if heard := sock.recv(1024):
            return identify(heard, broker)
    return None
