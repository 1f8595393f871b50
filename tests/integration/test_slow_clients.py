"""Clients that send half a request, or a byte now and then, or don't read, take no worker, and not the owner."""

from __future__ import annotations

import re
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from arus.gunicorn.outgoing import Outgoing, Room
from tests.support.gunicorn_app import GunicornApp
from tests.support.waiting import PATIENCE, eventually

StartApp = Callable[..., GunicornApp]

CLIENTS = 50
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /api/equipment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
#: What each sends at once, and what it goes on sending.
HALVES = {
    "nothing": (b"", b""),
    "headers that never end": (GET, b"X-More: 1\r\n"),
    "a body that trickles": (POST + b"Content-Length: 5000\r\n\r\n", b" "),
    "chunks that trickle": (POST + CHUNKED, b"1\r\n \r\n"),
    "half a request behind another": (
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /healthz HTTP/1.1\r\n",
        b"X-More: 1\r\n",
    ),
}
#: More than is accepted, of requests that are not complete, and the status of the answer.
EXCESSES = {
    "a line without end": (b"GET /" + b"x" * 70_000, 414),
    "a header without end": (GET + b"X: " + b"a" * 65_600, 431),
    "headers without end": (GET + b"X: a\r\n" * 12_000, 431),
    "an announced body": (POST + b"Content-Length: 2000000\r\n\r\n", 413),
    "an endless body": (POST + b"Content-Length: %s\r\n\r\n" % (b"9" * 40), 413),
    "an announced body that nobody reads": (GET + b"Content-Length: 2000000\r\n\r\n", 413),
    "a body that waits to be asked for": (
        POST + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n",
        413,
    ),
    "chunks of one byte": (POST + CHUNKED + b"1\r\n \r\n" * 200_000, 413),
    "one chunk": (POST + CHUNKED + b"fffffff\r\n" + b" " * 1_200_000, 413),
    "a body behind another request": (
        GET + b"\r\n" + POST + b"Content-Length: 2000000\r\n\r\n",
        413,
    ),
}
#: Whole requests whose connection ends with the answer, if the client does not keep it open.
LAST = {
    "the last request": (GET + b"Connection: close\r\n\r\n", 200),
    "a request of HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", 200),
    "no request": (b"?\r\n\r\n", 400),
}


class Slow:
    """Clients that never finish a request."""

    def __init__(self, port: int) -> None:
        kinds = list(HALVES.values())
        self.clients = []
        for number in range(CLIENTS):
            first, more = kinds[number % len(kinds)]
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(first)
            self.clients.append((client, more))

    def trickle(self) -> None:
        """Each sends a little more."""
        for client, more in self.clients:
            client.sendall(more)

    def close(self) -> None:
        """Go away."""
        for client, _ in self.clients:
            client.close()


@pytest.fixture
def app(start_app: StartApp) -> GunicornApp:
    """The app with the default settings of its server, which takes a worker for dead after two seconds."""
    app = start_app(args=["--timeout", "2"])
    app.wait_connected()
    return app


@pytest.fixture
def slow(app: GunicornApp) -> Iterator[Slow]:
    """Slow clients of it."""
    clients = Slow(app.port)
    yield clients
    clients.close()


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_half_requests_hold_up_nobody_and_kill_no_worker(app: GunicornApp, slow: Slow) -> None:
    owner, workers = app.owner_pid(), app.worker_pids()
    until = time.monotonic() + 6
    longest = 0.0
    while time.monotonic() < until:
        slow.trickle()
        asked = time.monotonic()
        assert app.get("/healthz").status == 200
        assert app.post("/api/crew", {"name": "Ada"}).status == 201
        longest = max(longest, time.monotonic() - asked)
    assert longest < PATIENCE, f"{longest:.2f} s"
    assert (app.owner_pid(), app.worker_pids()) == (owner, workers)
    assert "WORKER TIMEOUT" not in app.log


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("kind", [*EXCESSES, *LAST])
def test_clients_that_keep_silent_after_too_much_or_all_hold_up_nobody(
    app: GunicornApp, kind: str
) -> None:
    sent, status = {**EXCESSES, **LAST}[kind]
    workers = app.worker_pids()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", app.port), timeout=30))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            client.sendall(sent)
        longest = 0.0
        for _ in range(8):
            asked = time.monotonic()
            assert app.get("/healthz").status == 200
            longest = max(longest, time.monotonic() - asked)
        assert longest < PATIENCE, f"{longest:.2f} s"
        for client in clients:
            assert re.search(rb"HTTP/1\.[01] %d " % status, until_its_end(client))
    assert app.worker_pids() == workers
    assert "WORKER TIMEOUT" not in app.log


def until_its_end(client: socket.socket) -> bytes:
    """All that a client is sent."""
    answer = b""
    while piece := client.recv(65_536):
        answer += piece
    return answer


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_refusal_is_read_after_all_of_a_body(app: GunicornApp) -> None:
    body = b" " * 30_000_000
    with socket.create_connection(("127.0.0.1", app.port), timeout=30) as client:
        # A connection that was reset would fail the send or the read.
        client.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = until_its_end(client)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Content-Type: application/problem+json\r\n" in answer


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_slow_body_is_read_whole(app: GunicornApp) -> None:
    body = b'{"name": "Main engine", "type": "engine"}'
    with socket.create_connection(("127.0.0.1", app.port)) as client:
        client.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        for at in range(len(body)):
            client.sendall(body[at : at + 1])
        assert client.recv(1000).startswith(b"HTTP/1.1 201 ")
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        eventually(lambda: b"200 OK" in client.recv(65536), 5)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_server_full_of_half_requests_lets_new_clients_in(
    start_app: StartApp, tmp_path: Path
) -> None:
    app = start_app(workers=1, args=["--worker-connections", "20"])
    slow = Slow(app.port)
    try:
        assert app.get("/healthz").status == 200
    finally:
        slow.close()


#: More people, with long notes, than the buffers of a connection take as CSV; more readers than threads.
PEOPLE, READERS = 1200, 12


def people_of(database_url: str) -> None:
    """Enter many people with long notes, without the application."""
    now = "2026-11-22 08:00:00.000000"
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as connection:
        connection.executemany(
            "INSERT INTO crew (id, name, notes, active, on_duty, version, created_at, updated_at)"
            f" VALUES (?, ?, ?, 1, 0, 1, '{now}', '{now}')",
            [(str(uuid.UUID(int=n)), f"Ada {n}", "x" * 5000) for n in range(PEOPLE)],
        )
    connection.close()


def reader_of(port: int) -> socket.socket:
    """A client that asks for the list of people and reads nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /api/crew.csv HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    return client


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_clients_that_read_nothing_hold_up_nobody_and_get_all_when_they_read(
    start_app: StartApp, migrated_database_url: str
) -> None:
    people_of(migrated_database_url)
    app = start_app()
    with ExitStack() as stack:
        readers = [stack.enter_context(reader_of(app.port)) for _ in range(READERS)]
        for reader in readers:
            assert reader.recv(1) == b"H"  # it is being answered
        assert app.request("GET", "/healthz", timeout=20).status == 200
        for reader in readers[:2]:
            answer = until_its_end(reader)
            assert answer.count(b"x" * 5000) == PEOPLE
            assert answer.endswith(b"\r\n")
    assert app.request("GET", "/healthz", timeout=20).status == 200
    assert "Traceback" not in app.log


@pytest.mark.parametrize("size", [0, 1000, 10_000_000])
def test_what_is_not_read_is_kept_as_far_as_there_is_room_and_arrives_in_order(size: int) -> None:
    sent = [bytes([n]) * 300_000 for n in range(20)]
    ours, theirs = socket.socketpair()
    outgoing = Outgoing(ours, Room(size))
    received: list[bytes] = []
    with theirs, outgoing, ThreadPoolExecutor(1) as threads:
        if size < 1_000_000:  # the thread waits for the reader
            reading = threads.submit(until_its_end, theirs)
        for piece in sent:
            outgoing.sendall(piece)
        if size >= 1_000_000:
            assert outgoing.has_rest
            reading = threads.submit(until_its_end, theirs)
        while not outgoing.send_rest():
            pass
        outgoing.shutdown(socket.SHUT_WR)
        received.append(reading.result(60))
    assert received == [b"".join(sent)]


@pytest.mark.slow
def test_without_room_a_thread_ends_with_a_client_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arus.gunicorn.outgoing.SEND_TIMEOUT", 0)
    ours, theirs = socket.socketpair()
    with theirs, Outgoing(ours, Room(0)) as outgoing, pytest.raises(BrokenPipeError):
        outgoing.sendall(bytes(10_000_000))
