"""`flask sync doctor`: what it finds on a real database, disk and broker, and what it says to do."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trustme
from flask import Flask

from arus.ops.doctor import clock, disk
from arus.protocol.times import now_ms
from extensions import db
from tests.support.certificates import Certificates
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import Link, ScriptedBroker
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

MakeApp = Callable[..., Flask]
StartMosquitto = Callable[..., Mosquitto]


def examine(app: Flask, exit_code: int | None = None) -> dict[str, dict[str, Any]]:
    """What the doctor says, by what it looked at; the worst where there is more than one."""
    done = app.test_cli_runner().invoke(args=["sync", "doctor", "--json"])
    document = json.loads(done.stdout)
    worst = document["verdict"]
    assert done.exit_code == (worst == "fail"), done.output
    assert exit_code is None or done.exit_code == exit_code, done.output
    order = ["ok", "warn", "fail"]
    assert worst == max((c["verdict"] for c in document["checks"]), key=order.index)
    checks = sorted(document["checks"], key=lambda check: order.index(check["verdict"]))
    for check in checks:
        assert "\n" not in check["says"]
        assert (check["verdict"] == "ok") == (check["fix"] is None), check
    return {check["name"]: check for check in checks}


@pytest.fixture
def execute(app: Flask) -> Callable[..., None]:
    """Changes the app's database."""

    def execute(statement: str, **values: Any) -> None:
        with app.app_context(), db.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    return execute


def well(check: dict[str, Any]) -> bool:
    return bool(check["verdict"] == "ok")


# -- database, log, clock, disk -------------------------------------------------------------------


def test_all_is_well_beside_a_running_vessel(
    make_app: MakeApp, migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url)
    client = app.test_client()
    client.post("/api/crew", json={"name": "Ada"})
    eventually(
        lambda: client.get("/api/mqtt/reliable-sync/health").get_json()["status"] == "healthy",
        30,
        message="connected",
    )
    found = examine(app)
    # Of this machine's clock, and the test server's fsync, the doctor may think what it likes.
    assert all(well(found[name]) for name in found.keys() - {"clock", "durability"}), found
    assert {"settings", "files", "database", "durability", "clock", "queue", "owner"} < set(found)
    assert "accepts MQTT 5, in" in found["broker"]["says"]


def test_what_was_found_out_of_the_broker_is_said(
    make_app: MakeApp, migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url, MQTT_PROTOCOL="3.1.1")
    client = app.test_client()

    def health() -> Any:
        return client.get("/api/mqtt/reliable-sync/health").get_json()

    client.get("/")  # other servers than gunicorn start the sync with their first request
    eventually(lambda: health()["mqtt"]["status"] == "connected", 30)
    assert (health()["status"], health()["mqtt"]["reason"]) == ("healthy", None)
    with app.app_context(), db.engine.begin() as connection:
        known = {"at": now_ms(), "url": mosquitto.url}
        connection.execute(
            sa.text(
                "UPDATE arus_broker SET version = '3.1.1', version_at = :at, handshakes = 7,"
                " handshakes_at = :at WHERE address = :url"
            ),
            known,
        )
    assert examine(app)["qos"]["says"] == "with MQTT 3.1.1 it accepts 7 alerts at a time"
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE arus_broker SET lowers_qos = true"))
    assert "lowers QoS 2 to 1" in examine(app)["qos"]["says"]
    assert "does not support QoS 2" in client.get("/sync/").text
    assert "no retained messages" not in client.get("/sync/").text
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE arus_broker SET lowers_qos = false, max_qos = 1, retains = false")
        )
    assert "alerts are sent with QoS 1" in examine(app)["qos"]["says"]
    assert "has no retained messages" in examine(app)["retain"]["says"]
    assert "no retained messages" in client.get("/sync/").text
    obstacle = "not authorized on vessel/sync/system/status"
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE arus_session SET obstacle = :it"), {"it": obstacle})
    assert health()["mqtt"]["reason"] == f"the broker refuses messages: {obstacle}"
    refused = examine(app)["owner"]
    assert refused["verdict"] == "warn"
    assert obstacle in refused["says"]
    assert "allow the vessel to publish" in refused["fix"]
    assert "arus_mqtt_stalled 0.0" in client.get("/metrics").text
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE arus_session SET stalled_since = 1, obstacle = 'quota exceeded'")
        )
    assert "arus_mqtt_stalled 1.0" in client.get("/metrics").text
    assert "It refuses them for the moment: quota exceeded." in client.get("/sync/").text
    assert health()["status"] == "degraded"
    assert health()["mqtt"]["reason"] == (
        "messages are waiting, and the broker has acknowledged none for a minute: it refuses them for the"
        " moment (quota exceeded)"
    )
    assert "acknowledged none for a minute" in examine(app)["owner"]["says"]
    mosquitto.kill()
    eventually(lambda: health()["status"] == "degraded", 30)
    assert health()["mqtt"]["reason"]


def test_for_people_it_is_a_line_each(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["sync", "doctor"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("fail  broker ") for line in lines)
    assert any(line.strip().startswith("-> start the broker, or set its port") for line in lines)
    assert re.fullmatch(r"[12] failed, \d to check", lines[-1])


def test_a_database_that_is_not_migrated(make_app: MakeApp, database_url: str) -> None:
    found = examine(make_app(database_url), 1)
    assert found["database"]["verdict"] == "fail"
    assert "flask db upgrade" in found["database"]["fix"]
    assert "clock" not in found  # nothing is asked of tables that are not there


def test_a_migration_that_is_missing(app: Flask, execute: Callable[..., None]) -> None:
    execute("UPDATE alembic_version SET version_num = '0030'")
    assert "it is at migration 0030, not at " in examine(app, 1)["database"]["says"]
    assert examine(app, 1)["database"]["fix"] == "flask db upgrade"


def test_migrations_of_a_newer_version(app: Flask, execute: Callable[..., None]) -> None:
    execute("UPDATE alembic_version SET version_num = '9999'")
    found = examine(app, 1)["database"]
    assert "it is at migration 9999, not at " in found["says"]
    assert "install that one again" in found["fix"]


def test_a_column_that_is_missing(app: Flask, execute: Callable[..., None]) -> None:
    execute("ALTER TABLE arus_parked DROP COLUMN attempts")
    assert examine(app, 1)["database"]["says"] == "arus_parked lacks attempts"


def test_a_file_that_is_not_there_is_not_made(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(f"sqlite:///{tmp_path}/missing.sqlite")
    assert "there is no file" in examine(app, 1)["database"]["says"]
    assert not (tmp_path / "missing.sqlite").exists()


def test_an_application_needs_no_instance_folder(app: Flask, tmp_path: Path) -> None:
    app.instance_path = str(tmp_path / "no instance")
    assert well(examine(app)["files"])


def test_a_folder_that_is_not_there(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(f"sqlite:///{tmp_path}/not here/arus.sqlite")
    found = examine(app, 1)
    assert found["files"]["fix"].startswith(f"mkdir -p '{tmp_path}/not here'")
    assert "disk" not in found
    done = app.test_cli_runner().invoke(args=["sync", "status"])
    assert done.stderr.endswith(
        "(unable to open database file); look into it with: flask sync doctor\n"
    )


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    "url", ["sqlite:///{at}/link.sqlite", "sqlite:///file:{at}/arus.sqlite?uri=true"]
)
def test_a_database_by_another_name_is_measured_where_it_lies(
    make_app: MakeApp, migrated_database_url: str, tmp_path: Path, url: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.sqlite").symlink_to(tmp_path / "arus.sqlite")
    other_name = url.format(at=tmp_path / "elsewhere" if "link" in url else tmp_path)
    found = examine(make_app(other_name))
    assert well(found["database"]), found["database"]
    assert well(found["files"]), found["files"]
    assert re.search(
        rf"free in {re.escape(str(tmp_path))}; the database uses (?!0\.0)", found["disk"]["says"]
    )


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_hard_link_to_the_database(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "other.sqlite").hardlink_to(tmp_path / "arus.sqlite")
    found = examine(app)["files"]
    assert found["verdict"] == "warn"
    assert "has hard links" in found["says"]


def test_a_file_that_is_no_database(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database" * 1000)
    app = make_app(f"sqlite:///{tmp_path}/text.sqlite")
    assert "can't be used: file is not a database" in examine(app, 1)["database"]["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_damaged_file(make_app: MakeApp, migrated_database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "arus.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("CREATE TABLE filler (x)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 900,)] * 400)
        connection.commit()
        connection.execute("CREATE INDEX ix_filler ON filler (x)")
        connection.commit()
    damaged = bytearray(path.read_bytes())
    for page in range(len(damaged) // 4096 - 40, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(damaged)
    found = examine(make_app(migrated_database_url), 1)
    assert found["integrity"]["verdict"] == "fail"
    assert "damaged" in found["integrity"]["says"]


def test_a_database_server_that_is_away(make_app: MakeApp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    app = make_app(f"postgresql+psycopg://me:secret@127.0.0.1:{port}/arus?sslpassword=secret")
    says = examine(app, 1)["database"]["says"]
    assert "can't be used" in says
    assert "secret" not in says


def test_changes_from_the_future(app: Flask, execute: Callable[..., None]) -> None:
    app.test_client().post("/api/crew", json={"name": "Ada"})
    execute("UPDATE arus_change SET committed_at = :at", at=now_ms() + 3_600_000)
    found = examine(app)["clock"]
    assert found["verdict"] == "warn"
    assert "1 changes were committed in the future" in found["says"]


def test_a_clock_without_a_battery(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "RELEASED", datetime.now(UTC) + timedelta(days=1))
    assert examine(app, 1)["clock"]["verdict"] == "fail"


def test_a_queue_that_fills(make_app: MakeApp, migrated_database_url: str) -> None:
    app = make_app(migrated_database_url, MQTT_MAX_QUEUE_SIZE="10")
    client = app.test_client()
    for number in range(9):
        client.post("/api/crew", json={"name": f"c{number}"})
    assert examine(app)["queue"]["verdict"] == "warn"
    client.post("/api/crew", json={"name": "one more"})
    assert "the queue is full" in examine(app, 1)["queue"]["says"]


def test_what_waits_for_a_person(app: Flask, execute: Callable[..., None]) -> None:
    app.test_client().post("/api/crew", json={"name": "Ada"})
    execute("UPDATE arus_change SET outcome = 'quarantined', reason = 'too large'")
    execute(
        "INSERT INTO arus_parked (topic, payload, topic_filter, reason, attempts, parked_at)"
        " VALUES ('a', :payload, 'a', 'failed', 5, 1)",
        payload=b"{}",
    )
    found = examine(app)
    assert "queue list --state quarantined" in found["quarantine"]["fix"]
    assert "inbox list" in found["inbox"]["fix"]


def test_a_follower_that_differs(app: Flask, execute: Callable[..., None]) -> None:
    app.test_client().post("/api/crew", json={"name": "Ada"})
    eventually(lambda: "owner" in examine(app), 30, message="a log with an epoch")
    follower = (
        "INSERT INTO arus_follower (name, epoch, seq, received_at, audit_seq, audit_equal, audit_at)"
        " SELECT :name, epoch, 0, 1, 7, :equal, 1 FROM arus_session"
    )
    execute(follower, name="shore", equal=True)
    assert well(examine(app)["followers"])
    execute(follower, name="office", equal=False)
    found = examine(app)["followers"]
    assert found["says"] == "the copy of office differed from the vessel at seq 7"
    assert "flask sync audit" in found["fix"]


def test_a_table_that_went_away_is_one_thing_among_others(
    app: Flask, execute: Callable[..., None]
) -> None:
    execute("DROP TABLE arus_follower")
    found = examine(app, 1)
    assert "there is no table arus_follower" in found["database"]["says"]
    assert "disk" in found or "broker" in found


def test_a_log_that_nobody_prunes(app: Flask, execute: Callable[..., None]) -> None:
    execute(
        "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
        " committed_at, data, seq, previous_seq)"
        " VALUES ('m', 'crew', 'crew', 1, 'create', 'r', 1, 86400000, :data, 1, 0)",
        data=b"{}",
    )
    execute("INSERT INTO arus_lane (topic, acked_seq) VALUES ('crew', 1)")
    assert "older than MQTT_RETENTION_DAYS=7" in examine(app)["log"]["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_disk_that_fills(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LITTLE_SPACE", 2**60)
    assert examine(app)["disk"]["verdict"] == "warn"
    monkeypatch.setattr(disk, "NO_SPACE", 2**60)
    assert examine(app, 1)["disk"]["verdict"] == "fail"


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_files_of_another_user(app: Flask, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path / "arus.sqlite", 12345, -1)
        assert examine(app)["files"]["verdict"] == "warn"
    else:
        (tmp_path / "arus.sqlite").chmod(0o400)
        assert examine(app, 1)["files"]["verdict"] == "fail"


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_setting_that_means_nothing(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_BROKER", "mqtt://shore")
    found = examine(app)["settings"]
    assert found["says"] == "MQTT_BROKER is set, but there is no such setting"
    assert found["fix"] == "did you mean MQTT_BROKER_URL?"


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_password_in_the_clear(make_app: MakeApp, migrated_database_url: str) -> None:
    app = make_app(migrated_database_url, MQTT_BROKER_URL="mqtt://me:secret@shore.invalid")
    found = examine(app, 1)
    assert found["settings"]["says"] == "the password is sent to shore.invalid unencrypted"
    assert "the name 'shore.invalid' can't be resolved" in found["broker"]["says"]
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_ashore_no_broker_is_looked_for(make_app: MakeApp, migrated_database_url: str) -> None:
    found = examine(make_app(migrated_database_url, LOCAL_MODE="false"), 0)
    assert "broker" not in found
    assert "owner" not in found
    assert "which is right ashore" in found["settings"]["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("by", ["copies", "setting"])
def test_a_follower_needs_its_broker(
    make_app: MakeApp, migrated_database_url: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    url = "mqtt://127.0.0.1:1"
    if by == "setting":
        monkeypatch.setenv("MQTT_BROKER_URL", url)
    app = make_app(migrated_database_url, LOCAL_MODE="false", MQTT_BROKER_URL=url)
    if by == "copies":
        with app.app_context(), db.engine.begin() as connection:
            connection.execute(
                sa.text("INSERT INTO arus_vessel (vessel_id, epoch, heard_at) VALUES ('a', 'b', 1)")
            )
    found = examine(app, 1)
    assert "connection refused" in found["broker"]["says"]
    assert "owner" not in found


# -- broker ---------------------------------------------------------------------------------------


@pytest.fixture
def broker_of(make_app: MakeApp, migrated_database_url: str) -> Callable[..., dict[str, Any]]:
    """What the doctor says of a broker."""

    def broker_of(url: str, **config: Any) -> dict[str, Any]:
        found = examine(make_app(migrated_database_url, MQTT_BROKER_URL=url, **config))
        return {name: found.get(name) for name in ("broker", "certificate", "client certificate")}

    return broker_of


BrokerOf = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_user_that_the_broker_does_not_know(
    broker_of: BrokerOf, start_mosquitto: StartMosquitto
) -> None:
    mosquitto = start_mosquitto(users={"vessel": "right"})
    refused = broker_of(mosquitto.url, MQTT_USERNAME="vessel", MQTT_PASSWORD="wrong")["broker"]
    assert "refused the connection: Not authorized" in refused["says"]
    assert "MQTT_PASSWORD" in refused["fix"]
    assert well(broker_of(mosquitto.url, MQTT_USERNAME="vessel", MQTT_PASSWORD="right")["broker"])


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_port_where_no_broker_is(broker_of: BrokerOf) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        found = broker_of(url, MQTT_CONNECT_TIMEOUT="0.3")["broker"]
    assert found["says"] == "the broker did not answer CONNECT in time"
    assert "can't be reached" in broker_of(url)["broker"]["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_each_protocol_is_tried(
    broker_of: BrokerOf, start_mosquitto: StartMosquitto, protocol: str
) -> None:
    mosquitto = start_mosquitto(websockets=True)
    spoken = "5" if protocol == "auto" else protocol
    for url in (mosquitto.url, mosquitto.websockets_url):
        found = broker_of(url, MQTT_PROTOCOL=protocol)["broker"]
        assert f"accepts MQTT {spoken}, in" in found["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("forced", ["5", "3.1.1"])
def test_a_version_that_the_broker_does_not_speak(
    broker_of: BrokerOf, broker: ScriptedBroker, forced: str
) -> None:
    spoken = {"5": "3.1.1", "3.1.1": "5"}[forced]

    def speak_one_version() -> None:
        for _ in range(2):
            link = broker.accept()
            link.connect()
            if (link.level == 5) == (spoken == "5"):
                link.connack()
            else:
                link.close()

    visits = threading.Thread(target=speak_one_version)
    visits.start()
    found = broker_of(broker.url, MQTT_PROTOCOL=forced)["broker"]
    visits.join()
    assert f"speaks MQTT {spoken}, not {forced}" in found["says"]
    assert found["fix"].startswith("set MQTT_PROTOCOL=auto")


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("refuse", [lambda link: link.connack(1, level=4), Link.close])
def test_an_older_broker_is_found_by_its_answers(
    broker_of: BrokerOf, broker: ScriptedBroker, refuse: Callable[[Link], None]
) -> None:
    def speak_3_1_1() -> None:
        link = broker.accept()
        assert link.connect().level == 5
        refuse(link)
        link = broker.accept()
        assert link.connect().level == 4
        link.connack()

    visits = threading.Thread(target=speak_3_1_1)
    visits.start()
    found = broker_of(broker.url)["broker"]
    visits.join()
    assert found["verdict"] == "warn"
    assert "accepts MQTT 3.1.1" in found["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_broker_that_keeps_nothing(broker_of: BrokerOf, start_mosquitto: StartMosquitto) -> None:
    mosquitto = start_mosquitto(options=["retain_available false"])
    assert "has no retained messages" in broker_of(mosquitto.url)["broker"]["says"]
    mosquitto = start_mosquitto(options=["max_qos 1"])
    assert "does not support QoS 2" in broker_of(mosquitto.url)["broker"]["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_tls_and_who_signed_it(
    broker_of: BrokerOf, start_mosquitto: StartMosquitto, certificates: Certificates
) -> None:
    mosquitto = start_mosquitto(certificates=certificates)
    found = broker_of(mosquitto.tls_url, MQTT_TLS_CA=str(certificates.ca))
    assert well(found["broker"])
    assert well(found["certificate"])
    assert "valid until " in found["certificate"]["says"]
    found = broker_of(mosquitto.tls_url)["broker"]
    assert "certificate is not accepted" in found["says"]
    assert "MQTT_TLS_CA" in found["fix"]
    assert "the CA that signed it" in found["fix"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_scheme_of_another_port(
    broker_of: BrokerOf, start_mosquitto: StartMosquitto, certificates: Certificates
) -> None:
    mosquitto = start_mosquitto(certificates=certificates, websockets=True)
    ports = {
        "mqtt": mosquitto.port,
        "mqtts": mosquitto.tls_port,
        "ws": mosquitto.websockets_port,
    }
    for scheme, wrong in (("mqtt", "mqtts"), ("mqtts", "mqtt"), ("ws", "mqtt"), ("mqtt", "ws")):
        url = f"{wrong}://me:quokka@127.0.0.1:{ports[scheme]}"
        found = broker_of(url, MQTT_TLS_CA=str(certificates.ca))["broker"]
        right = f"{scheme}://127.0.0.1:{ports[scheme]}"
        assert f"an MQTT broker answers at {right}" in found["says"]
        assert f"{scheme}://" in found["fix"]
        assert ("not encrypted" in found["fix"]) == (wrong == "mqtts")
    assert "u'me'" not in mosquitto.log  # credentials are for a connection as the settings say


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_certificate_that_runs_out(
    broker_of: BrokerOf, start_mosquitto: StartMosquitto, tmp_path: Path
) -> None:
    made = Certificates.make(tmp_path / "certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(made.ca))

    def issue(until: datetime) -> Mosquitto:
        issued = authority.issue_cert(
            "localhost", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=until
        )
        issued.private_key_pem.write_to_path(str(made.server_key))
        issued.cert_chain_pems[0].write_to_path(str(made.server_cert))
        return start_mosquitto(certificates=made)

    soon = issue(datetime.now(UTC) + timedelta(days=9, hours=1))
    found = broker_of(soon.tls_url, MQTT_TLS_CA=str(made.ca))["certificate"]
    assert found["verdict"] == "warn"
    assert found["says"].endswith(", 9 days")
    expired = issue(datetime.now(UTC) - timedelta(days=1))
    found = broker_of(expired.tls_url, MQTT_TLS_CA=str(made.ca))["broker"]
    assert "renew the broker's certificate" in found["fix"]
    found = broker_of(expired.tls_url, MQTT_TLS_REJECT_UNAUTHORIZED="false")
    assert "it expired" in found["certificate"]["says"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_broker_that_wants_our_certificate(
    broker_of: BrokerOf, start_mosquitto: StartMosquitto, certificates: Certificates
) -> None:
    mosquitto = start_mosquitto(certificates=certificates, client_certificates=True)
    ours = {
        "MQTT_TLS_CA": str(certificates.ca),
        "MQTT_TLS_CERT": str(certificates.client_cert),
        "MQTT_TLS_KEY": str(certificates.client_key),
    }
    found = broker_of(mosquitto.tls_url, **ours)
    assert well(found["broker"])
    assert well(found["client certificate"])
    found = broker_of(mosquitto.tls_url, MQTT_TLS_CA=str(certificates.ca))["broker"]
    assert "MQTT_TLS_CERT" in found["fix"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_live_session_is_not_disturbed(
    make_app: MakeApp, migrated_database_url: str, mosquitto: Mosquitto, subscriber: Subscriber
) -> None:
    app = make_app(migrated_database_url, MQTT_BROKER_URL=mosquitto.url)
    client = app.test_client()
    client.post("/api/crew", json={"name": "Ada"})
    subscriber.wait_until(lambda: len(subscriber.changes("crew")) == 1, 30, "the first change")
    for _ in range(3):
        examine(app, 0)
    client.post("/api/crew", json={"name": "Bo"})
    subscriber.wait_until(lambda: len(subscriber.changes("crew")) == 2, 30, "the second change")
    status = client.get("/api/mqtt/reliable-sync/health").get_json()
    assert status["detailedMetrics"]["reconnectionAttempts"] == 0
