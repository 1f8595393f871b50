"""Each private attribute of paho's client that is used is checked at start, and used in one module alone."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import flask_mqtt
import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion

import arus
from arus.mqtt import durable_client
from arus.mqtt.durable_client import USED, DurableClient


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_attributes(tree: ast.AST, owners: set[str]) -> Iterator[str]:
    """Private attributes of what is called by one of these names, or is an attribute of such a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in owners:
                yield node.attr


def test_the_list_is_what_the_client_and_flask_mqtt_use() -> None:
    tree = ast.parse(inspect.getsource(durable_client))
    methods = {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name != "check_client_library"
    }
    overridden = {name for name in methods if is_private(name)}
    own = {
        node.attr
        for node in ast.walk(methods["__init__"])
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    used = set(private_attributes(tree, {"self", "super"})) | overridden
    by_flask_mqtt = set(private_attributes(ast.parse(inspect.getsource(flask_mqtt)), {"client"}))
    assert set(USED) == (used - own) | by_flask_mqtt


def test_no_other_module_touches_private_attributes_of_a_client() -> None:
    root = Path(arus.__file__).parent
    touched = {
        (str(path.relative_to(root)), name)
        for path in root.rglob("*.py")
        for name in private_attributes(ast.parse(path.read_text()), {"client", "_client"})
    }
    assert not touched


@pytest.mark.parametrize("name", [name for name in vars(DurableClient) if not name.startswith("_")])
def test_what_is_added_hides_nothing_of_pahos(name: str) -> None:
    assert name == "reconnect" or not hasattr(Client, name)


def test_what_is_remembered_hides_nothing_of_pahos() -> None:
    theirs = vars(Client(CallbackAPIVersion.VERSION2, client_id="probe"))
    ours = vars(DurableClient("probe", MQTTProtocolVersion.MQTTv5, websockets=False))
    assert set(ours) - set(theirs) == {
        "outgoing",
        "idle_time",
        "_opening",
        "_recorder",
        "_keepalive_timer",
        "_websocket_reader",
        "_meter",
        "_written",
        "_added",
    }
