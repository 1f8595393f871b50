"""Catch-ups over HTTP: asked for, looked up, refused; the broker is out of reach, so they stay queued."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from arus.catchup import requests
from extensions import sync
from tests.integration.test_api_bad_input import problem

CATCHUP = "/api/mqtt/reliable-sync/catchup"
ENTITIES = ["work_orders", "alerts", "equipment", "crew", "maintenance_schedules"]


def test_one_of_all_entities_is_queued_and_can_be_looked_up(client: FlaskClient) -> None:
    answer = client.post(CATCHUP, json={"entity": "all", "since": "2026-11-20T06:00:00Z"})
    assert answer.status_code == 202
    assert answer.get_json() == {
        "catchupId": answer.headers["Location"].rsplit("/", 1)[1],
        "status": "queued",
    }
    document = client.get(answer.headers["Location"]).get_json()
    assert (document["status"], document["published"], document["origin"]) == ("queued", 0, "http")
    assert sorted(entity["entity"] for entity in document["entities"]) == sorted(ENTITIES)


@pytest.mark.parametrize(
    "body",
    [
        {"entity": "crew"},
        {"entity": "crew", "since": "2026-11-20"},
        {"entity": "crew", "sinceSeq": 0, "epoch": "3f0e2d4c-0000-4000-8000-000000000000"},
        {"entity": "crew", "cursor": "log.3f0e2d4c-0000-4000-8000-000000000000.s9", "limit": 1},
        {"entity": "all", "limit": None, "since": None, "mode": None},
        {"entity": "crew", "mode": "snapshot", "buckets": [0, 63]},
        {"entity": "all", "mode": "digest"},
    ],
)
def test_each_way_to_ask_is_taken(client: FlaskClient, body: dict[str, Any]) -> None:
    assert client.post(CATCHUP, json=body).status_code == 202


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["entity"]),
        ([], ["_schema"]),
        ({"entity": "invoices"}, ["entity"]),
        ({"entity": "crew", "since": "yesterday"}, ["since"]),
        ({"entity": "crew", "since": 3}, ["since"]),
        ({"entity": "crew", "sinceSeq": 3}, ["epoch"]),
        ({"entity": "crew", "sinceSeq": 10**30, "epoch": "e"}, ["sinceSeq"]),
        ({"entity": "crew", "limit": 0}, ["limit"]),
        ({"entity": "crew", "cursor": "not one of ours"}, ["cursor"]),
        ({"entity": "crew", "colour": "red"}, ["colour"]),
        ({"entity": "crew", "mode": "digest"}, ["entity"]),
    ],
)
def test_what_is_wrong_is_named(client: FlaskClient, body: Any, fields: list[str]) -> None:
    data = json.dumps(body)
    answer = client.post(CATCHUP, data=data, content_type="application/json")
    assert list(problem(answer, 422)["errors"]) == fields


def test_a_retry_with_its_request_id_is_the_same_catch_up(client: FlaskClient) -> None:
    first, second = (
        client.post(CATCHUP, json={"entity": "crew", "requestId": "r-1"}).get_json()["catchupId"]
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    "catchup_id", ["00000000-0000-4000-8000-000000000000", "7", "%01", "x" * 500, "%F0%9F%9A%A2"]
)
def test_one_that_is_not_there(client: FlaskClient, catchup_id: str) -> None:
    assert "no catch-up" in problem(client.get(f"{CATCHUP}/{catchup_id}"), 404)["detail"]


def test_ashore_there_is_nothing_to_send(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    client = make_app(migrated_database_url, LOCAL_MODE="false").test_client()
    assert "LOCAL_MODE" in problem(client.post(CATCHUP, json={"entity": "all"}), 409)["detail"]


def test_too_many_that_wait_are_told_when_to_come_back(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING", 5)
    assert client.post(CATCHUP, json={"entity": "all"}).status_code == 202
    refused = client.post(CATCHUP, json={"entity": "crew"})
    problem(refused, 429)
    assert refused.headers["Retry-After"] == "60"


def test_more_than_one_a_second_is_told_when_to_come_back(client: FlaskClient) -> None:
    answers = [client.post(CATCHUP, json={"entity": "nothing"}) for _ in range(130)]
    assert {answer.status_code for answer in answers} == {422, 429}
    assert 1 <= int(next(a for a in answers if a.status_code == 429).headers["Retry-After"]) <= 61


def test_the_extension_lists_the_last_ones(app: Flask) -> None:
    with app.app_context():
        first = sync.runtime().catchups.request({"entity": "crew"})
        second = sync.runtime().catchups.request({"entity": "all"}, origin="cli")
        assert sync.runtime().catchups.recent() == [second, first]
        assert sync.runtime().catchups.find(first.catchup_id) == first


@pytest.mark.slow
def test_the_form_and_the_api_share_one_limit(client: FlaskClient) -> None:
    here = {"Sec-Fetch-Site": "same-origin"}

    def by_form() -> int:
        form = {"entity": "nothing"}
        return client.post("/sync/catchup", data=form, headers=here).status_code

    def by_api() -> int:
        return client.post(CATCHUP, json={"entity": "nothing"}).status_code

    for _ in range(5):
        assert {by_form(), by_api()} == {422}
    assert 429 in [by_form() for _ in range(120)]  # a minute may begin meanwhile
    assert by_api() == 429
    assert client.get("/sync/").status_code == 200
