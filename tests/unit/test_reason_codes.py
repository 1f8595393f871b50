"""Refusals: each reason code has its name and its own fix."""

from __future__ import annotations

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from arus.errors import FIX, ConnectionLostError, RefusedError
from arus.mqtt.diagnosis import Diagnosis
from arus.mqtt.reason_codes import NAMES, Kind, Refusal, RefusedClient, read_refusal

CLIENT = RefusedClient("arus_sync_ship-1", "vessel/sync", "auto")
#: The packets' types as paho numbers them.
TYPES = {Kind.CONNACK: PacketTypes.CONNACK, Kind.DISCONNECT: PacketTypes.DISCONNECT}
KNOWN = [
    (kind, code, name)
    for kind, packet in TYPES.items()
    for code, names in ReasonCode.names.items()
    for name, packets in names.items()
    if packet in packets and (code or kind is Kind.DISCONNECT)
]


def body_of(kind: Kind, code: int, properties: bytes = b"\x00") -> bytes:
    return (b"\x00" if kind is Kind.CONNACK else b"") + bytes((code,)) + properties


def read(kind: Kind, code: int, properties: bytes = b"\x00") -> Refusal:
    refusal = read_refusal(kind, body_of(kind, code, properties), v5=True)
    assert refusal is not None
    return refusal


@pytest.mark.parametrize(("kind", "code", "name"), KNOWN)
def test_each_code_of_the_specification_is_named_and_has_a_fix(
    kind: Kind, code: int, name: str
) -> None:
    refusal = read(kind, code)
    found = refusal.diagnose(CLIENT)
    # paho leaves out the plural of the specification
    assert found.says.replace("subscriptions", "subscription").lower() == (
        f"{name} (0x{code:02x})".replace("subscriptions", "subscription").lower()
    )
    assert found.fix
    assert "{" not in found.fix
    assert str(refusal.error(CLIENT)).endswith(f"{found.says}{FIX}{found.fix}")


def test_there_is_no_name_that_the_specification_does_not_have() -> None:
    assert set(NAMES) | {0} == {code for _, code, _ in KNOWN}


@pytest.mark.parametrize(("kind", "code", "name"), KNOWN)
def test_a_password_is_advised_only_where_it_may_be_wrong(kind: Kind, code: int, name: str) -> None:
    fix = read(kind, code).diagnose(CLIENT).fix
    assert fix
    wrong = kind is Kind.CONNACK and code in {0x86, 0x87}
    assert ("PASSWORD" in fix.upper()) == wrong, name


@pytest.mark.parametrize(
    ("code", "name", "fix"),
    [
        (1, "Unsupported protocol version", "MQTT 5 or 3.1.1"),
        (2, "Client identifier not valid", "MQTT_CLIENT_ID"),
        (2, "Client identifier not valid", "MQTT_KEEPALIVE"),
        (3, "Server unavailable", "wait: "),
        (4, "Bad user name or password", "MQTT_PASSWORD"),
        (5, "Not authorized", "MQTT_PASSWORD"),
        (77, "unknown reason code", "the broker's log"),
    ],
)
@pytest.mark.parametrize("v5", [False, True])
def test_return_codes_of_3_1_1_have_the_same_words(
    code: int, name: str, fix: str, v5: bool
) -> None:
    refusal = read_refusal(Kind.CONNACK, bytes((0, code)), v5=v5)  # also to a CONNECT of MQTT 5
    assert refusal is not None
    found = refusal.diagnose(CLIENT)
    assert found.says == f"{name} (return code {code})"
    assert found.fix
    assert fix in found.fix
    assert ("PASSWORD" in found.fix) == (code in {4, 5})


@pytest.mark.parametrize(
    ("kind", "code", "fix"),
    [
        (Kind.CONNACK, 0x85, "allow the client id arus_sync_ship-1 at the broker"),
        (Kind.CONNACK, 0x87, "client id arus_sync_ship-1 and the topics vessel/sync/#"),
        (Kind.DISCONNECT, 0x87, "publish and subscribe to vessel/sync/#"),
        (Kind.CONNACK, 0x8A, "lift the ban"),
        (Kind.CONNACK, 0x8C, "without MQTT 5's enhanced authentication"),
        (Kind.CONNACK, 0x90, "allow the will on vessel/sync/system/status"),
        (Kind.DISCONNECT, 0x90, "check MQTT_TOPIC_PREFIX=vessel/sync"),
        (Kind.CONNACK, 0x95, "CONNECT with its will"),
        (Kind.CONNACK, 0x9A, "allow retained messages"),
        (Kind.CONNACK, 0x9B, "allow QoS 1 and 2"),
        (Kind.CONNACK, 0x9C, "ask the broker's administrator for its new address"),
        (Kind.CONNACK, 0x9F, "MQTT_RECONNECT_PERIOD"),
        (Kind.DISCONNECT, 0x8D, "MQTT_KEEPALIVE"),
        (Kind.DISCONNECT, 0x93, "MQTT_MAX_INFLIGHT"),
        (Kind.CONNACK, 0xB7, "the broker's log says why"),
    ],
)
def test_the_fix_is_for_the_code_in_its_packet(kind: Kind, code: int, fix: str) -> None:
    assert fix in str(read(kind, code).diagnose(CLIENT))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_forced_version_is_named(protocol: str) -> None:
    client = RefusedClient("ship", "vessel/sync", protocol)
    fix = Refusal(Kind.CONNACK, 0x84).diagnose(client).fix
    assert fix == f"set MQTT_PROTOCOL=auto: MQTT_PROTOCOL={protocol} allows no other version"


@pytest.mark.parametrize("kind", TYPES)
def test_the_brokers_own_words_are_repeated_in_one_line(kind: Kind) -> None:
    properties = Properties(TYPES[kind])
    properties.ServerReference = "mqtt://me:quokka@b2.example{0}\n:1883"
    properties.ReasonString = "too\nmany " + "x" * 500
    refusal = read(kind, 0x9D, properties.pack())
    found = refusal.diagnose(CLIENT)
    assert found.says.startswith("Server moved (0x9D): too many xxx")
    assert len(found.says) < 160
    assert (
        found.fix
        == "set MQTT_BROKER_URL to the server that it names: mqtt://***@b2.example{0} :1883"
    )
    assert "quokka" not in str(refusal.error(CLIENT))


def test_other_packets_contain_no_refusal() -> None:
    assert read_refusal(0x20, b"\x00\x00\x00", v5=True) is None
    assert read_refusal(0x20, b"\x01", v5=True) is None
    assert read_refusal(0xE0, b"\x8b", v5=False) is None  # 3.1.1 has no such packet
    assert read_refusal(0x40, b"\x00\x80", v5=True) is None


def test_malformed_properties_hide_no_code() -> None:
    for properties in (b"", b"\x05\x1f", b"\xff\xff\xff\xff\xff", b"\x02\x99\x99"):
        assert read(Kind.CONNACK, 0x88, properties).name == "Server unavailable (0x88)"


def test_the_errors_know_their_codes() -> None:
    refused = read(Kind.CONNACK, 0x88).error(CLIENT)
    assert isinstance(refused, RefusedError)
    assert refused.code == 0x88
    ended = Refusal(Kind.DISCONNECT, 0x8B).error(CLIENT)
    assert isinstance(ended, ConnectionLostError)
    assert (ended.code, ended.hung_up) == (0x8B, True)


def test_a_diagnosis_is_found_again_in_its_text() -> None:
    for found in (Diagnosis("it is off", "switch it on; wait"), Diagnosis("it is off")):
        assert Diagnosis.parse(str(found)) == found
