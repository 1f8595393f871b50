"""Compressed payloads: what is written, and that nothing received can cost more than its bound."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import MissingDictionaryError, RefusedMessageError
from arus.protocol.frames import (
    MAX_CONTENT,
    MAX_DICTIONARY,
    Compressor,
    Dictionary,
    decompress,
    id_of,
    is_frame,
    train,
)
from tests.support.ship_messages import dictionary, messages

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def none(_dictionary_id: int) -> Dictionary | None:
    return None


def found(dictionary_id: int) -> Dictionary | None:
    return dictionary() if dictionary_id == dictionary().id else None


@pytest.mark.parametrize("known", [None, dictionary()])
@given(payload=st.binary(max_size=2000).filter(lambda payload: not is_frame(payload)))
def test_what_is_compressed_is_read_again(known: Dictionary | None, payload: bytes) -> None:
    sent = Compressor(known).compress(payload)
    if is_frame(sent):
        assert decompress(sent, found) == payload
        assert len(sent) < len(payload)
    else:
        assert sent == payload


def test_a_dictionary_takes_a_ships_messages_to_a_fifth_and_without_one_to_two_thirds() -> None:
    others = messages(300, seed=2)
    plain = sum(len(each) for each in others)
    with_it, without = Compressor(dictionary()), Compressor()
    assert sum(len(with_it.compress(each)) for each in others) < 0.2 * plain
    assert sum(len(without.compress(each)) for each in others) < 0.75 * plain


def test_the_same_message_gives_the_same_bytes_after_any_others() -> None:
    one, *others = messages(20)
    first = Compressor(dictionary())
    sent = first.compress(one)
    for other in others:
        first.compress(other)
    assert first.compress(one) == sent
    assert Compressor(Dictionary(dictionary().content)).compress(one) == sent


def test_a_frame_names_its_dictionary_and_states_its_size() -> None:
    (message,) = messages(1)
    info = zstd.get_frame_info(Compressor(dictionary()).compress(message))
    assert (info.dictionary_id, info.decompressed_size) == (dictionary().id, len(message))
    assert zstd.get_frame_info(Compressor().compress(message)).dictionary_id == 0


def test_a_message_above_the_bound_stays_json() -> None:
    assert not is_frame(Compressor().compress(b"{" + b" " * MAX_CONTENT))


def test_too_few_messages_make_no_dictionary() -> None:
    assert train(messages(3)) is None
    assert train([]) is None


# -- hostile frames -------------------------------------------------------------------------------


def bomb_that_states_its_size() -> bytes:
    # A single segment, with four bytes of content size: a block of 2^17 times the same byte, and what is missing.
    block = (2**17 << 3 | 0b010).to_bytes(3, "little") + b"0"
    return b"\x28\xb5\x2f\xfd\xa0" + (2**30).to_bytes(4, "little") + block * 200


def bomb_that_hides_its_size() -> bytes:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.content_size_flag: 0})
    block = b"0" * 2**20
    parts = [compressor.compress(block) for _ in range(64)]
    return b"".join([*parts, compressor.flush()])


def frame_that_states_too_little() -> bytes:
    honest = bytearray(Compressor().compress(b"x" * 60_000))
    assert honest[4] >> 6 == 1  # two bytes of content size, less 256
    honest[5:7] = (1000 - 256).to_bytes(2, "little")
    return bytes(honest)


def frame_with_a_large_window() -> bytes:
    options = {
        int(zstd.CompressionParameter.content_size_flag): 0,
        int(zstd.CompressionParameter.window_log): 27,
    }
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(b"0" * 1000) + compressor.flush()


def frame_that_is_cut_off() -> bytes:
    return Compressor().compress(messages(1)[0])[:-5]


def two_frames() -> bytes:
    frame = Compressor().compress(messages(1)[0])
    return frame + frame


def magic_number_alone() -> bytes:
    return b"\x28\xb5\x2f\xfd"


@pytest.mark.parametrize(
    "make",
    [
        bomb_that_states_its_size,
        bomb_that_hides_its_size,
        frame_that_states_too_little,
        frame_with_a_large_window,
        frame_that_is_cut_off,
        two_frames,
        magic_number_alone,
    ],
)
def test_a_hostile_frame_is_refused_in_bounded_memory(make: Callable[[], bytes]) -> None:
    frame = make()
    assert is_frame(frame)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedMessageError):
            decompress(frame, none)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_CONTENT


@given(data=st.binary(max_size=300), at=st.integers(0, 200))
def test_whatever_bytes_come_are_read_or_refused(data: bytes, at: int) -> None:
    frame = Compressor(dictionary()).compress(messages(1)[0])
    for payload in (frame[:4] + data, frame[:at] + data + frame[at:]):
        with suppress(RefusedMessageError):
            decompress(payload, found)


def test_a_dictionary_that_is_not_here_is_named() -> None:
    frame = Compressor(dictionary()).compress(messages(1)[0])
    with pytest.raises(MissingDictionaryError) as caught:
        decompress(frame, none)
    assert caught.value.dictionary_id == dictionary().id


# -- hostile dictionaries -------------------------------------------------------------------------


def sealed(content: bytes) -> bytes:
    """The content under the id that belongs to it."""
    return content[:4] + id_of(content).to_bytes(4, "little") + content[8:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no dictionary",
        dictionary().content[:8],
        dictionary().content + b"0",  # of another id
        dictionary().content[:4] + b"\x07\x00\x00\x80" + dictionary().content[8:],
        sealed(dictionary().content[:40]),
        sealed(dictionary().content[:8] + b"\xff" * 1000),
        sealed(dictionary().content + b"0" * MAX_DICTIONARY),
    ],
)
def test_a_dictionary_that_is_malformed_or_another_than_its_id_says_is_refused(
    content: bytes,
) -> None:
    with pytest.raises(RefusedMessageError):
        Dictionary(content)


@given(at=st.integers(8, 600), value=st.integers(0, 255))
def test_a_damaged_dictionary_is_refused_or_can_be_used(at: int, value: int) -> None:
    damaged = bytearray(dictionary().content)
    damaged[at] = value
    try:
        other = Dictionary(sealed(bytes(damaged)))
    except RefusedMessageError:
        return
    (message,) = messages(1)
    assert decompress(Compressor(other).compress(message), {other.id: other}.get) == message
