"""deploy/container: the compose file as docker-compose reads it, and that all its parts are there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from arus.settings import SETTINGS, load
from extensions.config import APP_SETTINGS, load_config
from tests.support.broker import DEPLOY, ROOT, find_program
from tests.support.prometheus import promtool

#: docker-compose is installed for `make test` alone.
pytestmark = pytest.mark.slow

FILES = DEPLOY / "container"
SECRETS = {
    "SECRET_KEY": "for-tests-only-and-long-enough",
    "POSTGRES_PASSWORD": "postgres-for-tests",
    "GRAFANA_PASSWORD": "grafana-for-tests",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file, its variables and anchors resolved by docker-compose."""
    done = subprocess.run(
        [find_program("docker-compose"), "-f", FILES / "compose.yml", "config"],
        env={**os.environ, **SECRETS},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    resolved: dict[str, Any] = yaml.safe_load(done.stdout)
    return resolved


def test_a_compose_file_without_its_secrets_does_not_start() -> None:
    done = subprocess.run(
        [find_program("docker-compose"), "-f", FILES / "compose.yml", "config"],
        env={name: value for name, value in os.environ.items() if name not in SECRETS},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode != 0
    assert "a random text of at least 16 characters" in done.stderr


def test_the_services_get_settings_that_the_app_accepts(compose: dict[str, Any]) -> None:
    ours = {
        name: service
        for name, service in compose["services"].items()
        if service["image"].startswith("localhost/arus")
    }
    assert set(ours) == {"vessel", "vessel-migrate", "shore", "shore-migrate", "follower"}
    for name, service in ours.items():
        given = service["environment"]
        assert set(given) <= {*SETTINGS, *APP_SETTINGS}, name
        # the Containerfile has the server listen on all addresses
        settings = load(load_config({**given, "HOST": "0.0.0.0"}))  # noqa: S104
        assert settings.local_mode == name.startswith("vessel")


def test_nothing_is_published_to_others_and_no_container_of_ours_has_rights(
    compose: dict[str, Any],
) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:"), port
        if service["image"].startswith("localhost/arus"):
            assert (service["cap_drop"], service["read_only"]) == (["ALL"], True)


def test_each_file_that_is_mounted_exists(compose: dict[str, Any]) -> None:
    made_by_hand = {"tokens"}
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = str(volume).split(":")[0]
            if source.startswith("/") and Path(source).name not in made_by_hand:
                assert Path(source).exists(), source


def test_the_image_has_all_that_the_app_consists_of() -> None:
    text = (FILES / "Containerfile").read_text()
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    }
    for name in copied:
        assert (ROOT / name).exists(), name
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    # what wsgi imports from the repository is in the image
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    loaded = set(re.findall(r"^(?:from|import) (\w+)", (ROOT / "app.py").read_text(), re.MULTILINE))
    assert loaded & folders <= copied
    (health,) = re.findall(r"^HEALTHCHECK [^\[]*\n +(\[.*\])$", text, re.MULTILINE)
    compile(json.loads(health)[2], "HEALTHCHECK", "exec")
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert shlex.join(json.loads(command)) == "gunicorn wsgi:app"


def test_the_broker_of_the_containers_is_set_as_the_one_of_a_ship() -> None:
    def settings(path: Path) -> list[str]:
        lines = path.read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    ship = settings(DEPLOY / "mosquitto" / "mosquitto.conf")
    changed = {
        "persistence_location /var/lib/mosquitto/": "persistence_location /mosquitto/data/",
        "log_dest syslog": "log_dest stdout",
    }
    assert [changed.get(line, line) for line in ship] == settings(FILES / "mosquitto.conf")


def test_promtool_accepts_what_prometheus_scrapes_there(tmp_path: Path) -> None:
    text = (FILES / "prometheus.yml").read_text()
    for name in ("vessel", "shore"):
        (tmp_path / name).touch()
        text = text.replace(f"/etc/prometheus/tokens/{name}", str(tmp_path / name))
    for rules in ("arus.rules.yml", "arus.alerts.yml"):
        (tmp_path / rules).write_text((DEPLOY / "prometheus" / rules).read_text())
    (tmp_path / "prometheus.yml").write_text(text)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")
