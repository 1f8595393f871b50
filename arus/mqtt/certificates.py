"""The expiry time of certificates."""

from __future__ import annotations

import warnings
from datetime import datetime

_PEM = b"-----BEGIN CERTIFICATE-----"


def read_expiry(certificate: bytes) -> datetime:
    """Return a certificate's expiry time.

    :param certificate: DER or PEM; if PEM holds several, the first is read.
    :raises ValueError: it is not a certificate.
    """
    return _expiries(certificate, first=True)[0]


def read_first_expiry(certificates: bytes) -> datetime:
    """Return when the first of several certificates expires.

    :param certificates: PEM.
    :raises ValueError: there is none, or one can't be read.
    """
    return min(_expiries(certificates, first=False))


def _expiries(data: bytes, *, first: bool) -> list[datetime]:
    # Loaded here: only the doctor and the metrics of a vessel with certificate files need the library.
    from cryptography import x509
    from cryptography.utils import CryptographyDeprecationWarning

    with warnings.catch_warnings():
        # Other oddities (a serial number that is not positive) do not affect the date.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        try:
            if _PEM not in data:
                found = [x509.load_der_x509_certificate(data)]
            elif first:
                found = [x509.load_pem_x509_certificate(data)]
            else:
                found = x509.load_pem_x509_certificates(data)
            return [certificate.not_valid_after_utc for certificate in found]
        except x509.InvalidVersion as error:
            raise ValueError(str(error)) from error
