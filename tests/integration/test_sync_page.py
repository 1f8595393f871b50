"""The sync page and its API as blueprints, in an application that is not the vessel app."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, redirect, session
from flask.testing import FlaskClient

from arus.errors import UnknownChangeError
from arus.ops.overview import read_counts
from arus.protocol.times import now_ms
from arus.web import Action, sync_api, sync_page
from tests.support.small_app import Hull, db, small_app, sync
from tests.support.waiting import free_port

pytestmark = pytest.mark.slow

HERE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(
        small_database_url,
        MQTT_BROKER_URL=f"mqtt://user:secret@127.0.0.1:{free_port()}",
        MQTT_RECONNECT_PERIOD="3600",
        SECRET_KEY="for tests",
    ) as app:
        app.register_blueprint(sync_page(allow=lambda _: True), url_prefix="/ship/sync")
        app.register_blueprint(sync_api(allow=lambda _: True), url_prefix="/ship/api")
        app.add_url_rule("/login", "login", lambda: "")
        app.register_blueprint(
            sync_page("guarded", allow=lambda _: session.get("role") == "engineer"),
            url_prefix="/guarded",
        )
        app.register_blueprint(
            sync_page("door", allow=lambda _: "role" in session or redirect("/login")),
            url_prefix="/door",
        )
        app.register_blueprint(
            sync_api("guarded_api", allow=lambda _: session.get("role") == "engineer"),
            url_prefix="/guarded-api",
        )
        try:
            yield app
        finally:
            sync.stop(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def commit(name: str = "Havbris") -> str:
    hull = Hull(name=name)
    db.session.add(hull)
    db.session.commit()
    receipt = sync.publish_change("create", hull)
    assert receipt is not None
    return receipt.message_id


def quarantine(message_id: str, reason: str = "larger than the broker takes") -> None:
    with db.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE arus_change SET outcome = 'quarantined', reason = :reason WHERE message_id = :id"
            ),
            {"id": message_id, "reason": reason},
        )


def execute(statement: str, **values: Any) -> None:
    with db.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def test_the_page_shows_what_waits_and_where_the_broker_is_but_not_its_password(
    client: FlaskClient,
) -> None:
    commit()
    page = client.get("/ship/sync/")
    assert page.status_code == 200
    assert "Synchronisation" in page.text
    assert "secret" not in page.text
    assert 'href="/ship/sync/changes?state=pending"' in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert page.headers["Cache-Control"] == "no-store"


def test_a_poll_is_told_only_what_has_changed(client: FlaskClient) -> None:
    first = client.get("/ship/sync/live").get_json()
    assert {"link", "counts", "outages", "owner", "followers", "catchups"} <= set(first["parts"])
    same = client.get("/ship/sync/live", query_string=first["digests"]).get_json()
    # the owner, which begins with the first request, may have been elected in between
    assert {"counts", "followers", "catchups", "attention"} & set(same["parts"]) == set()
    commit()
    news = client.get("/ship/sync/live", query_string=first["digests"]).get_json()
    assert "counts" in news["parts"]
    assert news["depth"] == 1


@pytest.mark.parametrize(("known", "shown"), [(-1, None), (0, None), (5, 5)])
def test_a_log_is_said_to_be_complete_since_the_time_at_which_it_began_with_rows(
    app: Flask, known: int, shown: int | None
) -> None:
    execute(
        "INSERT INTO arus_session (id, epoch, vessel_id, complete_since) VALUES (1, 'e', 'v', :known)",
        known=known,
    )
    with db.engine.connect() as connection:
        assert read_counts(connection).complete_since == shown


def test_charts_get_the_samples_from_where_they_end(client: FlaskClient) -> None:
    minute = now_ms() // 60_000 * 60_000
    for ago, depth, published in ((5, 3, 0), (2, 1, 2), (0, 0, 1)):
        execute(
            "INSERT INTO arus_sample (minute, depth, published) VALUES (:m, :d, :p)",
            m=minute - ago * 60_000,
            d=depth,
            p=published,
        )
    everything = client.get("/ship/sync/live").get_json()["samples"]
    # the owner of this process may have written the minute that runs
    assert everything[:2] == [[minute - 300_000, 3, 0], [minute - 120_000, 1, 2]]
    later = client.get(f"/ship/sync/live?after={minute}").get_json()["samples"]
    assert [sample[0] for sample in later] == [
        sample[0] for sample in everything if sample[0] >= minute
    ]
    assert client.get("/ship/sync/live?after=-1").status_code == 200
    assert client.get("/ship/sync/live?after=x%00").status_code == 200


def test_the_lists_show_what_was_counted(client: FlaskClient) -> None:
    quarantined, pending = commit("A"), commit("B")
    quarantine(quarantined)
    listed = client.get("/ship/sync/changes?state=quarantined")
    assert quarantined in listed.text
    assert pending not in listed.text
    both = client.get("/ship/sync/changes?entity=hulls")
    assert quarantined in both.text
    assert pending in both.text
    assert "No such changes" in client.get("/ship/sync/changes?entity=parts").text
    assert client.get("/ship/sync/changes?entity=masts").status_code == 404
    assert client.get("/ship/sync/changes?state=x&cursor=%F0").status_code == 200


def test_a_long_list_is_paged(client: FlaskClient) -> None:
    ids = [commit(str(number)) for number in range(60)]
    first = client.get("/ship/sync/changes?state=pending&state=in_flight")
    assert ids[-1] in first.text
    assert ids[0] not in first.text
    (older,) = [line for line in first.text.splitlines() if 'rel="next"' in line]
    address = older.split('href="')[-1].split('"')[0].replace("&amp;", "&")
    assert ids[0] in client.get(address).text


def test_a_change_is_shown_with_its_row_and_its_way(client: FlaskClient) -> None:
    message_id = commit("<script>alert(1)</script>")
    page = client.get(f"/ship/sync/changes/{message_id}")
    assert page.status_code == 200
    assert "&lt;script&gt;" in page.text
    assert "<script>alert" not in page.text
    assert "committed" in page.text
    assert "no follower has reported yet" in page.text
    assert client.get("/ship/sync/changes/no-such").status_code == 404
    assert client.get("/ship/sync/changes/%00%ff").status_code == 404


def test_a_follower_tells_that_it_has_applied_a_change(client: FlaskClient) -> None:
    message_id = commit()
    execute("DELETE FROM arus_lane")
    execute("DELETE FROM arus_session")
    execute(
        "UPDATE arus_change SET seq = 5, previous_seq = 0 WHERE message_id = :id", id=message_id
    )
    execute(
        "INSERT INTO arus_lane (topic, head_seq, sent_seq, acked_seq) VALUES ('hulls', 5, 5, 5)"
    )
    execute(
        "INSERT INTO arus_session (id, epoch, vessel_id, head_seq) VALUES (1, 'now', 'ship', 5)"
    )
    for name, epoch, seq in (("shore", "now", 5), ("office", "now", 4), ("museum", "then", 9)):
        execute(
            "INSERT INTO arus_follower (name, epoch, seq, received_at) VALUES (:n, :e, :s, :t)",
            n=name,
            e=epoch,
            s=seq,
            t=now_ms(),
        )
    page = client.get(f"/ship/sync/changes/{message_id}").text
    assert "applied by shore" in page
    assert "not applied by office yet" in page
    assert "not applied by museum yet" in page


def test_a_quarantined_change_is_sent_after_all_when_a_person_confirms(client: FlaskClient) -> None:
    message_id = commit()
    quarantine(message_id)
    address = f"/ship/sync/changes/{message_id}"
    assert f'href="{address}/retry"' in client.get(address).text
    asked = client.get(f"{address}/retry")
    assert "Retry this change?" in asked.text
    assert f'action="{address}/retry"' in asked.text
    assert sync.runtime().changes.find(message_id).state == "quarantined"
    done = client.post(f"{address}/retry", headers=HERE)
    assert (done.status_code, done.headers["Location"]) == (303, f"{address}?done=retry")
    assert sync.runtime().changes.find(message_id).state != "quarantined"
    again = client.post(f"{address}/retry", headers=HERE)
    assert again.status_code == 409
    assert "only a quarantined one" in again.text


def test_a_quarantined_change_is_given_up_when_a_person_confirms(client: FlaskClient) -> None:
    message_id = commit()
    quarantine(message_id)
    address = f"/ship/sync/changes/{message_id}/discard"
    assert (
        "can&#39;t be undone" in client.get(address).text
        or "can't be undone" in client.get(address).text
    )
    assert client.post(address, headers=HERE).status_code == 303
    assert sync.runtime().changes.find(message_id).state == "dropped"
    assert client.post("/ship/sync/changes/none/discard", headers=HERE).status_code == 404


def test_a_form_of_another_site_changes_nothing(client: FlaskClient) -> None:
    message_id = commit()
    quarantine(message_id)
    foreign: list[dict[str, str]] = [
        {},
        {"Origin": "http://elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Referer": "http://[", "Origin": ""},
    ]
    for headers in foreign:
        refused = client.post(f"/ship/sync/changes/{message_id}/discard", headers=headers)
        assert refused.status_code == 403, headers
    assert sync.runtime().changes.find(message_id).state == "quarantined"


def test_a_catch_up_is_asked_for_by_its_form(client: FlaskClient) -> None:
    shown = client.get("/ship/sync/").text
    (request_id,) = re.findall(r'name="request" value="([0-9a-f]{32})"', shown)
    form = {"entity": "hulls", "since": "2h", "limit": "7", "request": request_id}
    asked = client.post("/ship/sync/catchup", data=form, headers=HERE)
    assert asked.status_code == 303
    again = client.post("/ship/sync/catchup", data=form, headers=HERE)
    assert again.headers["Location"] == asked.headers["Location"]
    (run,) = sync.runtime().catchups.recent()
    assert run.catchup_id in asked.headers["Location"]
    assert [entity.entity for entity in run.entities] == ["hulls"]
    page = client.get(asked.headers["Location"])
    assert "Catch-up requested." in page.text
    assert run.catchup_id in page.text


def test_what_is_wrong_is_said_at_its_field_and_what_was_typed_stays(client: FlaskClient) -> None:
    wrong: list[tuple[dict[str, str], str]] = [
        ({"entity": "masts"}, "entity"),
        ({"entity": "hulls", "since": "yesterday"}, "since"),
        ({"entity": "hulls", "limit": "-3"}, "limit"),
        ({"entity": "hulls", "limit": "9" * 30}, "limit"),
        ({}, "entity"),
    ]
    for form, field in wrong:
        page = client.post("/ship/sync/catchup", data=form, headers=HERE)
        assert page.status_code == 422, form
        assert f'id="arus-{field}-error"' in page.text, form
        for typed in form.values():
            assert typed == "masts" or f'value="{typed}"' in page.text
    assert sync.runtime().catchups.recent() == []


def test_conflicts_and_parked_messages_are_shown_with_all_that_is_known(
    client: FlaskClient,
) -> None:
    report = {
        "local": {"name": "ours <b>"},
        "remote": {"name": "theirs"},
        "fields": ["name"],
        "origin": "shore",
    }
    execute(
        "INSERT INTO arus_conflict (conflict_id, entity, row_id, winner, rule, at, report)"
        " VALUES ('c1', 'hulls', 'row-1', 'remote', 'version', :at, :report)",
        at=now_ms(),
        report=json.dumps(report).encode(),
    )
    execute(
        "INSERT INTO arus_parked (topic, payload, topic_filter, reason, attempts, parked_at)"
        " VALUES ('a/b', :payload, 'a/+', 'ValueError: no', 5, :at)",
        payload=b"\xff\x00 not JSON",
        at=now_ms(),
    )
    (parked,) = sync.runtime().dead_letters.recent()
    assert "row-1" in client.get("/ship/sync/conflicts").text
    conflict = client.get("/ship/sync/conflicts/c1").text
    assert "ours &lt;b&gt;" in conflict
    assert "theirs" in conflict
    assert client.get("/ship/sync/conflicts/c2").status_code == 404
    assert "a/b" in client.get("/ship/sync/inbox").text
    message = client.get(f"/ship/sync/inbox/{parked.id}").text
    assert "\\xff" in message
    assert client.get(f"/ship/sync/inbox/{2**70}").status_code == 404
    address = f"/ship/sync/inbox/{parked.id}"
    replayed = client.post(f"{address}/replay", headers=HERE)
    assert replayed.status_code == 409
    assert "nobody subscribes" in replayed.text
    assert client.get(f"{address}/discard").status_code == 200
    assert client.post(f"{address}/discard", headers=HERE).status_code == 303
    assert sync.runtime().dead_letters.recent() == []


def test_the_applications_rule_guards_every_page(client: FlaskClient) -> None:
    for path in ("/", "/live", "/changes", "/changes/x", "/conflicts", "/inbox", "/inbox/1"):
        assert client.get(f"/guarded{path}").status_code == 403, path
        sent_away = client.get(f"/door{path}")
        assert (sent_away.status_code, sent_away.headers["Location"]) == (302, "/login"), path


def test_who_satisfies_the_rule_is_let_in(client: FlaskClient) -> None:
    for path in ("/guarded/catchup", "/guarded/changes/x/retry", "/guarded/inbox/1/discard"):
        assert client.post(path, headers=HERE).status_code == 403
    assert client.get("/guarded-api/health").status_code == 403
    with client.session_transaction() as session:
        session["role"] = "engineer"
    assert client.get("/guarded/").status_code == 200
    assert client.get("/door/").status_code == 200
    assert client.get("/guarded-api/health").status_code == 200


def test_files_are_for_everybody(client: FlaskClient) -> None:
    for name in ("arus-sync.css", "arus-sync.js", "vendor/uplot-1.6.32.min.js"):
        answer = client.get(f"/guarded/static/{name}")
        assert answer.status_code == 200
        answer.close()


# --- the API -------------------------------------------------------------------------------------


def test_the_api_tells_what_the_vessels_tells(client: FlaskClient) -> None:
    message_id = commit()
    health = client.get("/ship/api/health").get_json()
    assert health["service"] == "MQTT Reliable Sync Service"
    assert health["mqtt"]["queuedMessages"] == 1
    assert "secret" not in health["mqtt"]["broker"]
    page = client.get("/ship/api/changes?state=pending,in_flight&limit=1").get_json()
    assert [item["messageId"] for item in page["items"]] == [message_id]
    assert page["next"] is None
    one = client.get(f"/ship/api/changes/{message_id}").get_json()
    assert one["data"]["name"] == "Havbris"


def test_pages_of_the_api_follow_each_other(client: FlaskClient) -> None:
    ids = [commit(str(number)) for number in range(5)]
    found, cursor = [], ""
    while True:
        page = client.get(f"/ship/api/changes?limit=2{cursor}").get_json()
        found += [item["messageId"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == ids[::-1]


def test_a_quarantined_change_is_decided_on_over_the_api(client: FlaskClient) -> None:
    first, second = commit("A"), commit("B")
    quarantine(first)
    quarantine(second)
    assert client.post(f"/ship/api/changes/{first}/retry").get_json()["state"] != "quarantined"
    assert client.post(f"/ship/api/changes/{second}/discard").get_json()["state"] == "dropped"
    assert client.post(f"/ship/api/changes/{second}/discard").status_code == 409
    foreign = client.post(
        f"/ship/api/changes/{second}/discard", headers={"Origin": "http://elsewhere.example"}
    )
    assert foreign.status_code == 403


def test_a_catch_up_is_asked_for_and_looked_up_over_the_api(client: FlaskClient) -> None:
    asked = client.post("/ship/api/catchup", json={"entity": "all", "limit": 10})
    assert asked.status_code == 202
    run = client.get(asked.headers["Location"]).get_json()
    assert run["catchupId"] == asked.get_json()["catchupId"]
    assert {entity["entity"] for entity in run["entities"]} == {"hulls", "parts"}


def test_a_bad_request_gets_a_problem_that_says_why(client: FlaskClient) -> None:
    bad: list[tuple[str, str, bytes | None, int]] = [
        ("GET", "/changes?state=lost", None, 422),
        ("GET", "/changes?entity=masts", None, 422),
        ("GET", "/changes?limit=0", None, 422),
        ("GET", "/changes?limit=9999999999", None, 422),
        ("GET", "/changes?cursor=-1", None, 422),
        ("GET", "/changes/none", None, 404),
        ("GET", "/catchup/none", None, 404),
        ("POST", "/catchup", b"{", 400),
        ("POST", "/catchup", b"[]", 422),
        ("POST", "/catchup", b'{"entity": "masts"}', 422),
        ("POST", "/changes/none/retry", None, 404),
    ]
    for method, path, body, status in bad:
        answer = client.open(f"/ship/api{path}", method=method, data=body)
        assert answer.status_code == status, path
        assert answer.content_type == "application/problem+json"
        assert answer.get_json()["detail"]


def test_the_page_speaks_and_counts_as_its_application_does(small_database_url: str) -> None:
    with small_app(small_database_url, LOCAL_MODE="false", SECRET_KEY="x") as app:
        app.jinja_env.globals.update(
            _=lambda text, **values: f"¡{text}!" % values,
            ngettext=lambda _one, many, num, **values: f"¡{many}!" % {"num": num, **values},
            csrf_token=lambda: "a-token",
        )
        app.jinja_env.filters["local_number"] = lambda value: f"#{value}"
        app.register_blueprint(sync_page(allow=lambda _: True))
        page = app.test_client().get("/sync/").text
    assert "<h1>¡Synchronisation!</h1>" in page
    assert "<strong>#0</strong>" in page
    assert 'name="csrf_token" value="a-token"' in page


def test_where_nothing_is_captured_the_page_says_so(small_database_url: str) -> None:
    with small_app(small_database_url, LOCAL_MODE="false", SECRET_KEY="x") as app:
        app.register_blueprint(sync_page(allow=lambda _: True))
        app.register_blueprint(sync_api(allow=lambda _: True))
        client = app.test_client()
        page = client.get("/sync/")
        assert page.status_code == 200
        assert "LOCAL_MODE is false" in page.text
        refused = client.post("/sync/catchup", data={"entity": "all"}, headers=HERE)
        assert refused.status_code == 422
        assert "not a vessel" in refused.text
        assert client.post("/api/sync/catchup", json={"entity": "all"}).status_code == 409
        with pytest.raises(UnknownChangeError):
            sync.runtime().changes.find("none")


def test_the_rule_is_asked_about_the_action(small_database_url: str) -> None:
    asked: list[str] = []

    def refuse(action: Action) -> bool:
        asked.append(action)
        return False

    with small_app(small_database_url, LOCAL_MODE="false", SECRET_KEY="x") as app:
        app.register_blueprint(sync_page(allow=refuse), url_prefix="/p")
        app.register_blueprint(sync_api(allow=refuse), url_prefix="/a")
        client = app.test_client()
        wanted = {
            "GET /p/": "view",
            "GET /p/live": "view",
            "GET /p/changes/m": "view",
            "GET /p/changes/m/retry": "decide",
            "POST /p/changes/m/discard": "decide",
            "POST /p/inbox/1/replay": "decide",
            "POST /p/catchup": "catchup",
            "GET /a/changes": "view",
            "POST /a/changes/m/retry": "decide",
            "POST /a/catchup": "catchup",
            "GET /a/catchup/c": "view",
            "GET /a/health": "health",
        }
        for request in wanted:
            method, address = request.split()
            assert client.open(address, method=method).status_code == 403
    assert asked == list(wanted.values())


def test_without_a_rule_only_debug_mode_opens_it(small_database_url: str) -> None:
    with small_app(small_database_url, LOCAL_MODE="false", SECRET_KEY="x") as app:
        app.register_blueprint(sync_page())
        app.register_blueprint(sync_api(), url_prefix="/a")
        client = app.test_client()
        assert client.get("/sync/").status_code == 403
        assert "allow=" in client.get("/a/health").get_json()["detail"]
        app.debug = True
        assert client.get("/sync/").status_code == 200
        assert client.get("/a/health").status_code == 200


def test_a_rule_need_not_look_at_the_action(small_database_url: str) -> None:
    with small_app(small_database_url, LOCAL_MODE="false", SECRET_KEY="x") as app:
        app.register_blueprint(sync_page(allow=lambda: True))
        app.register_blueprint(sync_api(allow=lambda: False), url_prefix="/a")
        client = app.test_client()
        assert client.get("/sync/").status_code == 200
        assert client.get("/a/health").status_code == 403
