"""A request counts as arrived with its last byte, wherever it was cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.gunicorn.arrival import MAX_BODY, MAX_FRAMING, MAX_HEAD, Arrival

HEAD = b"POST /api/alerts HTTP/1.1\r\nHost: ship\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: ship\r\n\r\n",
    HEAD + b"Content-Length: 0\r\n\r\n",
    HEAD + b"content-length:  5 \r\n\r\nab\r\n\r",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD
    + b"Transfer-Encoding: gzip, Chunked\r\n\r\n5;a=b\r\n0\r\n\r\n\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
)


@given(st.sampled_from(REQUESTS), st.lists(st.integers(0, 200)))
def test_it_is_complete_with_its_last_byte(request: bytes, cuts: list[int]) -> None:
    arrival = Arrival()
    places = sorted({min(cut, len(request) - 1) for cut in cuts} | {0, len(request) - 1})
    for start, end in itertools.pairwise(places):
        arrival.add(request[start:end])
        assert not arrival.is_complete
    arrival.add(request[places[-1] :])
    assert arrival.is_complete
    assert bytes(arrival.data) == request


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * MAX_HEAD, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD, 431),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (HEAD + b"Content-Length: %s\r\n\r\n" % (b"9" * 5_000), 413),
        (HEAD + CHUNKED + b"%x\r\n" % (MAX_BODY + 1), 413),
        (HEAD + CHUNKED + b"1\r\nx\r\n" * MAX_FRAMING, 413),
        (HEAD + CHUNKED + b"1" * (MAX_FRAMING + 1), 413),
        (HEAD + CHUNKED + b"0\r\nX: " + b"x" * MAX_FRAMING, 413),
    ],
    ids=["line", "head", "length", "endless", "chunk", "chunks", "size", "trailer"],
)
def test_what_is_too_large_is_refused(sent: bytes, status: int) -> None:
    arrival = Arrival()
    arrival.add(sent)
    assert arrival.refusal == status
    assert not arrival.is_complete


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 00000000000000000000%d\r\n\r\n" % MAX_BODY + bytes(MAX_BODY),
        HEAD + CHUNKED + b"%x\r\n" % MAX_BODY + bytes(MAX_BODY) + b"\r\n0\r\n\r\n",
    ],
    ids=["length", "chunk"],
)
def test_the_largest_body_is_accepted(sent: bytes) -> None:
    arrival = Arrival()
    arrival.add(sent)
    assert arrival.refusal is None
    assert arrival.is_complete


def test_an_application_may_accept_more() -> None:
    arrival = Arrival(MAX_BODY + 1)
    arrival.add(HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1))
    assert arrival.refusal is None
    arrival.add(bytes(MAX_BODY + 1))
    assert arrival.is_complete


@pytest.mark.parametrize("limit", [None, 10 * MAX_BODY])
def test_no_more_of_a_large_body_is_kept_than_of_the_largest_by_default(limit: int | None) -> None:
    arrival = Arrival(limit)
    arrival.add(HEAD + b"Content-Length: %d\r\n\r\n" % (9 * MAX_BODY) + bytes(MAX_BODY))
    assert not arrival.is_complete
    arrival.add(bytes(MAX_FRAMING + 1))
    assert arrival.refusal is None
    assert arrival.is_complete, "a thread waits for the rest"


@pytest.mark.parametrize("size", [b"number", b"-1"])
def test_what_is_malformed_is_not_waited_for(size: bytes) -> None:
    arrival = Arrival()
    arrival.add(HEAD + CHUNKED + size + b"\r\n")
    assert arrival.is_complete


def test_a_body_that_waits_to_be_asked_for_is_asked_for_once() -> None:
    arrival = Arrival()
    arrival.add(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert arrival.wants_continue
    assert b"Expect" not in arrival.data
    assert not arrival.is_complete
    arrival.add(b"{}")
    assert bytes(arrival.data) == HEAD + b"Content-Length: 2\r\n\r\n{}"
    assert arrival.is_complete
