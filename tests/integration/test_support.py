"""The tests' own servers: each must really start, or every other result is worth nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page

from tests.support.certificates import Certificates
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually


def test_an_empty_database_answers(database_url: str, database_kind: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    assert engine.dialect.name == database_kind
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_durable_subscriber_gets_what_a_killed_broker_kept(
    mosquitto: Mosquitto, start_subscriber: Callable[..., Subscriber]
) -> None:
    subscriber = start_subscriber("ship/#", client_id="durable")
    subscriber.stop()
    mosquitto.publish("ship/a", '{"n": 1}', "-q", "1")
    eventually(lambda: "ship/a" in mosquitto.log)
    saved = mosquitto.directory / "data" / "mosquitto.db"
    eventually(lambda: b'{"n": 1}' in saved.read_bytes(), message="the broker saves it")
    mosquitto.kill()
    mosquitto.start()
    subscriber.start()
    (message,) = subscriber.wait(1)
    assert (message.topic, message.qos, message.json) == ("ship/a", 1, {"n": 1})


def test_a_broker_with_tls_and_passwords_refuses_strangers(
    start_mosquitto: Callable[..., Mosquitto], certificates: Certificates
) -> None:
    broker = start_mosquitto(certificates=certificates, users={"ship": "secret"})
    command = ["mosquitto_pub", "-h", "localhost", "-p", str(broker.tls_port), "-t", "a", "-m", "1"]
    known = ["--cafile", str(certificates.ca), "-u", "ship", "-P", "secret"]
    assert subprocess.run([*command, *known], timeout=20).returncode == 0
    assert subprocess.run([*command, *known[:2]], capture_output=True, timeout=20).returncode != 0


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import time
        from tools.processes import Child
        print(Child("sleeper", ["sleep", "600"]).pid, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        sleeper = Path("/proc", parent.stdout.readline().decode().strip())
        assert sleeper.exists()
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not sleeper.exists() or "State:\tZ" in (sleeper / "status").read_text())


@pytest.mark.browser
def test_chromium_shows_a_page(page: Page) -> None:
    page.set_content("<h1>Ahoy</h1>")
    assert page.locator("h1").inner_text() == "Ahoy"
