"""The README's quick start does what it says, and so do the tests that docs/plugin.md writes for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

README = ROOT / "README.md"
PLUGIN = ROOT / "docs" / "plugin.md"


def write_example(page: Path, heading: str, module: Path) -> None:
    """Write the first Python code under a heading of a page to a module."""
    text = page.read_text()
    code = re.compile(r"```python\n(.*?)```", re.DOTALL).search(text, text.index(heading))
    assert code is not None
    module.write_text(code[1])


def test_the_quick_start_delivers_a_change(
    tmp_path: Path,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_example(README, "", tmp_path / "plant.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    import plant  # type: ignore[import-not-found]  # written just now

    app = plant.create_app(
        MQTT_BROKER_URL=mosquitto.url, SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/plant.db"
    )
    with app.app_context():
        plant.db.create_all()
        plant.sync.start(app)
        valve: Any = plant.Valve(id="v-1", is_open=True)
        plant.db.session.add(valve)
        plant.db.session.commit()
        receipt = plant.sync.publish_change("create", valve)
        eventually(lambda: subscriber.changes("valves"), message="the change arrives")
        plant.sync.stop(app)
        plant.db.engine.dispose()
    [change] = subscriber.changes("valves")
    assert change["data"] == {"id": "v-1", "isOpen": True}
    assert change["messageId"] == receipt.message_id


def test_the_tests_of_the_plugin_page_pass(tmp_path: Path) -> None:
    write_example(README, "", tmp_path / "plant.py")
    write_example(PLUGIN, "## Testing your application", tmp_path / "test_plant.py")
    environment = {**clean_environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_plant.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
