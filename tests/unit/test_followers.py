"""Watermarks: read strictly, whoever wrote them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import RefusedMessageError
from arus.protocol.encoding import MAX_WATERMARK, decode_watermark, encode
from arus.protocol.messages import Watermark

GOOD: dict[str, Any] = {"epoch": "e-1", "seq": 7, "timestamp": "2026-11-22T08:00:00.000Z"}
AT = 1795334400000


def told(**changes: Any) -> bytes:
    return orjson.dumps({**GOOD, **changes})


def test_what_it_says() -> None:
    assert decode_watermark(told()) == Watermark(epoch="e-1", seq=7, timestamp=GOOD["timestamp"])
    assert decode_watermark(told()).reported_at == AT
    compared = {"equal": False, "buckets": [0, 63], "rows": ["a", "b"]}
    audit = {
        "seq": 5,
        "timestamp": GOOD["timestamp"],
        "equal": False,
        "entities": {"crew": compared},
    }
    read = decode_watermark(told(vesselId="ship-1", audit=audit))
    assert read.vessel_id == "ship-1"
    assert read.audit is not None
    assert (read.audit.seq, read.audit.at, read.audit.equal) == (5, AT, False)
    assert orjson.loads(encode(read.audit)) == audit


@pytest.mark.parametrize(
    "timestamp", [None, 7, "yesterday", "0001-01-01T00:00:00Z", "x" * 1000, "9" * 39]
)
def test_a_time_that_is_none_is_left_out(timestamp: Any) -> None:
    assert decode_watermark(told(timestamp=timestamp)).reported_at is None


def test_of_many_rows_twenty_are_kept() -> None:
    compared = {"equal": False, "buckets": [], "rows": [str(n) for n in range(50)]}
    audit = decode_watermark(
        told(audit={"seq": 1, "equal": False, "entities": {"crew": compared}})
    ).audit
    assert audit is not None
    assert audit.entities["crew"].rows == tuple(str(n) for n in range(20))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not JSON",
        b"[]",
        b"7",
        b" " * (MAX_WATERMARK + 1),
        told(seq=None),
        told(seq=-1),
        told(seq=True),
        told(seq=1.5),
        told(seq="7"),
        b'{"epoch": "e", "seq": 1' + b"0" * 30 + b"}",
        told(epoch=None),
        told(epoch=""),
        told(epoch="x" * 37),
        told(epoch="a b"),
        told(vesselId=7),
        told(vesselId="x" * 65),
        told(vesselId="a\0b"),
        told(audit=[]),
        told(audit={"seq": 1}),
        told(audit={"seq": 1, "equal": "yes"}),
        told(audit={"seq": -1, "equal": True}),
        told(audit={"seq": 1, "equal": True, "entities": []}),
        told(audit={"seq": 1, "equal": True, "entities": {"x" * 65: {"equal": True}}}),
        told(audit={"seq": 1, "equal": True, "entities": {"crew": {}}}),
        told(audit={"seq": 1, "equal": True, "entities": {"crew": {"equal": True, "buckets": [64]}}}),
        told(audit={"seq": 1, "equal": True, "entities": {"crew": {"equal": True, "buckets": [True]}}}),
        told(audit={"seq": 1, "equal": True, "entities": {"crew": {"equal": True, "rows": "a"}}}),
        told(audit={"seq": 1, "equal": True, "entities": {"crew": {"equal": True, "rows": ["\x1b[31m"]}}}),
        told(audit={"seq": 1, "equal": True, "entities": {str(n): {"equal": True} for n in range(101)}}),
    ],
)  # fmt: skip
def test_what_is_refused(payload: bytes) -> None:
    with pytest.raises(RefusedMessageError):
        decode_watermark(payload)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("epoch", "seq", "timestamp", "vesselId", "audit"), json)
    ),
    st.sampled_from(list(GOOD)),
)
def test_whatever_comes_is_read_or_refused(body: dict[str, Any], kept: str) -> None:
    try:
        payload = orjson.dumps({**GOOD, **body, kept: GOOD[kept]})
    except orjson.JSONEncodeError:
        return
    try:
        decode_watermark(payload)
    except RefusedMessageError:
        return
