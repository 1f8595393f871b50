"""The change log over HTTP and by `flask sync queue`: in one process, no broker in reach."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from extensions import db

CHANGES = "/api/mqtt/reliable-sync/changes"
Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    """Runs `flask sync queue ...`."""

    def run(*words: str, stdin: str | None = None) -> Result:
        return app.test_cli_runner().invoke(args=["sync", "queue", *words], input=stdin)

    return run


@pytest.fixture
def crew(client: FlaskClient) -> list[str]:
    """The message ids of three changes, oldest first."""
    return [
        client.post("/api/crew", json={"name": name}).headers["Sync-Message-Id"]
        for name in ("Ada", "Bo", "Cy")
    ]


@pytest.fixture
def quarantine(app: Flask) -> Callable[[str], None]:
    """Puts an entry aside as the relay would, without a broker that refuses it.

    The relay may number it at any moment, so its number is left as it is.
    """

    def quarantine(message_id: str) -> None:
        with app.app_context(), db.engine.begin() as connection:
            connection.execute(
                sa.text(
                    "UPDATE arus_change SET outcome = 'quarantined', reason = 'too large'"
                    " WHERE message_id = :id"
                ),
                {"id": message_id},
            )

    return quarantine


def is_problem(answer: Any, status: int) -> dict[str, Any]:
    document: dict[str, Any] = answer.get_json()
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), (
        document
    )
    assert document["status"] == status
    return document


# -- HTTP -----------------------------------------------------------------------------------------


def test_listed_newest_first_in_pages(client: FlaskClient, crew: list[str]) -> None:
    first = client.get(CHANGES, query_string={"limit": 2}).get_json()
    assert [item["messageId"] for item in first["items"]] == crew[:0:-1]
    assert isinstance(first["next"], str)
    second = client.get(CHANGES, query_string={"limit": 2, "cursor": first["next"]}).get_json()
    assert [item["messageId"] for item in second["items"]] == crew[:1]
    assert second["next"] is None


def test_what_is_shown_of_a_change(client: FlaskClient, crew: list[str]) -> None:
    row = client.get("/api/crew").get_json()["items"][-1]
    listed = client.get(CHANGES).get_json()["items"][-1]
    one = client.get(f"{CHANGES}/{crew[0]}").get_json()
    data = one.pop("data")
    assert data == row
    assert one.pop("appliedBy") == {}  # there is no follower
    for shown in (listed, one):
        shown.pop("seq"), shown.pop("previousSeq")  # the relay gives them when it comes to it
        timestamp = shown.pop("timestamp")
        assert timestamp.endswith("Z")
        assert len(timestamp) == len("2026-11-22T08:00:00.000Z")
        assert shown == {
            "messageId": crew[0],
            "entity": "crew",
            "operation": "create",
            "rowId": row["id"],
            "version": 1,
            "state": "pending",
            "reason": None,
            "topic": "crew",
            "qos": 1,
            "actor": "unauthenticated",
        }


def test_filtered_by_state_and_entity(
    client: FlaskClient, crew: list[str], equipment_id: str, quarantine: Callable[[str], None]
) -> None:
    quarantine(crew[1])

    def found(**query: str) -> list[str]:
        items = client.get(CHANGES, query_string=query).get_json()["items"]
        return [item["messageId"] for item in items]

    assert found(state="quarantined") == [crew[1]]
    assert found(state="pending", entity="crew") == [crew[2], crew[0]]
    assert found(state="pending,quarantined", entity="crew") == crew[::-1]
    assert len(found(state="pending,quarantined")) == 4
    assert found(state="delivered,in_flight,superseded,dropped") == []
    assert found(entity="alerts") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"state": "lost"}, "state"),
        ({"state": "pending,lost"}, "state"),
        ({"state": "pending,"}, "state"),
        ({"state": ",".join(["pending"] * 21)}, "state"),
        ({"entity": "lifeboats"}, "entity"),
        ({"entity": ""}, "entity"),
        ({"entity": "crew\0"}, "entity"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "-1"}, "cursor"),
        ({"cursor": "0"}, "cursor"),
        ({"cursor": "٣"}, "cursor"),
        ({"cursor": "9223372036854775808"}, "cursor"),
        ({"cursor": "9" * 5000}, "cursor"),
        ({"page": "2"}, "page"),
    ],
)
def test_wrong_queries(refused: FlaskClient, query: dict[str, str], field: str) -> None:
    errors = is_problem(refused.get(CHANGES, query_string=query), 422)["errors"]
    assert {key.partition(".")[0] for key in errors} == {field}


@pytest.mark.parametrize("message_id", ["1795334400000_abc123def", "%00", "%ff", "x" * 3000])
@pytest.mark.parametrize(("method", "act"), [("GET", ""), ("POST", "/retry"), ("POST", "/discard")])
def test_no_such_change(refused: FlaskClient, message_id: str, method: str, act: str) -> None:
    is_problem(refused.open(f"{CHANGES}/{message_id}{act}", method=method), 404)


@pytest.mark.parametrize("act", ["retry", "discard"])
def test_only_a_quarantined_change_is_decided_on(
    client: FlaskClient, crew: list[str], act: str
) -> None:
    detail = is_problem(client.post(f"{CHANGES}/{crew[0]}/{act}"), 409)["detail"]
    assert "is pending" in detail


def test_retried_and_discarded(
    client: FlaskClient, crew: list[str], quarantine: Callable[[str], None]
) -> None:
    quarantine(crew[0])
    retried = client.post(f"{CHANGES}/{crew[0]}/retry")
    assert retried.status_code == 200
    assert (retried.get_json()["state"], retried.get_json()["reason"]) == ("pending", None)
    quarantine(crew[1])
    discarded = client.post(f"{CHANGES}/{crew[1]}/discard").get_json()
    assert discarded["state"] == "dropped"
    assert discarded["reason"] == "discarded by a person: too large"
    is_problem(client.post(f"{CHANGES}/{crew[1]}/retry"), 409)
    health = client.get("/api/mqtt/reliable-sync/health").get_json()
    assert health["detailedMetrics"]["messagesDropped"] == 1


def test_described_in_openapi(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    assert document["externalDocs"]["url"] == "/api/docs"
    assert client.get("/api/docs").status_code == 200
    paths = {path for path in document["paths"] if path.startswith(CHANGES)}
    one = f"{CHANGES}/{{message_id}}"
    assert paths == {CHANGES, one, f"{one}/retry", f"{one}/discard"}
    assert set(document["paths"][f"{one}/retry"]["post"]["responses"]) >= {"200", "404", "409"}
    query = {p["name"]: p for p in document["paths"][CHANGES]["get"]["parameters"]}
    assert set(query) == {"state", "entity", "limit", "cursor"}
    assert query["state"]["explode"] is False
    assert "quarantined" in query["state"]["schema"]["items"]["enum"]


# -- requests by pages of other sites -------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://localhost:8080"},
        {"Referer": "http://elsewhere.example/page"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    ],
)
def test_a_foreign_page_writes_nothing(client: FlaskClient, headers: dict[str, str]) -> None:
    row = client.post("/api/crew", json={"name": "Ada"}).get_json()
    for method, path in (
        ("POST", "/api/crew"),
        ("PATCH", f"/api/crew/{row['id']}"),
        ("DELETE", f"/api/crew/{row['id']}"),
        ("POST", f"{CHANGES}/1_aaaaaaaaa/discard"),
    ):
        answer = client.open(path, method=method, json={"name": "Eve"}, headers=headers)
        assert "another site" in is_problem(answer, 403)["detail"]
    listed = client.get("/api/crew", headers=headers)
    assert [item["name"] for item in listed.get_json()["items"]] == ["Ada"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}],
)
def test_programs_and_own_pages_write(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/api/crew", json={"name": "Ada"}, headers=headers).status_code == 201


# -- flask sync queue -----------------------------------------------------------------------------


def test_queue_list(run: Run, crew: list[str], quarantine: Callable[[str], None]) -> None:
    quarantine(crew[1])
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == crew[::-1]
    assert lines[2].endswith(": too large")
    lines = run("list", "--state", "quarantined,dropped", "--json").stdout.splitlines()
    assert [json.loads(line)["messageId"] for line in lines] == [crew[1]]
    assert len(run("list", "--limit", "2", "--json").stdout.splitlines()) == 2
    empty = run("list", "--entity", "alerts")
    assert (empty.exit_code, empty.stdout) == (0, "")


def test_queue_show(run: Run, crew: list[str]) -> None:
    assert json.loads(run("show", crew[0]).stdout)["data"]["name"] == "Ada"


@pytest.mark.parametrize(
    "words",
    [
        ("show", "1_aaaaaaaaa"),
        ("retry", "1_aaaaaaaaa"),
        ("discard", "\0"),
        ("list", "--entity", "lifeboats"),
        ("retry", "--all", "--yes", "--entity", "lifeboats"),
        ("export", "-o", "/nowhere/at/all"),
    ],
)
def test_failure_is_one_line_and_exit_code_1(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")


def test_usage(run: Run) -> None:
    for words in (("retry",), ("discard", "--all", "1_a"), ("list", "--state", "lost")):
        assert run(*words).exit_code == 2
    for command in ("list", "show", "retry", "discard", "export"):
        text = run(command, "--help").stdout
        assert f"\n    flask sync queue {command}" in text


def test_queue_retry_goes_on_after_a_failure(
    run: Run, crew: list[str], quarantine: Callable[[str], None]
) -> None:
    quarantine(crew[2])
    result = run("retry", crew[0], crew[2])
    assert result.exit_code == 1
    assert result.stdout == "1 retried\n"
    assert result.stderr.startswith(f"Error: change {crew[0]} is pending")
    assert json.loads(run("show", crew[2]).stdout)["state"] == "pending"


def test_all_are_asked_about(run: Run, crew: list[str], quarantine: Callable[[str], None]) -> None:
    for message_id in crew[:2]:
        quarantine(message_id)
    refused = run("discard", "--all", stdin="n\n")
    assert refused.exit_code == 1
    assert run("list", "--state", "dropped").stdout == ""
    assert run("discard", "--all", "--entity", "alerts", "--yes").stdout == "0 discarded\n"
    assert run("discard", "--all", "--yes").stdout == "2 discarded\n"
    assert run("retry", "--all", stdin="y\n").stdout == "0 retried\n"


def test_queue_export(
    run: Run, crew: list[str], quarantine: Callable[[str], None], tmp_path: Path
) -> None:
    quarantine(crew[2])
    file = tmp_path / "out.jsonl"
    file.write_text("of yesterday")
    result = run("export", "-o", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert [change["messageId"] for change in exported] == crew
    assert [change["data"]["name"] for change in exported] == ["Ada", "Bo", "Cy"]
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.jsonl"]
    lines = run("export", "--state", "quarantined").stdout.splitlines()
    assert [json.loads(line)["messageId"] for line in lines] == [crew[2]]


# -- at the same time -----------------------------------------------------------------------------


def test_of_two_who_decide_at_once_one_is_told(
    app: Flask, crew: list[str], quarantine: Callable[[str], None]
) -> None:
    for _ in range(5):
        quarantine(crew[0])
        start = threading.Barrier(4)

        def decide(act: str, start: threading.Barrier = start) -> int:
            with app.test_client() as client:
                start.wait()
                return client.post(f"{CHANGES}/{crew[0]}/{act}").status_code

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(decide, ["retry", "discard", "retry", "discard"]))
        assert sorted(answers) == [200, 409, 409, 409]
