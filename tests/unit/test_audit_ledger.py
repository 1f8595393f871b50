"""The ledger: what the digests of a copy were at a number, from what has been learnt since."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from arus.follower.audits.ledger import Ledger
from arus.follower.store import Known
from arus.protocol.digests import SetDigest, bucket_of

ROWS = "abcdef"


def known(row_id: str, version: int, *, deleted: bool = False) -> Known:
    content = "" if deleted else f"content {version}"
    return Known(version, version, deleted, content, bucket_of(row_id), 0)


def digest(rows: dict[str, Known]) -> SetDigest:
    made = SetDigest()
    for row_id, row in rows.items():
        if not row.deleted:
            made.add(row_id, row.version, row.hash)
    return made


def told(ledger: Ledger, seq: int) -> tuple[int, list[str]] | None:
    found = ledger.at("ship", "crew", seq)
    return None if found is None else (found.count, found.buckets)


@given(
    st.lists(st.sampled_from(ROWS), max_size=5),
    st.lists(st.tuples(st.sampled_from(ROWS), st.booleans()), max_size=30),
    st.integers(1, 40),
)
def test_it_tells_what_was_at_each_number(
    before: list[str], changes: list[tuple[str, bool]], most: int
) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        connection.execute(
            text(
                "CREATE TABLE arus_row (vessel_id, entity, row_id, version, seq, deleted, hash, bucket)"
            )
        )
        rows: dict[str, Known] = {}
        for row_id in before:
            rows[row_id] = known(row_id, 1)
        for row_id, row in rows.items():
            values: dict[str, Any] = {"id": row_id, "hash": row.hash, "bucket": row.bucket}
            connection.execute(
                text("INSERT INTO arus_row VALUES ('ship', 'crew', :id, 1, 1, 0, :hash, :bucket)"),
                values,
            )
        ledger = Ledger(connection, most=most)
        ledger.learnt(("ship", "crew", "a"), None, known("a", 1), 1)
        ledger.open("ship", "crew")
        history = {1: digest(rows)}
        for seq, (row_id, deleted) in enumerate(changes, 2):
            after = known(row_id, seq, deleted=deleted)
            ledger.learnt(("ship", "crew", row_id), rows.get(row_id), after, seq)
            rows[row_id] = after
            history[seq] = digest(rows)
        last = len(changes) + 1
        for seq, was in history.items():
            found = told(ledger, seq)
            assert found in (None, (was.count, was.buckets))
            assert found is not None or last - seq >= most
        assert told(ledger, last + 1) == told(ledger, last)
        if before:
            assert told(ledger, 0) is None, "it was not there to see it"
        # What was learnt and did not happen leaves nothing.
        ledger.learnt(("ship", "crew", "a"), rows.get("a"), known("a", 99), 99)
        ledger.learnt(("ship", "crew", "a"), known("a", 99), rows.get("a"), 99)
        assert told(ledger, 99) == (history[last].count, history[last].buckets)
    engine.dispose()
