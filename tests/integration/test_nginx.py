"""The vessel behind nginx with the file of deploy/nginx."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.certificates import Certificates
from tests.support.gunicorn_app import GunicornApp
from tests.support.nginx import Nginx
from tests.support.waiting import PATIENCE

StartApp = Callable[..., GunicornApp]
CLIENTS = 35  # deploy/nginx lets one address have 40


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """None of this depends on the database."""
    return str(request.param)


@pytest.fixture
def app(start_app: StartApp) -> GunicornApp:
    """The app where people log in, as deploy/nginx says it."""
    return start_app(
        settings={"TRUSTED_PROXIES": "1", "ACCESS": "login", "TRUSTED_HOSTS": "localhost"}
    )


@pytest.fixture
def nginx(app: GunicornApp, tmp_path: Path) -> Iterator[Nginx]:
    """nginx in front of it."""
    certificates = Certificates.make(tmp_path / "certificates")
    with Nginx(tmp_path / "nginx", app.port, certificates) as server:
        yield server


@pytest.fixture
def tls(tmp_path: Path, nginx: Nginx) -> ssl.SSLContext:
    """What trusts its certificate."""
    assert nginx.running
    return ssl.create_default_context(cafile=str(tmp_path / "certificates" / "ca.pem"))


def ask(
    nginx: Nginx, tls: ssl.SSLContext, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """One request."""
    connection = http.client.HTTPSConnection("localhost", nginx.port, context=tls, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body or None, names)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def test_the_app_knows_its_clients_through_the_proxy(nginx: Nginx, tls: ssl.SSLContext) -> None:
    assert ask(nginx, tls, "GET", "/healthz")[0] == 200
    # The client comes from loopback here, so the first administrator may be added; a forged address changes nothing.
    form = b"name=Ada&password=a+long+password"
    kind = {"Content_Type": "application/x-www-form-urlencoded", "Origin": "https://localhost"}
    status, page, headers = ask(
        nginx, tls, "POST", "/login", form, X_Forwarded_For="192.0.2.1", **kind
    )
    assert status == 303, page
    assert "Secure" in headers["Set-Cookie"]
    status, page, headers = ask(nginx, tls, "GET", "/crew", X_Forwarded_Prefix="/evil")
    assert (status, headers["Location"]) == (303, "/login?next=/crew")


def test_a_request_for_another_host_is_refused(nginx: Nginx, tls: ssl.SSLContext) -> None:
    status, body, _ = ask(nginx, tls, "GET", "/healthz", Host="evil.example")
    assert status == 421, body


def test_a_large_body_is_refused(nginx: Nginx, tls: ssl.SSLContext) -> None:
    assert ask(nginx, tls, "POST", "/api/crew", b"x" * 1_100_000)[0] == 413
    assert ask(nginx, tls, "GET", "/healthz", X_Long="x" * 40_000)[0] == 400


def test_clients_that_never_finish_hold_up_nobody(
    app: GunicornApp, nginx: Nginx, tls: ssl.SSLContext
) -> None:
    owner, workers = app.wait_connected(), app.worker_pids()
    with ExitStack() as stack:
        for number in range(CLIENTS):
            plain = stack.enter_context(socket.create_connection(("localhost", nginx.port)))
            client = stack.enter_context(tls.wrap_socket(plain, server_hostname="localhost"))
            half = b"POST /api/crew HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            client.sendall(half + (b"\r\n{" if number % 2 else b""))
        for _ in range(20):
            began = time.monotonic()
            status, body, _headers = ask(nginx, tls, "GET", "/healthz")
            assert (status, json.loads(body)) == (200, {"status": "ok"})
            assert time.monotonic() - began < PATIENCE
    assert (app.owner_pid(), app.worker_pids()) == (owner, workers)
