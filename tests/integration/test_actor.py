"""Who made each change: in the log, on the pages, in the API, the commands and, if wanted, in the messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from arus.database import open_engine
from blueprints.access import people, tokens
from extensions import db as app_db
from extensions import sync as app_sync
from tests.support import small_app
from tests.support.mosquitto import Mosquitto
from tests.support.small_app import Hull, db, sync
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PASSWORD = "a long password"
FROM_PAGE = {"Origin": "http://localhost", "Accept": "text/html"}
API = "/api/mqtt/reliable-sync/changes"


class Asked:
    """An application that says who makes a change, and counts how often it was asked."""

    def __init__(self) -> None:
        self.answer: Any = "user:ann"
        self.times = 0

    def __call__(self) -> Any:
        self.times += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def asked(small_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """The small application, which has declared its actor."""
    asked = Asked()
    monkeypatch.setattr(sync._capture.actors, "_find", None)
    monkeypatch.setattr(sync._capture.actors, "_has_failed", False)
    with small_app.small_app(small_database_url):
        assert sync.actor(asked) is asked
        yield asked
        db.session.remove()


def logged(database: Any = db) -> list[str | None]:
    """The actor of each change, in order."""
    with database.engine.connect() as connection:
        return list(
            connection.execute(sa.text("SELECT actor FROM arus_change ORDER BY id")).scalars()
        )


# -- capture --------------------------------------------------------------------------------------


def test_each_change_has_the_actor_of_its_transaction(asked: Asked) -> None:
    hull = Hull(name="a")
    db.session.add(hull)
    db.session.commit()
    asked.answer = "command:tidy"
    hull.name = "b"
    db.session.commit()
    db.session.delete(hull)
    db.session.commit()
    assert logged() == ["user:ann", "command:tidy", "command:tidy"]


def test_it_is_asked_once_in_a_transaction_and_never_in_vain(asked: Asked) -> None:
    db.session.add_all([Hull(name="a"), Hull(name="b")])
    db.session.flush()
    with db.session.begin_nested():
        db.session.add(Hull(name="c"))
    db.session.execute(sa.update(Hull).where(Hull.name == "a").values(tag="new"))
    assert asked.times == 0, "only the commit asks"
    db.session.commit()
    assert asked.times == 1
    assert logged() == ["user:ann"] * 3
    db.session.add(Hull(name="d"))
    db.session.flush()
    db.session.rollback()
    db.session.scalars(sa.select(Hull)).all()
    db.session.commit()
    assert asked.times == 1


def test_what_a_later_hook_of_the_commit_changes_has_the_same_actor(asked: Asked) -> None:
    def before_commit(session: Any) -> None:
        if len(added) < 2:
            added.append(Hull(name="by the hook"))
            session.add(added[-1])
            session.flush()

    added = [Hull(name="a")]
    sa.event.listen(db.session, "before_commit", before_commit)
    try:
        db.session.add(added[0])
        db.session.commit()
    finally:
        sa.event.remove(db.session, "before_commit", before_commit)
    assert logged() == ["user:ann"] * 2
    assert asked.times == 1


def test_changes_without_a_session_have_it_too(asked: Asked) -> None:
    with db.engine.begin() as connection:
        connection.execute(sa.insert(Hull).values(id="1", version=1, tag="t"))
    assert logged() == ["user:ann"]


def test_a_key_that_is_used_again_has_the_actor_of_its_second_row(asked: Asked) -> None:
    for who in ("user:ann", "user:bo"):
        asked.answer = who
        hull = Hull(id="same")
        db.session.add(hull)
        db.session.commit()
        db.session.delete(hull)
        db.session.commit()
    assert logged() == ["user:ann", "user:ann", "user:bo", "user:bo"]


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (None, None),
        ("", None),
        ("user:Søren Ødegård", "user:Søren Ødegård"),
        ("user:a\nb\0\x1b[31m\ud800\u202e", "user:a\\nb\\x00\\x1b[31m\\ud800\\u202e"),
        ("user:" + "x" * 200, "user:" + "x" * 95),
    ],
)
def test_what_it_says_is_kept_as_a_text_that_can_be_shown(
    asked: Asked, answer: Any, kept: str | None
) -> None:
    asked.answer = answer
    db.session.add(Hull())
    db.session.commit()
    assert logged() == [kept]


@pytest.mark.parametrize("answer", [RuntimeError("nobody is there"), 7])
def test_a_commit_succeeds_even_if_it_fails(
    asked: Asked, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asked.answer = answer
    caplog.set_level(logging.ERROR, "arus")
    for _ in range(3):
        db.session.add(Hull())
        db.session.commit()
    asked.answer = "user:ann"
    db.session.add(Hull())
    db.session.commit()
    assert logged() == [None, None, None, "user:ann"]
    (record,) = caplog.records
    assert record.getMessage().startswith("[MQTT Reliable Sync] the application can't say who")


def test_without_a_declaration_there_is_none(
    small_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync._capture.actors, "_find", None)
    with small_app.small_app(small_database_url):
        db.session.add(Hull())
        db.session.commit()
        assert logged() == [None]


# -- the vessel app -------------------------------------------------------------------------------


@pytest.fixture
def login_app(make_app: Callable[..., Flask], migrated_database_url: str) -> Flask:
    """The app where people log in."""
    app = make_app(migrated_database_url, ACCESS="login")
    with app.app_context():
        people.add("Ann", "engineer", PASSWORD)
    return app


@pytest.fixture
def ann(login_app: Flask) -> FlaskClient:
    """A browser in which Ann has logged in."""
    browser = login_app.test_client()
    form = {"name": "Ann", "password": PASSWORD}
    assert browser.post("/login", data=form, headers=FROM_PAGE).status_code == 303
    return browser


def newest(client: FlaskClient, **headers: str) -> dict[str, Any]:
    """The newest change in the API."""
    document: dict[str, Any] = client.get(API, headers=headers).get_json()["items"][0]
    one = client.get(f"{API}/{document['messageId']}", headers=headers).get_json()
    assert one["actor"] == document["actor"]
    return document


def test_people_programs_and_commands_are_told_apart(login_app: Flask, ann: FlaskClient) -> None:
    crew = ann.post("/api/crew", json={"name": "Bo"}, headers=FROM_PAGE).get_json()
    assert newest(ann)["actor"] == "user:Ann"
    with login_app.app_context():
        _token, text = tokens.issue("gauge", ["read", "write"], "test")
    bearer = {"Authorization": f"Bearer {text}"}
    machine = login_app.test_client()
    machine.patch(f"/api/crew/{crew['id']}", json={"name": "Bob"}, headers=bearer)
    assert newest(machine, **bearer)["actor"] == "token:gauge"
    past_the_capture(login_app, "UPDATE crew SET name = 'Rob'")
    run = login_app.test_cli_runner().invoke
    assert run(args=["sync", "reconcile", "crew"]).exit_code == 0
    assert newest(ann)["actor"] == "command:sync reconcile"
    past_the_capture(login_app, "UPDATE crew SET name = 'Robert'")
    with login_app.app_context():
        app_sync.reconcile("crew")
    assert newest(ann)["actor"] == "unauthenticated"


def past_the_capture(app: Flask, statement: str) -> None:
    """As another program would write: on an engine that the capture does not know."""
    with app.app_context():
        engine = open_engine(app_db.engine.url)
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def test_where_nobody_logs_in_changes_are_unauthenticated(client: FlaskClient) -> None:
    client.post("/api/crew", json={"name": "Bo"})
    assert newest(client)["actor"] == "unauthenticated"


def test_the_commands_show_it(login_app: Flask, ann: FlaskClient) -> None:
    ann.post("/api/crew", json={"name": "Bo"}, headers=FROM_PAGE)
    run = login_app.test_cli_runner().invoke
    message_id = newest(ann)["messageId"]
    assert " v1 by user:Ann\n" in run(args=["sync", "queue", "list"]).output
    assert json.loads(run(args=["sync", "queue", "show", message_id]).output)["actor"] == "user:Ann"
    exported = run(args=["sync", "queue", "export"]).stdout.splitlines()[0]
    assert json.loads(exported)["actor"] == "user:Ann"


def test_the_pages_show_it(ann: FlaskClient) -> None:
    ann.post("/api/crew", json={"name": "Bo"}, headers=FROM_PAGE)
    message_id = newest(ann)["messageId"]
    assert "version 1, user:Ann</span>" in ann.get("/sync/changes").text
    run = ann.application.test_cli_runner().invoke
    past_the_capture(ann.application, "UPDATE crew SET name = '<b>Rob'")
    run(args=["sync", "reconcile"])
    crew = ann.get("/api/crew").get_json()["items"][0]["id"]
    told = ann.get(f"/crew/{crew}").text
    assert "<span>by the command sync reconcile</span>" in told
    assert "from Bo to &lt;b&gt;Rob" in told
    assert '<dt>Changed by</dt><dd class="arus-code">user:Ann</dd>' in " ".join(
        ann.get(f"/sync/changes/{message_id}").text.split()
    )


# -- a row's history ------------------------------------------------------------------------------


def history(client: FlaskClient, path: str) -> str:
    """The section of a row's page with its changes."""
    text = " ".join(client.get(path).text.split())
    assert 'id="changes-heading"' in text
    return text.partition('id="changes-heading"')[2].partition("</section>")[0]


def test_a_rows_page_tells_who_changed_what_from_which_value_to_which(ann: FlaskClient) -> None:
    def write(method: str, path: str, **values: Any) -> Any:
        return ann.open(path, method=method, json=values, headers=FROM_PAGE).get_json()

    pump = write("POST", "/api/equipment", name="Fire <pump>", type="pump")
    bo = write("POST", "/api/crew", name="Bo")
    order = write("POST", "/api/work-orders", equipmentId=pump["id"], reason="Leaks")
    path = f"/api/work-orders/{order['id']}"
    write(
        "PATCH", path, status="in_progress", assignedCrewId=bo["id"], reason="<b>Leaks</b>",
        plannedStartDate="2020-01-02T03:04:00Z", estimatedHours=2.5,
    )  # fmt: skip
    text = history(ann, f"/work-orders/{order['id']}")
    assert text.count("<span>by Ann</span>") == 2
    for told in (
        "<b>Status</b>: from open to in progress",
        "to Bo</p>",
        "from Leaks to &lt;b&gt;Leaks&lt;/b&gt;",
        "from \N{EN DASH} to 2.5",
        'from \N{EN DASH} to <time datetime="2020-01-02T03:04',
    ):
        assert told in text, (told, text)
    assert ">changed</a>" in text.partition(">created</a>")[0], "newest first"
    assert "Version" not in text
    assert "does not reach back" not in text


def test_a_rows_page_says_what_the_log_has_forgotten(app: Flask, client: FlaskClient) -> None:
    crew = client.post("/api/crew", json={"name": "Bo"}).get_json()
    client.patch(f"/api/crew/{crew['id']}", json={"name": "Bob"})
    client.patch(f"/api/crew/{crew['id']}", json={"name": "Rob"})
    past_the_capture(app, "DELETE FROM arus_change WHERE version = 1 AND entity = 'crew'")
    text = history(client, f"/crew/{crew['id']}")
    assert "<b>Name</b>: from Bob to Rob" in text
    assert "The log does not have the values before this change." in text
    assert "The log does not reach back further (MQTT_RETENTION_DAYS is 7)" in text
    assert text.count("<span>without login</span>") == 2
    past_the_capture(app, "DELETE FROM arus_change")
    assert "The log has no changes of this row." in history(client, f"/crew/{crew['id']}")


def test_a_rows_page_shows_only_its_latest_changes(client: FlaskClient) -> None:
    crew = client.post("/api/crew", json={"name": "0"}).get_json()
    for number in range(1, 22):
        client.patch(f"/api/crew/{crew['id']}", json={"name": str(number)})
    text = history(client, f"/crew/{crew['id']}")
    assert text.count("<li>") == 20
    assert "from 1 to 2<" in text
    assert "Only the latest changes are shown." in text


def test_a_row_ashore_has_no_history(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    ashore = make_app(migrated_database_url, LOCAL_MODE="false").test_client()
    crew = ashore.post("/api/crew", json={"name": "Bo"}).get_json()
    assert "changes-heading" not in ashore.get(f"/crew/{crew['id']}").text


# -- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sends", [False, True])
def test_it_is_sent_ashore_only_if_wanted(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
    *,
    sends: bool,
) -> None:
    app = make_app(
        migrated_database_url,
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
        MQTT_SEND_ACTOR=str(sends).lower(),
    )
    sends_as = {"actor": "unauthenticated"} if sends else {}
    app_sync.start(app)
    app.test_client().post("/api/crew", json={"name": "Bo"})
    eventually(lambda: subscriber.changes("crew"), 20, message="the change")
    (change,) = subscriber.changes("crew")
    assert {key: value for key, value in change.items() if key == "actor"} == sends_as
    request = {"requestId": "r", "entity": "crew", "sinceSeq": 0, "epoch": change["epoch"]}
    mosquitto.publish("vessel/sync/catchup_requests", json.dumps(request), "-q", "1")

    def item() -> Any:
        found = [p for p in subscriber.payloads if isinstance(p, dict)]
        return next((p for p in found if p.get("type") == "catchup"), None)

    found = eventually(item, 20, message="the item of a catch-up")
    assert {key: value for key, value in found.items() if key == "actor"} == sends_as
