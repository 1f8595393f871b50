"""What may be wrong with a vessel's settings, database, broker, clock and disk, each with its fix.

`examine` looks at one thing after the other and says of each whether it is well; nothing is changed.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import pwd
import secrets
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from .brokers import read_broker
from .certificate import read_expiry
from .database import database_file, has_other_names, is_sqlite
from .followers import read_followers
from .message import iso, now_ms
from .schema import Tables
from .session import explain, prepare, tls_context
from .settings import SETTINGS, Settings
from .status import SyncStatus, read_status

#: TIME_ERROR of <sys/timex.h>.
_UNSYNCHRONISED = 5
_MEGABYTE = 1024 * 1024
MIGRATE = "flask --app wsgi db upgrade"
#: Free bytes below which a disk is nearly, or as good as, full.
LITTLE_SPACE = 500 * _MEGABYTE
NO_SPACE = 50 * _MEGABYTE
#: Days of validity below which a certificate wants to be renewed.
RENEW_DAYS = 30
#: OpenSSL's codes for a certificate that is not valid yet, or no longer.
_OUT_OF_DATE = (9, 10)
#: Share of the queue's bound from which on it is said, in percent.
NEARLY_FULL = 80
#: Milliseconds by which an entry may seem to come from the future: another host's clock.
CLOCK_SLACK = 5_000
#: Nothing of this is older: a clock that says so has lost its battery.
RELEASED = datetime(2026, 1, 1, tzinfo=UTC)
#: Milliseconds beyond the retention after which somebody should have pruned.
_PRUNING_SLACK = 24 * 3600 * 1000
_DAY = 24 * 3600 * 1000

_FUTURE = text("SELECT COUNT(*), MAX(committed_at) FROM arus_change WHERE committed_at > :now")
_OLDEST = text(
    "SELECT committed_at FROM arus_change c JOIN arus_lane l ON l.topic = c.topic"
    " WHERE c.outcome IS NULL AND c.seq <= l.acked_seq ORDER BY c.id LIMIT 1"
)
_ENTRIES = text("SELECT COUNT(*) FROM arus_change")
_PARKED = text("SELECT COUNT(*) FROM arus_parked")


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    #: It works, but not for ever, or not as one might think.
    WARN = "warn"
    #: It does not work.
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing."""

    #: What was looked at.
    name: str
    verdict: Verdict
    #: What was found, in one line.
    says: str
    #: What to do about it.
    fix: str | None = None

    def document(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
        return {"name": self.name, "verdict": self.verdict, "says": self.says, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Vessel:
    """What is examined."""

    settings: Settings
    engine: Engine
    tables: Tables
    #: Whether some process holds the owner's lock.
    is_owned: Callable[[Connection], bool]
    #: Where processes ring for the owner.
    bell_path: Path
    instance_path: Path
    #: The directory of the application's migrations, where it has one.
    migrations: Path | None
    #: The process's environment, in which a setting may be misspelt.
    environment: Mapping[str, str]


def examine(vessel: Vessel) -> Iterator[Finding]:
    """Yield what is found, one thing after the other; the slow ones come last."""
    yield from _settings(vessel.settings, vessel.environment)
    yield from _safely("files", _files(vessel))
    reachable = False
    for finding in _safely("database", _database(vessel)):
        reachable = reachable or finding.verdict is Verdict.OK
        yield finding
    status = _status(vessel) if reachable else None
    if status is not None:
        yield from _safely("clock", _clock(vessel))
        yield from _safely("log", _log(vessel, status))
        yield from _owner(vessel.settings, status)
        if vessel.settings.local_mode:
            yield from _safely("qos", _qos(vessel))
        yield from _safely("followers", _followers(vessel))
    yield from _safely("disk", _disk(vessel))
    if vessel.settings.local_mode:
        connected = bool(status and status.connected)
        yield from _safely("broker", _broker(vessel.settings, connected=connected))
    if status is not None:
        yield from _safely("integrity", _integrity(vessel))


def _safely(name: str, found: Iterator[Finding]) -> Iterator[Finding]:
    """Yield what is found, and that it could not be looked at where that is so."""
    try:
        yield from found
    except DBAPIError as error:
        says = f"it can't be looked at: {_line(error.orig)}"
        yield Finding(name, Verdict.FAIL, says, "see what is said of the database")
    except OSError as error:
        says = f"it can't be looked at: {_line(error)}"
        yield Finding(name, Verdict.FAIL, says, "run as the user that runs the server")


# -- settings -------------------------------------------------------------------------------------


def _settings(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    unknown = sorted(
        name for name in environment if name.startswith("MQTT_") and name not in SETTINGS
    )
    for name in unknown:
        meant = difflib.get_close_matches(name, SETTINGS, 1)
        yield Finding(
            "settings",
            Verdict.WARN,
            f"{name} is set and means nothing here",
            f"is {meant[0]} meant?" if meant else f"there are {', '.join(SETTINGS)}",
        )
    broker = settings.broker
    if not settings.local_mode:
        yield Finding(
            "settings",
            Verdict.OK,
            "LOCAL_MODE is false: nothing is captured and nothing connects, as is right ashore",
            None,
        )
    elif broker.tls and not settings.tls_verify:
        yield Finding(
            "settings",
            Verdict.WARN,
            "MQTT_TLS_REJECT_UNAUTHORIZED is false: whoever answers is taken for the broker",
            "name the broker's authority in MQTT_TLS_CA and leave this setting out",
        )
    elif settings.password and not broker.tls and not _is_here(broker.host):
        yield Finding(
            "settings",
            Verdict.WARN,
            f"the password goes to {broker.host} in the clear",
            "use mqtts:// or wss:// in MQTT_BROKER_URL",
        )
    elif not unknown:
        yield Finding("settings", Verdict.OK, "all are accepted")


def _is_here(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


# -- files ----------------------------------------------------------------------------------------


def _files(vessel: Vessel) -> Iterator[Finding]:
    url = vessel.engine.url
    places = {vessel.instance_path, vessel.bell_path.parent}
    files: list[Path] = []
    database = database_file(url)
    if database is not None:
        places.add(database.parent)
        files += [database.with_name(f"{database.name}{end}") for end in _BESIDE]
    files = [path for path in files if path.exists()]
    wrong = [path for path in sorted(places) if not os.access(path, os.W_OK | os.X_OK)]
    wrong += [path for path in files if not os.access(path, os.R_OK | os.W_OK)]
    if wrong:
        yield Finding(
            "files",
            Verdict.FAIL,
            f"{_user()} may not write {', '.join(map(str, wrong))}",
            "run as the user that runs the server, or give that user these files (chown)",
        )
        return
    foreign = [path for path in files if path.stat().st_uid != os.geteuid()]
    if foreign:
        yield Finding(
            "files",
            Verdict.WARN,
            f"{_user()} is not the owner of {', '.join(str(path) for path in foreign)}",
            "run this as the user that runs the server: files made by another may lock it out",
        )
        return
    if database is not None and has_other_names(database):
        yield Finding(
            "files",
            Verdict.WARN,
            f"{database} has hard links: a process that opens it by another name damages it",
            "find the other names (find -samefile) and remove them, or make them symbolic links",
        )
        return
    yield Finding("files", Verdict.OK, f"{_user()} may write all that is written")


#: The files of a SQLite database, the owner's lock and the rate limits' counters.
_BESIDE = ("", "-wal", "-shm", ".owner-lock", "-limits")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


# -- database -------------------------------------------------------------------------------------


def _database(vessel: Vessel) -> Iterator[Finding]:
    url = vessel.engine.url
    file = database_file(url)
    if file is not None and not file.exists():
        # Connecting would make an empty one.
        says = f"there is no file {file}"
        yield Finding("database", Verdict.FAIL, says, MIGRATE)
        return
    try:
        with vessel.engine.connect() as connection:
            yield _migrated(vessel, connection)
            yield _durable(connection)
    except DBAPIError as error:
        yield Finding(
            "database",
            Verdict.FAIL,
            f"{url.render_as_string()} can't be used: {_line(error.orig)}",
            "look at DATABASE_URL, and whether the database server runs or the file is whole",
        )


def _migrated(vessel: Vessel, connection: Connection) -> Finding:
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for field in fields(vessel.tables):
        table = getattr(vessel.tables, field.name)
        if table.name not in there:
            return Finding("database", Verdict.FAIL, f"there is no table {table.name}", MIGRATE)
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        if missing := [column.name for column in table.columns if column.name not in columns]:
            return Finding(
                "database", Verdict.FAIL, f"{table.name} lacks {', '.join(missing)}", MIGRATE
            )
    if vessel.migrations is not None and "alembic_version" in there:
        from alembic.script import ScriptDirectory

        query = text("SELECT version_num FROM alembic_version")
        found = set(connection.execute(query).scalars())
        wanted = set(ScriptDirectory(str(vessel.migrations)).get_heads())
        if found != wanted:
            return Finding(
                "database",
                Verdict.FAIL,
                f"it is at migration {', '.join(sorted(found)) or 'none'},"
                f" not at {', '.join(sorted(wanted))}",
                MIGRATE,
            )
    return Finding(
        "database", Verdict.OK, f"{connection.engine.url.render_as_string()} is migrated"
    )


def _durable(connection: Connection) -> Finding:
    """Whether a commit is on the disk before it is answered."""
    if connection.dialect.name == "sqlite":
        journal = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        synchronous = int(connection.exec_driver_sql("PRAGMA synchronous").scalar() or 0)
        if synchronous < 2:
            return Finding(
                "durability",
                Verdict.FAIL,
                f"PRAGMA synchronous is {synchronous}: a power cut can lose committed changes",
                "set PRAGMA synchronous = FULL on each of the application's connections",
            )
        if journal != "wal":
            return Finding(
                "durability",
                Verdict.WARN,
                f"journal_mode is {journal}: readers and writers wait for each other",
                "PRAGMA journal_mode = WAL, on a local disk",
            )
        return Finding("durability", Verdict.OK, "WAL, synchronous FULL")
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if connection.exec_driver_sql(f"SHOW {name}").scalar() == "off"
    ]
    if off:
        return Finding(
            "durability",
            Verdict.FAIL,
            f"{', '.join(off)} {'is' if len(off) == 1 else 'are'} off: a power cut can lose"
            " committed changes",
            "switch it on in postgresql.conf and reload the server",
        )
    return Finding(
        "durability", Verdict.OK, "fsync, full_page_writes and synchronous_commit are on"
    )


def _integrity(vessel: Vessel) -> Iterator[Finding]:
    if not is_sqlite(vessel.engine.url):
        return
    try:
        with vessel.engine.connect() as connection:
            said = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
    except DBAPIError as error:
        said = _line(error.orig)
    if said == "ok":
        yield Finding("integrity", Verdict.OK, "the database file is whole")
    else:
        yield Finding(
            "integrity",
            Verdict.FAIL,
            f"the database file is damaged: {_line(said)}",
            "stop the server, keep a copy, then: sqlite3 FILE .recover | sqlite3 NEW",
        )


def _status(vessel: Vessel) -> SyncStatus | None:
    try:
        with vessel.engine.connect() as connection:
            return read_status(
                connection,
                enabled=vessel.settings.local_mode,
                owned=vessel.settings.local_mode and vessel.is_owned(connection),
                max_queue_size=vessel.settings.max_queue_size,
            )
    except DBAPIError:
        return None  # the check of the database has said why


# -- clock, log, owner ----------------------------------------------------------------------------


def _clock(vessel: Vessel) -> Iterator[Finding]:
    now = now_ms()
    with vessel.engine.connect() as connection:
        count, latest = connection.execute(_FUTURE, {"now": now + CLOCK_SLACK}).one()
    if datetime.now(UTC) < RELEASED:
        yield Finding(
            "clock",
            Verdict.FAIL,
            f"it says {iso(now)}: that is before this program was made",
            "set the clock; its battery may be empty",
        )
    elif count:
        yield Finding(
            "clock",
            Verdict.WARN,
            f"{count} changes were committed in the future, the last at {iso(latest)}:"
            f" the clock went back by {(latest - now) // 1000} s or more",
            "have the clock set by NTP or GPS; order and delivery do not depend on it, catch-ups"
            " by time do",
        )
    elif not _is_synchronised():
        yield Finding(
            "clock",
            Verdict.WARN,
            f"it says {iso(now)}, and nothing sets it",
            "have it set by NTP or GPS (chrony, systemd-timesyncd)",
        )
    else:
        yield Finding("clock", Verdict.OK, f"it says {iso(now)}, and no change is later")


def _is_synchronised() -> bool:
    """Whether the kernel is told the time by somebody, as far as it knows (adjtimex, Linux)."""
    adjust = getattr(ctypes.CDLL(None), "adjtimex", None)
    # All zero: nothing is adjusted, the state is read.
    return adjust is None or adjust(ctypes.create_string_buffer(512)) != _UNSYNCHRONISED


def _log(vessel: Vessel, status: SyncStatus) -> Iterator[Finding]:
    with vessel.engine.connect() as connection:
        entries = int(connection.execute(_ENTRIES).scalar_one())
        oldest = connection.execute(_OLDEST).scalar()
        parked = int(connection.execute(_PARKED).scalar_one())
    kept = vessel.settings.retention_days * _DAY
    age = 0 if oldest is None else now_ms() - int(oldest)
    says = f"{entries} changes"
    if oldest is not None:
        says += f", the oldest delivered one {age / _DAY:.1f} days old"
    if oldest is not None and age > kept + _PRUNING_SLACK and vessel.settings.local_mode:
        yield Finding(
            "log",
            Verdict.WARN,
            f"{says}: older than MQTT_RETENTION_DAYS={vessel.settings.retention_days:g}",
            "a server that owns the session removes them; let one run, or look at its log",
        )
    else:
        yield Finding("log", Verdict.OK, says)
    yield _queue(status)
    if status.quarantined:
        yield Finding(
            "quarantine",
            Verdict.WARN,
            f"{status.quarantined} changes can't be sent and wait for a person",
            "flask sync queue list --state quarantined, then queue retry or discard",
        )
    if parked:
        yield Finding(
            "inbox",
            Verdict.WARN,
            f"{parked} received messages could not be handled and wait for a person",
            "flask sync inbox list, then inbox replay or discard",
        )


def _queue(status: SyncStatus) -> Finding:
    says = f"{status.depth} of {status.max_queue_size} undelivered"
    if status.utilization >= 100:
        return Finding(
            "queue",
            Verdict.FAIL,
            f"{says}: it is full; the oldest changes are given up, and repaired by catch-up later",
            "bring the link up, or raise MQTT_MAX_QUEUE_SIZE",
        )
    if status.utilization >= NEARLY_FULL:
        return Finding(
            "queue", Verdict.WARN, says, "bring the link up, or raise MQTT_MAX_QUEUE_SIZE"
        )
    return Finding("queue", Verdict.OK, says)


def _owner(settings: Settings, status: SyncStatus) -> Iterator[Finding]:
    if not settings.local_mode:
        return
    owner = status.owner
    if owner is None:
        yield Finding(
            "owner",
            Verdict.WARN,
            "no process holds the session: changes are kept and not sent",
            "start the server (gunicorn wsgi:app)",
        )
        return
    who = f"process {owner.pid} on {owner.host}, generation {owner.generation}"
    if status.connected and (trouble := status.trouble(now_ms())):
        yield Finding(
            "owner",
            Verdict.WARN,
            f"{who}, is connected, but {trouble}",
            "look at the broker's log: it takes messages and does not answer them",
        )
    elif status.connected:
        yield Finding("owner", Verdict.OK, f"{who}, connected by MQTT {status.protocol}")
    else:
        yield Finding(
            "owner",
            Verdict.WARN,
            f"{who}, is not connected; {status.reconnect_attempts} attempts; {status.reason}",
            "see what is said of the broker",
        )


def _qos(vessel: Vessel) -> Iterator[Finding]:
    """Yield what the owner has found out of the broker's QoS 2."""
    with vessel.engine.connect() as connection:
        known = read_broker(connection, str(vessel.settings.broker))
    if known.lowers_qos:
        yield Finding(
            "qos",
            Verdict.WARN,
            "the broker lowers QoS 2 to 1: after a lost connection an alert may arrive twice",
            "subscribers tell a repeat by its messageId; Mosquitto, EMQX and HiveMQ keep QoS 2",
        )
    elif known.found and known.found.version == "3.1.1" and known.allows(now_ms()):
        taken = known.allowance.handshakes if known.allowance else 1
        yield Finding("qos", Verdict.OK, f"by MQTT 3.1.1 it takes {taken} alerts at a time")


def _followers(vessel: Vessel) -> Iterator[Finding]:
    with vessel.engine.connect() as connection:
        followers = read_followers(connection)
    unequal = [follower for follower in followers if follower.audit_equal is False]
    for follower in unequal:
        yield Finding(
            "followers",
            Verdict.WARN,
            f"{follower.name} was not equal to us at seq {follower.audit_seq}",
            "it repairs itself; see whether it has: flask sync audit",
        )
    if followers and not unequal:
        lags = ", ".join(f"{follower.name} {follower.lag} behind" for follower in followers)
        yield Finding("followers", Verdict.OK, lags)


# -- disk -----------------------------------------------------------------------------------------


def _disk(vessel: Vessel) -> Iterator[Finding]:
    database = database_file(vessel.engine.url)
    if database is None:
        return  # the server's disk can't be seen from here
    free = shutil.disk_usage(database.parent).free
    size = sum(
        path.stat().st_size
        for end in ("", "-wal")
        if (path := database.with_name(database.name + end)).exists()
    )
    says = f"{free // _MEGABYTE} MB free in {database.parent}; the database takes {size / _MEGABYTE:.1f} MB"
    fix = "make room, or move the database to a larger disk"
    if free < NO_SPACE:
        yield Finding("disk", Verdict.FAIL, says, fix)
    elif free < LITTLE_SPACE:
        yield Finding("disk", Verdict.WARN, says, fix)
    else:
        yield Finding("disk", Verdict.OK, says)


# -- broker ---------------------------------------------------------------------------------------


def _broker(settings: Settings, *, connected: bool) -> Iterator[Finding]:
    if settings.tls_cert is not None:
        yield from _certificate(
            "client certificate", settings.tls_cert.read_bytes(), "renew MQTT_TLS_CERT"
        )
    if settings.broker.tls:
        try:
            certificate = _server_certificate(settings)
        except (OSError, ValueError) as error:
            yield _unreachable(error, settings, connected=connected)
            return
        yield from _certificate("certificate", certificate, "renew the broker's certificate")
    yield _connect(settings, connected=connected)


def _unreachable(error: Exception, settings: Settings, *, connected: bool) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _OUT_OF_DATE:
        fix = "renew the broker's certificate; or is this vessel's clock wrong?"
    elif isinstance(error, ssl.SSLCertVerificationError):
        fix = "name the authority that signed it in MQTT_TLS_CA; look at the host name in MQTT_BROKER_URL"
    elif isinstance(error, ssl.SSLError | ConnectionResetError):
        fix = (
            "look at the scheme and port in MQTT_BROKER_URL, and at MQTT_TLS_CERT and MQTT_TLS_KEY"
        )
    elif isinstance(error, socket.gaierror):
        fix = "look at the host in MQTT_BROKER_URL, and at the name server"
    else:
        fix = "at sea: nothing, it is tried again for ever; else start the broker, open its port"
    verdict = Verdict.WARN if connected else Verdict.FAIL
    return Finding("broker", verdict, _line(explain(error, settings)), fix)


def _server_certificate(settings: Settings) -> bytes:
    broker = settings.broker
    context = tls_context(settings)
    with socket.create_connection((broker.host, broker.port), settings.connect_timeout) as plain:
        plain.settimeout(settings.connect_timeout)
        with context.wrap_socket(plain, server_hostname=broker.host) as secured:
            return secured.getpeercert(binary_form=True) or b""


def _certificate(name: str, certificate: bytes, fix: str) -> Iterator[Finding]:
    try:
        until = read_expiry(certificate)
    except ValueError:
        yield Finding(name, Verdict.WARN, "until when it is valid can't be read", fix)
        return
    days = (until - datetime.now(UTC)).days
    says = f"valid until {until:%Y-%m-%d}, {days} days"
    if days < 0:
        yield Finding(name, Verdict.FAIL, f"it has expired on {until:%Y-%m-%d}", fix)
    elif days < RENEW_DAYS:
        yield Finding(name, Verdict.WARN, says, fix)
    else:
        yield Finding(name, Verdict.OK, says)


def _connect(settings: Settings, *, connected: bool) -> Finding:
    versions = {
        "5": [MQTTProtocolVersion.MQTTv5],
        "3.1.1": [MQTTProtocolVersion.MQTTv311],
        "auto": [MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311],
    }[settings.protocol]
    answer = _Answer()
    for version in versions:
        began = time.monotonic()
        try:
            answer = _ask(settings, version)
        except (OSError, ValueError) as error:
            return _unreachable(error, settings, connected=connected)
        if answer.reason is not None and not answer.reason.is_failure:
            return _welcome(settings, version, answer, time.monotonic() - began)
    if answer.reason is None:
        fix = "is that an MQTT broker? look at the port in MQTT_BROKER_URL, and at MQTT_PROTOCOL"
        if settings.broker.tls and settings.tls_cert is None:
            fix = "does it ask for a client certificate? MQTT_TLS_CERT and MQTT_TLS_KEY name one"
        return Finding(
            "broker",
            Verdict.WARN if connected else Verdict.FAIL,
            f"{settings.broker} takes the connection and does not answer CONNECT",
            fix,
        )
    return Finding(
        "broker",
        # A broker may know the vessel by its client id, and the doctor by none.
        Verdict.WARN if connected else Verdict.FAIL,
        f"{settings.broker} refuses the connection: {answer.reason}",
        "look at MQTT_USERNAME and MQTT_PASSWORD, and at the broker's list of users",
    )


@dataclass(slots=True)
class _Answer:
    """What a broker has answered to CONNECT."""

    reason: ReasonCode | None = None
    properties: Any = None


def _ask(settings: Settings, version: MQTTProtocolVersion) -> _Answer:
    """Connect under an id of our own, so that no live session is disturbed, and hang up."""
    answer = _Answer()
    v5 = version == MQTTProtocolVersion.MQTTv5
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"arus_doctor_{secrets.token_hex(4)}",
        clean_session=None if v5 else True,
        protocol=version,
        transport="websockets" if settings.broker.websockets else "tcp",
        reconnect_on_failure=False,
    )

    def connected(
        _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        answer.reason, answer.properties = reason, properties

    client.on_connect = connected
    prepare(client, settings)
    client.connect(settings.broker.host, settings.broker.port, keepalive=60)
    deadline = time.monotonic() + settings.connect_timeout
    while answer.reason is None and time.monotonic() < deadline:
        if client.loop(timeout=0.1) != 0:
            break
    client.disconnect()
    client.loop(timeout=0.1)
    return answer


def _welcome(
    settings: Settings, version: MQTTProtocolVersion, answer: _Answer, seconds: float
) -> Finding:
    spoken = "5" if version == MQTTProtocolVersion.MQTTv5 else "3.1.1"
    says = f"{settings.broker} takes us by MQTT {spoken} in {seconds * 1000:.0f} ms"
    if getattr(answer.properties, "MaximumQoS", 2) < 2:
        return Finding(
            "broker",
            Verdict.FAIL,
            f"{says}, but no QoS 2: alerts can't be sent once only",
            "use a broker that supports QoS 2, such as Mosquitto",
        )
    if getattr(answer.properties, "RetainAvailable", 1) == 0:
        return Finding(
            "broker",
            Verdict.FAIL,
            f"{says}, but keeps no retained messages",
            "allow retained messages in the broker's configuration",
        )
    if spoken == "3.1.1" and settings.protocol == "auto":
        return Finding(
            "broker",
            Verdict.WARN,
            f"{says}: it can't say when it refuses a message",
            "use a broker that speaks MQTT 5",
        )
    return Finding("broker", Verdict.OK, says)


def _line(words: object) -> str:
    return " ".join(str(words).split())
