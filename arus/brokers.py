"""What brokers were found to speak and to take, by their address; kept for the owners to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, text

from .handshakes import Allowance
from .negotiation import BELIEVED, Found, Version

_READ = text(
    "SELECT version, version_at, handshakes, handshakes_size, handshakes_at, lowers_qos"
    " FROM arus_broker WHERE address = :address"
)
_SAVE = text(
    "INSERT INTO arus_broker"
    " (address, version, version_at, handshakes, handshakes_size, handshakes_at, lowers_qos)"
    " VALUES (:address, :version, :version_at, :handshakes, :handshakes_size, :handshakes_at,"
    " :lowers_qos)"
    " ON CONFLICT (address) DO UPDATE SET version = excluded.version,"
    " version_at = excluded.version_at, handshakes = excluded.handshakes,"
    " handshakes_size = excluded.handshakes_size, handshakes_at = excluded.handshakes_at,"
    " lowers_qos = excluded.lowers_qos"
)


@dataclass(slots=True)
class KnownBroker:
    """What is known of one broker."""

    #: As `str(settings.broker)` has it: without credentials.
    address: str
    found: Found | None = None
    #: What it takes by MQTT 3.1.1, and when that was found, in milliseconds since the epoch.
    allowance: Allowance | None = None
    allowance_at: int = 0
    #: It answers QoS 2 as if it were QoS 1.
    lowers_qos: bool = False

    def allows(self, now: int) -> Allowance | None:
        """Return what it takes, while that is believed.

        :param now: milliseconds since the epoch.
        """
        return self.allowance if 0 <= now - self.allowance_at < BELIEVED else None


def read_broker(connection: Connection, address: str) -> KnownBroker:
    """Return what is known of a broker."""
    row = connection.execute(_READ, {"address": address}).one_or_none()
    if row is None:
        return KnownBroker(address)
    return KnownBroker(
        address,
        Found(cast("Version", row.version), row.version_at) if row.version else None,
        Allowance(row.handshakes, row.handshakes_size) if row.handshakes else None,
        row.handshakes_at or 0,
        bool(row.lowers_qos),
    )


def save_broker(connection: Connection, known: KnownBroker) -> None:
    """Keep what is known of a broker, in the caller's transaction."""
    found, allowance = known.found, known.allowance
    row: dict[str, Any] = {
        "address": known.address,
        "version": found and found.version,
        "version_at": found and found.at,
        "handshakes": allowance and allowance.handshakes,
        "handshakes_size": allowance and allowance.size,
        "handshakes_at": known.allowance_at if allowance else None,
        "lowers_qos": known.lowers_qos,
    }
    connection.execute(_SAVE, row)
