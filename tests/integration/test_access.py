"""Who may do what, with ACCESS=login: each endpoint, asked by each kind of person and program."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule as Route
from werkzeug.security import generate_password_hash

from arus.web.access import SAFE_METHODS
from blueprints.access import people, tokens
from blueprints.access.models import User
from blueprints.access.rights import ROLES, SCOPES, Right
from blueprints.access.rules import RULES, missing
from extensions import db, limiter
from extensions.database import utcnow

PASSWORD = "a long password"
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}
FROM_PAGE = {"Origin": "http://localhost"}
#: What each may do by the contract, section 3: written down again, not read from the rules.
MAY = {
    "nobody": "",
    "crew": "read report own",
    "engineer": "read report own write sync",
    "administrator": "read report own write sync metrics decide administer",
    "token:read": "read",
    "token:write": "report write",
    "token:sync": "sync",
    "token:metrics": "metrics",
}
READERS = {"read"}
WRITERS = {"write"}
#: Endpoints whose right depends on what they are asked for, and the others' exceptions.
OPEN = {"health.healthz", "health.readyz", "access.login"}
VALUES = {"kind": "work-orders", "verb": "complete", "action": "discard", "message_id": "none"}


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Who may do what does not depend on the database."""
    return str(request.param)


@pytest.fixture
def login_app(make_app: Callable[..., Flask], migrated_database_url: str) -> Flask:
    """The app where people log in."""
    app = make_app(migrated_database_url, ACCESS="login")
    with app.app_context():
        for role in ROLES:
            db.session.add(
                User(name=role, key=people.key_of(role), role=role, password=hashed_password())
            )
        db.session.commit()
        limiter.reset()
    return app


@cache
def hashed_password() -> str:
    """The hash of `PASSWORD`, which takes a tenth of a second to make."""
    return generate_password_hash(PASSWORD, "scrypt")


def logged_in(app: Flask, name: str) -> FlaskClient:
    """A browser in which somebody has logged in."""
    browser = app.test_client()
    form = {"name": name, "password": PASSWORD}
    assert browser.post("/login", data=form, headers=FROM_PAGE).status_code == 303
    return browser


def asker(app: Flask, who: str) -> tuple[FlaskClient, dict[str, str]]:
    """A client, and the headers that it sends."""
    if who == "nobody":
        return app.test_client(), {}
    kind, _colon, scope = who.partition(":")
    if kind == "token":
        with app.app_context():
            _token, text = tokens.issue(who, [scope], "test")
        return app.test_client(), {"Authorization": f"Bearer {text}"}
    return logged_in(app, who), {}


def id_of(app: Flask, name: str) -> str:
    """The id of somebody."""
    with app.app_context():
        user = people.find(name)
        assert user is not None
        return user.id


def addresses(app: Flask, text: str = "1") -> Iterator[tuple[Route, str, str]]:
    """Each route with each of its methods and an address, which has `text` where any text may be."""
    adapter = app.url_map.bind("localhost")
    for route in app.url_map.iter_rules():
        if route.endpoint.endswith("static"):
            continue
        values = {
            name: VALUES.get(name, text if f"<{name}>" in route.rule else "1")
            for name in route.arguments
        }
        if route.endpoint == "access.change_user":
            values["action"] = "disable"
        for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"}):
            yield route, method, adapter.build(route.endpoint, values)


def wanted(endpoint: str, method: str) -> set[str]:
    """The rights of which one is needed; none: everybody may."""
    reads = method in SAFE_METHODS
    blueprint, _dot, name = endpoint.partition(".")
    if endpoint in OPEN:
        return set()
    if endpoint in {"health.scrape", "sync_api.health"}:
        return {"metrics"}
    own = name in {"logout", "account", "save_filter", "remove_filter"}
    if own or blueprint == "access":
        return {"own"} if own else {"administer"}
    if blueprint == "sync_api":
        return {"read", "sync"} if reads else {"sync"} if name == "request_catchup" else {"decide"}
    if blueprint == "arus_sync":
        if name == "ask":
            return {"sync"}
        return {"decide"} if not reads or name.startswith("decide") else {"read"}
    if name in {"acknowledge_alert", "create_work_order", "answer_who", "new_row", "create_row"}:
        return {"report"}
    if name == "rows" and not reads:
        return {"report"} if blueprint in {"work_orders", "alerts"} else {"write"}
    if name in {"edit_row", "delete_row", "act", "tick", "enter_hours"} or (
        name == "row" and not reads
    ):
        return {"write"}
    return {"read"}


@pytest.mark.slow
@pytest.mark.parametrize("who", MAY)
def test_each_endpoint_is_for_those_who_may(login_app: Flask, who: str) -> None:
    client, headers = asker(login_app, who)
    checked = 0
    for route, method, address in addresses(login_app):
        if route.endpoint == "access.logout" and who != "nobody":
            continue  # it works, and would end the session of those that follow
        may = set(MAY[who].split())
        rights = wanted(route.endpoint, method)
        answer = client.open(
            address,
            method=method,
            headers={**headers, **FROM_PAGE},
            environ_base=ELSEWHERE,
            json={} if address.startswith("/api/") and method != "GET" else None,
        )
        to_login = answer.status_code == 303 and "/login" in answer.location
        refused = answer.status_code in {401, 403} or to_login
        if route.endpoint == "access.login":
            refused = answer.status_code == 401
        assert refused is not (not rights or bool(rights & may)), (method, address, answer.status)
        if refused:
            assert (answer.status_code == 403) is (who != "nobody"), (method, address)
        checked += 1
    assert checked > 50


def test_every_endpoint_has_a_rule(app: Flask) -> None:
    assert missing(app) == []
    assert set(RULES) - set(app.view_functions) == set()


def test_an_endpoint_without_a_rule_is_refused(login_app: Flask) -> None:
    login_app.debug = True
    login_app.view_functions["new"] = lambda: "secret"
    login_app.url_map.add(Route("/new", endpoint="new"))
    assert logged_in(login_app, "administrator").get("/new").status_code == 403


def test_crew_report_and_no_more(login_app: Flask) -> None:
    crew = logged_in(login_app, "crew")
    for slug, status in {"work-orders": 200, "alerts": 200, "crew": 403, "equipment": 403}.items():
        assert crew.get(f"/{slug}/new").status_code == status, slug
    assert crew.post("/ui/equipment", headers=FROM_PAGE).status_code == 403
    assert crew.get("/work-orders/1/edit").status_code == 403


def test_crew_raise_the_order_of_a_schedule_and_do_not_say_that_it_is_done(
    login_app: Flask,
) -> None:
    crew, engineer = logged_in(login_app, "crew"), logged_in(login_app, "engineer")
    pump = engineer.post("/api/equipment", json={"name": "Pump", "type": "pump"}).get_json()["id"]
    schedule = engineer.post(
        "/api/maintenance-schedules",
        json={"equipmentId": pump, "scheduledDate": "2026-12-01", "maintenanceType": "oil"},
    ).get_json()["id"]
    order = {"equipmentId": pump, "reason": "oil", "scheduleId": schedule}

    def status() -> str:
        path = f"/api/maintenance-schedules/{schedule}"
        return str(engineer.get(path).get_json()["status"])

    for over in ("completed", "cancelled"):
        refused = crew.post("/api/work-orders", json={**order, "status": over})
        assert refused.status_code == 403
        assert "Only who may change schedules" in refused.get_json()["detail"]
        path = f"/api/maintenance-schedules/{schedule}/work-order"
        assert crew.post(path, json={"status": over}).status_code == 403
    assert crew.get("/api/work-orders").get_json()["items"] == []
    assert crew.post("/api/work-orders", json=order).status_code == 201
    assert status() == "scheduled"
    assert (
        engineer.post("/api/work-orders", json={**order, "status": "completed"}).status_code == 201
    )
    assert status() == "completed"


def test_two_people_raise_one_work_order_from_an_alert(login_app: Flask) -> None:
    crew, engineer = logged_in(login_app, "crew"), logged_in(login_app, "engineer")
    pump = engineer.post("/api/equipment", json={"name": "Pump", "type": "pump"}).get_json()["id"]
    alert = {
        "equipmentId": pump,
        "sensorType": "temperature",
        "alertType": "warning",
        "message": "hot",
        "value": 9,
        "threshold": 8,
    }
    path = f"/alerts/{crew.post('/api/alerts', json=alert).get_json()['id']}/work-order"
    first, second = (each.post(path, headers=FROM_PAGE) for each in (crew, engineer))
    assert first.status_code == second.status_code == 303
    assert first.location == second.location
    assert len(crew.get("/api/work-orders").get_json()["items"]) == 1


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
def test_a_nul_in_an_address_or_a_form_is_refused_by_either_database(login_app: Flask) -> None:
    login_app.config["PROPAGATE_EXCEPTIONS"] = False
    browser = logged_in(login_app, "administrator")
    for _route, method, address in addresses(login_app, "\0"):
        if "%00" in address:
            answer = browser.open(address, method=method, headers=FROM_PAGE, json={})
            assert answer.status_code == 404, (method, address)
    for route, method, address in addresses(login_app):
        if method == "GET":
            answer = browser.get(f"{address}?q=%00")
            assert answer.status_code == 422, address
        elif not address.startswith("/api/") and route.endpoint != "access.logout":
            answer = browser.post(address, data={"name": "a\0"}, headers=FROM_PAGE)
            assert answer.status_code == 422, address
            assert "NUL" in answer.text


def test_where_nobody_logs_in_everybody_may(client: FlaskClient) -> None:
    assert client.get("/", environ_base=ELSEWHERE).status_code == 200
    assert client.post("/api/crew", json={"name": "Ada"}).status_code == 201
    assert client.get("/metrics", environ_base=ELSEWHERE).status_code == 200


def test_a_supervisor_on_board_needs_no_token(login_app: Flask) -> None:
    client = login_app.test_client()
    for address in ("/metrics", "/api/mqtt/reliable-sync/health"):
        assert client.get(address).status_code == 200
        refused = client.get(address, environ_base=ELSEWHERE)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")


# -- logging in ---------------------------------------------------------------------------------


def test_a_page_leads_to_the_login_and_back(login_app: Flask) -> None:
    client = login_app.test_client()
    answer = client.get("/crew?q=ada")
    assert answer.location == "/login?next=/crew?q%3Dada"
    form = {"name": " ENGINEER", "password": PASSWORD, "next": "/crew?q=ada"}
    answer = client.post("/login", data=form, headers=FROM_PAGE)
    assert (answer.status_code, answer.location) == (303, "/crew?q=ada")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    answer = client.post(
        "/login", data=form, headers={"Origin": "https://localhost"}, base_url="https://localhost"
    )
    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "address",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:x",
    ],
)
def test_the_login_leads_nowhere_else(login_app: Flask, address: str) -> None:
    form = {"name": "crew", "password": PASSWORD, "next": address}
    answer = login_app.test_client().post("/login", data=form, headers=FROM_PAGE)
    assert answer.location == "/"


def test_what_was_typed_is_kept_when_the_session_has_ended(login_app: Flask) -> None:
    client = login_app.test_client()
    typed = {"name": 'Pump "1"', "type": "pump", "idempotency_key": "k-1"}
    page = client.post("/equipment/new", data=typed, headers=FROM_PAGE)
    assert page.status_code == 401
    form = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    form = {name: value.replace("&#34;", '"') for name, value in form.items()}
    page = client.post(
        "/login", data={**form, "name": "engineer", "password": PASSWORD}, headers=FROM_PAGE
    )
    assert 'action="/equipment/new"' in page.text
    sent = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    sent = {name: value.replace("&#34;", '"') for name, value in sent.items()}
    assert {name: sent[name] for name in typed} == typed
    assert client.post("/equipment/new", data=sent, headers=FROM_PAGE).status_code == 303
    rows = client.get("/api/equipment").get_json()["items"]
    assert [row["name"] for row in rows] == ['Pump "1"']


def test_a_form_of_another_site_is_not_kept(login_app: Flask) -> None:
    client = login_app.test_client()
    form = {"name": "Forged", "type": "pump"}
    answer = client.post("/equipment/new", data=form, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "Forged" not in answer.text


def test_a_session_ends_with_its_idle_time(login_app: Flask) -> None:
    client = logged_in(login_app, "crew")
    login_app.config["SESSION_IDLE_TIME"] = 1
    with client.session_transaction() as session:
        session["seen"] -= 59
    assert client.get("/").status_code == 200
    with client.session_transaction() as session:
        session["seen"] -= 3
    assert client.post("/ui/refresh", headers=FROM_PAGE).status_code == 401
    assert client.get("/").status_code == 303


def test_a_page_that_only_polls_does_not_prolong_the_session(login_app: Flask) -> None:
    client = logged_in(login_app, "crew")
    with client.session_transaction() as session:
        session["seen"] -= 100
        seen = session["seen"]
    client.post("/ui/refresh", headers=FROM_PAGE)
    with client.session_transaction() as session:
        assert session["seen"] == seen
    client.get("/")
    with client.session_transaction() as session:
        assert session["seen"] > seen


@pytest.mark.slow
def test_a_new_password_ends_the_other_sessions(login_app: Flask) -> None:
    other, own = logged_in(login_app, "crew"), logged_in(login_app, "crew")
    form = {"old": "wrong", "password": "another password"}
    assert own.post("/account", data=form, headers=FROM_PAGE).status_code == 422
    form["old"] = PASSWORD
    assert own.post("/account", data=form, headers=FROM_PAGE).status_code == 303
    assert own.get("/").status_code == 200
    assert other.get("/").status_code == 303


@pytest.mark.slow
def test_a_disabled_person_is_out_at_once(login_app: Flask) -> None:
    crew, administrator = logged_in(login_app, "crew"), logged_in(login_app, "administrator")
    answer = administrator.post(f"/users/{id_of(login_app, 'crew')}/disable", headers=FROM_PAGE)
    assert answer.status_code == 303
    assert crew.get("/").status_code == 303
    form = {"name": "crew", "password": PASSWORD}
    assert login_app.test_client().post("/login", data=form, headers=FROM_PAGE).status_code == 403


@pytest.mark.slow
def test_somebody_is_left_to_administer(login_app: Flask) -> None:
    administrator = logged_in(login_app, "administrator")
    own_id = id_of(login_app, "administrator")
    for action, form in (("disable", {}), ("role", {"role": "crew"})):
        answer = administrator.post(f"/users/{own_id}/{action}", data=form, headers=FROM_PAGE)
        assert answer.status_code == 422
        assert "Nobody else is an administrator." in answer.text


@pytest.mark.slow
def test_guessing_is_limited_by_name_and_by_address(login_app: Flask) -> None:
    client = login_app.test_client()

    def attempt(name: str, address: str) -> int:
        form = {"name": name, "password": "guess"}
        return client.post(
            "/login", data=form, headers=FROM_PAGE, environ_base={"REMOTE_ADDR": address}
        ).status_code

    assert [attempt("crew", f"192.0.2.{n}") for n in range(7)] == [403] * 5 + [429] * 2
    assert [attempt(f"n{n}", "192.0.2.99") for n in range(22)] == [403] * 20 + [429] * 2


def test_the_password_of_nobody_is_compared_at_the_cost_of_anybody_s() -> None:
    method, salt, digest = people.OF_NOBODY.split("$")
    mine = generate_password_hash("a long password", "scrypt").split("$")
    assert (method, len(salt), len(digest)) == (mine[0], len(mine[1]), len(mine[2]))


@pytest.mark.slow
def test_the_first_administrator_is_added_on_the_machine_itself(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, ACCESS="login")
    form = {"name": "Ada", "password": PASSWORD}
    client = app.test_client()
    away: Any = {"headers": FROM_PAGE, "environ_base": ELSEWHERE}
    assert client.post("/login", data=form, **away).status_code == 403
    assert (
        client.post("/login", data={**form, "password": "short"}, headers=FROM_PAGE).status_code
        == 422
    )
    assert client.post("/login", data=form, headers=FROM_PAGE).status_code == 303
    assert client.get("/users").status_code == 200
    with app.app_context():
        assert [(user.name, user.role) for user in people.everybody()] == [("Ada", "administrator")]
    second = {"name": "Eve", "password": PASSWORD}
    assert app.test_client().post("/login", data=second, headers=FROM_PAGE).status_code == 403


def test_names_are_compared_as_people_do(login_app: Flask) -> None:
    with login_app.app_context():
        people.add("Åse Ørsted", "crew", PASSWORD)
        assert people.recognise("A\u030ase ørsted ", PASSWORD) is not None


# -- tokens -------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_stored_hashed(login_app: Flask) -> None:
    administrator = logged_in(login_app, "administrator")
    form = {"name": "shore", "scope": ["read", "sync"], "expires": "2099-01-31"}
    page = administrator.post("/tokens", data=form, headers=FROM_PAGE)
    found = re.search(r"arus_[\w-]{43}", page.text)
    assert found is not None
    assert found[0] not in administrator.get("/tokens").text
    with login_app.app_context():
        stored = [str(row) for row in db.session.execute(db.text("SELECT * FROM access_tokens"))]
    assert found[0] not in "".join(stored)
    headers = {"Authorization": f"Bearer {found[0]}"}
    client = login_app.test_client()
    assert client.get("/api/crew", headers=headers).status_code == 200
    with login_app.app_context():
        token = tokens.every()[0]
    assert (token.scopes, token.created_by) == ("read sync", "user:administrator")
    assert token.used_at is not None
    administrator.post(f"/tokens/{token.id}/revoke", headers=FROM_PAGE)
    assert client.get("/api/crew", headers=headers).status_code == 401


def test_a_token_reads_where_its_use_cannot_be_noted(
    login_app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    client, headers = asker(login_app, "token:read")
    with login_app.app_context():
        db.session.execute(
            db.text(
                "CREATE TRIGGER full_disk BEFORE UPDATE OF used_at ON access_tokens"
                " BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
        )
        db.session.commit()
    assert client.get("/api/crew", headers=headers).status_code == 200
    assert "the use of the token token:read can't be noted" in caplog.text
    with login_app.app_context():
        assert tokens.every()[0].used_at is None


def test_a_token_may_be_for_the_last_day_of_the_calendar_but_one(login_app: Flask) -> None:
    administrator = logged_in(login_app, "administrator")
    form = {"name": "shore", "scope": ["read"], "expires": "9999-12-31"}
    assert administrator.post("/tokens", data=form, headers=FROM_PAGE).status_code == 422
    page = administrator.post("/tokens", data={**form, "expires": "9999-12-30"}, headers=FROM_PAGE)
    assert re.search(r"arus_[\w-]{43}", page.text)


def test_behind_a_prefix_the_login_leads_back_into_the_application(login_app: Flask) -> None:
    answer = login_app.test_client().get("/crew?q=ada", base_url="http://localhost/ship/vessel")
    assert answer.location == "/ship/vessel/login?next=/ship/vessel/crew?q%3Dada"


def test_a_token_ends_with_its_time(login_app: Flask) -> None:
    with login_app.app_context():
        _token, text = tokens.issue("old", ["read"], "test", utcnow() + timedelta(days=1))
    headers = {"Authorization": f"Bearer {text}"}
    client = login_app.test_client()
    assert client.get("/api/crew", headers=headers).status_code == 200
    with login_app.app_context():
        tokens.every()[0].expires_at = utcnow() - timedelta(seconds=1)
        db.session.commit()
    assert client.get("/api/crew", headers=headers).status_code == 401


@pytest.mark.slow
def test_the_commands_manage_people_and_tokens(login_app: Flask) -> None:
    run = login_app.test_cli_runner().invoke

    def recognises(password: str) -> bool:
        with login_app.app_context():
            return people.recognise("Bo", password) is not None

    def said(*args: str) -> str:
        result = run(args=list(args))
        assert result.exit_code == 0, result.output
        return result.output

    added = said("user", "add", "Bo", "--role", "engineer", "--password", PASSWORD)
    assert added == "Bo was added: engineer\n"
    assert "Bo  engineer  enabled  last seen never" in said("user", "list")
    said("user", "password", "bo", "--password", "another password")
    assert recognises("another password")
    said("user", "disable", "Bo")
    assert not recognises("another password")
    refused = run(args=["user", "add", "bo", "--password", PASSWORD])
    assert (refused.exit_code, refused.output) == (
        1,
        "Error: There is somebody with this name already.\n",
    )
    text = said("token", "add", "shore", "--scope", "read", "--expires", "90d").strip()
    headers = {"Authorization": f"Bearer {text}"}
    assert login_app.test_client().get("/api/crew", headers=headers).status_code == 200
    assert "shore  read  valid" in said("token", "list")
    said("token", "revoke", "shore")
    assert login_app.test_client().get("/api/crew", headers=headers).status_code == 401


def test_roles_and_scopes_are_those_of_the_contract() -> None:
    assert {name: " ".join(sorted(rights)) for name, rights in {**ROLES}.items()} == {
        name: " ".join(sorted(MAY[name].split())) for name in ROLES
    }
    assert set(SCOPES) == {"read", "write", "sync", "metrics"}
    assert {right.value for right in Right} == set(MAY["administrator"].split())


def test_the_document_says_what_each_operation_takes(login_app: Flask) -> None:
    client, headers = asker(login_app, "token:read")
    document = client.get("/api/openapi.json", headers=headers).get_json()
    assert set(document["components"]["securitySchemes"]) == {"token", "session"}
    taken = {
        f"{method} {path}": operation.get("security")
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
    }
    assert taken["get /healthz"] is None
    assert taken["get /api/crew"] == [{"token": ["read"]}, {"session": []}]
    assert taken["post /api/alerts"] == [{"token": ["write"]}, {"session": []}]
    assert taken["post /api/mqtt/reliable-sync/catchup"] == [{"token": ["sync"]}, {"session": []}]
    assert taken["post /api/mqtt/reliable-sync/changes/{message_id}/retry"] == [{"session": []}]
    open_to_all = {name for name, security in taken.items() if not security}
    assert open_to_all == {"get /healthz", "get /readyz"}
    assert "401" in document["paths"]["/api/crew"]["get"]["responses"]


def test_where_nobody_logs_in_the_document_asks_for_nothing(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    assert {} in document["paths"]["/api/crew"]["get"]["security"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "shown", "hidden"),
    [
        (
            "crew",
            ["New alert", "New work order"],
            ["New person", "Edit", "Request catch-up", "People"],
        ),
        ("engineer", ["Edit", "Delete"], ["People", "Tokens"]),
        ("administrator", ["Edit", "Delete", "People", "Tokens"], []),
    ],
)
def test_pages_show_what_their_reader_may_do(
    login_app: Flask, who: str, shown: list[str], hidden: list[str]
) -> None:
    engineer, headers = asker(login_app, "token:write")
    row = engineer.post("/api/crew", json={"name": "Ada"}, headers=headers).get_json()
    browser = logged_in(login_app, who)
    pages = "".join(
        re.sub(r"<[^>]+>", " ", browser.get(path).text)
        for path in ("/alerts", "/work-orders", "/crew", f"/crew/{row['id']}", "/sync/")
    )
    assert [text for text in shown if text not in pages] == []
    assert [text for text in hidden if text in pages] == []
