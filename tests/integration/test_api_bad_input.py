"""What clients send wrong, and what they are told; never a 500, never half a row."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gunicorn_app import GunicornApp

pytestmark = pytest.mark.slow

PATHS = ("work-orders", "alerts", "equipment", "crew", "maintenance-schedules")
NOBODY = "00000000-0000-4000-8000-000000000000"


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem document of an answer, after a look at its form."""
    document: dict[str, Any] = answer.get_json()
    assert answer.status_code == status, document
    assert answer.content_type == "application/problem+json"
    assert document["status"] == status
    assert document["type"] == "about:blank"
    assert document["title"]
    assert document["detail"]
    assert document["instance"].startswith("/")
    return document


def post(client: FlaskClient, resource: str, body: Any) -> Any:
    """POST what only the standard library's encoder takes, like integers of any size."""
    return client.post(f"/api/{resource}", data=json.dumps(body), content_type="application/json")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"name": ', "not valid JSON"),
        (b"{name: 'x'}", "line 1 column 2"),
        (b'{"name": "x"} trailing', "not valid JSON"),
        (b'{"name": NaN}', "not valid JSON"),
        (b'{"name": "\xff\xfe"}', "not valid JSON"),
        (b'{"name": "\\ud800"}', "not valid JSON"),
        (b"[" * 5000, "not valid JSON"),
    ],
)
def test_malformed_json(refused: FlaskClient, body: bytes, says: str) -> None:
    answer = refused.post("/api/crew", data=body, content_type="application/json")
    assert says in problem(answer, 400)["detail"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"3", b'[{"name": "x"}]'])
def test_json_that_is_no_object(refused: FlaskClient, body: bytes) -> None:
    problem(refused.post("/api/crew", data=body, content_type="application/json"), 422)


def test_no_body(client: FlaskClient) -> None:
    document = problem(client.post("/api/crew"), 422)
    assert document["errors"] == {"name": ["Missing data for required field."]}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_is_not_said_to_be_json(refused: FlaskClient, kind: str | None) -> None:
    problem(refused.post("/api/crew", data=b'{"name": "x"}', content_type=kind), 415)


def test_unknown_and_read_only_fields(client: FlaskClient) -> None:
    row = {"name": "x", "nickname": "y", "id": NOBODY, "version": 3}
    assert problem(client.post("/api/crew", json=row), 422)["errors"] == {
        "nickname": ["Unknown field."],
        "id": ["Read-only: the server sets it."],
        "version": ["Read-only: the server sets it."],
    }


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("crew", "name", ""),
        ("crew", "name", "   "),
        ("crew", "name", "\u200b \u2060"),
        ("crew", "name", None),
        ("crew", "name", 7),
        ("crew", "name", ["x"]),
        ("crew", "name", "x" * 201),
        ("crew", "name", "nul\0"),
        ("crew", "email", "no address"),
        ("crew", "onDuty", "perhaps"),
        ("crew", "onDuty", None),
        ("equipment", "specifications", "text"),
        ("equipment", "specifications", {"a": {"b": {"c": {"d": {"e": {"f": {"g": {}}}}}}}}),
        ("equipment", "specifications", {"a": "x" * 20_000}),
        ("equipment", "specifications", {"a": "nul\0"}),
        ("equipment", "criticalityLevel", "extreme"),
        ("alerts", "alertType", "info"),
        ("alerts", "value", "much"),
        ("alerts", "value", True),
        ("alerts", "value", "1_000"),
        ("alerts", "value", 1e300),
        ("alerts", "threshold", None),
        ("alerts", "message", "x" * 1001),
        ("work-orders", "equipmentId", "7"),
        ("work-orders", "equipmentId", NOBODY[:-1]),
        ("work-orders", "status", "done"),
        ("work-orders", "status", None),
        ("work-orders", "priority", 0),
        ("work-orders", "priority", 6),
        ("work-orders", "priority", 2.5),
        ("maintenance-schedules", "intervalDays", "1_0"),
        ("work-orders", "priority", 10**30),
        ("work-orders", "estimatedHours", -1),
        ("work-orders", "plannedStartDate", "tomorrow"),
        ("work-orders", "plannedStartDate", "0001-01-01T00:00:00+14:00"),
        ("work-orders", "plannedStartDate", "9999-12-31T23:59:59-14:00"),
        ("work-orders", "plannedStartDate", 1795334400000),
        ("maintenance-schedules", "scheduledDate", "2026-13-01"),
        ("maintenance-schedules", "estimatedDuration", -5),
        ("maintenance-schedules", "estimatedDuration", "an hour"),
        ("maintenance-schedules", "status", "later"),
    ],
)
def test_a_wrong_value_is_named(refused: FlaskClient, path: str, field: str, value: Any) -> None:
    errors = problem(post(refused, path, {field: value}), 422)["errors"]
    assert errors[field], errors
    assert errors[field] != ["Missing data for required field."]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=many", "limit"),
        ("cursor=zzzz", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=MjAyNi0wMS0wMVQwMDowMDowMCBub2JvZHk=", "cursor"),
        ("q=%00", "q"),
        ("rank=%00", "rank"),
        ("onDuty=perhaps", "onDuty"),
        ("colour=red", "colour"),
        ("createdAt=now", "createdAt"),
    ],
)
def test_a_wrong_query_is_named(refused: FlaskClient, query: str, field: str) -> None:
    assert list(problem(refused.get(f"/api/crew?{query}"), 422)["errors"]) == [field]


@pytest.mark.parametrize("resource", PATHS)
@pytest.mark.parametrize("row_id", [NOBODY, "7", "%00", "x" * 500, "%F0%9F%9A%A2"])
def test_an_id_that_is_not_there(refused: FlaskClient, resource: str, row_id: str) -> None:
    path = f"/api/{resource}/{row_id}"
    problem(refused.get(path), 404)
    problem(refused.patch(path, json={}), 404)
    problem(refused.delete(path), 404)


def test_no_such_page_and_no_such_method(client: FlaskClient) -> None:
    problem(client.get("/api/nothing"), 404)
    answer = client.put("/api/crew", json={})
    problem(answer, 405)
    assert "POST" in answer.headers["Allow"]


def test_an_error_of_ours_shows_no_trace(app: Flask) -> None:
    @app.get("/api/broken")
    def broken() -> str:
        raise ZeroDivisionError("secret detail")

    app.config["PROPAGATE_EXCEPTIONS"] = False
    answer = app.test_client().get("/api/broken")
    problem(answer, 500)
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_nothing_is_written_by_what_is_refused(client: FlaskClient) -> None:
    for body in ({"name": ""}, {"name": "x", "email": "bad"}, {"nobody": 1}):
        problem(client.post("/api/crew", json=body), 422)
    assert client.get("/api/crew").get_json()["items"] == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
known_keys = st.sampled_from(
    "name type reason equipmentId value threshold message alertType sensorType specifications email priority "
    "plannedStartDate plannedEndDate scheduledDate maintenanceType estimatedDuration estimatedHours status "
    "acknowledgedAt isActive".split()
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(resource=st.sampled_from(PATHS), body=st.dictionaries(known_keys, json_values, max_size=6))
def test_whatever_is_sent_the_fault_is_the_clients(
    client: FlaskClient, equipment_id: str, resource: str, body: dict[str, Any]
) -> None:
    if body.get("equipmentId"):
        body["equipmentId"] = equipment_id
    answer = post(client, resource, body)
    assert answer.status_code in {201, 422}, answer.get_json()
    if answer.status_code == 201:
        path = answer.headers["Location"]
        assert client.get(path).get_json() == answer.get_json()
        again = client.patch(path, data=json.dumps(body), content_type="application/json")
        assert again.status_code == 200


# --- too large, over a real connection


@pytest.fixture(params=["sync", "gthread"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_database_url: str
) -> Iterator[GunicornApp]:
    with GunicornApp(
        tmp_path, {"DATABASE_URL": migrated_database_url}, workers=1, worker_class=request.param
    ) as app:
        yield app


@pytest.mark.gunicorn
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_body_over_the_limit_gets_its_answer(server: GunicornApp) -> None:
    head = (
        "POST /api/work-orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Connection: close\r\n"
    )
    for size in (1_000_001, 1_048_577, 5_000_000, 30_000_000):
        plain = (f"{head}Content-Length: {size}\r\n\r\n".encode(), b"x" * size)
        chunked = (
            f"{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n".encode(),
            b"x" * size + b"\r\n0\r\n\r\n",
        )
        for begin, rest in (plain, chunked):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                # All of it is sent before anything is read: a reset would fail the send or the read.
                connection.sendall(begin + rest)
                answer = b""
                while piece := connection.recv(65_536):
                    answer += piece
            expected = b"413" if size > 1_048_576 else b"400"
            assert answer.split()[1] == expected, (size, answer[:300])
            assert b"application/problem+json" in answer


@pytest.mark.gunicorn
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_megabyte_of_text_is_refused_by_its_field(server: GunicornApp) -> None:
    answer = server.post("/api/crew", {"name": "x" * 1_000_000})
    assert answer.status == 422
    assert answer.json["errors"] == {"name": ["Longer than 200 characters."]}


def test_each_client_fault_leaves_the_next_request_alone(
    client: FlaskClient, make_app: Callable[..., Flask]
) -> None:
    for data in (b"{", b"[]", b'{"name": 1}'):
        client.post("/api/crew", data=data, content_type="application/json")
        assert client.post("/api/crew", json={"name": "after"}).status_code == 201
