"""Requests for a catch-up as rows of the database: queued once, found again, bounded."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from msgspec.structs import replace
from sqlalchemy import Engine, text

from arus.catchup import requests
from arus.catchup.limiter import Recorded, RequestLimiter
from arus.database import open_engine, transaction
from arus.errors import CatchupBusyError, UnknownCatchupError
from arus.outbox.counters import CATCHUP_REFUSALS, read_counters
from arus.protocol.messages import CatchupRequest
from tests.support import small_app as small

EVERYTHING = CatchupRequest(entity="all")


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


def another(**options: Any) -> CatchupRequest:
    """A request that is identical to no other one."""
    return replace(EVERYTHING, request_id=str(uuid.uuid4()), **options)


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
        entity="parts", since_seq=7, epoch="e", limit=None, buckets=(1, 2), mode="snapshot"
    )
    queue(engine, request)
    columns = "entity, since_seq, since_epoch, item_limit, buckets, wants_snapshot"
    assert [tuple(row) for row in rows(engine, columns)] == [("parts", 7, "e", None, "[1,2]", True)]


def test_the_same_request_again_is_the_same_catch_up(engine: Engine) -> None:
    first = queue(engine, replace(EVERYTHING, request_id="r1"))
    assert queue(engine, replace(EVERYTHING, request_id="r1")) == first
    assert queue(engine, CatchupRequest(entity="parts"), request_id="r1") == first
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
    ids = [queue(engine, another()) for _ in range(5)]
    with engine.connect() as connection:
        found = requests.recent(connection, 3)
    assert [status.catchup_id for status in found] == ids[:1:-1]
    assert [len(status.entities) for status in found] == [2, 2, 2]


def test_no_more_wait_than_the_bound(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING", 4)
    queue(engine, another())
    queue(engine, another())
    with pytest.raises(CatchupBusyError):
        queue(engine, another())
    assert len(rows(engine)) == 4


def test_finished_ones_are_kept_up_to_the_bound(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "KEPT", 4)
    waiting = queue(engine)
    done = [queue(engine, another()) for _ in range(4)]
    with engine.connect() as connection, transaction(connection):
        finish = text("UPDATE arus_catchup SET status = 'complete' WHERE catchup_id <> :waiting")
        connection.execute(finish, {"waiting": waiting})
    newest = queue(engine, another())
    kept = {row.catchup_id for row in rows(engine, "catchup_id")}
    assert kept == {waiting, *done[2:], newest}


def test_refusals_are_counted_in_the_database(engine: Engine) -> None:
    router = RequestLimiter(["hulls"], "ship-1")
    with engine.connect() as connection:
        router.take(b"?", Recorded(connection))
    router.refuse("it can't be carried out")
    for _ in range(2):
        with engine.connect() as connection, transaction(connection):
            router.journal(connection)
    with engine.connect() as connection:
        assert read_counters(connection)[CATCHUP_REFUSALS, "", "", ""] == 2


def test_the_refusals_have_a_metric_from_the_start(app: Flask) -> None:
    assert "arus_mqtt_catchup_refusals_total 0.0" in app.test_client().get("/metrics").text


def ask_here(engine: Engine, **request: Any) -> str:
    """Ask as over HTTP."""
    wanted = CatchupRequest(**{"entity": "all", **request})
    with engine.connect() as connection, transaction(connection):
        return requests.queue(connection, wanted, small.sync._registry, "http")


def test_an_identical_request_that_is_still_queued_is_the_same_catch_up(engine: Engine) -> None:
    first = ask_here(engine, since_seq=4, epoch="e")
    assert ask_here(engine, since_seq=4, epoch="e") == first
    assert ask_here(engine, since_seq=5, epoch="e") != first
    assert ask_here(engine, entity="parts", since_seq=4, epoch="e") != first
    assert ask_here(engine, since_seq=4, epoch="e", limit=7) != first
    assert queue(engine, CatchupRequest(entity="all", since_seq=4, epoch="e")) != first
    with engine.connect() as connection, transaction(connection):
        begin = text(
            "UPDATE arus_catchup SET status = 'running' WHERE catchup_id = :first AND entity = 'hulls'"
        )
        connection.execute(begin, {"first": first})
    assert ask_here(engine, since_seq=4, epoch="e") != first


def test_an_identical_request_without_an_id_is_the_same_over_mqtt_too(engine: Engine) -> None:
    shore = CatchupRequest(entity="all", consumer="shore", since_seq=4, epoch="e")
    first = queue(engine, shore)
    assert queue(engine, shore) == first
    assert queue(engine, replace(shore, consumer="another")) != first
    assert queue(engine, replace(shore, since_seq=5)) != first
    # One with an id waits for an answer that names it.
    assert queue(engine, replace(shore, request_id="r1")) != first
    assert queue(engine, shore) == first


def test_identical_requests_at_the_same_time_are_one(engine: Engine) -> None:
    ready = threading.Barrier(6)

    def ask(_number: int) -> str:
        ready.wait()
        return ask_here(engine)

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1
    assert len(rows(engine)) == 2


def test_one_requester_does_not_fill_the_queue(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MAX_SHARE", 4)
    monkeypatch.setattr(requests, "MAX_WAITING", 6)
    with engine.connect() as connection, transaction(connection):
        connection.execute(
            text(
                "INSERT INTO arus_follower (name, epoch, seq, received_at) VALUES ('shore', 'e', 1, 1)"
            )
        )
    for number in range(2):
        queue(engine, replace(EVERYTHING, consumer=f"invented-{number}"))
    with pytest.raises(CatchupBusyError):
        queue(engine, replace(EVERYTHING, consumer="invented-3"))
    ask_here(engine)
    with pytest.raises(CatchupBusyError):
        ask_here(engine, limit=1)
    queue(engine, replace(EVERYTHING, consumer="shore", window=500))
    with pytest.raises(CatchupBusyError):
        queue(engine, another(consumer="shore"))
    asked = [tuple(row) for row in rows(engine, "requester, consumer, receive_window")]
    assert asked[-1] == ("shore", "shore", 500)
    assert asked[0] == ("/mqtt", "invented-0", None)
