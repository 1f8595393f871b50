"""The settings as data: name, default, how a value is read, what is accepted, what it means.

`load` turns a mapping of texts (the environment, `app.config`) into a frozen `Settings`; the README's
table, `flask sync doctor` and the tests read `SETTINGS` itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from .errors import SettingError, TopicError
from .topics import validate_name

Protocol = Literal["auto", "5", "3.1.1"]

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: how it is called, read and explained."""

    #: Environment variable and `app.config` key.
    name: str
    #: The value when nothing is set, as a text; None where there is none.
    default: str | None
    #: Turns the text into the value; raises ValueError when it can't.
    parse: Callable[[str], Any]
    #: What is accepted, for the error message.
    accepted: str
    #: What it means, for people.
    help: str

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
        except (ValueError, TopicError):
            # Not chained: the parsers' own errors hold the text with its credentials.
            raise SettingError(self.name, redact(text), self.accepted) from None


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, from `MQTT_BROKER_URL`."""

    scheme: Literal["mqtt", "mqtts", "ws", "wss"]
    host: str
    port: int
    #: Path of a WebSocket endpoint.
    path: str
    username: str | None
    password: str | None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in {"mqtts", "wss"}

    @property
    def websockets(self) -> bool:
        """Whether MQTT runs inside a WebSocket."""
        return self.scheme in {"ws", "wss"}

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path if self.websockets else ''}"

    def __repr__(self) -> str:
        return f"Broker({self})"


def redact(text: str) -> str:
    """Return `text` with what may be credentials of a URL, also of a malformed one, replaced by `***`."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1***@", text, flags=re.DOTALL | re.IGNORECASE)


def boolean(text: str) -> bool:
    """Parse `true` or `false` (also 1/0, yes/no, on/off)."""
    lowered = text.lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off"}:
        return False
    raise ValueError(text)


def whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        number = int(text)
        if not minimum <= number <= maximum:
            raise ValueError(text)
        return number

    return parse


def seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    """Return a parser of durations in seconds from `minimum` to `maximum`."""

    def parse(text: str) -> float:
        number = float(text)
        if not minimum <= number <= maximum:
            raise ValueError(text)
        return number

    return parse


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
        host=url.hostname,
        port=url.port or _PORTS[url.scheme],
        path=url.path or "/mqtt",
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
    )


def _protocol(text: str) -> str:
    if text.lower() not in {"auto", "5", "3.1.1"}:
        raise ValueError(text)
    return text.lower()


def _max_inflight(text: str) -> int | None:
    return None if text.lower() == "auto" else whole(1, 32_768)(text)


def _name(text: str) -> str:
    if len(text) > 64 or not re.fullmatch(r"[\w.:@-]+", text):
        raise ValueError(text)
    return text


def _prefix(text: str) -> str:
    if text.startswith(("/", "$")) or text.endswith("/") or len(text) > 200:
        raise ValueError(text)
    return validate_name(text)


def _text(text: str) -> str:
    return text


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
            _name,
            "up to 64 letters, digits and . _ : @ -",
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
            "MQTT_MAX_INFLIGHT",
            "auto",
            _max_inflight,
            "auto or a whole number from 1 to 32768",
            "window of unacknowledged messages",
        ),
        Setting(
            "MQTT_TOPIC_PREFIX",
            "vessel/sync",
            _prefix,
            "a topic without wildcards, not starting with / or $, not ending with /",
            "root of all topics",
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


@dataclass(frozen=True, slots=True)
class Settings:
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
    #: None: the window adapts.
    max_inflight: int | None
    topic_prefix: str
    retention_days: float

    def __repr__(self) -> str:
        return f"Settings(broker={self.broker}, local_mode={self.local_mode})"


def load(values: Mapping[str, Any]) -> Settings:
    """Read all settings from `values`.

    :raises SettingError: one is not accepted; the message names it, the value and what is accepted.
    """
    read = {name: setting.read(values) for name, setting in SETTINGS.items()}
    broker: Broker = read["MQTT_BROKER_URL"]
    if read["MQTT_TLS_KEY"] and not read["MQTT_TLS_CERT"]:
        raise SettingError(
            "MQTT_TLS_KEY", str(read["MQTT_TLS_KEY"]), "a key only beside MQTT_TLS_CERT"
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
        max_inflight=read["MQTT_MAX_INFLIGHT"],
        topic_prefix=read["MQTT_TOPIC_PREFIX"],
        retention_days=read["MQTT_RETENTION_DAYS"],
    )
