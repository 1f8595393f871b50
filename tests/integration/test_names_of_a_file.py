"""One SQLite file has one owner, by whichever of its names it is reached."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Flask
from sqlalchemy import make_url

from arus.database import database_file, open_engine
from arus.outbox.notifier import NotificationListener
from arus.relay.leadership import FileLock, open_lock
from tests.support.gunicorn_app import GunicornApp, run_flask
from tests.support.mosquitto import Mosquitto
from tests.support.vessel import Vessel
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


def linked(path: Path) -> Path:
    """A symbolic link to the file, in another directory and under another name."""
    other = path.parent / "elsewhere"
    other.mkdir(exist_ok=True)
    link = other / "linked.sqlite"
    link.symlink_to(Path("..", path.name))
    return link


def in_linked_directory(path: Path) -> Path:
    link = path.parent / "linked"
    link.symlink_to(path.parent)
    return link / path.name


def link_to(path: Path) -> Path:
    path.mkdir(parents=True)
    link = path.parent / "link"
    link.symlink_to(path)
    return link


def by_dots_for_the_driver(path: Path) -> Path:
    """SQLAlchemy takes `link/..` off the name, wherever the link leads to."""
    link = path.parent / "up"
    link.symlink_to(link_to(path.parent / "outer" / "inner"))
    return link / ".." / path.name


def by_dots_for_sqlite(path: Path) -> Path:
    """SQLite, which has a URI as it is, goes where the link leads to, and one up from there."""
    outer = path.parent / "outer"
    outer.mkdir()
    (outer / "down").symlink_to(link_to(path.parent / "inner"))
    return outer / "down" / ".." / path.name


def chained(path: Path) -> Path:
    link = path.parent / "chain.sqlite"
    link.symlink_to(linked(path))
    return link


NAMES: dict[str, Callable[[Path], str]] = {
    "symbolic link": lambda path: f"sqlite:///{linked(path)}",
    "chain of links": lambda path: f"sqlite:///{chained(path)}",
    "linked directory": lambda path: f"sqlite:///{in_linked_directory(path)}",
    "dots": lambda path: f"sqlite:///{path.parent}/../{path.parent.name}/./{path.name}",
    "dots behind a link": lambda path: f"sqlite:///{by_dots_for_the_driver(path)}",
    "URI with dots": lambda path: f"sqlite:///file:{by_dots_for_sqlite(path)}?uri=true",
    "relative": lambda path: f"sqlite:///{os.path.relpath(path)}",
    "driver": lambda path: f"sqlite+pysqlite:///{path}",
    "option": lambda path: f"sqlite:///{path}?timeout=7",
    "URI": lambda path: f"sqlite:///file:{path}?uri=true",
    "URI with host": lambda path: f"sqlite:///file://localhost{path}?uri=true&mode=rwc",
    "URI, encoded": lambda path: f"sqlite:///file:{quote(quote(str(path), safe=''))}?uri=true",
    "URI of a link": lambda path: f"sqlite:///file:{linked(path)}?uri=true&cache=private",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("made", [True, False], ids=["there", "not made yet"])
def test_every_name_leads_to_one_lock_and_one_bell(tmp_path: Path, name: str, made: bool) -> None:
    path = tmp_path / "arus.sqlite"
    if made:
        path.touch()
    url = make_url(NAMES[name](path))
    lock, bell_path = open_lock(make_url(f"sqlite:///{path}"))
    other, other_bell_path = open_lock(url)
    assert isinstance(lock, FileLock)
    assert isinstance(other, FileLock)
    assert other_bell_path == bell_path
    assert other.path == lock.path == path.with_name("arus.sqlite.owner-lock")
    with lock.hold():
        assert other.is_held()
    assert not other.is_held()


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_the_one_that_sqlite_opens(tmp_path: Path, name: str) -> None:
    url = make_url(NAMES[name](tmp_path / "arus.sqlite"))
    engine = open_engine(url)
    with engine.connect() as connection:
        ((_, _, opened),) = connection.exec_driver_sql("PRAGMA database_list")
    engine.dispose()
    assert database_file(url) == Path(opened) == tmp_path / "arus.sqlite"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true&cache=shared",
        "sqlite:///file:fleet?mode=memory&uri=true",
        "sqlite:///file:/fleet?vfs=memdb&uri=true",
        "postgresql://localhost/arus",
    ],
)
def test_a_database_that_is_in_no_file_has_none(url: str) -> None:
    assert database_file(make_url(url)) is None


def test_a_name_too_long_for_a_bell_has_the_bell_of_the_file(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    link = tmp_path / "short"
    link.symlink_to(deep)
    bells = {open_lock(make_url(f"sqlite:///{at}/arus.sqlite"))[1] for at in (deep, link)}
    assert len(bells) == 1
    with closing(NotificationListener(bells.pop())):
        pass


@pytest.mark.parametrize("url", ["sqlite:///{at}/arus.sqlite", "postgresql://localhost/arus"])
def test_a_notifier_has_a_path_where_the_temporary_directory_is_deep_too(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    _, path = open_lock(make_url(url.format(at=deep)))
    with closing(NotificationListener(path)):
        assert path.is_socket()
    path.unlink(missing_ok=True)


def test_a_link_that_is_made_later_leads_to_the_lock(tmp_path: Path) -> None:
    """The file is named before it is there, and then put elsewhere, with a link in its place."""
    named, real = tmp_path / "arus.sqlite", tmp_path / "disk" / "arus.sqlite"
    lock, _ = open_lock(make_url(f"sqlite:///{named}"))
    real.parent.mkdir()
    real.touch()
    named.symlink_to(real)
    other, _ = open_lock(make_url(f"sqlite:///{real}"))
    with lock.hold():
        assert other.is_held()


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard link", "symbolic link"])
def test_an_owner_is_seen_by_another_name_of_its_file(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    path, other_path = tmp_path / "arus.sqlite", tmp_path / "other.sqlite"
    path.touch()
    lock, _ = open_lock(make_url(f"sqlite:///{path}"))
    with lock.hold():
        link(path, other_path)
        other, _ = open_lock(make_url(f"sqlite:///{other_path}"))
        assert other.is_held()
        another, _ = open_lock(make_url(f"sqlite:///{tmp_path}/another.sqlite"))
        assert not another.is_held()
    assert not other.is_held()


@on_sqlite
def test_by_a_hard_link_nobody_takes_the_session(
    migrated_database_url: str,
    mosquitto: Mosquitto,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, other_path = tmp_path / "arus.sqlite", tmp_path / "other.sqlite"
    with Vessel(migrated_database_url, MQTT_BROKER_URL=mosquitto.url) as vessel:
        vessel.wait_connected()
        os.link(path, other_path)
        with Vessel(f"sqlite:///{other_path}", MQTT_BROKER_URL=mosquitto.url) as other:
            eventually(lambda: "by another name" in caplog.text, message="the warning")
            assert not other.heard("connected")
            assert vessel.status().owner is not None
        os.unlink(other_path)


@pytest.mark.slow
@on_sqlite
def test_status_and_catchup_by_a_link_leave_the_session_where_it_is(
    start_app: Callable[..., GunicornApp],
    migrated_database_url: str,
    mosquitto: Mosquitto,
    tmp_path: Path,
) -> None:
    app = start_app(workers=1)
    owner = app.wait_connected()
    app.post("/api/crew", {"name": "Maria Villanueva"})
    settings = {
        "SECRET_KEY": "for-tests-only-and-long-enough",
        "LOCAL_MODE": "true",
        "DATABASE_URL": f"sqlite:///{linked(tmp_path / 'arus.sqlite')}",
        "MQTT_BROKER_URL": mosquitto.url,
    }
    told = json.loads(run_flask("sync", "status", "--json", settings=settings).stdout)
    assert told["owner"]["pid"] == owner
    done = run_flask("sync", "catchup", "crew", "--since", "1h", "--json", settings=settings)
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "complete"), done.stderr
    assert app.health()["owner"]["generation"] == told["owner"]["generation"] == 1


@on_sqlite
@pytest.mark.parametrize("name", ["symbolic link", "driver", "URI"])
def test_the_app_runs_by_any_name_and_counts_beside_the_file(
    name: str, make_app: Callable[..., Flask], migrated_database_url: str, tmp_path: Path
) -> None:
    app = make_app(NAMES[name](tmp_path / "arus.sqlite"))
    assert app.test_client().get("/api/crew").status_code == 200
    answer = app.test_client().get("/api/mqtt/reliable-sync/health")
    assert answer.status_code == 200, answer.text
    assert (tmp_path / "arus.sqlite-limits").exists()
    told = app.test_cli_runner().invoke(args=["sync", "doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert checks["files"]["verdict"] == checks["database"]["verdict"] == "ok", checks
    assert f"free in {tmp_path};" in checks["disk"]["says"]


@on_sqlite
def test_the_doctor_tells_of_a_hard_link(
    make_app: Callable[..., Flask], migrated_database_url: str, tmp_path: Path
) -> None:
    os.link(tmp_path / "arus.sqlite", tmp_path / "other.sqlite")
    told = make_app(migrated_database_url).test_cli_runner().invoke(args=["sync", "doctor"])
    assert "arus.sqlite has hard links" in told.stdout
