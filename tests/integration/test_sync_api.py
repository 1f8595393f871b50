"""The sync's API in an application that is not the vessel app: it does as its operations and schemas say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from marshmallow import Schema

from arus.catchup import requests
from arus.web import sync_api
from arus.web.operations import OPERATIONS, TAGS
from tests.support.small_app import Hull, db, small_app, sync
from tests.support.waiting import free_port

API = "/ship/api"


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(
        small_database_url,
        MQTT_BROKER_URL=f"mqtt://127.0.0.1:{free_port()}",
        MQTT_RECONNECT_PERIOD="3600",
        MAX_CONTENT_LENGTH=10_000,
    ) as app:
        app.register_blueprint(sync_api(allow=lambda _: True), url_prefix=API)
        try:
            yield app
        finally:
            sync.stop(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def message_id(app: Flask) -> str:
    """Of a committed change."""
    hull = Hull(name="Havbris")
    db.session.add(hull)
    db.session.commit()
    receipt = sync.publish_change("create", hull)
    assert receipt is not None
    return receipt.message_id


def problem(answer: Any, status: int) -> dict[str, Any]:
    document: dict[str, Any] = answer.get_json()
    assert answer.status_code == status, document
    assert answer.content_type == "application/problem+json"
    assert (document["status"], document["instance"]) == (status, answer.request.path)
    return document


def keys(schema: Schema) -> set[str]:
    return {field.data_key or name for name, field in schema.fields.items()}


def test_each_operation_is_served_and_belongs_to_a_tag(app: Flask) -> None:
    served = {
        (rule.rule.removeprefix(API), method)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("arus_api.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == {(operation.rule, operation.method) for operation in OPERATIONS}
    assert {operation.tag for operation in OPERATIONS} == set(TAGS)
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)


def test_answers_have_the_keys_and_values_of_their_schemas(
    client: FlaskClient, message_id: str
) -> None:
    asked = client.post(f"{API}/catchup", json={"entity": "all"})
    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE arus_change SET outcome = 'quarantined', reason = 'x'"))
    paths = {
        "/changes/<message_id>": f"/changes/{message_id}",
        "/changes/<message_id>/retry": f"/changes/{message_id}/retry",
        "/changes/<message_id>/discard": f"/changes/{message_id}/discard",
        "/catchup/<catchup_id>": f"/catchup/{asked.get_json()['catchupId']}",
    }
    seen = set()
    # What retries a change comes after what discards it, which refuses one that is not quarantined.
    for operation in sorted(OPERATIONS, key=lambda operation: operation.name == "discard"):
        if operation.name == "fleet":
            continue  # ashore: test_fleet_api.py
        if operation.name == "discard":
            with db.engine.begin() as connection:
                connection.execute(sa.text("UPDATE arus_change SET outcome = 'quarantined'"))
        path = paths.get(operation.rule, operation.rule)
        body = {"entity": "all"} if operation.body else None
        answer = client.open(API + path, method=operation.method, json=body)
        document = answer.get_json()
        assert answer.status_code == operation.status, document
        schema = operation.answer()
        assert set(document) == keys(schema), operation.name
        assert schema.validate(document) == {}, operation.name
        assert schema.validate(operation.answer.example) == {}  # type: ignore[attr-defined]
        assert set(operation.headers) <= set(answer.headers.keys())
        seen.add(operation.name)
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=201", "limit"),
        ("page=2", "page"),
        ("state=pending,", "state"),
        ("cursor=", "cursor"),
    ],
)
def test_a_wrong_query_is_named(client: FlaskClient, query: str, field: str) -> None:
    errors = problem(client.get(f"{API}/changes?{query}"), 422)["errors"]
    assert {key.partition(".")[0] for key in errors} == {field}


def test_states_come_with_commas_or_one_by_one(client: FlaskClient, message_id: str) -> None:
    for query in (
        "state=dropped,pending,in_flight",
        "state=dropped&state=pending&state=in_flight",
        "state=",
    ):
        items = client.get(f"{API}/changes?{query}").get_json()["items"]
        assert [item["messageId"] for item in items] == [message_id], query


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b"", {"entity": ["Missing data for required field."]}),
        (b'{"entity": "all", "colour": "red"}', {"colour": ["Unknown field."]}),
        (b'{"entity": null}', {"entity": ["Field may not be null."]}),
        (b"null", {"_schema": ["Invalid input type."]}),
    ],
)
def test_a_wrong_catch_up_is_named(
    client: FlaskClient, body: bytes, errors: dict[str, list[str]]
) -> None:
    answer = client.post(f"{API}/catchup", data=body, content_type="application/json")
    assert problem(answer, 422)["errors"] == errors


def test_a_body_of_another_type_or_too_large_is_refused(client: FlaskClient) -> None:
    text = client.post(f"{API}/catchup", data=b'{"entity": "all"}', content_type="text/plain")
    problem(text, 415)
    large = client.post(f"{API}/catchup", data=b" " * 10_001, content_type="application/json")
    assert "10000 bytes" in problem(large, 413)["detail"]


def test_too_many_that_wait_are_told_when_to_come_back(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING", 1)
    refused = client.post(f"{API}/catchup", json={"entity": "all"})
    problem(refused, 429)
    assert refused.headers["Retry-After"] == "60"


@pytest.fixture
def lost() -> Iterator[Flask]:
    """An application whose database server does not answer."""
    app = Flask("lost")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"postgresql+psycopg://x@127.0.0.1:{free_port()}/x"
    app.config["LOCAL_MODE"] = "false"
    db.init_app(app)
    sync.init_app(app, db)
    app.register_blueprint(sync_api(allow=lambda _: True))
    with app.app_context():
        yield app
        app.extensions["arus"].notifier.close()
        db.engine.dispose()


@pytest.mark.parametrize("path", ["/health", "/changes", "/changes/1_a", "/catchup/1"])
def test_without_its_database_it_says_so(lost: Flask, path: str) -> None:
    answer = lost.test_client().get(f"/api/sync{path}")
    assert "database" in problem(answer, 503)["detail"]
    assert answer.headers["Retry-After"] == "5"


def test_an_applications_own_word_on_its_database_goes_first(lost: Flask) -> None:
    lost.register_error_handler(sa.exc.DBAPIError, lambda _error: ("not now", 503))
    answer = lost.test_client().get("/api/sync/health")
    assert (answer.status_code, answer.text) == (503, "not now")
