"""At most one process holds the session, and another takes over the moment it dies."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from arus.database import database_file, open_engine
from arus.errors import LeadershipLostError, LogUnavailableError, StandbyEndedError
from arus.outbox.log import ChangeLog
from arus.outbox.reserve import DiskReserve
from arus.relay.leadership import FileLock, open_lock
from tests.support import http
from tests.support.gunicorn_app import HEALTH, ROOT, GunicornApp, clean_environment, run_flask
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.vessel import Vessel, VesselProcess
from tests.support.waiting import PATIENCE, eventually, free_port
from tools.processes import Child

CREW = "/api/crew"

StartApp = Callable[..., GunicornApp]


def write(app: GunicornApp, count: int = 1) -> None:
    for _ in range(count):
        answer = app.post(CREW, {"name": "Maria Villanueva"})
        assert answer.status == 201, answer.text


def check_delivery(subscriber: Subscriber, count: int, timeout: float = 15) -> None:
    """All changes have arrived, the first deliveries in order."""

    def arrived() -> list[int]:
        return list(dict.fromkeys(change["seq"] for change in subscriber.changes()))

    subscriber.wait_until(lambda: len(arrived()) >= count, timeout, f"{count} changes")
    assert arrived() == list(range(1, count + 1))


def generations(subscriber: Subscriber) -> list[tuple[str, int]]:
    return [
        (m.json["status"], m.json["generation"])
        for m in subscriber.messages
        if m.topic.endswith("system/status")
    ]


def peers(mosquitto: Mosquitto) -> list[str]:
    """The addresses that have a connection to the broker, by the kernel's account."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    broker = f"0100007F:{mosquitto.port:04X}"
    established = [row.split() for row in rows if row.split()[3] == "01"]
    return sorted(fields[2] for fields in established if fields[1] == broker)


def connections(mosquitto: Mosquitto) -> int:
    """How many processes have a connection to the broker."""
    return len(peers(mosquitto))


def wait_for_connections(mosquitto: Mosquitto, wanted: int) -> None:
    """Return once `wanted` processes are connected: the kernel closes a killed owner's after the broker sees it."""

    def connected() -> bool:
        found = peers(mosquitto)
        assert len(found) == wanted, found
        return True

    eventually(connected, message=f"{wanted} connections to the broker")


def stays(app: GunicornApp) -> bool:
    """Whether the last owner is not about to be replaced."""
    owner = re.findall(r"process (\d+) owns the session", app.log)[-1]
    return f"[{owner}] [INFO] Autorestarting worker" not in app.log


# -- gunicorn -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database_kind", "worker_class", "preload"),
    [
        ("sqlite", "sync", False),
        ("sqlite", "gthread", True),
        ("postgresql", "sync", True),
        ("postgresql", "gthread", False),
    ],
)
def test_another_worker_takes_over_within_a_second(
    worker_class: str,
    preload: bool,
    start_app: StartApp,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
) -> None:
    listeners = connections(mosquitto)
    app = start_app(workers=3, worker_class=worker_class, preload=preload)
    owner = app.wait_connected()
    assert owner in app.worker_pids()
    assert {app.owner_pid() for _ in range(10)} == {owner}
    wait_for_connections(mosquitto, listeners + 1)
    write(app, 5)
    for round_ in range(2):
        killed_at = time.monotonic()
        app.kill_worker(owner)
        write(app)

        def new_owner(old: int = owner) -> int | None:
            pid = app.owner_pid()
            return pid if pid != old else None

        successor = eventually(new_owner, 5, interval=0.005, message="another owner")
        took = time.monotonic() - killed_at
        assert took < PATIENCE, f"{took:.2f} s"
        assert successor is not None
        owner = successor
        write(app, 4)
        check_delivery(subscriber, 10 + 5 * round_)
    app.wait_connected()
    wait_for_connections(mosquitto, listeners + 1)
    assert app.health()["owner"]["generation"] == 3
    online = [generation for status, generation in generations(subscriber) if status == "online"]
    assert online == [1, 2, 3]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_workers_that_are_replaced_hand_over(start_app: StartApp, subscriber: Subscriber) -> None:
    app = start_app(workers=2, args=["--max-requests", "15", "--max-requests-jitter", "5"])
    first = app.wait_connected()
    write(app, 80)
    check_delivery(subscriber, 80)
    eventually(lambda: app.owner_pid() not in (None, first), message="another owner")
    app.wait_connected()
    # The last request may have been its owner's last: then another owner comes.
    eventually(lambda: stays(app) and generations(subscriber)[-1][0] == "online", message="online")
    states = generations(subscriber)
    # Each owner says goodbye before the next one comes; one that is replaced while it connects has
    # only its will.
    assert [generation for _, generation in states] == sorted(g for _, g in states)
    for generation in {g for _, g in states}:
        said = [status for status, g in states if g == generation]
        assert said in (["online", "offline"], ["online"], ["offline"])
    assert states[-1][0] == "online"


@pytest.mark.parametrize(("database_kind", "preload"), [("sqlite", False), ("postgresql", True)])
def test_hup_hands_over(preload: bool, start_app: StartApp, subscriber: Subscriber) -> None:
    app = start_app(workers=2, preload=preload)
    before = set(app.worker_pids())
    assert app.wait_connected() in before
    write(app, 10)
    app.hup()
    write(app, 10)
    eventually(lambda: not before & set(app.worker_pids()), 15, message="new workers")
    eventually(lambda: app.owner_pid() in app.worker_pids(), message="a new owner")
    write(app, 10)
    check_delivery(subscriber, 30)
    app.wait_connected()


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_stop_says_goodbye(start_app: StartApp, subscriber: Subscriber) -> None:
    app = start_app(workers=2)
    app.wait_connected()
    write(app, 3)
    check_delivery(subscriber, 3)
    assert app.stop() == 0
    assert generations(subscriber)[-1][0] == "offline"
    assert "the relay failed" not in app.log


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_an_owner_whose_database_connection_is_gone_is_replaced(
    start_app: StartApp, migrated_database_url: str, subscriber: Subscriber, mosquitto: Mosquitto
) -> None:
    """A paused host: its successor takes over, and it does not come back when it wakes."""
    listeners = connections(mosquitto)
    app = start_app(workers=2)
    owner = app.wait_connected()
    write(app, 5)
    check_delivery(subscriber, 5)
    os.kill(owner, signal.SIGSTOP)
    engine = open_engine(make_url(migrated_database_url))
    try:
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND granted"
                )
            )
        vessel_owner = text("SELECT owner_pid FROM arus_session WHERE connected")

        def replaced() -> bool:
            with engine.connect() as connection:
                return connection.execute(vessel_owner).scalar() not in (None, owner)

        eventually(replaced, 10, message="another owner")
    finally:
        os.kill(owner, signal.SIGCONT)
        engine.dispose()
    write(app, 10)
    check_delivery(subscriber, 15)
    assert app.owner_pid() != owner
    eventually(lambda: connections(mosquitto) == listeners + 1, message="one session")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory in which sockets have room: theirs is a path of a hundred bytes at most."""
    with tempfile.TemporaryDirectory(prefix="arus-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_two_hosts_on_one_database_have_one_owner(
    start_app: StartApp,
    tmp_path: Path,
    short_path: Path,
    subscriber: Subscriber,
    mosquitto: Mosquitto,
) -> None:
    """Neither hears the other's notifier: they have nothing in common but the database."""
    listeners = connections(mosquitto)
    hosts = [start_host(start_app, tmp_path / f"host-{n}", short_path / str(n)) for n in (1, 2)]
    first = hosts[0].wait_connected()
    assert {host.owner_pid() for host in hosts for _ in range(5)} == {first}
    wait_for_connections(mosquitto, listeners + 1)
    hosts.sort(key=lambda host: first not in host.worker_pids())
    owning, other = hosts
    assert first in owning.worker_pids()
    for _ in range(5):
        write(owning)
        write(other)
    check_delivery(subscriber, 10)
    write(other, 3)
    killed_at = time.monotonic()
    owning.kill_all()
    write(other, 2)
    eventually(lambda: other.owner_pid() in other.worker_pids(), interval=0.005)
    took = time.monotonic() - killed_at
    assert took < 2 * PATIENCE, f"{took:.2f} s"
    second = other.wait_connected()
    check_delivery(subscriber, 15)
    owning.start()
    for _ in range(5):
        write(owning)
        write(other)
    check_delivery(subscriber, 25)
    assert {host.owner_pid() for host in hosts for _ in range(5)} == {second}
    wait_for_connections(mosquitto, listeners + 1)
    online = [generation for status, generation in generations(subscriber) if status == "online"]
    assert online == [1, 2]


def start_host(start_app: StartApp, directory: Path, temporary: Path) -> GunicornApp:
    """The app as on a machine of its own: its own installation, instance folder and TMPDIR."""
    directory.mkdir()
    temporary.mkdir()
    for name in ("app.py", "wsgi.py", "arus", "extensions", "blueprints", "migrations"):
        (directory / name).symlink_to(ROOT / name)
    host = start_app({"TMPDIR": str(temporary)}, workers=2, args=["--chdir", str(directory)])
    assert (directory / "instance").is_dir()
    return host


# -- flask run ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("options", [[], ["--debug"]], ids=["plain", "debug"])
def test_flask_run_becomes_owner_at_its_first_request(
    options: list[str],
    tmp_path: Path,
    migrated_database_url: str,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
) -> None:
    port = free_port()
    environment = clean_environment(
        LOCAL_MODE="true",
        DATABASE_URL=migrated_database_url,
        MQTT_BROKER_URL=mosquitto.url,
        SECRET_KEY="for-tests-only-and-long-enough",
    )
    flask = str(Path(sys.executable).with_name("flask"))
    argv = [flask, "--app", "wsgi", "run", *options, "--port", str(port)]
    with (tmp_path / "flask.log").open("wb") as log:
        child = Child("flask", argv, env=environment, cwd=ROOT, output=log, own_group=True)
    try:
        eventually(lambda: http.request(port, "GET", "/healthz").status == 200, 20)
        answer = http.request(port, "POST", CREW, {"name": "Maria Villanueva"})
        assert answer.status == 201, answer.text
        check_delivery(subscriber, 1)
        health = http.request(port, "GET", HEALTH).json
        assert health["mqtt"]["status"] == "connected"
        assert [s for s, _ in generations(subscriber)] == ["online"]
    finally:
        child.kill_group()
        child.kill()


# -- the lock -------------------------------------------------------------------------------------


@pytest.fixture
def held_by_a_thread(tmp_path: Path) -> Iterator[tuple[FileLock, Callable[[], None]]]:
    url = make_url(f"sqlite:///{tmp_path}/lock.sqlite")
    lock, _ = open_lock(url)
    assert isinstance(lock, FileLock)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.hold():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)

    def release() -> None:
        done.set()
        thread.join()

    yield lock, release
    release()


def test_a_forked_child_does_not_keep_the_lock(
    held_by_a_thread: tuple[FileLock, Callable[[], None]],
) -> None:
    lock, release = held_by_a_thread
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"!")
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        assert lock.is_held()  # nor does it release it
        release()
        assert not lock.is_held()
    finally:
        os.write(go[1], b"!")
        os.waitpid(child, 0)
        for fd in (*ready, *go):
            os.close(fd)


def test_a_started_program_does_not_keep_the_lock(
    held_by_a_thread: tuple[FileLock, Callable[[], None]],
) -> None:
    lock, release = held_by_a_thread
    child = Child("sleep", ["sleep", "60"])
    try:
        release()
        assert not lock.is_held()
    finally:
        child.kill()


# -- names of one database ------------------------------------------------------------------------


#: URLs of the file real/arus.sqlite, with the directory of the test for `{at}`.
NAMES = {
    "plain": "sqlite:///{at}/real/arus.sqlite",
    "a link to the file": "sqlite:///{at}/link.sqlite",
    "a link to a link": "sqlite:///{at}/chain.sqlite",
    "a linked directory": "sqlite:///{at}/dir/arus.sqlite",
    "dots": "sqlite:///{at}/real/./sub/../arus.sqlite",
    "dots behind a link": "sqlite:///{at}/deep/../real/arus.sqlite",
    "a URI": "sqlite:///file:{at}/real/arus.sqlite?uri=true",
    "a URI with a host": "sqlite:///file://localhost{at}/real/arus.sqlite?uri=true&mode=rwc",
    "a URI with escapes": "sqlite:///file:{at}/r%65al/arus.sqlite?uri=true",
    "a URI of a link": "sqlite:///file:{at}/link.sqlite?uri=true&cache=private",
    "a URI with dots behind a link": "sqlite:///file:{at}/deep/../arus.sqlite?uri=true",
    "the driver": "sqlite+pysqlite:///{at}/link.sqlite",
    "relative": "sqlite:///real/arus.sqlite",
    "a relative link": "sqlite:///link.sqlite",
    "a relative URI": "sqlite:///file:link.sqlite?uri=true",
}


@pytest.fixture
def many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with links to a database file that is not there yet; the working directory."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link.sqlite").symlink_to("real/arus.sqlite")
    (tmp_path / "chain.sqlite").symlink_to(tmp_path / "link.sqlite")
    (tmp_path / "dir").symlink_to("real", target_is_directory=True)
    (tmp_path / "deep").symlink_to("real/sub", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("there", [False, True], ids=["before it is made", "made"])
def test_each_name_of_a_file_means_the_file_that_sqlite_opens(
    name: str, there: bool, many_names: Path
) -> None:
    if there:
        sqlite3.connect(many_names / "real" / "arus.sqlite").close()
    url = make_url(NAMES[name].format(at=many_names))
    meant = database_file(url)
    engine = open_engine(url)
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE at_all (id INTEGER)"))
        opened = connection.execute(text("SELECT file FROM pragma_database_list")).scalar()
    engine.dispose()
    assert str(meant) == opened
    assert meant == many_names / "real" / "arus.sqlite"


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_a_file_leads_to_one_lock_and_one_bell(name: str, many_names: Path) -> None:
    plain, notifier = open_lock(make_url(NAMES["plain"].format(at=many_names)))
    lock, other_bell = open_lock(make_url(NAMES[name].format(at=many_names)))
    assert other_bell == notifier
    with plain.hold():
        assert lock.is_held()
        assert (many_names / "real" / "arus.sqlite.owner-lock").exists()
    assert not lock.is_held()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:a?mode=memory&uri=true",
        "postgresql+psycopg://somebody@localhost/arus",
    ],
)
def test_what_is_in_memory_or_on_a_server_has_no_file(url: str) -> None:
    assert database_file(make_url(url)) is None


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    "other_url",
    ["sqlite:///{at}/other/link.sqlite", "sqlite:///file:{at}/other/link.sqlite?uri=true"],
    ids=["link", "uri"],
)
def test_servers_that_name_the_file_differently_have_one_owner(
    other_url: str,
    start_app: StartApp,
    tmp_path: Path,
    subscriber: Subscriber,
    mosquitto: Mosquitto,
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link.sqlite").symlink_to(tmp_path / "arus.sqlite")
    app = start_app(workers=1)
    owner = app.wait_connected()
    settings = {
        "SECRET_KEY": "for-tests-only-and-long-enough",
        "LOCAL_MODE": "true",
        "DATABASE_URL": other_url.format(at=tmp_path),
        "MQTT_BROKER_URL": mosquitto.url,
    }
    status = run_flask("sync", "status", "--json", settings=settings)
    assert json.loads(status.stdout)["owner"]["pid"] == owner
    other = start_app({"DATABASE_URL": settings["DATABASE_URL"]}, workers=1)
    for _ in range(5):
        write(app)
        write(other)  # its notifier is the owner's, too
    check_delivery(subscriber, 10)
    assert {server.owner_pid() for server in (app, other)} == {owner}
    done = run_flask("sync", "catchup", "crew", "--all", settings=settings)
    assert done.returncode == 0, done.stderr
    killed_at = time.monotonic()
    app.kill_all()
    eventually(lambda: other.owner_pid() in other.worker_pids(), interval=0.005)
    took = time.monotonic() - killed_at
    assert took < PATIENCE, f"{took:.2f} s"
    other.wait_connected()
    eventually(lambda: generations(subscriber)[-1] == ("online", 2), message="the other is online")
    online = [generation for status, generation in generations(subscriber) if status == "online"]
    assert online == [1, 2]


def test_an_owner_warns_of_a_hard_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = tmp_path / "arus.sqlite"
    sqlite3.connect(database).close()
    lock, _ = open_lock(make_url(f"sqlite:///{database}"))
    with lock.hold():
        assert not caplog.messages
    (tmp_path / "other.sqlite").hardlink_to(database)
    with lock.hold():
        (said,) = caplog.messages
    assert said.startswith(f"[MQTT Reliable Sync] {database} has hard links")


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_sigkill_of_several_in_a_row(
    migrated_database_url: str, mosquitto: Mosquitto, subscriber: Subscriber, tmp_path: Path
) -> None:
    """Candidates queue up; each death hands over to exactly one."""
    log = tmp_path / "vessels.log"
    with ExitStack() as stack:
        processes = {}
        for _ in range(4):
            process = stack.enter_context(
                VesselProcess(migrated_database_url, log, MQTT_BROKER_URL=mosquitto.url)
            )
            processes[process.child.pid] = process
        vessel = Vessel(migrated_database_url)
        stack.callback(vessel.engine.dispose)
        stack.callback(vessel.notifier.close)

        def owner() -> int | None:
            with suppress(TypeError):
                status = vessel.status()
                if status.connected and status.owner and status.owner.pid in processes:
                    return status.owner.pid
            return None

        for generation in range(1, 5):
            pid = eventually(owner, 10, message="an owner")
            assert pid is not None
            vessel.commit(25)
            check_delivery(subscriber, 25 * generation)
            processes.pop(pid).kill()
    online = [g for status, g in generations(subscriber) if status == "online"]
    assert online == [1, 2, 3, 4]


# -- the fence ------------------------------------------------------------------------------------


def test_a_former_owner_can_write_nothing(migrated_database_url: str) -> None:
    engine = open_engine(make_url(migrated_database_url))
    vessel = Vessel(migrated_database_url)
    try:
        with engine.connect() as one, engine.connect() as other:
            former = ChangeLog(one, vessel_id="ship-1")
            vessel.commit(3)
            with former.fenced_transaction() as fenced:
                fenced.number(former.unnumbered(1))
                fenced.save_topic_queues()
            current = ChangeLog(other, vessel_id="ship-1")
            assert (former.generation, current.generation) == (1, 2)
            assert (current.epoch, current.vessel_id) == (former.epoch, "ship-1")
            waiting = former.unnumbered(10)

            def number_as_former() -> None:
                with former.fenced_transaction() as fenced:
                    fenced.number(waiting)
                    fenced.save_topic_queues()

            with pytest.raises(LeadershipLostError):
                number_as_former()
            with pytest.raises(LeadershipLostError):
                former.stand_down()
            with current.fenced_transaction() as fenced:
                entries = fenced.number(current.unnumbered(10))
                fenced.save_topic_queues()
            assert [(e.seq, e.previous_seq) for e in entries] == [(2, 1), (3, 2)]
            assert vessel.query("SELECT seq FROM arus_change ORDER BY id") == [(1,), (2,), (3,)]
            rows: list[Any] = vessel.query("SELECT owner_pid, generation FROM arus_session")
            assert rows == [(os.getpid(), 2)]
    finally:
        vessel.engine.dispose()
        vessel.notifier.close()
        engine.dispose()


def test_a_takeover_waits_for_the_turn_that_is_open(migrated_database_url: str) -> None:
    """What a turn commits licenses packets: no successor may read the log from before it."""
    engine = open_engine(make_url(migrated_database_url))
    vessel = Vessel(migrated_database_url)
    successor: list[int] = []
    try:
        with engine.connect() as one:
            former = ChangeLog(one, vessel_id="ship-1")
            vessel.commit(5)

            def take_over() -> None:
                with engine.connect() as other:
                    successor.append(ChangeLog(other, vessel_id="ship-1").head_seq)

            thread = threading.Thread(target=take_over)
            with former.fenced_transaction() as fenced:
                fenced.number(former.unnumbered(10))
                fenced.save_topic_queues()
                thread.start()
                thread.join(0.3)
                assert thread.is_alive()
            thread.join(10)
            assert successor == [5]
    finally:
        vessel.engine.dispose()
        vessel.notifier.close()
        engine.dispose()


def test_a_hard_link_is_no_way_to_a_second_owner(tmp_path: Path) -> None:
    database, link = tmp_path / "arus.sqlite", tmp_path / "other.sqlite"
    sqlite3.connect(database).close()
    database.touch()
    link.hardlink_to(database)
    first, _ = open_lock(make_url(f"sqlite:///{database}"))
    second, _ = open_lock(make_url(f"sqlite:///{link}"))
    with first.hold():
        assert second.is_held()
        with pytest.raises(StandbyEndedError), second.hold(lambda _seconds: True):
            pass
    assert not second.is_held()
    with second.hold():
        assert first.is_held()


def test_a_lock_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    lock, _ = open_lock(make_url(f"sqlite:///{tmp_path}/arus.sqlite"))
    (tmp_path / "arus.sqlite.owner-lock").mkdir()
    with pytest.raises(LogUnavailableError, match=r"can't be opened .*chown"), lock.hold():
        pass
    assert not lock.is_held()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_beside_a_database_belongs_to_its_owner(tmp_path: Path) -> None:
    database = tmp_path / "arus.sqlite"
    sqlite3.connect(database).close()
    database.touch()
    os.chown(database, 1234, 1234)
    lock, _ = open_lock(make_url(f"sqlite:///{database}"))
    with lock.hold():
        DiskReserve(database, size=8192).prepare()
    for name in ("owner-lock", "reserve"):
        assert (tmp_path / f"arus.sqlite.{name}").stat().st_uid == 1234
