"""The fleet ashore as JSON, as a command and as metrics, read from a follower's own database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from arus.protocol.times import iso, now_ms
from arus.web.schemas import FleetPageSchema, FleetVesselSchema
from extensions import db
from tests.support.fleet_ashore import HOSTILE, FleetAshore

pytestmark = pytest.mark.slow

FLEET = "/api/mqtt/reliable-sync/fleet"
#: Contract, section 3.
FIELDS = [
    "vesselId", "online", "since", "epoch", "seq", "headSeq", "behind", "lastHeard", "equalAt", "auditedAt",
    "refused", "held",
]  # fmt: skip
SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"])


@pytest.fixture
def ashore(make_app: Callable[..., Flask], migrated_database_url: str) -> Flask:
    return make_app(migrated_database_url, LOCAL_MODE="false")


@pytest.fixture
def client(ashore: Flask) -> FlaskClient:
    return ashore.test_client()


@pytest.fixture
def fleet(ashore: Flask) -> Iterator[FleetAshore]:
    with FleetAshore(ashore) as fleet:
        yield fleet


def read(client: FlaskClient, **query: Any) -> list[dict[str, Any]]:
    """All pages."""
    items: list[dict[str, Any]] = []
    while True:
        page = client.get(FLEET, query_string=query).get_json()
        items += page["items"]
        assert FleetPageSchema().validate(page) == {}
        if page["next"] is None:
            return items
        query["cursor"] = page["next"]


def ids(client: FlaskClient, **query: Any) -> list[str]:
    return [item["vesselId"] for item in read(client, **query)]


def test_each_vessel_is_told_as_its_messages_have_shown_it(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    begun = iso(now_ms())
    fleet.join("a", "b", "c", rows=2)
    fleet.audit("a", "b")
    fleet.change("a", "crew", lost=True)
    fleet.change("a", "crew", lost=True)
    fleet.status("a")
    fleet.alter_a_row("b")
    fleet.refuse_a_row("b")
    fleet.hold_a_change("b", "c")
    will = fleet.ship("c").status_document(online=False) | {"timestamp": "2020-01-01T00:00:00.000Z"}
    fleet.take(("system/status", will))
    a, b, c = read(client)
    assert list(a) == list(b) == list(c) == FIELDS == list(FleetVesselSchema().example)
    assert (a["vesselId"], a["epoch"], a["online"]) == ("a", fleet.ship("a").epoch, True)
    assert (a["seq"], a["headSeq"], a["behind"]) == (2, 4, 2)
    assert begun <= a["since"] <= a["equalAt"] == a["auditedAt"] <= a["lastHeard"] <= iso(now_ms())
    assert b["equalAt"] < b["auditedAt"]
    assert (b["refused"], b["held"], b["behind"]) == (1, 1, 0)
    assert (c["online"], c["equalAt"], c["auditedAt"]) == (False, None, None)
    assert begun <= c["lastHeard"] < c["since"], "a last will is no sign of life"
    # What a new process reads from the database goes on where the last one was.
    with FleetAshore(fleet.app) as again:
        again.applier.save({})
        vessel = again.applier.vessels["a"]
        assert vessel.history == fleet.applier.vessels["a"].history
        assert vessel.history.behind_since is not None
    assert read(client) == [a, b, c]


def test_what_a_database_already_tells_is_there_after_the_migration(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    fleet.join("a", "b", "c")
    fleet.audit("a", "b")
    fleet.alter_a_row("b")
    before = read(client)
    for command in (["downgrade", "0019"], ["upgrade"]):
        done = fleet.app.test_cli_runner().invoke(args=["db", *command])
        assert done.exit_code == 0, done.output
    a, b, c = read(client)
    assert [a["equalAt"], a["auditedAt"]] == [before[0]["equalAt"], before[0]["auditedAt"]]
    assert [b["equalAt"], b["auditedAt"]] == [None, before[1]["auditedAt"]]
    assert [c["equalAt"], c["auditedAt"]] == [None, None]
    assert all(one["lastHeard"] is not None for one in (a, b, c))
    assert all(one["since"] is None for one in (a, b, c)), "that was not kept"


def test_filters_and_search_choose_and_pages_miss_nothing(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    every = fleet.in_every_state(23)
    fleet.join("under_score", "per%cent", "UPPER")
    everything = ids(client)
    assert sorted(everything) == sorted([*every, "under_score", "per%cent", "UPPER"])
    assert ids(client, limit=4) == everything
    told = {item["vesselId"]: item for item in read(client)}
    for name, holds in (
        ("online", lambda one: one["online"]),
        ("equal", lambda one: one["equalAt"] is not None and one["equalAt"] == one["auditedAt"]),
        ("audited", lambda one: one["auditedAt"] is not None),
        ("behind", lambda one: one["behind"] > 0),
        ("refused", lambda one: one["refused"] > 0),
        ("held", lambda one: one["held"] > 0),
        ("fieldsDiffer", lambda one: one["vesselId"] == every[8]),
    ):
        chosen = [one for one in everything if holds(told[one])]
        assert 0 < len(chosen) < len(everything), name
        assert ids(client, **{name: "true"}, limit=3) == chosen
        assert ids(client, **{name: "false"}) == [one for one in everything if one not in chosen]
    assert ids(client, equal="false", audited="true") == [every[1]]
    assert ids(client, q="r_s") == ["under_score"]
    assert ids(client, q="%") == ["per%cent"]
    assert ids(client, q="upp") == ["UPPER"]
    assert ids(client, q="!") == []


@SQLITE
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("online=maybe", "online"),
        ("online=", "online"),
        ("page=2", "page"),
        (f"q={'x' * 65}", "q"),
        ("q=%00", "q"),
        ("cursor=x", "cursor"),
        ("cursor=WyJiZWhpbmQiLCAiYSIsIDFd", "cursor"),  # of another order
        ("cursor=W10", "cursor"),
        ("cursor=%C3%A6", "cursor"),
        ("cursor=", "cursor"),
    ],
)
def test_a_wrong_query_is_named(client: FlaskClient, query: str, field: str) -> None:
    answer = client.get(f"{FLEET}?{query}")
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
    assert list(answer.get_json()["errors"]) == [field]


@SQLITE
def test_a_vessel_has_no_fleet(make_app: Callable[..., Flask], migrated_database_url: str) -> None:
    aboard = make_app(migrated_database_url, LOCAL_MODE="true")
    answer = aboard.test_client().get(FLEET)
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
    assert "LOCAL_MODE" in answer.get_json()["detail"]
    done = aboard.test_cli_runner().invoke(args=["sync", "fleet"])
    assert done.exit_code == 1
    assert "Error: a vessel has no fleet" in done.output.lower().replace("error", "Error")
    assert "arus_mqtt_fleet" not in aboard.test_client().get("/metrics").text


@SQLITE
def test_hostile_ids_are_told_as_they_are_and_printed_without_control_characters(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    fleet.join(*HOSTILE)
    assert set(ids(client, limit=5)) == set(HOSTILE)
    done = fleet.app.test_cli_runner().invoke(args=["sync", "fleet"])
    assert all(line.isprintable() for line in done.output.splitlines())
    assert "line\\x0abreak" in done.output


@SQLITE
def test_the_command_tells_what_the_api_tells(client: FlaskClient, fleet: FleetAshore) -> None:
    fleet.in_every_state(12)
    run = fleet.app.test_cli_runner().invoke
    assert json.loads(run(args=["sync", "fleet", "--json"]).output) == {
        "items": read(client),
        "next": None,
    }
    some = json.loads(run(args=["sync", "fleet", "--json", "--offline"]).output)["items"]
    assert [one["vesselId"] for one in some] == ids(client, online="false")
    output = run(args=["sync", "fleet"]).output
    assert "not followed now" in output
    assert re.search(r"^12 vessels: 10 online, 1 behind, \d+ equal, 1 differ", output, re.MULTILINE)
    assert len(output.splitlines()) == 2 + 12
    differing = run(args=["sync", "fleet", "--differs"]).output
    assert re.search(r"; differs at \S+Z \(last equal \S+Z\)$", differing, re.MULTILINE)
    with fleet.following():
        fleet.connected("the broker is away")
        assert "not connected: the broker is away" in run(args=["sync", "fleet"]).output
        fleet.connected()
        assert run(args=["sync", "fleet"]).output.startswith("12 vessels")


@SQLITE
def test_an_empty_fleet_is_told_with_what_begins_one(client: FlaskClient, ashore: Flask) -> None:
    assert client.get(FLEET).get_json() == {"items": [], "next": None}
    assert (
        "sync follow --name shore" in ashore.test_cli_runner().invoke(args=["sync", "fleet"]).output
    )


@SQLITE
def test_the_series_do_not_grow_with_the_fleet(client: FlaskClient, fleet: FleetAshore) -> None:
    def series() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        found = [line.rpartition(" ") for line in lines if line.startswith("arus_mqtt_fleet")]
        return {name: float(value) for name, _, value in found}

    before = series()
    assert set(before.values()) == {0.0}
    fleet.in_every_state(12)
    after = series()
    assert set(after) == set(before)
    assert after['arus_mqtt_fleet_vessels{presence="online"}'] == 10
    assert after['arus_mqtt_fleet_vessels{presence="offline"}'] == 2
    assert after['arus_mqtt_fleet_audits{result="differs"}'] == 1
    assert after["arus_mqtt_fleet_vessels_behind"] == 1
    assert after["arus_mqtt_fleet_changes_behind"] == sum(one["behind"] for one in read(client))
    assert after["arus_mqtt_fleet_refused_rows"] == 1
    assert after["arus_mqtt_fleet_held_changes"] == 1
    oldest = min(one["equalAt"] for one in read(client) if one["equalAt"])
    assert iso(round(1000 * after["arus_mqtt_fleet_oldest_equal_seconds"])) == oldest


@SQLITE
def test_no_table_of_rows_is_read(client: FlaskClient, fleet: FleetAshore) -> None:
    fleet.in_every_state(12)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    with fleet.app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
        for address in (FLEET, "/", "/metrics"):
            assert client.get(address).status_code == 200
        event.remove(db.engine, "before_cursor_execute", note)
    assert any("arus_vessel" in statement for statement in asked)
    assert not [statement for statement in asked if "arus_row" in statement]


@SQLITE
def test_only_the_latest_events_of_a_vessel_are_kept(fleet: FleetAshore) -> None:
    fleet.join("a", "b")
    for number in range(120):
        fleet.status("a", online=bool(number % 2))
    with fleet.app.app_context():
        details = fleet.app.extensions["arus"].fleet.vessel("a")
        kinds = [event.kind for event in details.events]
        assert kinds[:2] == ["online", "offline"]
        kept = db.session.execute(
            db.text("SELECT vessel_id, count(*) FROM arus_vessel_event GROUP BY vessel_id")
        )
        counts = dict(kept.all())
    assert counts["a"] == 100
    assert 0 < counts["b"] < 100
