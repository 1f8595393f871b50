"""Until when a certificate is valid, read from its bytes."""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from arus.mqtt.certificates import read_expiry, read_first_expiry

ENDS = [
    datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2050, 1, 1, tzinfo=UTC),
    datetime(1999, 5, 6, 7, 8, 9, tzinfo=UTC),
    datetime(2026, 11, 22, 8, tzinfo=UTC),
]


def pem(until: datetime) -> bytes:
    begins = datetime(1990, 1, 1, tzinfo=UTC)
    issued = trustme.CA().issue_cert("ship.example", not_before=begins, not_after=until)
    return bytes(issued.cert_chain_pems[0].bytes())


@pytest.mark.parametrize("until", ENDS)
def test_it_is_read_from_pem_and_der(until: datetime) -> None:
    certificate = pem(until)
    assert read_expiry(certificate) == until
    assert read_expiry(b"some text before\n" + certificate + b"and after") == until
    assert read_expiry(ssl.PEM_cert_to_DER_cert(certificate.decode())) == until


def test_of_several_certificates_the_one_that_expires_first_counts() -> None:
    assert read_first_expiry(b"".join(map(pem, ENDS))) == min(ENDS)
    assert read_expiry(b"".join(map(pem, ENDS))) == ENDS[0]
    with pytest.raises(ValueError):
        read_first_expiry(
            pem(ENDS[0]) + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
        )


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"0",
        b"text",
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_certificate_is_said_to_be_none(wrong: bytes) -> None:
    with pytest.raises(ValueError):  # whatever it says: it is shown to nobody
        read_expiry(wrong)


DER = ssl.PEM_cert_to_DER_cert(pem(ENDS[0]).decode())


def test_an_unknown_version_is_refused_and_an_odd_serial_number_is_not() -> None:
    version, serial = DER.index(b"\xa0\x03\x02\x01") + 4, DER.index(b"\xa0\x03\x02\x01") + 7
    with pytest.raises(ValueError, match="version"):
        read_expiry(DER[:version] + b"\x05" + DER[version + 1 :])
    assert read_expiry(DER[:serial] + b"\x80" + DER[serial + 1 :]) == ENDS[0]


@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_a_damaged_one_is_read_or_refused(position: int, byte: int) -> None:
    damaged = DER[:position] + bytes([byte]) + DER[position + 1 :]
    with contextlib.suppress(ValueError):  # anything else is a fault
        assert read_expiry(damaged).tzinfo is UTC
