"""Requests for a catch-up as rows of the database: queued once, found again, bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from marshmallow import Schema, fields
from sqlalchemy import Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import requests
from arus.counters import CATCHUP_REFUSALS, read_counters
from arus.database import open_engine, transaction
from arus.errors import CatchupBusyError, CatchupError, UnknownCatchupError
from arus.registry import Registry
from arus.requests import CatchupRequest, RequestIntake
from arus.snapshot import SnapshotReader
from tests.support import small_app as small

EVERYTHING = CatchupRequest("all")


@pytest.fixture
def engine(small_database_url: str) -> Iterator[Engine]:
    """The database of an application with two models."""
    with small.small_app(small_database_url):
        engine = open_engine(small_database_url)
        yield engine
        engine.dispose()


def queue(engine: Engine, request: CatchupRequest = EVERYTHING, **options: Any) -> str:
    with engine.connect() as connection, transaction(connection):
        return requests.queue(connection, request, small.sync._registry, "mqtt", **options)


def rows(engine: Engine, columns: str = "*") -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(f"SELECT {columns} FROM arus_catchup ORDER BY id")))


def test_a_row_is_queued_for_each_entity(engine: Engine) -> None:
    catchup_id = queue(engine)
    with engine.connect() as connection:
        found = requests.find(connection, catchup_id)
    document = found.document()
    assert [entity["entity"] for entity in document["entities"]] == ["hulls", "parts"]
    assert found.entities[1].topic == "deck/parts"
    assert (document["status"], document["published"], document["total"]) == ("queued", 0, None)
    assert document["origin"] == "mqtt"


def test_what_is_asked_for_is_kept(engine: Engine) -> None:
    request = CatchupRequest(
        "parts", since_seq=7, since_epoch="e", limit=None, buckets=(1, 2), wants_snapshot=True
    )
    queue(engine, request)
    columns = "entity, since_seq, since_epoch, item_limit, buckets, wants_snapshot"
    assert [tuple(row) for row in rows(engine, columns)] == [("parts", 7, "e", None, "[1,2]", True)]


def test_the_same_request_again_is_the_same_catch_up(engine: Engine) -> None:
    first = queue(engine, replace(EVERYTHING, request_id="r1"))
    assert queue(engine, replace(EVERYTHING, request_id="r1")) == first
    assert queue(engine, CatchupRequest("parts"), request_id="r1") == first
    assert queue(engine, replace(EVERYTHING, request_id="r2")) != first
    assert len(rows(engine)) == 4


def test_the_same_request_at_the_same_time_is_one_catch_up(engine: Engine) -> None:
    ready = threading.Barrier(8)

    def ask(_number: int) -> str:
        ready.wait()
        return queue(engine, replace(EVERYTHING, request_id="r1"))

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(ask, range(8)))
    assert len(ids) == 1
    assert len(rows(engine)) == 2


def test_an_unknown_catch_up_is_not_found(engine: Engine) -> None:
    with engine.connect() as connection:
        for catchup_id in ("", "x" * 36, "\0", "\ud800", "00000000-0000-0000-0000-000000000000"):
            with pytest.raises(UnknownCatchupError):
                requests.find(connection, catchup_id)


def test_the_last_ones_come_first(engine: Engine) -> None:
    ids = [queue(engine) for _ in range(5)]
    with engine.connect() as connection:
        found = requests.recent(connection, 3)
    assert [status.catchup_id for status in found] == ids[:1:-1]
    assert [len(status.entities) for status in found] == [2, 2, 2]


def test_no_more_wait_than_the_bound(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING", 4)
    queue(engine)
    queue(engine)
    with pytest.raises(CatchupBusyError):
        queue(engine)
    assert len(rows(engine)) == 4


def test_finished_ones_are_kept_up_to_the_bound(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "KEPT", 4)
    waiting = queue(engine)
    done = [queue(engine) for _ in range(4)]
    with engine.connect() as connection, transaction(connection):
        finish = text("UPDATE arus_catchup SET status = 'complete' WHERE catchup_id <> :waiting")
        connection.execute(finish, {"waiting": waiting})
    newest = queue(engine)
    kept = {row.catchup_id for row in rows(engine, "catchup_id")}
    assert kept == {waiting, *done[2:], newest}


def test_refusals_are_counted_in_the_database(engine: Engine) -> None:
    intake = RequestIntake(["hulls"], "ship-1")
    intake.take(b"?")
    intake.refuse("it can't be carried out")
    for _ in range(2):
        with engine.connect() as connection, transaction(connection):
            intake.journal(connection)
    with engine.connect() as connection:
        assert read_counters(connection)[CATCHUP_REFUSALS, "", "", ""] == 2


def test_the_refusals_have_a_metric_from_the_start(app: Flask) -> None:
    assert "arus_mqtt_catchup_refusals_total 0.0" in app.test_client().get("/metrics").text


class Base(DeclarativeBase):
    """Of one model whose keys are no texts."""


class Bolt(Base):
    __tablename__ = "bolt"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class BoltSchema(Schema):
    id = fields.Integer()


@pytest.mark.parametrize("key", ["foo", "1.5", "", "9" * 30, "9" * 5000])
def test_a_key_that_was_made_up_is_refused(database_url: str, key: str) -> None:
    bolts = Registry().add(
        Bolt, "bolts", topic="bolts", qos=1, schema=BoltSchema, version="version"
    )
    reader = SnapshotReader(open_engine(database_url), nullcontext, bolts, high_seq=0)
    with pytest.raises(CatchupError, match="is no key of bolts"):
        reader.count(f'"{key}"')
