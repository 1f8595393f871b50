"""Prometheus, its promtool and its blackbox exporter: the real ones, with the files of deploy/prometheus."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.support.broker import DEPLOY, Broker, find_program

FILES = DEPLOY / "prometheus"

#: Series by their name with labels, as PromQL writes them.
Series = dict[str, float]


def promtool(*words: str | Path) -> str:
    """What promtool prints; fails with it when promtool fails."""
    done = subprocess.run(
        [find_program("promtool"), *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scraped(text: str, **labels: str) -> Series:
    """The series of a scrape, with the labels that Prometheus gives the target."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[series(sample.name, **{**labels, **sample.labels})] = float(sample.value)
    return found


def series(name: str, **labels: str) -> str:
    """A series as PromQL writes it."""
    inside = ", ".join(f"{label}={json.dumps(labels[label])}" for label in sorted(labels))
    return f"{name}{{{inside}}}"


class Prometheus(Broker):
    """Prometheus on a loopback port, with a configuration of its own."""

    NAME = "prometheus"
    MARKER = None
    STARTS_WITHIN = 20.0

    def __init__(self, directory: Path, config: str) -> None:
        super().__init__(directory)
        self._config = self.directory / "prometheus.yml"
        self._config.write_text(config)

    def command(self) -> Sequence[str | Path]:
        """What is started."""
        return [
            find_program("prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(address, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found


class BlackboxExporter(Broker):
    """The blackbox exporter on a loopback port, with deploy/prometheus/blackbox.yml."""

    NAME = "blackbox"
    MARKER = None

    def command(self) -> Sequence[str | Path]:
        """What is started."""
        return [
            find_program("prometheus-blackbox-exporter"),
            f"--config.file={FILES / 'blackbox.yml'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
