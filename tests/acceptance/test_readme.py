"""The README's quick start does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

README = Path(__file__).parents[2] / "README.md"


def test_the_quick_start_delivers_a_change(
    tmp_path: Path,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    module = tmp_path / "plant.py"
    module.write_text(code[1])
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
