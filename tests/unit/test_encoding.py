"""Messages as bytes: those of each kind to the letter, and what is refused of what comes in."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from arus.errors import CatchupError, RefusedMessageError
from arus.protocol.catchups import Cursor
from arus.protocol.encoding import (
    MAX_STEPS,
    decode_numbered,
    decode_proposal,
    decode_published,
    decode_status,
    decode_watermark,
    encode,
    encode_catchup,
    encode_change,
)
from arus.protocol.entries import Entry, Operation
from arus.protocol.messages import (
    CatchupBegin,
    CatchupEnd,
    CatchupItem,
    CatchupRequest,
    Claim,
    Comparison,
    ConflictReport,
    DataChange,
    Digest,
    EntityDigest,
    Message,
    Progress,
    ProposedChange,
    Status,
    Verdict,
    Watermark,
)
from arus.protocol.rows import decode_row

AT = "2026-11-22T08:00:00.007Z"
ENTRY = Entry(
    id=7, seq=12, previous_seq=9, message_id="1795334400000_abc123def", topic="crew", qos=1,
    entity="crew", operation=Operation.UPDATE, row_id="r", version=3, committed_at=1_795_334_400_007,
    data=b'{"id":"r","hours":1e+16}',
)  # fmt: skip
CHANGE = (
    '"entity":"crew","operation":"update","data":{"id":"r","hours":1e+16},'
    '"timestamp":"2026-11-22T08:00:00.007Z","messageId":"1795334400000_abc123def","vesselId":"v",'
    '"epoch":"e","seq":12,"previousSeq":9,"version":3'
)
CATCHUP: dict[str, Any] = {
    "catchup_id": "c", "request_id": None, "vessel_id": "v", "entity": "crew", "epoch": "e", "mode": "log",
    "high_seq": 12, "timestamp": AT, "total": 1,
}  # fmt: skip
HEAD = (
    '"catchupId":"c","requestId":null,"vesselId":"v","entity":"crew","epoch":"e","mode":"log",'
    f'"highSeq":12,"timestamp":"{AT}","total":1'
)
STATUS = Status(
    status="online", vessel_id="v", timestamp=AT, generation=2, epoch="e", seq=12, topics={"crew": 12},
    pending=0,
    complete=True,
)  # fmt: skip
DIGEST = Digest(
    vessel_id="v", epoch="e", seq=12, timestamp=AT,
    entities={"crew": EntityDigest(topic="crew", last_seq=12, count=1, digest="d", buckets=("b",))},
)  # fmt: skip
WATERMARK = Watermark(
    vessel_id="v", epoch="e", seq=12, timestamp=AT,
    audit=Verdict(
        seq=9, timestamp=AT, equal=False,
        entities={
            "crew": Comparison(equal=True),
            "alerts": Comparison(equal=False, buckets=(1, 63), rows=("a",), held_by={"a": "w"}),
        },
    ),
)  # fmt: skip
PROPOSAL = ProposedChange(
    proposal_id="p", vessel_id="v", entity="crew", operation=Operation.DELETE, data=Raw(b'{"id":1}'),
    version=4, base_version=3, timestamp=AT, origin="shore",
)  # fmt: skip


def test_a_change_names_its_actor_only_if_the_entry_has_one() -> None:
    named = ENTRY._replace(actor="user:ann")
    assert encode_change(named, epoch="e", vessel_id="v") == change()[:-1] + b',"actor":"user:ann"}'
    assert b'"version":3,"actor":"user:ann","catchupId"' in item(actor="user:ann")
    assert b"actor" not in change() + item()


@pytest.mark.parametrize("actor", ["null", "7", '{"a":[]}', '"x"', '"\\u0000"'])
def test_a_receiver_takes_a_change_whatever_its_actor_is(actor: str) -> None:
    assert decode_published(change()[:-1] + f',"actor":{actor}}}'.encode())


def change() -> bytes:
    return encode_change(ENTRY, epoch="e", vessel_id="v")


def item(**changes: Any) -> bytes:
    entry = ENTRY._replace(**changes)
    return encode_catchup(entry, epoch="e", vessel_id="v", catchup_id="c", sequence=0, total=1)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            CatchupBegin(**CATCHUP, since_seq=9, complete=False, buckets=None),
            (f'{{"type":"catchup_begin",{HEAD},"sinceSeq":9,"complete":false,"buckets":null,'
            '"consumer":null}'),
        ),
        (
            CatchupEnd(**CATCHUP, digest="", next="log.e.s1"),
            f'{{"type":"catchup_end",{HEAD},"digest":"","next":"log.e.s1"}}',
        ),
        (
            STATUS,
            (f'{{"status":"online","vesselId":"v","timestamp":"{AT}","generation":2,"epoch":"e","seq":12,'
            '"topics":{"crew":12},"pending":0,"complete":true}'),
        ),
        (
            DIGEST,
            (f'{{"type":"digest","vesselId":"v","epoch":"e","seq":12,"timestamp":"{AT}","entities":{{"crew":'
            '{"topic":"crew","lastSeq":12,"count":1,"digest":"d","buckets":["b"]}}}'),
        ),
        (
            WATERMARK,
            (f'{{"vesselId":"v","epoch":"e","seq":12,"timestamp":"{AT}","audit":{{"seq":9,"timestamp":"{AT}",'
            '"equal":false,"entities":{"crew":{"equal":true,"buckets":[],"rows":[]},"alerts":'
            '{"equal":false,"buckets":[1,63],"rows":["a"],"heldBy":{"a":"w"}}}},"catchup":null}'),
        ),
        (
            Watermark(
                vessel_id="v", epoch="e", seq=12, timestamp=AT,
                catchup=Progress(catchup_id="c", entity="crew", received=200),
            ),
            (f'{{"vesselId":"v","epoch":"e","seq":12,"timestamp":"{AT}","audit":null,"catchup":'
            '{"catchupId":"c","entity":"crew","received":200}}'),
        ),
        (
            PROPOSAL,
            ('{"type":"proposal","proposalId":"p","vesselId":"v","entity":"crew","operation":"delete",'
            f'"data":{{"id":1}},"version":4,"baseVersion":3,"timestamp":"{AT}","origin":"shore"}}'),
        ),
        (
            ConflictReport(
                id="p", conflict_id="p", entity="crew", row_id="r", local=Raw(b'{"id":"r"}'),
                remote=Raw(b"null"), fields=["id"], winner="local", rule="time", version=4, resolved_at=AT,
                origin="shore",
            ),
            ('{"id":"p","conflictId":"p","entity":"crew","rowId":"r","local":{"id":"r"},"remote":null,'
            f'"fields":["id"],"winner":"local","rule":"time","version":4,"resolvedAt":"{AT}",'
            '"origin":"shore"}'),
        ),
        (
            Claim(client_id="i", claim="a1", timestamp=AT),
            f'{{"type":"claim","clientId":"i","claim":"a1","timestamp":"{AT}"}}',
        ),
        (
            CatchupRequest(
                request_id="r", vessel_id="v", entity="all", limit=None, since_seq=0, epoch="e"
            ),
            '{"requestId":"r","vesselId":"v","entity":"all","limit":null,"sinceSeq":0,"epoch":"e"}',
        ),
        (
            CatchupRequest(
                request_id="r", vessel_id="v", entity="crew", limit=None, mode="snapshot", buckets=(1,)
            ),
            '{"requestId":"r","vesselId":"v","entity":"crew","limit":null,"mode":"snapshot","buckets":[1]}',
        ),
        (
            CatchupRequest(request_id="r", vessel_id="v", entity="all", mode="digest"),
            '{"requestId":"r","vesselId":"v","entity":"all","mode":"digest"}',
        ),
        (
            CatchupRequest(request_id="r", entity="all", consumer="shore", window=800),
            '{"requestId":"r","entity":"all","consumer":"shore","window":800}',
        ),
    ],
)  # fmt: skip
def test_each_message_has_its_bytes(message: Message, expected: str) -> None:
    assert encode(message).decode() == expected


def test_a_change_and_an_item_have_their_bytes() -> None:
    assert change().decode() == f'{{"type":"data_change",{CHANGE}}}'
    expected = f'{{"type":"catchup",{CHANGE},"catchupId":"c","sequence":0,"total":1}}'
    assert item().decode() == expected


def test_what_is_sent_is_what_is_read() -> None:
    assert isinstance(decode_published(change()), DataChange)
    assert isinstance(decode_published(item()), CatchupItem)
    assert isinstance(decode_published(item(seq=0, previous_seq=0)), CatchupItem)
    for message in (CatchupBegin(**CATCHUP), CatchupEnd(**CATCHUP, digest="d"), DIGEST):
        assert decode_published(encode(message)) == message
    assert decode_status(encode(STATUS)) == STATUS
    assert decode_watermark(encode(WATERMARK)) == WATERMARK
    assert decode_numbered(change()).seq == 12
    read = decode_proposal(encode(PROPOSAL))
    assert (read.proposal_id, decode_row(memoryview(read.data))) == ("p", {"id": 1})


def test_what_is_not_known_is_passed_over() -> None:
    told = {**orjson.loads(encode(STATUS)), "later": {"a": [1]}}
    assert decode_status(orjson.dumps(told)) == STATUS


@pytest.mark.parametrize("unknown", [b'"\xff"', b'"\\ud800"', b"NaN", b"01", b"[" * 5_000, b"{"])
def test_what_is_not_known_must_still_be_json(unknown: bytes) -> None:
    with pytest.raises(RefusedMessageError):
        decode_status(encode(STATUS)[:-1] + b',"later":' + unknown + b"}")


def test_the_kind_of_a_message_must_be_named() -> None:
    told = orjson.loads(encode(PROPOSAL))
    del told["type"]
    with pytest.raises(RefusedMessageError):
        decode_proposal(orjson.dumps(told))
    for other in (change(), encode(DIGEST)):
        with pytest.raises(RefusedMessageError):
            decode_proposal(other)
    with pytest.raises(RefusedMessageError):
        decode_published(encode(PROPOSAL))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 3), ("version", 3 + MAX_STEPS + 1), ("version", 2**31), ("version", True),
        ("baseVersion", -1), ("baseVersion", "3"), ("timestamp", "later"), ("origin", ""), ("origin", "a\n"),
        ("vesselId", "x" * 65), ("proposalId", None), ("operation", "upsert"),
    ],
)  # fmt: skip
def test_a_proposal_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    told = {**orjson.loads(encode(PROPOSAL)), field: value}
    with pytest.raises(RefusedMessageError):
        decode_proposal(orjson.dumps(told))


def test_a_status_of_an_epoch_has_its_number() -> None:
    bare = decode_status(b'{"status":"offline","vesselId":"v"}')
    assert (bare.online, bare.epoch, bare.heads) == (False, None, None)
    with pytest.raises(RefusedMessageError, match="seq is missing"):
        decode_status(b'{"status":"online","vesselId":"v","epoch":"e"}')


def test_a_reason_quotes_little_of_what_was_received() -> None:
    told = {**orjson.loads(change()), "operation": "x\n" * 100_000}
    with pytest.raises(RefusedMessageError) as caught:
        decode_published(orjson.dumps(told))
    assert len(str(caught.value)) <= 200
    assert "\n" not in str(caught.value)


@given(st.binary() | st.text().map(str.encode))
def test_whatever_bytes_come_are_read_or_refused(payload: bytes) -> None:
    for decode in (
        decode_published, decode_status, decode_numbered, decode_watermark, decode_proposal,
    ):  # fmt: skip
        with pytest.raises(RefusedMessageError):
            decode(payload)


@pytest.mark.parametrize("text", ["log.e-1.s12", "snapshot.e.s0", 'snapshot.e.k"a.b"'])
def test_a_cursor_is_read_as_it_was_written(text: str) -> None:
    assert str(Cursor.parse(text)) == text


def test_a_cursor_has_three_parts() -> None:
    assert Cursor.parse('snapshot.e-1.k"a.b"') == ("snapshot", "e-1", 'k"a.b"')
    for other in (None, 7, "", "log.e", 'log.e.k"a"', "repair.e.s1", "log.e.s1\n"):
        with pytest.raises(CatchupError):
            Cursor.parse(other)
