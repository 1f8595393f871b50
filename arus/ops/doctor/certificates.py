"""The checks of the certificates: the vessel's own and the broker's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime

from arus.mqtt.certificates import read_expiry
from arus.mqtt.transport import tls_context
from arus.settings import Settings

from .finding import Finding, Verdict

#: Days of remaining validity below which a certificate should be renewed.
RENEW_DAYS = 30


def check_own_certificate(settings: Settings) -> Iterator[Finding]:
    """Check how long the client certificate is valid, if there is one."""
    if settings.tls_cert is not None:
        yield from _expiry(
            "client certificate", settings.tls_cert.read_bytes(), "renew MQTT_TLS_CERT"
        )


def check_broker_certificate(settings: Settings) -> Iterator[Finding]:
    """Check how long the broker's certificate is valid, if it has one that can be read now."""
    if not settings.broker.tls:
        return
    try:
        certificate = _of_the_broker(settings)
    except (OSError, ValueError):
        return  # the check of the broker says why
    yield from _expiry("certificate", certificate, "renew the broker's certificate")


def _of_the_broker(settings: Settings) -> bytes:
    broker = settings.broker
    context = tls_context(settings)
    with socket.create_connection((broker.host, broker.port), settings.connect_timeout) as plain:
        plain.settimeout(settings.connect_timeout)
        with context.wrap_socket(plain, server_hostname=broker.host) as secured:
            return secured.getpeercert(binary_form=True) or b""


def _expiry(name: str, certificate: bytes, fix: str) -> Iterator[Finding]:
    try:
        until = read_expiry(certificate)
    except ValueError:
        yield Finding(name, Verdict.WARN, "its expiry date can't be read", fix)
        return
    days = (until - datetime.now(UTC)).days
    says = f"valid until {until:%Y-%m-%d}, {days} days"
    if days < 0:
        yield Finding(name, Verdict.FAIL, f"it expired on {until:%Y-%m-%d}", fix)
    elif days < RENEW_DAYS:
        yield Finding(name, Verdict.WARN, says, fix)
    else:
        yield Finding(name, Verdict.OK, says)
