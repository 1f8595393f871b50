"""Digests of tables: two sides that hold the same rows in the same versions have the same digests.

A row's token is made of its id, its version and the hash of its canonical JSON. The tokens of a bucket of rows
are XORed, so that a change of one row changes its bucket's digest by two operations, in whatever order
the rows come. Where digests differ, buckets tell which sixty-fourth of the table to look at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import rfc8785

#: Buckets that the rows of an entity are spread over.
BUCKETS = 64
#: What a row hashes to that can't be serialised, or is not known: never what the other side has.
UNKNOWN = ""

#: Integers up to here are exact as the double-precision numbers that JSON means (RFC 7493, 2.2).
_MAX_EXACT = 2**53 - 1


def canonical(data: Any) -> bytes:
    """Return `data`, as parsed from JSON, in the canonical form of RFC 8785.

    A whole number beyond 2^53 is taken for the nearest double, as a JavaScript program would read it.

    :raises ValueError: it has no such form: a number is not finite, or a text is not Unicode.
    """
    try:
        try:
            return orjson.dumps(_plain(data), option=orjson.OPT_SORT_KEYS)
        except _NotPlainError:
            return rfc8785.dumps(_as_doubles(data))
    except (orjson.JSONEncodeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no canonical JSON: {error}") from error


def row_hash(data: Any) -> str:
    """Return the SHA-256 of a row's canonical JSON, hexadecimal.

    :raises ValueError: `canonical` does.
    """
    return hashlib.sha256(canonical(data)).hexdigest()


def row_token(row_id: str, version: int, content: str) -> int:
    """Return what stands for a row in its bucket's digest.

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
    """The digest of a set of rows, kept up to date as they come and go."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        #: Rows in the set.
        self.count = 0

    def add(self, row_id: str, version: int, content: str) -> None:
        """Put a row in."""
        self.toggle(bucket_of(row_id), row_token(row_id, version, content), 1)

    def remove(self, row_id: str, version: int, content: str) -> None:
        """Take out a row that is in, as it was put in."""
        self.toggle(bucket_of(row_id), row_token(row_id, version, content), -1)

    def toggle(self, bucket: int, tokens: int, count: int) -> None:
        """Put in, or take out, the XOR of some tokens of a bucket.

        :param count: how many rows the set grows by.
        """
        self._buckets[bucket] ^= tokens
        self.count += count

    def copy(self) -> SetDigest:
        """Return another with the same rows."""
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


class _NotPlainError(Exception):
    """The fast encoder would not give the canonical form."""


def _plain(value: Any) -> Any:
    """Return `value` in the terms in which orjson and RFC 8785 agree.

    :raises _NotPlainError: there are none.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        if -_MAX_EXACT <= value <= _MAX_EXACT:
            return value
        raise _NotPlainError
    if kind is float:
        if -1e15 < value < 1e15:
            if value.is_integer():
                return int(value)
            if abs(value) >= 1e-4:
                return value
        raise _NotPlainError
    if kind is dict:
        # Beyond ASCII the order of UTF-16 is not that of UTF-8.
        if not all(type(key) is str and key.isascii() for key in value):
            raise _NotPlainError
        return {key: _plain(item) for key, item in value.items()}
    if kind is list:
        return [_plain(item) for item in value]
    raise _NotPlainError


def _as_doubles(value: Any) -> Any:
    if type(value) is int and not -_MAX_EXACT <= value <= _MAX_EXACT:
        return float(value)
    if isinstance(value, dict):
        return {key: _as_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_doubles(item) for item in value]
    return value
