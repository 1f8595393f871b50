"""Digests of tables: two sides that hold the same rows in the same versions have the same digests.

A row's token is computed from its id, its version and the hash of its canonical JSON. The digest of a bucket is the
XOR of its rows' tokens: a change of one row updates it with two operations, and the order of the rows does not
matter. If digests differ, the differing buckets show which sixty-fourths of the table to check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import orjson
import rfc8785

#: Buckets that the rows of an entity are spread over.
BUCKETS = 64
#: The hash of a row that can't be serialised or is not known: it never equals the other side's hash.
UNKNOWN = ""

#: Integers up to here are exact as double-precision numbers, which JSON parsers use (RFC 7493, 2.2).
_MAX_EXACT = 2**53 - 1


def canonical(data: Any) -> bytes:
    """Return `data`, as parsed from JSON, in the canonical form of RFC 8785.

    An integer above 2^53 is rounded to the nearest double, as a JavaScript program would read it.

    :raises ValueError: it has no canonical form: a number is not finite, or a text is not valid Unicode.
    """
    try:
        try:
            return orjson.dumps(_plain(data), option=orjson.OPT_SORT_KEYS)
        except _NotPlainError:
            return rfc8785.dumps(_as_doubles(data))
    except (orjson.JSONEncodeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no canonical JSON: {error}") from error


def row_hash(data: Any, fields: AbstractSet[str] | None = None) -> str:
    """Return the SHA-256 of a row's canonical JSON, hexadecimal.

    :param fields: only these of its keys count; None for all.
    :raises ValueError: raised by `canonical`.
    """
    if fields is not None and not data.keys() <= fields:
        data = {key: value for key, value in data.items() if key in fields}
    return hashlib.sha256(canonical(data)).hexdigest()


def row_token(row_id: str, version: int, content: str) -> int:
    """Return the token of a row in its bucket's digest.

    :param content: its `row_hash`.
    """
    text = f"{row_id}\n{version}\n{content}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def bucket_of(row_id: str) -> int:
    """Return the bucket of a row, from 0 to 63."""
    return hashlib.sha256(row_id.encode(errors="surrogatepass")).digest()[0] >> 2


def entity_digest(buckets: Iterable[str]) -> str:
    """Return the digest of a whole entity, from the digests of its buckets."""
    return hashlib.sha256("".join(buckets).encode()).hexdigest()


def differing(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """Return the buckets in which two sides differ."""
    return [
        number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]
    ]


class SetDigest:
    """The digest of a set of rows, updated as rows are added and removed."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        #: Rows in the set.
        self.count = 0

    def add(self, row_id: str, version: int, content: str) -> None:
        """Add a row."""
        self.toggle(bucket_of(row_id), row_token(row_id, version, content), 1)

    def remove(self, row_id: str, version: int, content: str) -> None:
        """Remove a row; the arguments must be those with which it was added."""
        self.toggle(bucket_of(row_id), row_token(row_id, version, content), -1)

    def toggle(self, bucket: int, tokens: int, count: int) -> None:
        """Add or remove the XOR of some tokens of a bucket.

        :param count: the change of the number of rows.
        """
        self._buckets[bucket] ^= tokens
        self.count += count

    def copy(self) -> SetDigest:
        """Return a copy with the same rows."""
        other = SetDigest()
        other._buckets = self._buckets.copy()
        other.count = self.count
        return other

    @property
    def buckets(self) -> list[str]:
        """The digest of each bucket: 16 hexadecimal digits."""
        return [f"{tokens:016x}" for tokens in self._buckets]

    @property
    def digest(self) -> str:
        """The digest of all: 64 hexadecimal digits."""
        return entity_digest(self.buckets)


#: Types whose values orjson encodes as required; None is the only other one.
_PLAIN = frozenset({str, bool})


class _NotPlainError(Exception):
    """The fast encoder would not produce the canonical form."""


def _plain(value: Any) -> Any:
    """Return `value` in a form that orjson encodes as RFC 8785 requires.

    :raises _NotPlainError: there is no such form.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int or kind is float:
        return _plain_number(value)
    if kind is dict:
        # RFC 8785 sorts keys by UTF-16, orjson by UTF-8; the orders may differ for keys that are not ASCII.
        return _plain_object(value)
    if kind is list:
        return [_plain(item) for item in value]
    raise _NotPlainError


def _plain_object(value: dict[Any, Any]) -> dict[str, Any]:
    plain = {}
    # This runs for each row of each change: only what needs a closer look costs a call.
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            raise _NotPlainError
        plain[key] = item if item is None or type(item) in _PLAIN else _plain(item)
    return plain


def _plain_number(value: float) -> float:
    if type(value) is int:
        if -_MAX_EXACT <= value <= _MAX_EXACT:
            return value
    elif -1e15 < value < 1e15:
        if value.is_integer():
            return int(value)
        if abs(value) >= 1e-4:
            return value
    raise _NotPlainError


def _as_doubles(value: Any) -> Any:
    if type(value) is int and not -_MAX_EXACT <= value <= _MAX_EXACT:
        return float(value)
    if isinstance(value, dict):
        return {key: _as_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_doubles(item) for item in value]
    return value
