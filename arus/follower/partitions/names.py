"""The names of a partition's session at the broker and of its connection in the database."""

from __future__ import annotations

from arus.follower.link import client_id_of

#: A partition's connection is recorded under the follower's name, a slash and its number.
MAX_NAME = 64 - len("/1023")


def session_of(name: str, number: int) -> str:
    """Return the MQTT client id of a partition: stable, so that the broker keeps its session."""
    return f"{client_id_of(name)}_p{number}"


def discovery_of(name: str) -> str:
    """Return the MQTT client id of the search for new vessels."""
    return f"{client_id_of(name)}_discovery"


def link_of(name: str, number: int) -> str:
    """Return the name under which a partition's connection is recorded; no follower can have it."""
    return f"{name}/{number}"
