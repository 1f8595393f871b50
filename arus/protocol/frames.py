"""Compressed payloads: zstd frames (RFC 8878), alone or with a dictionary that both sides have.

A frame begins with bytes that no JSON document has, so a receiver tells the two apart by the payload alone. It names
its dictionary by zstd's dictionary id. The id is made from the dictionary's content, so that nobody can publish another
dictionary under the id of one in use.

Received bytes are untrusted: decompression is bounded in output and in memory, whatever a frame says of itself.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from arus.errors import MissingDictionaryError, RefusedMessageError

#: The first bytes of a frame (RFC 8878, 3.1.1) and of a dictionary (RFC 8878, 5).
MAGIC = b"\x28\xb5\x2f\xfd"
DICTIONARY_MAGIC = b"\x37\xa4\x30\xec"
#: Bytes of a trained dictionary, and of the largest one that a receiver accepts.
DICTIONARY_SIZE = 16_384
MAX_DICTIONARY = 65_536
#: Bytes of the largest message that is compressed, and that a frame may contain. Larger messages are sent as JSON.
MAX_CONTENT = 1_048_576
#: Base-two logarithm of the largest window that a frame may require: twice MAX_CONTENT.
_MAX_WINDOW_LOG = 21
#: Higher levels gain little on messages of this size, and take many times as long.
LEVEL = 3
#: Ids below are reserved for a registrar (RFC 8878, 5), and those from 2^31 on by zstd.
_FIRST_ID, _IDS = 32_768, 2**31 - 32_768
#: Bytes before a dictionary's content: the magic number and the id.
_HEAD = 8


@cache
def _zstd() -> Any:
    """Return the library, loaded for the first frame or dictionary: half a megabyte, and most vessels send JSON."""
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


class Dictionary:
    """A dictionary: what messages have in common.

    :param content: in zstd's format, with its id.
    :raises RefusedMessageError: it is too large, malformed, or its id is not that of its content.
    """

    __slots__ = ("_digested", "content", "id")

    def __init__(self, content: bytes) -> None:
        if len(content) > MAX_DICTIONARY:
            raise RefusedMessageError(f"a dictionary of {len(content)} bytes is too large")
        if content[:4] != DICTIONARY_MAGIC or len(content) <= _HEAD:
            raise RefusedMessageError("not a zstd dictionary")
        #: As in `content` and in the frames that are compressed with it.
        self.id = int.from_bytes(content[4:_HEAD], "little")
        if self.id != id_of(content):
            raise RefusedMessageError(f"dictionary {self.id} has another content than its id says")
        self.content = content
        try:
            self._digested = _zstd().ZstdDict(content)
            # Reads the tables of the dictionary, which a frame would otherwise be the first to do.
            _zstd().compress(b"", LEVEL, zstd_dict=self._digested.as_digested_dict)
            _zstd().ZstdDecompressor(self._digested.as_digested_dict)
        except (ValueError, _zstd().ZstdError) as error:
            raise RefusedMessageError(f"a dictionary can't be read: {error}") from error

    @property
    def prepared(self) -> Any:
        """The dictionary in the form that zstd needs; its tables are built once."""
        return self._digested.as_digested_dict


def id_of(content: bytes) -> int:
    """Return the id of a dictionary: 32768 + the first 8 bytes of SHA-256 of all after the id, modulo 2^31 - 32768.

    :param content: of the whole dictionary; the id in it is ignored.
    """
    digest = hashlib.sha256(content[_HEAD:]).digest()
    return _FIRST_ID + int.from_bytes(digest[:8], "big") % _IDS


def train(samples: Sequence[bytes], size: int = DICTIONARY_SIZE) -> Dictionary | None:
    """Return a dictionary of what the samples have in common; None if there are too few of them.

    :param size: bytes of the dictionary.
    """
    try:
        trained = _zstd().train_dict(samples, size).dict_content
    except (ValueError, _zstd().ZstdError):
        return None
    named = id_of(trained).to_bytes(4, "little")
    return Dictionary(trained[:4] + named + trained[_HEAD:])


class Compressor:
    """Compresses messages with one dictionary, or without. Used by one thread.

    The same message gives the same bytes, as long as the zstd library is the same.
    """

    def __init__(self, dictionary: Dictionary | None = None) -> None:
        prepared = None if dictionary is None else dictionary.prepared
        self._compressor = _zstd().ZstdCompressor(LEVEL, zstd_dict=prepared)

    def compress(self, payload: bytes) -> bytes:
        """Return the frame of a message; the message itself if it is too large, or its frame would not be smaller."""
        if len(payload) > MAX_CONTENT:
            return payload
        # All input at once: so the frame says the size of its content.
        frame = self._compressor.compress(payload, _zstd().ZstdCompressor.FLUSH_FRAME)
        return frame if len(frame) < len(payload) else payload


def is_frame(payload: bytes) -> bool:
    """Whether a payload is compressed."""
    return payload[:4] == MAGIC


def dictionary_of(frame: bytes) -> int:
    """Return the id of the dictionary that a frame needs; 0 for none.

    :raises RefusedMessageError: it is no frame, or it says that its content is too large.
    """
    try:
        info = _zstd().get_frame_info(frame)
    except _zstd().ZstdError as error:
        raise RefusedMessageError(f"a zstd frame can't be read: {error}") from error
    if info.decompressed_size is not None and info.decompressed_size > MAX_CONTENT:
        raise RefusedMessageError(
            f"a zstd frame says that it has {info.decompressed_size} bytes: too many"
        )
    return int(info.dictionary_id)


def decompress(frame: bytes, find: Callable[[int], Dictionary | None]) -> bytes:
    """Return the message in a frame.

    :param find: returns a dictionary by its id; None if it is not known.
    :raises MissingDictionaryError: the frame needs a dictionary that is not known.
    :raises RefusedMessageError: it is not one whole frame of a bounded message.
    """
    dictionary_id = dictionary_of(frame)
    prepared = None
    if dictionary_id:
        dictionary = find(dictionary_id)
        if dictionary is None:
            raise MissingDictionaryError(dictionary_id)
        prepared = dictionary.prepared
    try:
        options = {int(_zstd().DecompressionParameter.window_log_max): _MAX_WINDOW_LOG}
        decompressor = _zstd().ZstdDecompressor(prepared, options=options)
        content: bytes = decompressor.decompress(frame, max_length=MAX_CONTENT + 1)
    except (ValueError, MemoryError, _zstd().ZstdError) as error:
        raise RefusedMessageError(f"a zstd frame can't be read: {error}") from error
    if len(content) > MAX_CONTENT:
        raise RefusedMessageError(f"a zstd frame has more than {MAX_CONTENT} bytes")
    if not decompressor.eof:
        raise RefusedMessageError("a zstd frame is cut off")
    if decompressor.unused_data:
        raise RefusedMessageError("a payload has more than one zstd frame")
    return content
