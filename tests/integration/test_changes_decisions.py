"""What a person decides about a change that can't be sent, on a log of each database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask

from arus.errors import NotQuarantinedError, UnknownChangeError, UnsendableChangeError
from arus.outbox import changes
from arus.outbox.counters import DROPPED
from arus.protocol.entries import ChangeState
from tests.support.small_app import Hull, db, small_app, sync


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    with small_app(database_url) as app:
        yield app


def execute(statement: str, **values: Any) -> None:
    """Run a statement that nothing captures."""
    with db.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def quarantined_hull(name: str = "unserialisable") -> tuple[str, str]:
    """Commit a hull that can't be serialised; return the ids of its message and itself."""
    hull = Hull(name=name)
    db.session.add(hull)
    db.session.commit()
    receipt = sync.publish_change("create", hull)
    assert receipt
    assert sync.runtime().changes.find(receipt.message_id).state == ChangeState.QUARANTINED
    return receipt.message_id, hull.id


def number(message_id: str, seq: int) -> None:
    """Have an entry look as if it had been numbered, sent and refused."""
    execute(
        "UPDATE arus_change SET seq = :seq, previous_seq = 0, outcome = 'quarantined',"
        " reason = 'the broker refused it: not authorized' WHERE message_id = :id",
        seq=seq,
        id=message_id,
    )


def test_a_repaired_row_goes_out_as_it_is_now(app: Flask) -> None:
    message_id, row_id = quarantined_hull()
    execute("UPDATE hull SET name = 'mended', version = 4 WHERE id = :id", id=row_id)
    change = sync.runtime().changes.retry(message_id)
    assert (change.state, change.reason, change.seq, change.version) == (
        ChangeState.PENDING,
        None,
        None,
        4,
    )
    assert (change.message_id, change.operation) == (message_id, "create")
    assert change.data is not None
    assert orjson.loads(change.data)["name"] == "mended"
    assert sync.runtime().status().depth == 1


def test_what_still_is_not_serialisable_stays(app: Flask) -> None:
    message_id, row_id = quarantined_hull()
    with pytest.raises(UnsendableChangeError, match="ValueError: no words for it") as caught:
        sync.runtime().changes.retry(message_id)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
    assert sync.runtime().changes.find(message_id).state == ChangeState.QUARANTINED
    assert sync.runtime().status().depth == 0
    # nothing stays locked
    execute("UPDATE hull SET name = 'mended' WHERE id = :id", id=row_id)
    sync.runtime().changes.retry(message_id)


def test_a_refused_change_gets_a_fresh_number(app: Flask) -> None:
    hull = Hull(name="fine")
    db.session.add(hull)
    db.session.commit()
    receipt = sync.publish_change("create", hull)
    assert receipt
    number(receipt.message_id, 17)
    execute("UPDATE hull SET name = 'newer', version = 2 WHERE id = :id", id=hull.id)
    change = sync.runtime().changes.retry(receipt.message_id)
    assert (change.seq, change.previous_seq, change.version) == (None, None, 2)
    # the session that retried still held the row as it was
    assert change.data is not None
    assert orjson.loads(change.data)["name"] == "newer"


def test_a_change_whose_row_is_gone_does_not_bring_it_back(app: Flask) -> None:
    message_id, row_id = quarantined_hull()
    execute("DELETE FROM hull WHERE id = :id", id=row_id)
    with pytest.raises(UnsendableChangeError, match="its row was deleted since"):
        sync.runtime().changes.retry(message_id)
    assert sync.runtime().changes.find(message_id).state == ChangeState.QUARANTINED


def test_a_delete_is_sent_as_it_was(app: Flask) -> None:
    hull = Hull(name="fine")
    db.session.add(hull)
    db.session.commit()
    db.session.delete(hull)
    db.session.commit()
    message_id = sync.runtime().changes.page().items[0].message_id
    before = sync.runtime().changes.find(message_id)
    number(message_id, 2)
    change = sync.runtime().changes.retry(message_id)
    assert (change.operation, change.version, change.data) == (
        "delete",
        before.version,
        before.data,
    )


def test_a_delete_of_a_row_that_came_back_deletes_nothing(app: Flask) -> None:
    hull = Hull(name="fine")
    db.session.add(hull)
    db.session.commit()
    row_id = hull.id
    db.session.delete(hull)
    db.session.commit()
    message_id = sync.runtime().changes.page().items[0].message_id
    number(message_id, 2)
    db.session.add(Hull(id=row_id, name="back"))
    db.session.commit()
    change = sync.runtime().changes.retry(message_id)
    assert (change.operation, change.version) == ("update", 3), "above the deletion's"


def test_discarded_is_dropped_and_counted(app: Flask) -> None:
    message_id, _ = quarantined_hull()
    reason = sync.runtime().changes.find(message_id).reason
    change = sync.runtime().changes.discard(message_id)
    assert (change.state, change.reason) == (
        ChangeState.DROPPED,
        f"discarded by a person: {reason}",
    )
    assert sync.runtime().status().counter(DROPPED) == 1
    assert sync.runtime().status().depth == 0


@pytest.mark.parametrize("action", ["retry", "discard"])
def test_only_what_is_quarantined(app: Flask, action: str) -> None:
    decide = getattr(sync.runtime().changes, action)
    hull = Hull(name="fine")
    db.session.add(hull)
    db.session.commit()
    receipt = sync.publish_change("create", hull)
    assert receipt
    with pytest.raises(NotQuarantinedError, match="is pending"):
        decide(receipt.message_id)
    with pytest.raises(UnknownChangeError):
        decide("1795334400000_abc123def")
    message_id, _ = quarantined_hull()
    sync.runtime().changes.discard(message_id)
    with pytest.raises(NotQuarantinedError, match="is dropped"):
        decide(message_id)
    assert sync.runtime().status().counter(DROPPED) == 1


def test_a_change_made_meanwhile_comes_after_the_retried_one(
    app: Flask, database_kind: str
) -> None:
    """The row stays locked until the retried entry is committed: versions never go backwards."""
    message_id, row_id = quarantined_hull()
    execute("UPDATE hull SET name = 'mended' WHERE id = :id", id=row_id)
    session = db.session()
    changes.retry(session, app.extensions["arus"].registry, message_id)
    with db.engine.connect() as other:
        if database_kind == "sqlite":
            other.exec_driver_sql("PRAGMA busy_timeout = 50")
        else:
            other.exec_driver_sql("SET lock_timeout = 50")
        with pytest.raises(sa.exc.OperationalError):
            other.execute(sa.text("UPDATE hull SET version = 9 WHERE id = :id"), {"id": row_id})
    session.commit()
    execute("UPDATE hull SET version = 9 WHERE id = :id", id=row_id)
