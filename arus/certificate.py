"""Until when a certificate is valid: just enough of X.509 (RFC 5280) and DER to tell."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18


def read_expiry(certificate: bytes) -> datetime:
    """Return until when a certificate is valid.

    :param certificate: DER, or PEM, of which the first counts.
    :raises ValueError: it is none.
    """
    try:
        body = _content(_content(_der(certificate), _SEQUENCE)[0], _SEQUENCE)[0]
        if body[:1] == bytes([_VERSION]):
            body = _content(body, _VERSION)[1]
        for _ in ("serial number", "signature algorithm", "issuer"):
            body = _content(body, body[0])[1]
        validity = _content(body, _SEQUENCE)[0]
        not_after = _content(validity, validity[0])[1]
        digits = _content(not_after, not_after[0])[0].decode("ascii")
        if not_after[0] == _UTC_TIME:
            # Two digits of the year: from 1950 to 2049 (RFC 5280, 4.1.2.5.1).
            digits = ("19" if digits >= "50" else "20") + digits
        elif not_after[0] != _GENERALIZED_TIME:
            raise ValueError("no time where the end of its validity should be")
        return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except IndexError as error:
        raise ValueError("not a certificate: it ends too early") from error


def _der(certificate: bytes) -> bytes:
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    if begin not in certificate:
        return certificate
    first = certificate[certificate.index(begin) : certificate.index(end) + len(end)]
    return ssl.PEM_cert_to_DER_cert(first.decode("ascii"))


def _content(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the first element, which must have this tag, and what follows it."""
    if data[0] != tag:
        raise ValueError(f"not a certificate: {data[0]:#x} where {tag:#x} should be")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("not a certificate: it ends too early")
    return data[start : start + length], data[start + length :]
