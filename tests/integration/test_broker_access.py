"""deploy/mosquitto/secured.conf and its ACL: who may publish and read what, and that Arus needs no more than that."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from blueprints.alerts.models import Alert
from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from extensions import db, sync
from tests.support.broker import find_program
from tests.support.certificates import Certificates
from tests.support.follower import FollowerThread
from tests.support.mosquitto import Mosquitto
from tests.support.user import NOT_AUTHORIZED, TAKEN, BrokerUser
from tests.support.vessel import StartVessel
from tests.support.waiting import eventually

FLEET = "fleet/{vessel_id}/sync"
USERS = ("ship-1", "ship-2", "shore")
CLIENT_IDS = {
    "ship-1": "arus_sync_ship-1",
    "ship-2": "arus_sync_ship-2",
    "shore": "arus_follow_shore",
}
ROWS = 20
LogIn = Callable[..., BrokerUser]
MakeApp = Callable[..., Flask]

only_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])

#: Topics that each user may publish to, and that it may not.
ALLOWED = {
    "ship-1": (
        "fleet/ship-1/sync/work_orders",
        "fleet/ship-1/sync/system/status",
        "fleet/ship-1/sync/catchup/crew",
        "fleet/ship-1/sync/system/session/arus_sync_ship-1",
    ),
    "shore": (
        "fleet/ship-1/sync/catchup_requests",
        "fleet/_all/sync/catchup_requests",
        "fleet/ship-2/sync/watermarks/shore",
        "fleet/ship-2/sync/proposals/work_orders",
        "fleet/_all/sync/system/session/arus_follow_shore",
        "fleet/_all/sync/system/probe/arus_follow_shore",
    ),
}
DENIED = {
    "ship-1": (
        "fleet/ship-2/sync/work_orders",
        "fleet/ship-2/sync/system/status",
        "fleet/ship-2/sync/catchup_requests",
        "fleet/ship-2/sync/watermarks/shore",
        "fleet/_all/sync/catchup_requests",
        "fleet/_all/sync/system/session/arus_follow_shore",
        "fleet/shore/sync/work_orders",
        "vessel/sync/work_orders",
    ),
    "shore": (
        "fleet/ship-1/sync/work_orders",
        "fleet/ship-1/sync/alerts",
        "fleet/ship-1/sync/catchup/crew",
        "fleet/ship-1/sync/system/status",
        "fleet/ship-1/sync/system/digest",
        "fleet/ship-1/sync/conflicts",
        "fleet/ship-1/sync/watermarks/another",
        "fleet/ship-1/sync/system/session/arus_sync_ship-1",
        # It is no vessel.
        "fleet/shore/sync/work_orders",
        "vessel/sync/work_orders",
    ),
}


@pytest.fixture
def secured(start_mosquitto: Callable[..., Mosquitto], certificates: Certificates) -> Mosquitto:
    """The same with a password_file instead of the plugin; the users' passwords are their names."""
    return start_mosquitto(
        secured=True, certificates=certificates, users={name: name for name in USERS}
    )


@pytest.fixture
def bound(start_mosquitto: Callable[..., Mosquitto], certificates: Certificates) -> Mosquitto:
    """Mosquitto as deploy/mosquitto/secured.conf and acl have it, with users made as README.md says there."""
    return start_bound(start_mosquitto, certificates)


@pytest.fixture
def log_in() -> Iterator[LogIn]:
    """Logs a user in: broker, name and client id; the connection ends after the test."""
    with ExitStack() as stack:

        def log_in(broker: Mosquitto, name: str, client_id: str | None = None) -> BrokerUser:
            assert broker.certificates is not None
            return stack.enter_context(
                BrokerUser(broker.port, broker.certificates.ca, name, client_id)
            )

        yield log_in


def start_bound(start_mosquitto: Callable[..., Mosquitto], certificates: Certificates) -> Mosquitto:
    directory = certificates.ca.parent
    users = directory / "users.json"
    control = find_program("mosquitto_ctrl")

    def run(*arguments: str | Path) -> None:
        done = subprocess.run(
            [control, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "rror" not in done.stdout + done.stderr, done.stdout + done.stderr

    run("dynsec", "init", users, "admin", "admin-password")
    broker = start_mosquitto(secured=True, certificates=certificates, users_file=users)
    login: list[str | Path] = [
        "-h",
        "localhost",
        "-p",
        str(broker.port),
        "--cafile",
        certificates.ca,
    ]
    login += ["-u", "admin", "-P", "admin-password", "dynsec"]
    for kind in ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"):
        run(*login, "setDefaultACLAccess", kind, "allow")
    for name, client_id in CLIENT_IDS.items():
        run(*login, "createClient", name, "-c", client_id, "-p", name)
    return broker


@pytest.mark.parametrize("name", ["ship-1", "shore"])
def test_each_user_publishes_what_the_acl_says_and_nothing_else(
    secured: Mosquitto, log_in: LogIn, name: str
) -> None:
    user = log_in(secured, name)
    answers = {topic: user.publish(topic) for topic in (*ALLOWED[name], *DENIED[name])}
    assert {topic for topic, answer in answers.items() if answer in TAKEN} == set(ALLOWED[name])
    assert {answers[topic] for topic in DENIED[name]} == {NOT_AUTHORIZED}


def test_a_vessel_reads_its_own_topics_and_a_follower_all(
    secured: Mosquitto, log_in: LogIn
) -> None:
    readers = {name: log_in(secured, name, f"reader-{name}") for name in USERS}
    for reader in readers.values():
        # The broker takes any filter, and delivers only what the ACL allows.
        reader.subscribe("fleet/+/sync/#")
    for name in ("ship-1", "ship-2"):
        assert log_in(secured, name).publish(f"fleet/{name}/sync/crew") in TAKEN
    shore = log_in(secured, "shore")
    assert shore.publish("fleet/ship-2/sync/watermarks/shore") in TAKEN
    assert shore.publish("fleet/_all/sync/catchup_requests") in TAKEN

    def topics(name: str) -> list[str]:
        return [topic.removeprefix("fleet/") for topic, _ in readers[name].received]

    expected = [
        "ship-1/sync/crew",
        "ship-2/sync/crew",
        "ship-2/sync/watermarks/shore",
        "_all/sync/catchup_requests",
    ]
    # The last message is for all, and the broker keeps the order.
    eventually(lambda: all("_all/sync/catchup_requests" in topics(name) for name in USERS))
    assert topics("shore") == expected
    assert topics("ship-1") == [expected[0], expected[3]]
    assert topics("ship-2") == expected[1:]


@pytest.mark.parametrize("name", ["", "stranger", "_all", "+"])
def test_nobody_else_gets_in(secured: Mosquitto, log_in: LogIn, name: str) -> None:
    # 0x86 and 0x87: bad user name or password, not authorized (MQTT 5, 3.2.2.2).
    assert log_in(secured, name, "stranger").answer in {0x86, 0x87}


@only_sqlite
def test_a_change_that_is_larger_than_the_broker_accepts_is_quarantined_and_the_others_are_sent(
    secured: Mosquitto, start_vessel: StartVessel
) -> None:
    assert secured.certificates is not None
    vessel = start_vessel(
        secured.tls_url,
        MQTT_TLS_CA=secured.certificates.ca,
        MQTT_USERNAME="ship-1",
        MQTT_PASSWORD="ship-1",
        MQTT_TOPIC_PREFIX=FLEET,
    )
    vessel.wait_connected()
    vessel.commit(1, data='{"id":"1","text":"%s"}' % ("x" * 1_100_000))
    vessel.commit(3)
    vessel.wait_drained()
    outcomes = vessel.query("SELECT outcome FROM arus_change ORDER BY id")
    assert [row.outcome for row in outcomes] == ["quarantined", None, None, None]


@only_sqlite
def test_with_client_certificates_the_common_name_is_the_user(
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
) -> None:
    broker = start_mosquitto(
        secured=True,
        certificates=certificates,
        options=("require_certificate true", "use_identity_as_username true"),
    )
    settings = {
        "MQTT_TLS_CA": certificates.ca,
        "MQTT_TLS_CERT": certificates.client_cert,
        "MQTT_TLS_KEY": certificates.client_key,
        "MQTT_TOPIC_PREFIX": FLEET,
    }
    # The certificate's common name is "vessel".
    vessel = start_vessel(broker.tls_url, VESSEL_ID="vessel", **settings)
    vessel.wait_connected()
    vessel.commit(3)
    vessel.wait_drained()
    assert not vessel.query("SELECT 1 FROM arus_change WHERE outcome IS NOT NULL")
    assert "Denied" not in broker.log


# -- the whole main job ------------------------------------------------------------------------------


@pytest.fixture
def make_member(
    make_app: MakeApp, migrated_database_url: str, tmp_path: Path
) -> Callable[..., Flask]:
    """Makes a vessel or a follower that logs in at a broker by its own name."""

    def make(broker: Mosquitto, name: str, **config: Any) -> Flask:
        database = tmp_path / f"{name}.sqlite"
        shutil.copy(migrated_database_url.removeprefix("sqlite:///"), database)
        assert broker.certificates is not None
        return make_app(
            f"sqlite:///{database}",
            VESSEL_ID=name,
            MQTT_BROKER_URL=broker.tls_url,
            MQTT_TLS_CA=str(broker.certificates.ca),
            MQTT_USERNAME=name,
            MQTT_PASSWORD=name,
            MQTT_TOPIC_PREFIX=FLEET,
            MQTT_RECONNECT_PERIOD="0.2",
            **config,
        )

    return make


def write(ship: Flask, count: int) -> None:
    with ship.app_context():
        for number in range(count):
            db.session.add(CrewMember(name=f"sailor {number}"))
        pump = Equipment(name="pump", type="pump")
        db.session.add(pump)
        db.session.flush()
        db.session.add(
            Alert(
                equipment_id=pump.id,
                sensor_type="temperature",
                alert_type="critical",
                message="hot",
                value=96.5,
                threshold=90.0,
            )
        )
        db.session.commit()


def count(ship: Flask, rows: str) -> int:
    with ship.app_context(), db.engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {rows}").scalar_one())


def is_delivered(ship: Flask) -> bool:
    status = ship.extensions["arus"].status()
    return bool(status.head_seq) and not status.depth


def are_equal(follower: FollowerThread, seq: int) -> bool:
    vessels = {vessel.vessel_id: vessel for vessel in follower.status().vessels}
    assert set(vessels) == {"ship-1", "ship-2"}, vessels
    for vessel in vessels.values():
        assert vessel.seq == seq, vessels
        assert vessel.online, vessels
        assert vessel.audit, vessels
        assert vessel.audit["equal"], vessels
    return True


@only_sqlite
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["secured", "bound"])
def test_vessels_and_a_follower_get_equal_under_the_acl(
    request: pytest.FixtureRequest,
    kind: str,
    make_member: Callable[..., Flask],
) -> None:
    broker: Mosquitto = request.getfixturevalue(kind)
    ships = [make_member(broker, name) for name in ("ship-1", "ship-2")]
    for ship in ships:
        sync.start(ship)
        write(ship, ROWS)
    eventually(lambda: all(is_delivered(ship) for ship in ships), message="all is delivered")
    shore = make_member(broker, "shore", LOCAL_MODE="false")
    per_ship = ROWS + 2
    # The follower is new: it requests what it has missed, and a digest.
    with FollowerThread(shore) as follower:
        eventually(lambda: are_equal(follower, per_ship), 60, message="equal after a catch-up")
        for ship in ships:
            write(ship, 3)
        eventually(lambda: are_equal(follower, per_ship + 5), 60, message="equal after changes")
        assert follower.status().counters["refused"] == 0
        marked = f"arus_follower WHERE name = 'shore' AND seq = {per_ship + 5}"
        eventually(
            lambda: [count(ship, marked) for ship in ships] == [1, 1],
            message="the watermarks arrive",
        )
    for ship in ships:
        assert count(ship, "arus_catchup WHERE origin = 'mqtt' AND consumer = 'shore'") > 0
    denied = [line for line in broker.log.splitlines() if "Denied" in line]
    assert denied == []


# -- client ids --------------------------------------------------------------------------------------


def test_a_user_connects_with_its_own_client_id_alone(bound: Mosquitto, log_in: LogIn) -> None:
    for name, client_id in CLIENT_IDS.items():
        assert log_in(bound, name, client_id).answer == 0
    for name, client_id in (
        ("ship-1", "arus_follow_shore"),
        ("ship-1", "arus_sync_ship-2"),
        ("ship-1", "another"),
        ("shore", "arus_sync_ship-1"),
    ):
        assert log_in(bound, name, client_id).answer == NOT_AUTHORIZED


def test_a_user_can_not_end_the_connection_of_another_by_its_client_id(
    bound: Mosquitto, log_in: LogIn
) -> None:
    victim = log_in(bound, "ship-2", CLIENT_IDS["ship-2"])
    victim.subscribe("fleet/ship-2/sync/#")
    assert log_in(bound, "ship-1", CLIENT_IDS["ship-2"]).answer == NOT_AUTHORIZED
    assert victim.publish("fleet/ship-2/sync/crew") in TAKEN, "it is still connected"
    eventually(lambda: victim.received == [("fleet/ship-2/sync/crew", b"{}")])


def test_the_acl_holds_for_users_with_bound_client_ids(bound: Mosquitto, log_in: LogIn) -> None:
    for name in ("ship-1", "shore"):
        user = log_in(bound, name, CLIENT_IDS[name])
        assert all(user.publish(topic) in TAKEN for topic in ALLOWED[name])
        assert {user.publish(topic) for topic in DENIED[name]} == {NOT_AUTHORIZED}
