"""What the tests stand on: real brokers, databases, servers and a browser, each on loopback.

A program that is not installed fails the test that needs it; nothing is skipped.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.support import selection
from tests.support.broker import Broker
from tests.support.certificates import Certificates
from tests.support.gunicorn_app import GunicornApp, clean_environment, flask
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SQLITE, POSTGRESQL, DEMO = "sqlite", "postgresql", "demo"

# A shell ignores Ctrl-C for what it runs in the background, and so would the commands that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts on a time: on a busy machine an example takes as long as it takes.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

#: Workers for each core: two thirds of most tests are waiting for something that was started.
WORKERS_A_CORE = 3


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` stands for."""
    return WORKERS_A_CORE * len(os.sched_getaffinity(0))


def pytest_collection_finish() -> None:
    """Leave what the libraries have loaded to itself: looking for garbage in it takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Send a worker's report whatever it has captured: a lone surrogate can't be sent."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {key: _encodable(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(_encodable(each) for each in value)
    return value


# before xdist's own, which reads the marker xdist_group
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what each test needs, and put the long ones first."""
    for item in items:
        selection.mark(item)
    items.sort(key=selection.turn)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the servers know whom they are started for."""
    selection.begin(item)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = clean_environment()
    for name in set(os.environ) - set(kept):
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for each worker."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Each test that uses a database runs on both."""
    return str(request.param)


@pytest.fixture
def database_url(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of an empty database of this test's own, on SQLite and on PostgreSQL."""
    if database_kind == SQLITE:
        yield f"sqlite:///{tmp_path}/arus.sqlite"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(scope="session")
def _migrated(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], str]:
    """The database to copy, migrated once for all workers: a file, or a template's name on this worker's server.

    Of each kind, and `DEMO`: on SQLite, with the demo's rows.
    """
    made: dict[str, str] = {}
    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        shared = shared.parent  # the folder of the run, in which each worker has one

    def make(kind: str, place: Path) -> None:
        if kind == DEMO:
            shutil.copy(migrated(SQLITE), place)
            _flask_on(f"sqlite:///{place}", "demo", "load")
        elif kind == SQLITE:
            _flask_on(f"sqlite:///{place}", "db", "upgrade")
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            name = server.create_database()
            _flask_on(server.url(name), "db", "upgrade")
            server.run("pg_dump", f"--file={place}", name)

    def migrated(kind: str) -> str:
        if kind not in made:
            place = shared / f"migrated-{kind}"
            with (shared / f"{kind}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not place.exists():
                    make(kind, part := place.with_suffix(".part"))
                    part.rename(place)
            made[kind] = str(place)
            if kind == POSTGRESQL:
                server: PostgresServer = request.getfixturevalue("postgres_server")
                made[kind] = server.create_database()
                server.run(
                    *("psql", "--no-psqlrc", "--quiet", "--single-transaction"),
                    *("--set=ON_ERROR_STOP=1", f"--file={place}", made[kind]),
                )
        return made[kind]

    return migrated


def _flask_on(url: str, *command: str) -> None:
    flask(*command, settings={"DATABASE_URL": url, "SECRET_KEY": "for-tests-only-and-long-enough"})


@pytest.fixture
def migrated_database_url(
    database_kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    _migrated: Callable[[str], str],
) -> Iterator[str]:
    """As database_url, with the migrations applied."""
    with _copy(_migrated, database_kind, tmp_path / "arus.sqlite", request) as url:
        yield url


@pytest.fixture
def load_demo(migrated_database_url: str, _migrated: Callable[[str], str]) -> None:
    """Put the demo's rows into the migrated database, which is SQLite's."""
    shutil.copy(_migrated(DEMO), migrated_database_url.removeprefix("sqlite:///"))


@pytest.fixture
def shore_database_url(
    database_kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    _migrated: Callable[[str], str],
) -> Iterator[str]:
    """The URL of a migrated database of the other kind than migrated_database_url: a follower's."""
    other = POSTGRESQL if database_kind == SQLITE else SQLITE
    with _copy(_migrated, other, tmp_path / "shore.sqlite", request) as url:
        yield url


@contextmanager
def _copy(
    migrated: Callable[[str], str], kind: str, place: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    source = migrated(kind)
    if kind == SQLITE:
        shutil.copy(source, place)
        yield f"sqlite:///{place}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database(template=source)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def start_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts a broker with the arguments of Mosquitto; it is killed after the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> Mosquitto:
            directory = tmp_path / f"mosquitto-{len(list(tmp_path.glob('mosquitto-*')))}"
            return stack.enter_context(Mosquitto(directory, **options))

        yield start


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts a broker of any kind: its class, and its arguments; it is killed after the test."""
    with ExitStack() as stack:

        def start(kind: Callable[..., Broker], **options: Any) -> Broker:
            directory = tmp_path / f"broker-{len(list(tmp_path.glob('broker-*')))}"
            return stack.enter_context(kind(directory, **options))

        yield start


@pytest.fixture
def mosquitto(start_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """A running broker."""
    return start_mosquitto()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority's, a server's and a client's certificates."""
    return Certificates.make(tmp_path / "certificates")


@pytest.fixture
def start_subscriber(mosquitto: Mosquitto) -> Iterator[Callable[..., Subscriber]]:
    """Starts a subscriber to topics at the running broker; it is killed after the test."""
    with ExitStack() as stack:

        def start(*topics: str, **options: Any) -> Subscriber:
            return stack.enter_context(Subscriber(mosquitto.port, *topics, **options))

        yield start


@pytest.fixture
def subscriber(start_subscriber: Callable[..., Subscriber]) -> Subscriber:
    """A running subscriber to everything the product publishes."""
    return start_subscriber("vessel/sync/#")


@pytest.fixture
def start_app(
    tmp_path: Path, migrated_database_url: str, mosquitto: Mosquitto
) -> Iterator[Callable[..., GunicornApp]]:
    """Starts the vessel app under gunicorn: migrated database, running broker, LOCAL_MODE.

    Takes the arguments of GunicornApp; `settings` come on top. Killed after the test, its log
    printed when the test failed.
    """
    with ExitStack() as stack:

        def start(settings: dict[str, str] | None = None, **options: Any) -> GunicornApp:
            base = {
                "LOCAL_MODE": "true",
                "DATABASE_URL": migrated_database_url,
                "MQTT_BROKER_URL": mosquitto.url,
                "MQTT_RECONNECT_PERIOD": "1",
            }
            # Loaded once for all workers; in tests/brokers and the main job each worker loads it, as by default.
            options = {"preload": True, **options}
            app = GunicornApp(tmp_path, {**base, **(settings or {})}, **options)
            return stack.enter_context(app)

        yield start


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One chromium for each worker."""
    # here, so that who needs no browser loads none
    from tests.support.browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test when a script or the Content-Security-Policy complains."""
    from tests.support.browser import strict_page

    with strict_page(browser) as page:
        yield page
