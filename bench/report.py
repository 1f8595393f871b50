"""What a benchmark found: medians and ranges, shown and kept."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("flask", "gunicorn", "orjson", "paho-mqtt", "sqlalchemy")


@dataclass(frozen=True)
class Figure:
    """One quantity, measured once a round."""

    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{_short(self.median)} ({_short(low)} to {_short(high)})"


@dataclass
class Report:
    """The answer to one question."""

    name: str
    question: str
    setup: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, unit: str, values: Sequence[float]) -> Figure:
        figure = Figure(name, unit, list(values))
        self.figures.append(figure)
        return figure

    def ratios(self, name: str, above: Figure, below: Figure) -> Figure:
        """Round by round, so that what disturbed a round disturbed both sides of it."""
        pairs = zip(above.values, below.values, strict=True)
        return self.add(name, "ratio", [a / b for a, b in pairs])

    def table(self) -> str:
        """All figures as a Markdown table."""
        rows = [("", "unit", "median (range)")]
        rows += [(figure.name, figure.unit, str(figure)) for figure in self.figures]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
            for row in rows
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines)

    def keep(self) -> None:
        """Print the table, and save it with all values in bench/results/."""
        self.machine = self.machine or machine()
        print(f"\n{self.question}\n\n{self.table()}\n", flush=True)
        RESULTS.mkdir(exist_ok=True)
        said = [f"# {self.question}", self.table()]
        for title, facts in (("Setup", self.setup), ("Machine", self.machine)):
            said.append(f"{title}: " + "; ".join(f"{k} {v}" for k, v in facts.items()) + ".")
        (RESULTS / f"{self.name}.md").write_text("\n\n".join(said) + "\n")
        (RESULTS / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    mosquitto = subprocess.run(
        ["mosquitto", "-h"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    ).stdout.split("\n", 1)[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(os.getloadavg()[0], 2),
        "fsync (ms)": round(fsync_ms(), 3),
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "broker": mosquitto,
        **{package: version(package) for package in _PACKAGES},
    }


def fsync_ms() -> float:
    """The median time of an append of a page and its fsync, where temporary files are."""
    times = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
