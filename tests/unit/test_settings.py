"""The settings: each wrong value is named, explained, and nothing of a credential is shown."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import SettingError
from arus.settings import SETTINGS, Broker, load, redact

WRONG = {
    "LOCAL_MODE": ["maybe", "2", "tru"],
    "VESSEL_ID": ["a b", "a/b", "#", "x" * 65, "ship+1", "_all", "$SYS"],
    "MQTT_BROKER_URL": [
        "localhost", "localhost:1883", "http://host", "mqtt://", "mqtt://:1883", "mqtt://host:port",
        "mqtt://host:70000", "mqtt://host:0", "mqtt://[::1", "mqtt://ho st",
    ],
    "MQTT_CLIENT_ID": ["a b", "x" * 65, "a/b"],
    "MQTT_TLS_CA": ["/no/such/file", "/"],
    "MQTT_TLS_CERT": ["/no/such/file"],
    "MQTT_TLS_KEY": ["/no/such/file"],
    "MQTT_TLS_REJECT_UNAUTHORIZED": ["never"],
    "MQTT_PROTOCOL": ["3", "3.1", "6", "mqtt5"],
    "MQTT_KEEPALIVE": ["0", "65536", "ten", "1.5", "-1"],
    "MQTT_CONNECT_TIMEOUT": ["0", "-1", "nan", "inf", "soon", "601"],
    "MQTT_RECONNECT_PERIOD": ["0", "nan", "-5", "3601"],
    "MQTT_SUPERSEDE": ["never", "true"],
    "MQTT_DATA_BUDGET": ["20 megabytes", "-1", "0", "9999", "9.9kB", "1.5", "1e9", "20M", "MB", "inf", "nan", "20MB/d"],
    "MQTT_MAX_QUEUE_SIZE": ["0", "ten", "-1", "1e4", "100000001"],
    "MQTT_MAX_INFLIGHT": ["0", "full", "32769", "-1"],
    "MQTT_TOPIC_PREFIX": ["/a", "a/", "a/#", "+/a", "$SYS/a", "x" * 201, "a\0b",
        "fleet/{vessel_id}/{vessel_id}", "fleet/x{vessel_id}", "fleet/{vesselId}/sync", "{prefix}/a",
    ],
    "MQTT_COMPRESSION": ["gzip", "true"],
    "MQTT_SEND_ACTOR": ["name", "2"],
    "FOLLOW_VESSELS": ["ship 1", "ship-1,", ",", "*,ship-1", "_all", "a/b", "x" * 65],
    "MQTT_RETENTION_DAYS": ["-1", "nan", "week", "36501"],
}  # fmt: skip
RIGHT: dict[str, list[tuple[Any, Any]]] = {
    "LOCAL_MODE": [
        ("true", True),
        ("ON", True),
        (" 1 ", True),
        (True, True),
        ("No", False),
        (False, False),
    ],
    "VESSEL_ID": [("imo-9321483", "imo-9321483"), ("a.b_c:d@e-1", "a.b_c:d@e-1")],
    "MQTT_CLIENT_ID": [("x" * 64, "x" * 64)],
    "MQTT_USERNAME": [("any thing", "any thing")],
    "MQTT_PASSWORD": [("p@ss/w:rd", "p@ss/w:rd")],
    "MQTT_TLS_REJECT_UNAUTHORIZED": [("false", False)],
    "MQTT_PROTOCOL": [("AUTO", "auto"), ("5", "5"), (5, "5"), ("3.1.1", "3.1.1")],
    "MQTT_KEEPALIVE": [("1", 1), (65_535, 65_535)],
    "MQTT_CONNECT_TIMEOUT": [("0.1", 0.1), (600, 600.0)],
    "MQTT_RECONNECT_PERIOD": [("0.05", 0.05)],
    "MQTT_DATA_BUDGET": [
        ("20MB", 20_000_000),
        ("20 mb", 20_000_000),
        ("1.5GB", 1_500_000_000),
        ("10kB", 10_000),
        ("10KiB", 10_240),
        ("0.5 MiB", 524_288),
        ("2GiB", 2_147_483_648),
        ("500000", 500_000),
        (500_000, 500_000),
        ("500000 B", 500_000),
    ],
    "MQTT_SUPERSEDE": [("overflow", "overflow"), ("Always", "always")],
    "MQTT_MAX_QUEUE_SIZE": [("1", 1), (100_000_000, 100_000_000)],
    "MQTT_MAX_INFLIGHT": [("auto", None), ("1", 1), ("32768", 32_768)],
    "MQTT_TOPIC_PREFIX": [
        ("a", "a"),
        ("fleet/ship one", "fleet/ship one"),
        ("fleet/{vessel_id}/sync", "fleet/{vessel_id}/sync"),
        ("{vessel_id}", "{vessel_id}"),
    ],
    "MQTT_COMPRESSION": [("zstd", True), ("OFF", False)],
    "MQTT_SEND_ACTOR": [("true", True), ("off", False)],
    "FOLLOW_VESSELS": [("*", None), (" ship-1 , ship-2 ", frozenset({"ship-1", "ship-2"}))],
    "MQTT_RETENTION_DAYS": [("0", 0.0), ("0.5", 0.5)],
}


def failure(values: dict[str, Any]) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load(values)
    return caught.value


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_a_wrong_value_is_named_with_its_setting_and_what_is_accepted(
    name: str, value: str
) -> None:
    error = failure({name: value})
    assert str(error) == f"{name}={value!r} is not accepted; it takes {SETTINGS[name].accepted}"
    assert (error.name, error.value) == (name, value)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "value", "parsed"), [(n, v, p) for n, values in RIGHT.items() for v, p in values]
)
def test_a_right_value_is_read(name: str, value: Any, parsed: Any) -> None:
    assert SETTINGS[name].read({name: value}) == parsed
    load({name: value})


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_is_explained_and_its_default_accepted(setting: Any) -> None:
    assert setting.help
    assert setting.accepted
    assert setting.read({}) == (None if setting.default is None else setting.parse(setting.default))
    assert setting.read({setting.name: ""}) == setting.read({})
    assert setting.read({setting.name: None}) == setting.read({})


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_documented(name: str) -> None:
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    assert any(f"`{name}`" in page.read_text() for page in pages if page.exists())


def test_the_defaults_need_nothing_set() -> None:
    settings = load({})
    assert (settings.local_mode, settings.max_inflight, settings.protocol) == (False, None, "auto")
    assert str(settings.broker) == "mqtt://localhost:1883"
    assert (settings.username, settings.password, settings.tls_verify) == (None, None, True)


@pytest.mark.parametrize(
    ("url", "shown", "tls", "websockets"),
    [
        ("mqtt://h", "mqtt://h:1883", False, False),
        ("MQTTS://h", "mqtts://h:8883", True, False),
        ("ws://h", "ws://h:80/mqtt", False, True),
        ("wss://h:9/path", "wss://h:9/path", True, True),
        ("mqtt://[::1]:5", "mqtt://[::1]:5", False, False),
        ("mqtt://[fe80::1%25eth0]:5", "mqtt://[fe80::1%eth0]:5", False, False),
        ("wss://h/path?token=secret", "wss://h:443/path", True, True),
    ],
)
def test_a_broker_url_says_port_tls_and_websockets(
    url: str, shown: str, tls: bool, websockets: bool
) -> None:
    broker = load({"MQTT_BROKER_URL": url}).broker
    assert (str(broker), broker.tls, broker.websockets) == (shown, tls, websockets)


def test_credentials_in_the_url_are_decoded_and_settings_of_their_own_win() -> None:
    url = "mqtt://ship%40sea:s%2Fec%3Aret@h"
    settings = load({"MQTT_BROKER_URL": url})
    assert (settings.username, settings.password) == ("ship@sea", "s/ec:ret")
    settings = load({"MQTT_BROKER_URL": url, "MQTT_USERNAME": "u", "MQTT_PASSWORD": "p"})
    assert (settings.username, settings.password) == ("u", "p")


def test_credentials_are_not_shown() -> None:
    settings = load({"MQTT_BROKER_URL": "mqtt://user:hush@h", "MQTT_PASSWORD": "quiet"})
    shown = f"{settings} {settings!r} {settings.broker} {settings.broker!r} {[settings.broker]}"
    assert "hush" not in shown
    assert "quiet" not in shown
    assert "user" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://ship:hush@h:port", "http://ship:hush@h", "ship:hush@h:1883", "mqtt://ship:hu/hush@h",
        "mqtt://ship:hush@hush@h:x", "mqtt://ship:hu hush@h:x", "mqtt://ship:hush@", "mqtt://hush@h:0",
        "mqtt://ship:hush@[::1", "mqtt:/ship:hush@h", "//ship:hush@h", "mqtt://ship:hu?hush@h:x",
        "mqtt://ship:hu#hush@h:1:2", "mqtt://ship:hu\nhush@h:x", "wss://h:99999/mqtt?token=hush",
        "//ship@h/mqtt?token=hush",
    ],
)  # fmt: skip
def test_credentials_of_a_malformed_url_are_not_shown_either(url: str) -> None:
    error = failure({"MQTT_BROKER_URL": url})
    told = "".join(traceback.format_exception(error)) + repr(error) + error.value
    assert "hush" not in told
    assert "***" in told


@given(
    st.sampled_from(["mqtt://", "http://", "", "//"]),
    st.text(max_size=20).map(lambda text: f"hush{text}hush"),
    st.text(st.characters(exclude_characters="@"), max_size=9),
)
def test_nothing_before_an_at_sign_is_shown(scheme: str, secret: str, host: str) -> None:
    assert "hush" not in redact(f"{scheme}u:{secret}@{host}").replace(host, "")


def test_what_holds_no_credentials_is_shown_as_it_is() -> None:
    assert redact("mqtt://host:70000/a") == "mqtt://host:70000/a"


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    pem.touch()
    assert failure({"MQTT_TLS_KEY": str(pem)}).name == "MQTT_TLS_KEY"
    assert load({"MQTT_TLS_KEY": str(pem), "MQTT_TLS_CERT": pem}).tls_key == pem
    assert load({"MQTT_TLS_CA": str(pem)}).tls_ca == pem


def test_a_broker_is_known_by_its_parts() -> None:
    assert load({"MQTT_BROKER_URL": "ws://u:p@h:1/x"}).broker == Broker(
        "ws", "h", 1, "/x", "u", "p"
    )
