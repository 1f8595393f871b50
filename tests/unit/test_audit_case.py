"""Which buckets an audit requests again."""

from __future__ import annotations

import time

import pytest

from arus.follower.audits.case import HOPELESS, LONGEST_PAUSE, PAUSE, Case, Table
from arus.follower.audits.verdicts import verdict_on
from arus.protocol.encoding import decode_watermark, encode
from arus.protocol.messages import Digest, EntityDigest, Watermark


def differing(*buckets: int, refused: int | None = None, theirs: str = "t") -> dict[str, Table]:
    """A table that differs in some buckets, one of which may have a refused row."""
    table = Table(dict.fromkeys(buckets, ("o", theirs)))
    if refused is not None:
        table.refused, table.refused_buckets = {"row": "no number"}, frozenset({refused})
    return {"crew": table}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_repair_that_changed_nothing_is_tried_again_after_an_hour(clock: list[float]) -> None:
    case = Case()
    assert case.worth_repairing(differing(3, 5)) == {"crew": {3, 5}}
    assert case.worth_repairing(differing(3, 5)) == {}
    clock[0] += HOPELESS
    assert case.worth_repairing(differing(3, 5)) == {"crew": {3, 5}}


def test_a_bucket_with_a_refused_row_is_requested_once_until_it_changes(
    clock: list[float],
) -> None:
    case = Case()
    assert case.worth_repairing(differing(3, 5, refused=5)) == {"crew": {3, 5}}
    for _ in range(3):
        clock[0] += HOPELESS
        assert case.worth_repairing(differing(3, 5, refused=5)) == {"crew": {3}}
    changed = differing(3, 5, refused=5, theirs="other")
    assert case.worth_repairing(changed) == {"crew": {3, 5}}


def test_many_digests_at_once_do_not_make_the_pause_longer(clock: list[float]) -> None:
    case = Case()
    for _ in range(20):
        case.again()
    assert case.not_before == clock[0] + PAUSE
    for _ in range(20):
        clock[0] = case.not_before
        case.again()
    assert case.not_before == clock[0] + LONGEST_PAUSE


def test_an_entity_beyond_those_that_a_verdict_can_name_is_not_passed_over() -> None:
    tables = {f"entity-{number:03}": Table() for number in range(120)}
    more = EntityDigest(topic="more", last_seq=1, count=1)
    digest = Digest(vessel_id="a", epoch="e", seq=1, entities={"more": more})
    verdict = verdict_on(digest, tables)
    assert (verdict.equal, verdict.entities["more"].absent) == (False, "here")
    assert decode_watermark(encode(Watermark(epoch="e", seq=1, audit=verdict)))
