"""The parts of a catch-up that both sides compute alike: the digest over its items, and its cursor."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import orjson

from arus.errors import CatchupError

#: Maximum length of a cursor in characters.
MAX_CURSOR = 1_000

_CURSOR = re.compile(
    r"(log)\.([0-9A-Za-z-]{1,36})\.(s[0-9]{1,18})"
    r"|(snapshot)\.([0-9A-Za-z-]{1,36})\.(s[0-9]{1,18}|k\"[\x20-\x7e]*\")"
)


def link_of(entity: str, row_id: str, version: int, operation: str) -> str:
    """Return the text that an item adds to the digest of its catch-up."""
    return f"{entity}/{row_id}/{version}/{operation}"


def chained(digest: str, link: str) -> str:
    """Return the chained digest of a sequence of items that ends with `link`: SHA-256, hexadecimal.

    :param digest: of the items before `link`; empty for the first.
    """
    return hashlib.sha256(f"{digest}{link}".encode(errors="surrogatepass")).hexdigest()


class Cursor(NamedTuple):
    """The point at which a catch-up continues after its limit was reached."""

    #: log or snapshot.
    mode: str
    #: Of the log.
    epoch: str
    #: After the last item: `s` and a number of the log, or `k` and the key of a row as JSON.
    position: str

    @classmethod
    def parse(cls, text: object) -> Cursor:
        """Parse the cursor of a message.

        :raises CatchupError: the text is not a cursor.
        """
        found = None
        if isinstance(text, str) and len(text) <= MAX_CURSOR:
            found = _CURSOR.fullmatch(text)
        if found is None or not _is_key(found[6]):
            raise CatchupError(f"{str(text)[:MAX_CURSOR]!r} is not a cursor of a catch-up")
        return cls(found[1] or found[4], found[2] or found[5], found[3] or found[6])

    def __str__(self) -> str:
        """Return the cursor as it is written in messages."""
        return f"{self.mode}.{self.epoch}.{self.position}"


def _is_key(position: str | None) -> bool:
    """Whether a position contains no key, or one that a database can store."""
    if position is None or position.startswith("s"):
        return True
    try:
        return "\0" not in orjson.loads(position[1:])
    except orjson.JSONDecodeError:
        return False
