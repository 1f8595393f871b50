"""The vessel's digest: the tables as they were at exactly one number, while writes go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask

from arus.audit import auditor as audit
from arus.audit.auditor import Auditor
from arus.database import open_engine
from arus.errors import AuditError
from arus.protocol.digests import SetDigest, bucket_of, row_hash
from arus.protocol.encoding import encode
from blueprints.crew.models import CrewMember
from extensions import db, sync
from tests.support.waiting import eventually


@pytest.fixture
def owned(app: Flask) -> Flask:
    """The app, in whose process the owner numbers what is committed."""
    sync.start(app)
    eventually(lambda: sync_status(app).epoch, 30, message="the log is there")
    return app


def auditor(app: Flask, **options: Any) -> Auditor:
    state = sync.runtime(app)
    return Auditor(app.config["DATABASE_URL"], state.registry, app.app_context, **options)


def made(auditor: Auditor) -> dict[str, Any]:
    """The next digest of an auditor that is asked for one."""

    def step() -> bytes | None:
        auditor.step()
        return auditor.take()

    payload = eventually(step, 60, message="a digest")
    assert payload is not None
    document: dict[str, Any] = orjson.loads(payload)
    return document


def crew(app: Flask, *names: str) -> list[str]:
    """Commit some crew; return their ids."""
    with app.app_context():
        rows = [CrewMember(name=name) for name in names]
        db.session.add_all(rows)
        db.session.commit()
        return [row.id for row in rows]


def told_by_the_log(app: Flask, entity: str, seq: int) -> tuple[SetDigest, int]:
    """An entity's digest at a number, from the log alone, and the last number that it had by then."""
    rows: dict[str, tuple[int, str]] = {}
    last = 0
    with app.app_context(), db.engine.connect() as connection:
        for row in connection.execute(
            sa.text(
                "SELECT operation, row_id, version, data, seq FROM arus_change"
                " WHERE entity = :entity AND seq <= :seq ORDER BY seq"
            ),
            {"entity": entity, "seq": seq},
        ):
            last = row.seq
            rows.pop(row.row_id, None)
            if row.operation != "delete":
                rows[row.row_id] = (row.version, row_hash(orjson.loads(bytes(row.data))))
    digest = SetDigest()
    for row_id, (version, content) in rows.items():
        digest.add(row_id, version, content)
    return digest, last


def assert_told_by_the_log(app: Flask, document: dict[str, Any]) -> None:
    for entity, told in document["entities"].items():
        digest, last = told_by_the_log(app, entity, document["seq"])
        assert told["buckets"] == digest.buckets, entity
        assert told["digest"] == digest.digest
        assert (told["count"], told["lastSeq"]) == (digest.count, last)


@pytest.fixture
def writers(owned: Flask) -> Iterator[threading.Event]:
    """Two threads that create, change and delete without a pause until the event is set."""
    enough = threading.Event()

    def write(number: int) -> None:
        while not enough.is_set():
            with owned.app_context():
                rows = [
                    CrewMember(name=f"{number}-{n}", email=f"{n}@example.com") for n in range(3)
                ]
                db.session.add_all(rows)
                db.session.commit()
                rows[0].name = "é" * 20
                db.session.commit()
                db.session.delete(rows[1])
                db.session.commit()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    yield enough
    enough.set()
    for thread in threads:
        thread.join(60)


@pytest.mark.slow
def test_the_digest_is_that_of_one_number_while_writes_go_on(
    owned: Flask, writers: threading.Event
) -> None:
    one = auditor(owned)
    documents = []
    seq = 0
    for _ in range(4):
        eventually(lambda seq=seq: sync_status(owned).head_seq > seq, 60, message="writes go on")  # type: ignore[misc]
        one.request()
        documents.append(made(one))
        seq = documents[-1]["seq"]
    writers.set()
    seqs = [document["seq"] for document in documents]
    assert seqs == sorted(set(seqs))
    for document in documents:
        assert document["type"] == "digest"
        assert document["vesselId"] == sync_status(owned).vessel_id
        assert document["epoch"] == sync_status(owned).epoch
        assert_told_by_the_log(owned, document)
    assert any(document["entities"]["crew"]["count"] for document in documents)


def sync_status(app: Flask) -> Any:
    with app.app_context():
        return sync.runtime(app).status()


def test_an_empty_vessel_has_a_digest_too(owned: Flask) -> None:
    one = auditor(owned, first=0)
    document = made(one)
    assert document["seq"] == 0
    assert set(document["entities"]) == set(sync.runtime(owned).entities())
    empty = SetDigest()
    assert all(told["digest"] == empty.digest for told in document["entities"].values())


def test_it_comes_by_itself_only_when_something_has_changed(owned: Flask) -> None:
    one = auditor(owned, first=0, period=0)
    first = made(one)
    for _ in range(5):
        one.step()
        one.join()
        assert one.take() is None, "nothing has changed"
    crew(owned, "Bosun")
    second = made(one)
    assert second["seq"] == first["seq"] + 1
    assert not auditor(owned).due(time.monotonic()), "an owner's first is not due at once"


def test_a_row_changed_past_the_capture_changes_its_bucket(owned: Flask) -> None:
    ids = crew(owned, "Bosun", "Cook", "Mate")
    one = auditor(owned)
    one.request()
    before = made(one)["entities"]["crew"]
    with owned.app_context(), db.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE crew SET rank = 'captain' WHERE id = :id"), {"id": ids[1]}
        )
    one.request()
    after = made(one)["entities"]["crew"]
    changed = [
        n for n, pair in enumerate(zip(before["buckets"], after["buckets"], strict=True))
        if len(set(pair)) == 2
    ]  # fmt: skip
    assert changed == [bucket_of(ids[1])]
    assert before["lastSeq"] == after["lastSeq"]


def test_a_row_that_cant_be_serialised_is_counted_and_equals_nothing(
    owned: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew(owned, "Bosun")
    registration = sync.runtime(owned).registry.of_entity("crew")
    assert registration is not None

    def dump(_row: Any) -> Any:
        raise ValueError("no words for it")

    one = auditor(owned)
    one.request()
    before = made(one)["entities"]["crew"]
    monkeypatch.setattr(registration.schema, "dump", dump)
    one.request()
    after = made(one)["entities"]["crew"]
    assert (before["count"], after["count"]) == (1, 1)
    assert before["digest"] != after["digest"]


@pytest.mark.slow
def test_without_an_owner_changes_get_no_numbers_and_no_digest_is_made(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync.start(app)
    eventually(lambda: sync_status(app).epoch, 30, message="the log is there")
    sync.stop(app)
    crew(app, "Bosun")
    monkeypatch.setattr(audit, "NUMBERING", 0.2)
    engine = open_engine(app.config["DATABASE_URL"])
    registry = sync.runtime(app).registry
    with pytest.raises(AuditError):
        audit.digest(engine, registry, app.app_context, threading.Event())
    sync.start(app)
    monkeypatch.setattr(audit, "NUMBERING", 30)
    document = audit.digest(engine, registry, app.app_context, threading.Event())
    engine.dispose()
    assert document is not None
    assert_told_by_the_log(app, orjson.loads(encode(document)))
    assert document.seq == 1


def test_what_is_stopped_tells_nothing(owned: Flask) -> None:
    one = auditor(owned)
    one.stop()
    one.request()
    one.step()
    assert one.take() is None
    stopping = threading.Event()
    stopping.set()
    engine = open_engine(owned.config["DATABASE_URL"])
    assert audit.digest(engine, sync.runtime(owned).registry, owned.app_context, stopping) is None
    engine.dispose()


def test_a_digest_is_also_over_the_fields_that_a_follower_has_asked_for(owned: Flask) -> None:
    (row_id,) = crew(owned, "Ana")
    one = auditor(owned)
    one.request()
    whole = made(one)["entities"]["crew"]
    assert "partial" not in whole
    assert {"id", "version", "name", "onDuty"} < set(whole["fields"])
    # What it does not know is ignored, and only the last selections are kept.
    one.include({"crew": ["id", "version", "nothing"], "nobody": ["id"], "alerts": ["nothing"]})
    for number in range(audit.MAX_PARTIAL - 1):
        one.include({"crew": ["id", *whole["fields"][: number + 1]]})
    one.include({"crew": whole["fields"]})
    one.request()
    document = made(one)
    told = document["entities"]["crew"]
    assert (told["digest"], len(told["partial"])) == (whole["digest"], audit.MAX_PARTIAL)
    assert "partial" not in document["entities"]["alerts"]
    expected = SetDigest()
    expected.add(row_id, 1, row_hash({"id": row_id, "version": 1}))
    assert told["partial"][0] == {
        "fields": ["id", "version"], "digest": expected.digest, "buckets": expected.buckets,
    }  # fmt: skip
    for name in whole["fields"][5:10]:
        one.include({"crew": ["id", name]})
    one.request()
    partial = made(one)["entities"]["crew"]["partial"]
    assert len(partial) == audit.MAX_PARTIAL
