"""The settings as data: name, default, parser, accepted values and meaning.

`load` turns a mapping of texts (the environment, `app.config`) into a frozen `Settings`. The README's table,
`flask sync doctor` and the tests read `SETTINGS` itself. marshmallow's fields parse and validate the texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from marshmallow import ValidationError, fields
from marshmallow.validate import Length, OneOf, Range, Regexp
from msgspec import Struct
from msgspec.structs import replace

from .errors import SettingError, TopicError
from .protocol.topics import ALL_VESSELS, TopicTree, is_vessel_level, validate_prefix

Protocol = Literal["auto", "5", "3.1.1"]
Scheme = Literal["mqtt", "mqtts", "ws", "wss"]

#: Limits of `MQTT_MAX_PACKET_SIZE` in bytes. Answers to CONNECT and SUBSCRIBE must fit in the smallest, and no packet
#: is larger than the largest (MQTT 5, 2.1.4).
MIN_PACKET_SIZE = 4_096
MAX_PACKET_SIZE = 268_435_460

#: The smallest data budget in bytes: an idle vessel needs about 30 kB a day, so a smaller one is a mistake.
MIN_DATA_BUDGET = 10_000
_SIZES = {"": 1, "b": 1}
_SIZES |= {f"{prefix}b": 1000**n for n, prefix in enumerate("kmgt", 1)}
_SIZES |= {f"{prefix}ib": 1024**n for n, prefix in enumerate("kmgt", 1)}

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


class Setting(Struct, frozen=True):
    """One setting: its name, parser and explanation."""

    #: Environment variable and `app.config` key.
    name: str
    #: The default, as a text; None if there is none.
    default: str | None
    #: Turns the text into the value; raises ValidationError, ValueError or TopicError if it can't.
    parse: Callable[[str], Any]
    #: The accepted values, for the error message.
    accepted: str
    #: The meaning of the setting, for people.
    help: str
    #: Whether no part of the value may be shown.
    is_secret: bool = False

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the parsed value from `values`, or the parsed default.

        :raises SettingError: the text is not accepted.
        """
        given = values.get(self.name)
        text = self.default if given is None or given == "" else str(given).strip()
        if text is None:
            return None
        try:
            return self.parse(text)
        except (ValidationError, ValueError, TopicError):
            # Not chained: the parsers' own errors contain the text with its credentials.
            shown = "***" if self.is_secret else redact(text)
            raise SettingError(self.name, shown, self.accepted) from None


class Broker(Struct, frozen=True):
    """The broker's address, from `MQTT_BROKER_URL`."""

    scheme: Scheme
    host: str
    port: int
    #: Path of a WebSocket endpoint.
    path: str
    username: str | None
    password: str | None
    #: Query of a WebSocket endpoint. It may contain a token, so it is never shown.
    query: str = ""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in {"mqtts", "wss"}

    @property
    def websockets(self) -> bool:
        """Whether MQTT runs inside a WebSocket."""
        return self.scheme in {"ws", "wss"}

    @property
    def target(self) -> str:
        """What a WebSocket handshake requests."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path if self.websockets else ''}"

    def __repr__(self) -> str:
        return f"Broker({self})"


def redact(text: str) -> str:
    """Return `text` with the credentials of a URL replaced by `***`, even if the URL is malformed.

    The query counts as well: a broker's may be a token, and PostgreSQL's may have the password. SQLite has none.
    """
    flags = re.DOTALL | re.IGNORECASE
    text = re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1***@", text, flags=flags)
    return re.sub(
        r"^((?!sqlite)[a-z][a-z0-9+.-]*://[^?]*\?|\*\*\*@[^?]*\?).*", r"\1***", text, flags=flags
    )


def boolean(text: str) -> bool:
    """Parse `true` or `false` (also 1/0, yes/no, on/off)."""
    return bool(_BOOLEAN.deserialize(text.lower()))


def whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `minimum` to `maximum`."""
    return fields.Integer(validate=Range(minimum, maximum)).deserialize


def seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    """Return a parser of durations in seconds from `minimum` to `maximum`."""
    return fields.Float(validate=Range(minimum, maximum)).deserialize


def existing_file(text: str) -> Path:
    """Parse the path of a file that can be read."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError(text)
    return path


def _broker(text: str) -> Broker:
    url: SplitResult = urlsplit(text)
    if url.scheme not in _PORTS or not url.hostname or url.port == 0:
        raise ValueError(text)
    if re.search(r"\s", url.hostname):
        raise ValueError(text)
    return Broker(
        scheme=url.scheme,  # type: ignore[arg-type]  # membership was checked on the line above
        # The zone of a link-local address is escaped in a URL (RFC 6874).
        host=unquote(url.hostname) if ":" in url.hostname else url.hostname,
        port=url.port or _PORTS[url.scheme],
        path=url.path or "/mqtt",
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        query=url.query,
    )


def _protocol(text: str) -> str:
    return str(_PROTOCOL.deserialize(text.lower()))


def _data_budget(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,9}))? *([a-z]*)", text.lower())
    if found is None:
        raise ValueError(text)
    whole_part, fraction, unit = found.groups()
    if fraction and unit in {"", "b"}:
        raise ValueError(text)  # there is no half a byte
    size = round(float(f"{whole_part}.{fraction or 0}") * _SIZES[unit]) if unit in _SIZES else 0
    if size < MIN_DATA_BUDGET:
        raise ValueError(text)
    return size


def _supersede(text: str) -> str:
    return str(_SUPERSEDE.deserialize(text.lower()))


def _max_inflight(text: str) -> int | None:
    return None if text.lower() == "auto" else whole(1, 32_768)(text)


def _compression(text: str) -> bool:
    return bool(_COMPRESSION.deserialize(text.lower()) == "zstd")


def _prefix(text: str) -> str:
    return validate_prefix(_PREFIX.deserialize(text))


def _vessel_id(text: str) -> str:
    vessel_id: str = _name(text)
    if not is_vessel_level(vessel_id):
        raise ValueError(text)
    return vessel_id


def _vessel_ids(text: str) -> frozenset[str] | None:
    """Parse ids of vessels, separated by commas; `*` is every vessel (None)."""
    named = [part.strip() for part in text.split(",")]
    return None if named == ["*"] else frozenset(map(_vessel_id, named))


_BOOLEAN = fields.Boolean(truthy={"true", "1", "yes", "on"}, falsy={"false", "0", "no", "off"})
_COMPRESSION = fields.String(validate=OneOf(("off", "zstd")))
_PROTOCOL = fields.String(validate=OneOf(("auto", "5", "3.1.1")))
_SUPERSEDE = fields.String(validate=OneOf(("overflow", "always")))
_PREFIX = fields.String(validate=[Length(max=200), Regexp(r"(?![/$]).*(?<!/)\Z", re.DOTALL)])
_name = fields.String(validate=[Length(max=64), Regexp(r"[\w.:@-]+\Z")]).deserialize
_text = fields.String().deserialize

SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(
            "LOCAL_MODE",
            "false",
            boolean,
            "true or false",
            "true on a vessel: changes are captured and relayed; false ashore: nothing is",
        ),
        Setting(
            "VESSEL_ID",
            None,
            _vessel_id,
            f"up to 64 letters, digits and . _ : @ -, and not {ALL_VESSELS}",
            "names the vessel in each message; generated and kept in the database when not set",
        ),
        Setting(
            "MQTT_BROKER_URL",
            "mqtt://localhost:1883",
            _broker,
            "mqtt://, mqtts://, ws:// or wss:// with a host and an optional port",
            "where the broker is; credentials in it are never logged",
        ),
        Setting(
            "MQTT_CLIENT_ID",
            None,
            _name,
            "up to 64 letters, digits and . _ : @ -",
            "stable across restarts; arus_sync_<VESSEL_ID> when not set",
        ),
        Setting("MQTT_USERNAME", None, _text, "a text", "user name for the broker"),
        Setting("MQTT_PASSWORD", None, _text, "a text", "password for the broker"),
        Setting(
            "MQTT_TLS_CA",
            None,
            existing_file,
            "the path of a PEM file that exists",
            "certificates that may sign the broker's; the system's when not set",
        ),
        Setting(
            "MQTT_TLS_CERT",
            None,
            existing_file,
            "the path of a PEM file that exists",
            "client certificate (mutual TLS)",
        ),
        Setting(
            "MQTT_TLS_KEY",
            None,
            existing_file,
            "the path of a PEM file that exists",
            "key of the client certificate",
        ),
        Setting(
            "MQTT_TLS_REJECT_UNAUTHORIZED",
            "true",
            boolean,
            "true or false",
            "false accepts any server certificate; a warning says so at start",
        ),
        Setting(
            "MQTT_PROTOCOL",
            "auto",
            _protocol,
            "5, 3.1.1 or auto",
            "auto: MQTT 5, falling back to 3.1.1 where the broker refuses it",
        ),
        Setting(
            "MQTT_KEEPALIVE",
            "60",
            whole(1, 65_535),
            "whole seconds from 1 to 65535",
            "seconds without traffic after which the link is probed",
        ),
        Setting(
            "MQTT_CONNECT_TIMEOUT",
            "10",
            seconds(0.1, 600),
            "seconds from 0.1 to 600",
            "how long a connection attempt may take",
        ),
        Setting(
            "MQTT_RECONNECT_PERIOD",
            "5",
            seconds(0.05, 3_600),
            "seconds from 0.05 to 3600",
            "pause between connection attempts, with jitter",
        ),
        Setting(
            "MQTT_MAX_QUEUE_SIZE",
            "10000",
            whole(1, 100_000_000),
            "a whole number from 1 to 100000000",
            "bound on undelivered changes",
        ),
        Setting(
            "MQTT_SUPERSEDE",
            "overflow",
            _supersede,
            "overflow or always",
            "overflow: every change is sent unless the queue is full; always: a waiting change that a newer one of"
            " the same row replaces is not sent (metered links)",
        ),
        Setting(
            "MQTT_DATA_BUDGET",
            None,
            _data_budget,
            "bytes a day from 10kB, as a whole number or with kB, MB, GB (thousands) or KiB, MiB, GiB (1024)",
            "bytes a day that the sync may send, in the ship's time zone: 20MB; when they are spent, only urgent changes"
            " are sent until midnight; no limit when not set",
        ),
        Setting(
            "MQTT_MAX_INFLIGHT",
            "auto",
            _max_inflight,
            "auto or a whole number from 1 to 32768",
            "window of unacknowledged messages",
        ),
        Setting(
            "MQTT_MAX_PACKET_SIZE",
            "1048576",
            whole(MIN_PACKET_SIZE, MAX_PACKET_SIZE),
            f"whole bytes from {MIN_PACKET_SIZE} to {MAX_PACKET_SIZE}",
            "largest packet accepted from the broker, in bytes; a larger message is discarded",
        ),
        Setting(
            "MQTT_TOPIC_PREFIX",
            "vessel/sync",
            _prefix,
            "a topic without wildcards, not starting with / or $, not ending with /;"
            " at most one level of it is {vessel_id}",
            "root of all topics; {vessel_id} stands for the vessel's id, and is needed where several vessels reach one"
            " broker: fleet/{vessel_id}/sync",
        ),
        Setting(
            "MQTT_COMPRESSION",
            "off",
            _compression,
            "off or zstd",
            "zstd: changes and catch-ups are compressed, with a dictionary made from the vessel's own messages; all"
            " subscribers must be able to read that",
        ),
        Setting(
            "MQTT_SEND_ACTOR",
            "false",
            boolean,
            "true or false",
            "true: changes carry ashore who made them, in the field actor",
        ),
        Setting(
            "FOLLOW_VESSELS",
            "*",
            _vessel_ids,
            "* or vessels' ids, separated by commas",
            "ashore: the vessels that a follower accepts; * is every vessel",
        ),
        Setting(
            "MQTT_RETENTION_DAYS",
            "7",
            seconds(0, 36_500),
            "days from 0 to 36500",
            "how long delivered changes stay replayable",
        ),
    )
}


class Settings(Struct, frozen=True):
    """The validated settings of one application."""

    local_mode: bool
    vessel_id: str | None
    broker: Broker
    client_id: str | None
    username: str | None
    password: str | None
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_verify: bool
    protocol: Protocol
    #: Seconds.
    keepalive: int
    #: Seconds.
    connect_timeout: float
    #: Seconds.
    reconnect_period: float
    max_queue_size: int
    #: Whether a waiting change that a newer one of its row replaces is never sent, or only if the queue is full.
    supersede_always: bool
    #: Bytes a day; None for no limit.
    data_budget: int | None
    #: None if the window adapts.
    max_inflight: int | None
    #: Bytes.
    max_packet_size: int
    #: With the level `{vessel_id}` if it has one; `of_vessel` and `of_all` replace it.
    topic_prefix: str
    #: Whether messages about rows are sent as zstd frames.
    compresses: bool
    #: Whether changes are sent with their actor.
    send_actor: bool
    #: Ids of the vessels that a follower accepts; None for every vessel.
    follow_vessels: frozenset[str] | None
    retention_days: float
    #: The name of the ship's time zone, in which days begin; None for the machine's.
    zone: str | None = None

    @property
    def topics(self) -> TopicTree:
        """The topics of all vessels."""
        return TopicTree(self.topic_prefix)

    def of_vessel(self, vessel_id: str) -> Settings:
        """Return the settings with the prefix of one vessel.

        :raises TopicError: the id can't be a level of a topic.
        """
        return replace(self, topic_prefix=self.topics.prefix_of(vessel_id))

    def of_all(self) -> Settings:
        """Return the settings with the prefix that addresses all vessels: a client ashore has its own topics there."""
        return replace(self, topic_prefix=self.topics.of_all)

    def __repr__(self) -> str:
        return f"Settings(broker={self.broker}, local_mode={self.local_mode})"


def load(values: Mapping[str, Any]) -> Settings:
    """Read all settings from `values`.

    :raises SettingError: one is not accepted; the message contains its name, the value and the accepted values.
    """
    read = {name: setting.read(values) for name, setting in SETTINGS.items()}
    broker: Broker = read["MQTT_BROKER_URL"]
    if read["MQTT_TLS_KEY"] and not read["MQTT_TLS_CERT"]:
        raise SettingError(
            "MQTT_TLS_KEY", str(read["MQTT_TLS_KEY"]), "a key only together with MQTT_TLS_CERT"
        )
    return Settings(
        local_mode=read["LOCAL_MODE"],
        vessel_id=read["VESSEL_ID"],
        broker=broker,
        client_id=read["MQTT_CLIENT_ID"],
        username=read["MQTT_USERNAME"] or broker.username,
        password=read["MQTT_PASSWORD"] or broker.password,
        tls_ca=read["MQTT_TLS_CA"],
        tls_cert=read["MQTT_TLS_CERT"],
        tls_key=read["MQTT_TLS_KEY"],
        tls_verify=read["MQTT_TLS_REJECT_UNAUTHORIZED"],
        protocol=read["MQTT_PROTOCOL"],
        keepalive=read["MQTT_KEEPALIVE"],
        connect_timeout=read["MQTT_CONNECT_TIMEOUT"],
        reconnect_period=read["MQTT_RECONNECT_PERIOD"],
        max_queue_size=read["MQTT_MAX_QUEUE_SIZE"],
        data_budget=read["MQTT_DATA_BUDGET"],
        supersede_always=read["MQTT_SUPERSEDE"] == "always",
        max_inflight=read["MQTT_MAX_INFLIGHT"],
        max_packet_size=read["MQTT_MAX_PACKET_SIZE"],
        topic_prefix=read["MQTT_TOPIC_PREFIX"],
        compresses=read["MQTT_COMPRESSION"],
        send_actor=read["MQTT_SEND_ACTOR"],
        follow_vessels=read["FOLLOW_VESSELS"],
        retention_days=read["MQTT_RETENTION_DAYS"],
    )
