"""The ids of vessels in addresses: an id may be any text, and an address must lead to its vessel alone."""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import blake2s
from urllib.parse import quote

from werkzeug.routing import BaseConverter, ValidationError

from arus.escapes import escaped

#: Ids that are in an address as they are, percent-encoded. Others might be changed on the way: browsers, proxies and
#: servers resolve dots and join slashes, also encoded ones.
_PLAIN = re.compile(r"(?!\.{1,2}\Z|~)[^\x00-\x20\x7f-\xa0/\\%]+")
_BASE64 = re.compile(rb"[\w-]+")
#: Begins an id in base64.
_MARK = "~"


class VesselConverter(BaseConverter):
    """`<vessel:vessel_id>` in a rule: the last part of an address."""

    # Slashes too: an address made by a program may have them, whatever it encoded.
    regex = ".+"
    part_isolating = False

    def to_python(self, value: str) -> str:
        """Return the id; raises ValidationError, which answers 404, if there can't be such an id."""
        if not value.startswith(_MARK):
            return value
        encoded = value.removeprefix(_MARK).encode()
        if not _BASE64.fullmatch(encoded):
            raise ValidationError
        try:
            return base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)).decode()
        except (ValueError, binascii.Error) as error:
            raise ValidationError from error

    def to_url(self, value: str) -> str:
        """Return the part of the address."""
        if _PLAIN.fullmatch(value):
            return quote(value, safe="")
        return _MARK + base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")


def element_of(vessel_id: str) -> str:
    """Return the id of a vessel's element on a page."""
    return f"vessel-{blake2s(vessel_id.encode(), digest_size=8).hexdigest()}"


def shown_id(vessel_id: str) -> str:
    """Return an id as a page shows it: never empty, and with control characters escaped."""
    shown = escaped(vessel_id)
    return shown if any(character.isalnum() for character in shown) else ascii(vessel_id)
