"""What each request meets first: the host it is for, headers for programs, bounded metrics, keys of one's own."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from blueprints.access import tokens
from extensions.config import host_names, own_names
from tests.support.gunicorn_app import ROOT, GunicornApp, clean_environment

StartApp = Callable[..., GunicornApp]


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """None of this depends on the database."""
    return str(request.param)


@pytest.fixture
def named_app(make_app: Callable[..., Flask], migrated_database_url: str) -> Flask:
    """The app, known as ship-host."""
    return make_app(migrated_database_url, TRUSTED_HOSTS="Ship-Host, localhost")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("ship-host", 200),
        ("SHIP-HOST.:8000", 200),
        ("127.0.0.1:8000", 200),
        ("10.1.2.3", 200),
        ("[fe80::1]:8000", 200),
        ("evil.example", 421),
        ("ship-host.evil.example", 421),
        ("localhost@evil.example", 421),
        ("evil.example/localhost", 421),
        ("", 421),
    ],
)
def test_requests_for_other_hosts_are_refused(named_app: Flask, host: str, status: int) -> None:
    client = named_app.test_client()
    for path in ("/", "/api/crew", "/healthz", "/no-such-page", "/ui/static/app.css"):
        answer = client.get(path, headers={"Host": host})
        answer.close()
        found = 404 if status == 200 and path == "/no-such-page" else status
        assert answer.status_code == found, path


def test_a_path_of_double_slashes_leads_nowhere(client: FlaskClient) -> None:
    for path in ("//evil.example", "//evil.example/crew", "/crew//x", "//"):
        answer = client.get("/", environ_overrides={"PATH_INFO": path, "REQUEST_URI": path})
        assert answer.location is None, path
        assert answer.status_code == (200 if path == "//" else 404), path


def test_answers_for_programs_are_not_stored(client: FlaskClient) -> None:
    paths = ("/api/crew", "/api/crew/1", "/api/mqtt/reliable-sync/health", "/metrics", "/healthz")
    for path in (*paths, "/readyz", "/api/openapi.json"):
        headers = client.get(path).headers
        assert headers["Cache-Control"] == "no-store", path
        assert headers["X-Content-Type-Options"] == "nosniff", path


@pytest.mark.slow
def test_metrics_have_no_series_for_what_clients_invent(client: FlaskClient) -> None:
    client.get("/api/crew")
    client.get("/nothing")
    before = client.get("/metrics").text
    for number in range(20):
        client.open("/api/crew", method=f"INVENTED{number}")
        client.open("/", method=f"INVENTED{number}", headers={"Host": "elsewhere.example"})
        client.get(f"/nothing/{number}")
        client.get("/api/crew", query_string={f"field{number}": "x"})
    after = client.get("/metrics").text
    grown = {line.partition(" ")[0] for line in after.splitlines()} - {
        line.partition(" ")[0] for line in before.splitlines()
    }
    assert "INVENTED" not in after
    assert len(grown) < 40, grown  # the histogram of one new status


def test_an_idempotency_key_is_its_callers_own(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, ACCESS="login")
    client = app.test_client()
    with app.app_context():
        sent = [
            {"Authorization": f"Bearer {tokens.issue(name, ['write'], 'test')[1]}"} for name in "ab"
        ]
    ids = [
        client.post(
            "/api/crew", json={"name": "Ada"}, headers={**who, "Idempotency-Key": "one"}
        ).get_json()["id"]
        for who in (sent[0], sent[1], sent[0])
    ]
    assert ids[0] == ids[2] != ids[1]


def test_files_are_for_their_user_alone_whatever_the_umask_is(
    start_app: StartApp, tmp_path: Path
) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    settings = {
        "DATABASE_URL": f"sqlite:///{directory}/ship.sqlite",
        "SECRET_KEY": "for-tests-only-and-long-enough",
        "ACCESS": "login",
    }
    before = os.umask(0)
    try:
        subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"],
            cwd=ROOT,
            env=clean_environment(**settings),
            check=True,
            capture_output=True,
        )
        app = start_app(settings=settings)
        app.wait_connected()
    finally:
        os.umask(before)
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in directory.rglob("*")}
    assert len(found) > 4
    assert {path.name: oct(mode) for path, mode in found.items() if mode & 0o077} == {}
    # Nobody is trusted as a proxy: what a client says about TLS is not believed, not even on this machine.
    kind = {"Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-Proto": "https"}
    kind["Origin"] = f"http://127.0.0.1:{app.port}"
    answer = app.request("POST", "/login", b"name=Ada&password=a+long+password", kind)
    assert answer.status == 303
    assert "Secure" not in answer.headers["Set-Cookie"]


@pytest.mark.slow
def test_an_address_that_others_reach_needs_to_be_decided_on(tmp_path: Path) -> None:
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite",
        "SECRET_KEY": "for-tests-only-and-long-enough",
    }
    gunicorn = [str(Path(sys.executable).with_name("gunicorn")), "wsgi:app"]
    for args, more in (([], {"HOST": "192.0.2.1"}), (["--bind", "192.0.2.1:8000"], {})):
        done = subprocess.run(
            [*gunicorn, *args],
            cwd=ROOT,
            env=clean_environment(**settings, **more),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        line = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert line == [
            "error: ACCESS is not set; it takes trusted or login, because 192.0.2.1 is not a loopback address"
        ]
        assert "Listening" not in done.stderr


@pytest.mark.parametrize("name", ["", "ship one", "-", "Ship-1.example."])
def test_a_machine_with_any_name_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    names = host_names(own_names())
    assert "localhost" in names
    assert names <= {"localhost", "ship-1.example", "ship-1", "ship-1.local"}
