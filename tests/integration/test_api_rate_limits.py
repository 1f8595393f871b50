"""Rate limits are counted over all workers, and what is over them is told when to come back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from limits import parse

from blueprints.access import rules
from extensions import limiter, sync_api
from extensions.rate_limits import SqliteStorage
from tests.integration.test_api_bad_input import problem

COUNT = """
import sys
from pathlib import Path
from extensions.rate_limits import SqliteStorage
storage = SqliteStorage(SqliteStorage.uri(Path(sys.argv[1])))
sys.stdin.readline()
for _ in range(200):
    print(storage.incr("key", 60))
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def storage(tmp_path: Path) -> SqliteStorage:
    return SqliteStorage(SqliteStorage.uri(tmp_path / "a b%20c" / "limits.sqlite"))


@pytest.mark.slow
def test_processes_count_together(storage: SqliteStorage) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, storage.path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in running:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = [
        int(word) for process in running for word in process.communicate(timeout=60)[0].split()
    ]
    assert sorted(counts) == list(range(1, 401))
    assert storage.get("key") == 400


@pytest.mark.slow
def test_a_window_ends(storage: SqliteStorage) -> None:
    assert [storage.incr("key", 1) for _ in range(2)] == [1, 2]
    ends = storage.get_expiry("key")
    assert 0 < ends - time.time() <= 1
    while time.time() < ends:
        assert storage.get("key") in {0, 2}
    assert storage.get("key") == 0
    assert storage.incr("key", 60, amount=3) == 3
    storage.clear("key")
    assert storage.get("key") == 0


def test_the_file_is_bounded(storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteStorage, "MOST_KEYS", 50)
    for n in range(SqliteStorage.TRIM_EVERY * 2):
        storage.incr(f"client-{n}", 60 + n)
    assert storage.reset() == 50


def test_too_many_requests(
    make_app: Callable[..., Flask], migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RULES", {**rules.RULES, "limited": rules.READ})
    app = make_app(migrated_database_url, LOCAL_MODE="false")

    @app.get("/api/limited")
    @limiter.limit("2 per minute")
    def limited() -> str:
        return "ok"

    client = app.test_client()
    assert [client.get("/api/limited").status_code for _ in range(2)] == [200, 200]
    refused = client.get("/api/limited")
    assert problem(refused, 429)["detail"] == "No more than 2 per 1 minute are answered."
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert client.get("/api/crew").status_code == 200


def test_too_many_requests_for_health(
    make_app: Callable[..., Flask], migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_api, "_OF_HEALTH", parse("2 per minute"))
    client = make_app(migrated_database_url, LOCAL_MODE="false").test_client()
    url = "/api/mqtt/reliable-sync/health"
    assert [client.get(url).status_code for _ in range(2)] == [200, 200]
    refused = client.get(url)
    assert problem(refused, 429)["detail"] == "No more than 2 per 1 minute are answered."
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    other = {"REMOTE_ADDR": "127.0.0.2"}
    assert client.get(url, environ_overrides=other).status_code == 200


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    "url", ["sqlite:///{at}/link.sqlite", "sqlite:///file:{at}/link.sqlite?uri=true"]
)
def test_servers_that_name_the_database_differently_count_together(
    make_app: Callable[..., Flask], migrated_database_url: str, tmp_path: Path, url: str
) -> None:
    (tmp_path / "link.sqlite").symlink_to("arus.sqlite")
    uris = {
        make_app(name).config["RATELIMIT_STORAGE_URI"]
        for name in (migrated_database_url, url.format(at=tmp_path))
    }
    assert uris == {SqliteStorage.uri(tmp_path / "arus.sqlite-limits")}


def test_a_broken_counter_file_limits_nobody_and_is_told_of_in_one_line(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"no database" * 1000)
    app = make_app(
        migrated_database_url, LOCAL_MODE="false", RATELIMIT_STORAGE_URI=SqliteStorage.uri(broken)
    )
    client = app.test_client()
    assert client.get("/api/mqtt/reliable-sync/health").status_code == 200
    assert len(caplog.records) == 1
    assert caplog.text.strip().endswith("file is not a database"), caplog.text
