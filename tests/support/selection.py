"""What a test needs, as markers that one selects by, and the order the tests are handed out in."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

#: The longest come first: a worker that gets one of them last would keep everyone waiting.
LAYERS = ("faults", "brokers", "fleet", "acceptance", "interop", "integration", "unit")
#: Those that call the code; the others run the whole app as it is served.
IN_PROCESS = ("integration", "unit")
#: A fixture that starts something, and the marker of a test that uses it.
MARKERS = {
    "browser": "browser",
    "start_broker": "brokers",
    "page": "browser",
    "postgres_server": "postgresql",
    "shore_database_url": "postgresql",  # one of the two databases is always on PostgreSQL
    "start_app": "gunicorn",
}

#: The test that runs; none in a benchmark or a soak, which use the same servers.
_running: pytest.Item | None = None


def mark(item: pytest.Item) -> None:
    """Say by markers what the test starts; a file adds by `pytestmark` what can't be told from here."""
    found = {MARKERS[name] for name in getattr(item, "fixturenames", ()) if name in MARKERS}
    parameters = getattr(item, "callspec", None)
    if parameters and "postgresql" in (
        parameters.params.get("database_kind"),
        parameters.params.get("database"),
    ):
        found.add("postgresql")
    if layer(item) == "brokers":
        found.add("brokers")
    if layer(item) == "faults":
        found.add("faults")
    if layer(item) not in IN_PROCESS:
        found.add("gunicorn")
    for name in sorted(found):
        item.add_marker(name)


def begin(item: pytest.Item) -> None:
    """Take note of the test that runs from now on."""
    global _running
    _running = item


def starts(marker: str) -> None:
    """Called where a server is started: who leaves out `marker` must not get that server all the same."""
    if _running is not None and _running.get_closest_marker(marker) is None:
        raise AssertionError(f"{_running.nodeid} lacks the marker {marker!r}")


def layer(item: pytest.Item) -> str:
    """The folder of the tests that it is in."""
    return item.path.relative_to(TESTS).parts[0]


def turn(item: pytest.Item) -> tuple[int, int]:
    """Sorts the tests into the order to hand them out in."""
    return LAYERS.index(layer(item)), item.get_closest_marker("slow") is None
