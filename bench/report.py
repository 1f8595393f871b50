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
#: One line a benchmark and run, so that a regression shows.
HISTORY = RESULTS / "history.jsonl"
#: Shows the figures that have a target, between two lines.
PAGE = RESULTS.parent.parent / "docs" / "performance.md"
_BEGIN = "<!-- figures: written by `python -m bench` -->"
_END = "<!-- end of figures -->"
_PACKAGES = ("flask", "gunicorn", "orjson", "paho-mqtt", "sqlalchemy")


@dataclass(frozen=True)
class Figure:
    """One quantity, measured once a round."""

    name: str
    unit: str
    values: Sequence[float]
    #: What its median is to be: `>= 2` or `<= 10`; None for what only explains the others.
    target: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """The target, and whether the median reaches it."""
        if self.target is None:
            return ""
        return f"{self.target}: {'reached' if self.reached else 'MISSED'}"

    @property
    def reached(self) -> bool:
        """Whether the median is what it is to be."""
        if self.target is None:
            return True
        sign, limit = self.target.split()
        return self.median >= float(limit) if sign == ">=" else self.median <= float(limit)

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

    def add(
        self, name: str, unit: str, values: Sequence[float], target: str | None = None
    ) -> Figure:
        figure = Figure(name, unit, list(values), target)
        self.figures.append(figure)
        return figure

    def ratios(self, name: str, above: Figure, below: Figure, target: str | None = None) -> Figure:
        """Round by round, so that what disturbed a round disturbed both sides of it."""
        pairs = zip(above.values, below.values, strict=True)
        return self.add(name, "ratio", [a / b for a, b in pairs], target)

    def table(self) -> str:
        """All figures as a Markdown table."""
        return table(
            ("", "unit", "median (range)", "target"),
            [(figure.name, figure.unit, str(figure), figure.verdict) for figure in self.figures],
        )

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
        self._remember()

    def _remember(self) -> None:
        """Add the medians to the history, and say what has got worse by a fifth since the last time."""
        told = [figure for figure in self.figures if figure.target or "**" in figure.name]
        medians = {figure.name: round(figure.median, 4) for figure in told}
        past = [each for each in history() if each["name"] == self.name]
        before = past[-1]["medians"] if past else {}
        for figure in told:
            then, now = before.get(figure.name), figure.median
            sign = (figure.target or ">=").split()[0]
            if then and (now < then * 0.8 if sign == ">=" else now > then * 1.25):
                print(f"worse than the last time: {figure.name}: {_short(now)}, was {_short(then)}")
        entry = {
            "date": self.machine["date"],
            "commit": self.machine["commit"],
            "processor": self.machine["processor"],
            "load": self.machine["load before"],
            "name": self.name,
            "medians": medians,
        }
        with HISTORY.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def history() -> list[dict[str, Any]]:
    """The medians of each run so far, oldest first."""
    if not HISTORY.exists():
        return []
    return [json.loads(line) for line in HISTORY.read_text().splitlines()]


def summary() -> str:
    """Every figure that has a target, of the last run of each benchmark; kept in docs/performance.md."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        report = json.loads(path.read_text())
        figures = [Figure(**figure) for figure in report["figures"]]
        rows += [
            (report["name"], figure.name.strip("*"), figure.unit, str(figure), figure.verdict)
            for figure in figures
            if figure.target
        ]
    said = table(("benchmark", "figure", "unit", "median (range)", "target"), rows)
    page = PAGE.read_text()
    before, rest = page.split(_BEGIN, 1)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{said}\n\n{_END}{rest.split(_END, 1)[1]}")
    return said


def p99(ascending: Sequence[float]) -> float:
    """The 99th percentile of sorted values."""
    return ascending[int(len(ascending) * 0.99)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


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
        "commit": commit(),
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


def commit() -> str:
    """The commit that is measured, with a plus where files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


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
