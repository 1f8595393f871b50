"""A ship is upgraded at sea: 500 changes of an older version are pending, and alerts are in flight.

What the older version and its broker left is real: tests/data/upgrade/make.py ran its code.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from tests.data.upgrade.make import PENDING, VESSEL_ID
from tests.support.broker import ROOT
from tests.support.gunicorn_app import GunicornApp, flask, run_flask
from tests.support.older_version import OlderVersion, copy_rows, rows, schema
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

#: The newest migration of the older version.
OLDER = "0030"
RESOURCES = {
    "equipment": "equipment",
    "work_orders": "work-orders",
    "alerts": "alerts",
    "crew": "crew",
    "maintenance_schedules": "maintenance-schedules",
}


class Ship:
    """The ship of the older version, with the code of this one."""

    def __init__(self, older: OlderVersion, url: str, directory: Path) -> None:
        self.expected = older.expected
        self.url = url
        self.database = older.database
        self._directory = directory
        self._older = older
        self.settings = {
            "LOCAL_MODE": "true",
            "SECRET_KEY": "for-tests-only-and-long-enough",
            "DATABASE_URL": url,
            "VESSEL_ID": VESSEL_ID,
            "MQTT_BROKER_URL": older.mosquitto.url,
            "MQTT_RECONNECT_PERIOD": "1",
        }

    def flask(self, *command: str) -> str:
        """What a command prints."""
        return flask(*command, settings=self.settings)

    def app(self, **settings: str) -> GunicornApp:
        """The application."""
        return GunicornApp(self._directory, {**self.settings, **settings})

    def deliver(self, later: int = 0) -> None:
        """Start application and subscriber; fail unless all arrives as it must.

        `later` changes were written by this version and are pending too.
        """
        expected = [change["seq"] for change in self.expected["changes"]]
        last = self.expected["headSeq"] + later
        with self._older.subscriber() as ashore, self.app() as app:
            app.wait_connected()
            assert "session resumed" in app.log
            eventually(lambda: _waiting(app) == 0, 40, interval=0.1, message="none is pending")
            ashore.wait_until(lambda: _seqs(ashore) >= {*expected, last}, 20, "what was pending")
            post_work_order(app)
            post_alert(app)
            ashore.wait_until(lambda: last + 2 in _seqs(ashore), 20, "what is written now")
            check_stream(ashore, self.expected, later + 2)
            check_rows(ashore, app)
            counts = app.health()["detailedMetrics"]
            assert counts["currentQueueSize"] == 0
            assert counts["messagesDropped"] == counts["publishFailures"] == 0


def _waiting(app: GunicornApp) -> int:
    return int(app.health()["mqtt"]["queuedMessages"])


def _seqs(ashore: Subscriber) -> set[int]:
    return {change["seq"] for change in ashore.changes()}


def post_work_order(app: GunicornApp) -> None:
    equipment = app.get("/api/equipment?limit=1").json["items"][0]["id"]
    body = {"equipmentId": equipment, "reason": "Written by the new version"}
    assert app.post("/api/work-orders", body).status == 201


def post_alert(app: GunicornApp) -> None:
    equipment = app.get("/api/equipment?limit=1").json["items"][0]["id"]
    body = {"equipmentId": equipment, "sensorType": "temperature", "alertType": "critical"}
    body |= {"message": "Written by the new version", "value": 99, "threshold": 90}
    assert app.post("/api/alerts", body).status == 201


def check_stream(ashore: Subscriber, expected: dict[str, Any], newer: int) -> None:
    """Each change has arrived with its number, in the order of its topic and its row; alerts once; `newer` follow."""
    firsts: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for message in ashore.messages:
        change = message.json
        if change.get("type") != "data_change":
            continue
        topic = message.topic.removeprefix("vessel/sync/")
        assert topic != "alerts" or change["seq"] not in firsts[topic], "an alert arrived twice"
        earlier = firsts[topic].setdefault(change["seq"], change)
        assert earlier == change, "a redelivery differs"

    wanted: dict[str, list[int]] = defaultdict(list)
    for promise in expected["changes"]:
        wanted[promise["topic"]].append(promise["seq"])
        change = firsts[promise["topic"]][promise["seq"]]
        assert {**promise, "topic": ""} == {
            **{name: change.get(name) for name in promise},
            "rowId": change["data"]["id"],
            "topic": "",
        }
    for topic, changes in firsts.items():
        new = [seq for seq in changes if seq > expected["headSeq"]]
        assert list(changes) == wanted[topic] + new, f"{topic} is out of order, or not what it was"
        assert new == sorted(new)
        _first, *others = changes.values()
        assert [change["previousSeq"] for change in others] == list(changes)[:-1]
    every = [change for changes in firsts.values() for change in changes.values()]
    assert {change["epoch"] for change in every} == {expected["epoch"]}
    newest = expected["headSeq"] + newer
    assert {change["seq"] for change in every} == {
        *(promise["seq"] for promise in expected["changes"]),
        *range(expected["headSeq"] + 1, newest + 1),
    }


def check_rows(ashore: Subscriber, app: GunicornApp) -> None:
    """Whoever keeps the newest version of each row has the vessel's rows; each version came after the one before it."""
    for entity, path in RESOURCES.items():
        newest: dict[str, dict[str, Any]] = {}
        for change in ashore.changes(entity):
            before = newest.get(change["data"]["id"])
            if before is None or change["seq"] > before["seq"]:
                assert before is None or change["version"] == before["version"] + 1
                newest[change["data"]["id"]] = change
        aboard = {row["id"]: row for row in all_rows(app, path)}
        for row_id, change in newest.items():
            if change["operation"] == "delete":
                assert row_id not in aboard
            else:
                assert aboard[row_id].items() >= change["data"].items()


def all_rows(app: GunicornApp, path: str) -> Iterator[dict[str, Any]]:
    page = app.get(f"/api/{path}?limit=200").json
    yield from page["items"]
    while page["next"] is not None:
        page = app.get(f"/api/{path}?limit=200&cursor={page['next']}").json
        yield from page["items"]


@pytest.fixture
def older(tmp_path: Path) -> Iterator[OlderVersion]:
    """What the older version has left, with its broker running."""
    found = OlderVersion(OLDER, tmp_path / "older")
    with found.mosquitto:
        yield found


@pytest.fixture
def ship(older: OlderVersion, database_kind: str, database_url: str, tmp_path: Path) -> Ship:
    """Its ship; on PostgreSQL with the same rows in the same tables."""
    sqlite = f"sqlite:///{older.database}"
    if database_kind == "sqlite":
        return Ship(older, sqlite, tmp_path)
    ship = Ship(older, database_url, tmp_path)
    ship.flask("db", "upgrade", OLDER)
    copy_rows(sqlite, database_url)
    return ship


on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


def test_what_was_pending_arrives_once_and_in_order_after_an_upgrade(ship: Ship) -> None:
    handshakes = ship.expected["handshakes"]
    assert {packet: len(seqs) for packet, seqs in handshakes.items()} == {
        "PUBLISH": 4,
        "PUBREC": 4,
        "PUBREL": 4,
        "PUBCOMP": 4,
    }
    ship.flask("db", "upgrade")
    ship.deliver()


#: How a migration goes on that has damaged the log.
RAISES = "raise RuntimeError('no space left')"
IS_KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
COMMITS = "op.execute('COMMIT')"


def broken_migrations(directory: Path, ending: str) -> Path:
    """This version's migrations, of which one in the middle fails."""
    folder = directory / "migrations"
    shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
    config = Config()
    config.set_main_option("script_location", str(folder))
    newer = list(ScriptDirectory.from_config(config).iterate_revisions("head", OLDER))
    assert len(newer) >= 3, newer
    with Path(newer[len(newer) // 2].path).open("a") as migration:
        migration.write(
            "\n\nimport os\nimport signal\n\nwhole = upgrade\n\n\n"
            "def upgrade() -> None:\n"
            "    whole()\n"
            "    op.execute(\"UPDATE arus_change SET data = 'damaged'\")\n"
            "    op.execute(\"UPDATE arus_session SET epoch = 'damaged'\")\n"
            f"    {ending}\n"
        )
    return folder


def fail_to_upgrade(ship: Ship, folder: Path) -> None:
    failed = run_flask("db", "upgrade", "--directory", str(folder), settings=ship.settings)
    assert failed.returncode != 0


@on_sqlite
def test_nothing_is_lost_where_upgrades_fail_and_the_backup_is_put_back(
    ship: Ship, tmp_path: Path
) -> None:
    backup = tmp_path / "before.sqlite"
    ship.flask("sync", "backup", str(backup))
    before = schema(ship.url), rows(ship.url)
    for ending in (RAISES, IS_KILLED):
        fail_to_upgrade(ship, broken_migrations(tmp_path / ending[:5], ending))
        assert (schema(ship.url), rows(ship.url)) == before, "it was not undone"
    fail_to_upgrade(ship, broken_migrations(tmp_path / "half", f"{COMMITS}\n    {IS_KILLED}"))
    assert (schema(ship.url), rows(ship.url)) != before

    # as docs/upgrading.md says
    for end in ("-wal", "-shm"):
        Path(f"{ship.database}{end}").unlink(missing_ok=True)
    shutil.copy(backup, ship.database)
    assert (schema(ship.url), rows(ship.url)) == before
    ship.flask("db", "upgrade")
    ship.deliver()


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_nothing_is_lost_where_upgrades_fail_on_postgresql(ship: Ship, tmp_path: Path) -> None:
    before = schema(ship.url), rows(ship.url)
    for ending in (RAISES, IS_KILLED):
        fail_to_upgrade(ship, broken_migrations(tmp_path / ending[:5], ending))
        assert (schema(ship.url), rows(ship.url)) == before, "it was not undone"
    ship.flask("db", "upgrade")
    ship.deliver()


@on_sqlite
def test_the_migrations_still_make_the_tables_of_the_older_version(
    ship: Ship, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/new.sqlite"
    flask("db", "upgrade", OLDER, settings={**ship.settings, "DATABASE_URL": url})
    assert schema(url) == schema(ship.url)


@on_sqlite
def test_nothing_is_lost_by_a_downgrade_and_another_upgrade(ship: Ship) -> None:
    before = schema(ship.url)
    ship.flask("db", "upgrade")
    assert schema(ship.url) != before
    with ship.app(MQTT_BROKER_URL=f"mqtt://127.0.0.1:{free_port()}") as app:
        post_work_order(app)
        post_alert(app)
        assert _waiting(app) == PENDING + 2
        app.stop()
    newer = rows(ship.url)
    ship.flask("db", "downgrade", OLDER)
    assert schema(ship.url) == before
    for table, kept in rows(ship.url).items():
        if table != "alembic_version":
            names = [column["name"] for column in before[table]["columns"]]
            assert kept == [{name: row[name] for name in names} for row in newer[table]], table
    ship.flask("db", "upgrade")
    ship.deliver(later=2)
