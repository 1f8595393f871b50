"""Detected properties of brokers, by address; kept for later owners."""

from __future__ import annotations

from typing import Any, cast

from msgspec import Struct
from sqlalchemy import Connection

from arus.mqtt.features import EXACTLY_ONCE, FoundQos
from arus.mqtt.handshakes import Allowance
from arus.mqtt.negotiation import BELIEVED, Found, Version

from . import sql


class KnownBroker(Struct):
    """What is known about one broker."""

    #: As in `str(settings.broker)`: without credentials.
    address: str
    found: Found | None = None
    #: The handshakes that it accepts on MQTT 3.1.1, and when that was detected, in milliseconds since the epoch.
    allowance: Allowance | None = None
    allowance_at: int = 0
    #: The highest QoS that it supports; None if nothing is known.
    qos: FoundQos | None = None
    #: It answers QoS 2 as if it were QoS 1.
    lowers_qos: bool = False
    #: It has retained messages.
    retains: bool = True

    @property
    def lacks_qos_2(self) -> bool:
        """Whether alerts are sent with QoS 1 or lowered to it."""
        return self.lowers_qos or (self.qos is not None and self.qos.maximum < EXACTLY_ONCE)

    def allows(self, now: int) -> Allowance | None:
        """Return the handshakes that it accepts, unless they were detected too long ago.

        :param now: milliseconds since the epoch.
        """
        return self.allowance if 0 <= now - self.allowance_at < BELIEVED else None


def read_broker(connection: Connection, address: str) -> KnownBroker:
    """Return what is known about a broker."""
    row = connection.execute(sql.brokers.FIND, {"address": address}).one_or_none()
    if row is None:
        return KnownBroker(address)
    return KnownBroker(
        address,
        Found(cast("Version", row.version), row.version_at) if row.version else None,
        Allowance(row.handshakes, row.handshakes_size) if row.handshakes else None,
        row.handshakes_at or 0,
        _qos(row.max_qos, row.max_qos_at, lowers_qos=bool(row.lowers_qos)),
        bool(row.lowers_qos),
        bool(row.retains),
    )


def _qos(maximum: int | None, at: int | None, *, lowers_qos: bool) -> FoundQos | None:
    if maximum is not None:
        return FoundQos(maximum, at or 0)
    return FoundQos(1, 0) if lowers_qos else None  # found by a version that kept no time


def save_broker(connection: Connection, known: KnownBroker) -> None:
    """Save what is known about a broker, in the caller's transaction."""
    found, allowance = known.found, known.allowance
    row: dict[str, Any] = {
        "address": known.address,
        "version": found and found.version,
        "version_at": found and found.at,
        "handshakes": allowance and allowance.handshakes,
        "handshakes_size": allowance and allowance.size,
        "handshakes_at": known.allowance_at if allowance else None,
        "max_qos": known.qos and known.qos.maximum,
        "max_qos_at": known.qos and known.qos.at,
        "lowers_qos": known.lowers_qos,
        "retains": known.retains,
    }
    connection.execute(sql.brokers.SAVE, row)
