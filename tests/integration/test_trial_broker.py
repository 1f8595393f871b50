"""The broker of `make run` has a port of its own, also where another broker was quicker."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.mosquitto import Mosquitto
from tests.support.waiting import free_port
from tools.ports import listens
from tools.supervisor import Supervisor
from tools.trial_broker import TrialBroker, listening, start_broker


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    """Starts the programs of a run."""
    return Supervisor(tmp_path)


def test_a_process_listens_on_its_own_ports_alone(mosquitto: Mosquitto) -> None:
    assert listens(mosquitto.pid, mosquitto.port)
    assert not listens(os.getpid(), mosquitto.port)
    assert not listens(mosquitto.pid, free_port())


def test_a_broker_whose_port_another_one_has_taken_is_not_used(
    supervisor: Supervisor, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    config = tmp_path / "late.conf"
    config.write_text(f"listener {mosquitto.port} 127.0.0.1\nallow_anonymous true\n")
    argv = [str(shutil.which("mosquitto")), "-c", str(config)]
    late = TrialBroker({}, "late", supervisor, lambda: supervisor.start("late", argv, os.environ))
    assert not listening(supervisor, late, mosquitto.port)
    assert mosquitto.running


def test_a_broker_is_started_and_stopped(supervisor: Supervisor, tmp_path: Path) -> None:
    broker = start_broker(supervisor, tmp_path, dict(os.environ))
    try:
        assert broker.runs
        assert broker.child is not None
        port = int(broker.settings["MQTT_BROKER_URL"].rpartition(":")[2])
        assert listens(broker.child.pid, port)
    finally:
        broker.stop()
    assert not broker.runs
