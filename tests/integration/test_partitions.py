"""Several processes share the partitions of one follower, whatever is killed, is stopped or joins."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest
from flask import Flask
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError

from arus.errors import FollowError, LogUnavailableError
from arus.follower import Follower
from arus.follower.audits import sharing
from arus.follower.audits.sharing import Permit
from arus.follower.partitions.lease import Keeper, Lease
from arus.follower.partitions.locks import Kind, end_silent, open_session, read_holders, take
from tests.support.compressing import CompressingVessel
from tests.support.follower import FollowerThread, ScriptedVessel
from tests.support.mosquitto import Mosquitto
from tests.support.partitions import BLANK, PREFIX, Shore, Writers
from tests.support.ship_messages import dictionary
from tests.support.ship_model import ShipModel
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"])

PARTITIONS, SHIPS = 12, 12


@pytest.fixture
def start_ships(mosquitto: Mosquitto) -> Iterator[Callable[..., list[ScriptedVessel]]]:
    """Starts vessels that answer requests and publish digests; they are online."""
    with ExitStack() as stack:

        def start(count: int, first: int = 1, port: int | None = None) -> list[ScriptedVessel]:
            ships = []
            for number in range(first, first + count):
                ship = ScriptedVessel(port or mosquitto.port, f"ship-{number}", PREFIX)
                ship.describes = True
                ships.append(stack.enter_context(ship))
                ship.change("crew", BLANK)
                ship.status()
            return ships

        yield start


@pytest.fixture
def partitioned(tmp_path: Path, shore: dict[str, str]) -> Iterator[Shore]:
    """A migrated database, for processes that share `PARTITIONS` partitions."""
    stage = Shore(tmp_path, shore, PARTITIONS)
    yield stage
    stage.close()


@on_postgresql
def test_processes_share_partitions_and_take_over_from_each_other(
    partitioned: Shore, start_ships: Callable[..., list[ScriptedVessel]]
) -> None:
    ships = start_ships(SHIPS)
    first = partitioned.start()
    partitioned.wait_shares({first: 12})
    partitioned.wait_equal(ships)
    partitioned.note_writes("crew")
    phases = []
    with Writers(ships, 40) as writers:
        second = partitioned.start()
        partitioned.wait_shares({first: 6, second: 6})

        phases.append(("SIGKILL", partitioned.now()))
        second.kill()
        partitioned.wait_shares({first: 12})

        third = partitioned.start()
        partitioned.wait_shares({first: 6, third: 6})
        phases.append(("SIGSTOP", partitioned.now()))
        third.child.send(signal.SIGSTOP)
        partitioned.wait_shares({first: 12})
        phases.append(("SIGCONT", partitioned.now()))
        third.child.send(signal.SIGCONT)
        partitioned.wait_shares({first: 6, third: 6})

        phases.append(("one joins", partitioned.now()))
        fourth = partitioned.start()
        partitioned.wait_shares({first: 4, third: 4, fourth: 4})
        phases.append(("SIGTERM", partitioned.now()))
        assert third.stop() == 0
        partitioned.wait_shares({first: 6, fourth: 6})
        writers.end()
    partitioned.wait_equal(ships)
    assert not partitioned.written_twice()
    phases.append(("the end", partitioned.now()))
    for (what, begin), (_, end) in pairwise(phases):
        print(
            f"{what}: the longest pause of a vessel is {partitioned.longest_pause(begin, end):.1f} s"
        )


# -- in this process ------------------------------------------------------------------------------


@pytest.fixture
def app(make_app: Callable[..., Flask], partitioned: Shore) -> Flask:
    """The application ashore."""
    settings = {name: one for name, one in partitioned.settings.items() if name != "DATABASE_URL"}
    return make_app(partitioned.settings["DATABASE_URL"], **settings)


def _place(shore: Shore, vessel_id: str) -> int:
    found = shore.query(
        "SELECT number FROM arus_vessel_partition WHERE vessel_id = :vessel_id", vessel_id=vessel_id
    )
    return int(found[0][0])


def _wait_placed(shore: Shore, vessel_id: str) -> None:
    statement = "SELECT 1 FROM arus_vessel_partition WHERE vessel_id = :vessel_id"
    eventually(
        lambda: shore.query(statement, vessel_id=vessel_id), 30, message=f"{vessel_id} is placed"
    )


def _version(shore: Shore, row_id: str) -> int:
    found = shore.query("SELECT version FROM crew WHERE id = :row_id", row_id=row_id)
    return int(found[0][0]) if found else 0


def _wait_version(shore: Shore, row_id: str, version: int) -> None:
    eventually(lambda: _version(shore, row_id) == version, 30, message="the change is applied")


def _apart(ships: list[ScriptedVessel], shore: Shore) -> tuple[ScriptedVessel, ScriptedVessel]:
    """Two vessels that are in different partitions."""
    first = ships[0]
    other = next(
        ship for ship in ships if _place(shore, ship.vessel_id) != _place(shore, first.vessel_id)
    )
    return first, other


@on_postgresql
def test_a_vessel_whose_changes_wait_for_a_lock_delays_its_partition_alone(
    app: Flask, partitioned: Shore, start_ships: Callable[..., list[ScriptedVessel]]
) -> None:
    ships = start_ships(4)
    with FollowerThread(app, partitions=4):
        partitioned.wait_equal(ships)
        slow, other = _apart(ships, partitioned)
        slow_row, other_row = (next(iter(ship.rows))[1] for ship in (slow, other))
        with partitioned.engine.begin() as connection:
            lock = text("SELECT id FROM crew WHERE id = :id FOR UPDATE")
            connection.execute(lock, {"id": slow_row})
            slow.change("crew", row_id=slow_row)
            other.change("crew", row_id=other_row)
            _wait_version(partitioned, other_row, 2)
            assert _version(partitioned, slow_row) == 1
        _wait_version(partitioned, slow_row, 2)


@on_postgresql
def test_vessels_that_compress_are_read_in_their_partitions_and_after_they_have_moved(
    app: Flask, partitioned: Shore, mosquitto: Mosquitto
) -> None:
    with ExitStack() as stack:
        ships: list[ScriptedVessel] = []
        for number in range(1, 5):
            vessel = CompressingVessel(mosquitto.port, f"ship-{number}", PREFIX)
            ships.append(stack.enter_context(vessel))
            vessel.describes = True
            vessel.publish(f"system/dictionary/{dictionary().id}", dictionary().content)
            vessel.change("crew", BLANK)
            vessel.status()
        for partitions in (2, 3):
            with FollowerThread(app, partitions=partitions):
                partitioned.wait_equal(ships)
                for ship in ships:
                    ship.change("crew", BLANK)
                partitioned.wait_equal(ships)
    of = [
        row.vessel_id for row in partitioned.query("SELECT vessel_id FROM arus_follow_dictionary")
    ]
    assert sorted(of) == [ship.vessel_id for ship in ships]
    assert not partitioned.query("SELECT * FROM arus_refused")


@on_postgresql
def test_a_row_that_two_vessels_create_at_the_same_moment_belongs_to_one(
    app: Flask, partitioned: Shore, start_ships: Callable[..., list[ScriptedVessel]]
) -> None:
    (ship,) = start_ships(1)
    row_id = str(uuid.uuid4())
    with FollowerThread(app, partitions=1):
        partitioned.wait_equal([ship])
        with partitioned.engine.begin() as connection:
            # As the process of another partition writes it, which has not committed yet.
            connection.execute(
                text(
                    "INSERT INTO crew (id, name, version, active, on_duty, created_at, updated_at)"
                    " VALUES (:id, 'first', 1, true, false, now(), now())"
                ),
                {"id": row_id},
            )
            connection.execute(
                text(
                    "INSERT INTO arus_row (vessel_id, entity, row_id, version, seq, hash, bucket)"
                    " VALUES ('ship-9', 'crew', :id, 1, 1, 'x', 1)"
                ),
                {"id": row_id},
            )
            ship.change("crew", {**BLANK, "name": "second"}, row_id=row_id)
            eventually(lambda: _waits_for_lock(partitioned), 30, message="it waits for the row")

        def refused() -> bool:
            found = partitioned.query(
                "SELECT owner FROM arus_row WHERE vessel_id = 'ship-1' AND row_id = :id", id=row_id
            )
            return [row.owner for row in found] == ["ship-9"]

        eventually(refused, 60, message="the later one is refused")
    assert partitioned.query("SELECT name FROM crew WHERE id = :id", id=row_id)[0][0] == "first"


def _waits_for_lock(shore: Shore) -> bool:
    found = shore.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    return bool(found[0][0])


@on_postgresql
def test_the_number_of_partitions_can_be_changed_and_given_up(
    app: Flask,
    partitioned: Shore,
    start_ships: Callable[..., list[ScriptedVessel]],
    mosquitto: Mosquitto,
) -> None:
    ships = start_ships(4)
    with FollowerThread(app) as one:
        one.wait_equal(*ships)
    for partitions in (4, 2, None):
        for ship in ships:
            ship.change("crew", BLANK)  # while nobody follows
        with FollowerThread(app, partitions=partitions):
            partitioned.wait_equal(ships)
            eventually(
                lambda: not partitioned.query("SELECT * FROM arus_unused_session"),
                60,
                message="the sessions that are not used any more are ended",
            )
            if partitions:
                assert all(_place(partitioned, ship.vessel_id) < partitions for ship in ships)
    used = {f"arus_follow_shore_p{number}" for number in range(4)}
    assert not any(_has_session(mosquitto, client_id) for client_id in used)
    assert _has_session(mosquitto, "arus_follow_shore")


def _has_session(broker: Mosquitto, client_id: str) -> bool:
    """Whether the broker keeps a session; it is not kept after this."""
    present: list[bool] = []
    answered = threading.Event()

    def on_connect(_client: Any, _userdata: Any, flags: Any, *_: Any) -> None:
        present.append(flags.session_present)
        answered.set()

    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2, client_id, clean_session=False, protocol=paho.MQTTv311
    )
    client.on_connect = on_connect
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert answered.wait(20), "the broker has not answered"
    client.disconnect()
    client.loop_stop()
    return present[0]


@on_postgresql
def test_processes_with_another_number_of_partitions_are_refused(
    app: Flask, partitioned: Shore, start_ships: Callable[..., list[ScriptedVessel]]
) -> None:
    start_ships(1)
    with FollowerThread(app, partitions=4):
        eventually(partitioned.held, 30, message="partitions are held")
        with pytest.raises(FollowError, match="shore is followed in 4 partitions by other"):
            Follower(app, partitions=8).run()


@on_postgresql
def test_invented_vessels_are_bounded(
    app: Flask,
    partitioned: Shore,
    start_ships: Callable[..., list[ScriptedVessel]],
    mosquitto: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arus.follower.partitions.discovery.MAX_UNPROVEN", 2)
    ships = start_ships(2)
    for ship in ships:
        ship.change("crew", BLANK, lost=True)  # so that a catch-up proves them
        ship.status()
    placed = "SELECT vessel_id FROM arus_vessel_partition"
    with FollowerThread(app, partitions=4):
        partitioned.wait_equal(ships)
        for number in range(4):
            document = json.dumps(ShipModel(f"ghost-{number}").status_document())
            mosquitto.publish(f"fleet/ghost-{number}/sync/system/status", document, "-q", "1")
            _wait_placed(partitioned, f"ghost-{number}")
        found = {row.vessel_id for row in partitioned.query(placed)}
        assert found == {"ship-1", "ship-2", "ghost-2", "ghost-3"}
        for ship in ships:
            ship.change("crew", BLANK)
        partitioned.wait_equal(ships)


@on_postgresql
def test_the_status_tells_which_process_has_which_partition(
    app: Flask, partitioned: Shore, start_ships: Callable[..., list[ScriptedVessel]]
) -> None:
    ships = start_ships(3)
    with FollowerThread(app, partitions=3) as follower:
        partitioned.wait_equal(ships)
        document = follower.status().document()
        assert document["following"]
        assert document["connected"]
        assert [one["number"] for one in document["partitions"]] == [0, 1, 2]
        assert {one["pid"] for one in document["partitions"]} == {os.getpid()}
        assert sum(one["vessels"] for one in document["partitions"]) == 3
        told = app.test_cli_runner().invoke(args=["sync", "follow", "--status"])
        assert "3 partitions, 1 process\n" in told.output
        assert f"process {os.getpid()} on" in told.output
        assert "3 partitions (0-2) with 3 vessels" in told.output
        told = app.test_cli_runner().invoke(args=["sync", "doctor"])
        assert "3 partitions, 1 process, all connected" in told.output
    told = app.test_cli_runner().invoke(args=["sync", "follow", "--status"])
    assert "held by no process: 0-2" in told.output
    told = app.test_cli_runner().invoke(args=["sync", "doctor"])
    assert "no process follows (shore)" in told.output


# -- locks and leases -----------------------------------------------------------------------------


def _is_there(shore: Shore, pid: int) -> bool:
    """Whether a session is there."""
    return bool(shore.query("SELECT 1 FROM pg_stat_activity WHERE pid = :pid", pid=pid))


def _pid(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@on_postgresql
def test_the_permit_to_delete_orphans_ends_with_its_time_and_with_its_loop(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(database_url)
    with open_session(url) as one, open_session(url) as other:
        first, second = Permit(one), Permit(other)
        assert [first.take("a"), first.take("b"), second.take("c")] == [True, False, False]
        first.step()
        first.give("b")
        second.end()
        assert not second.take("c"), "vessel a has it"
        first.end()  # the vessels of the partition change; its session goes on
        monkeypatch.setattr(sharing, "TURN", 0.0)
        assert second.take("c")
        assert not Permit(one).take("a")
        second.step()
        assert Permit(one).take("a")


@on_postgresql
def test_a_session_that_has_ended_is_never_replaced_by_one_without_its_locks(
    partitioned: Shore,
) -> None:
    def use_again() -> None:
        with open_session(make_url(partitioned.settings["DATABASE_URL"])) as connection:
            partitioned.query("SELECT pg_terminate_backend(:pid)", pid=_pid(connection))
            with pytest.raises(DBAPIError):
                connection.execute(text("SELECT 1"))
            connection.rollback()  # after that SQLAlchemy would connect again
            connection.execute(text("SELECT 1"))

    with pytest.raises(LogUnavailableError, match="has ended, and its locks with it"):
        use_again()


@on_postgresql
def test_the_server_ends_a_silent_session_and_not_that_of_a_thread_that_computes(
    partitioned: Shore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.follower.partitions.locks.LEASE", 1.0)
    monkeypatch.setattr("arus.follower.partitions.lease.BEAT", 0.2)
    url = make_url(partitioned.settings["DATABASE_URL"])
    keeper = Keeper()
    keeper.start()

    def use() -> None:
        with open_session(url) as busy, closing(Lease(busy, keeper)) as lease:
            assert take(busy, Kind.PARTITION, 1)
            # The silent one is the younger one: when it has ended, the other one has lived longer than that.
            silent = ExitStack()
            pid = _pid(silent.enter_context(open_session(url)))
            eventually(lambda: not _is_there(partitioned, pid), 10, message="the session has ended")
            silent.pop_all()  # not closed: that would use it
            lease.check()
            assert read_holders(busy).partitions == {1}
            partitioned.query("SELECT pg_terminate_backend(:pid)", pid=_pid(busy))
            eventually(lease.check, 10, message="the thread is told")

    with pytest.raises(LogUnavailableError):
        use()
    keeper.stop()


@on_postgresql
def test_a_session_that_is_stopped_in_the_middle_of_a_statement_is_ended_by_another_process(
    partitioned: Shore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.follower.partitions.locks.SILENT", 0.5)
    url = make_url(partitioned.settings["DATABASE_URL"])
    session = psycopg.connect(
        host=url.host, port=url.port, user=url.username, dbname=url.database, autocommit=True
    )
    with closing(session) as stopped:
        wanted = (int(Kind.PARTITION), 3)
        assert stopped.execute("SELECT pg_try_advisory_lock(%s, %s)", wanted).fetchone() == (True,)
        copying = stopped.cursor().copy("COPY crew FROM STDIN")
        copying.__enter__()  # the server waits for the rest of this statement, without any limit
        with open_session(url) as connection:

            def ended() -> bool:
                holders = read_holders(connection)
                end_silent(connection, holders)
                return not holders.partitions

            eventually(ended, 10, interval=0.1, message="the session is ended")


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "--partitions needs PostgreSQL, whose locks the processes share"),
        ({"MQTT_TOPIC_PREFIX": "vessel/sync"}, "--partitions needs PostgreSQL"),
    ],
)
def test_partitions_on_sqlite_are_refused_in_one_line(
    make_app: Callable[..., Flask], migrated_database_url: str, settings: dict[str, str], says: str
) -> None:
    app = make_app(
        migrated_database_url, **{"LOCAL_MODE": "false", "MQTT_TOPIC_PREFIX": PREFIX, **settings}
    )
    told = app.test_cli_runner().invoke(args=["sync", "follow", "--partitions", "4"])
    assert told.exit_code == 1
    assert told.output.startswith(f"Error: {says}")
    assert len(told.output.splitlines()) == 1


@on_postgresql
def test_partitions_need_a_prefix_for_each_vessel(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false", MQTT_TOPIC_PREFIX="vessel/sync")
    with pytest.raises(FollowError, match=r"needs a level \{vessel_id\} in MQTT_TOPIC_PREFIX"):
        Follower(app, partitions=4)
