"""The pictures of docs/performance.md, drawn if matplotlib is installed (bench/requirements.lock)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.report import Figure, Report

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
_MILLION = 1_000_000


def draw(report: Report, million: dict[str, float]) -> None:
    """Draw the results of `growth`."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("plots: matplotlib is not installed; the pictures stay as they were", file=sys.stderr)
        return
    mpl.use("Agg")
    drains = [f for f in report.figures if f.name.startswith("drain of ")]
    memory = [f for f in report.figures if f.name.startswith("memory for ")]
    sizes = [int(f.name.rsplit(" ", 1)[1].replace(",", "")) for f in drains]
    more = f"drain of {_MILLION:,}" in million
    rates = [f.median for f in drains] + ([million[f"drain of {_MILLION:,}"]] if more else [])
    _plot(
        "drain-rate",
        "Drain rate against backlog",
        "changes waiting",
        "changes delivered a second",
        sizes + [_MILLION] * more,
        {"QoS 1": rates},
        log_x=True,
    )
    extra = "**memory beyond that of the small backlog**"
    usual = memory[sizes.index(10_000)].median if 10_000 in sizes else memory[-1].median
    peaks = [f.median for f in memory] + ([usual + million[extra]] if more else [])
    _plot(
        "memory",
        "Memory against backlog",
        "changes waiting",
        "MB by which the owner's peak grows",
        sizes + [_MILLION] * more,
        {"peak": peaks},
        log_x=True,
    )
    rate = _ending(report, ": commits")
    _plot(
        "latency",
        "Latency against load",
        "commits a second",
        "ms from commit to subscriber",
        [f.median for f in rate],
        {
            "median": [f.median for f in _ending(report, ", median")],
            "99th percentile": [f.median for f in _ending(report, ", p99")],
        },
    )


def _ending(report: Report, end: str) -> list[Figure]:
    return [figure for figure in report.figures if figure.name.endswith(end)]


def _plot(
    name: str,
    title: str,
    across: str,
    up: str,
    xs: Sequence[float],
    lines: dict[str, Sequence[float]],
    *,
    log_x: bool = False,
) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=120, layout="constrained")
    for label, ys in lines.items():
        points = sorted(zip(xs, ys, strict=True))
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
    axes.set(title=title, xlabel=across, ylabel=up)
    if log_x:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend()
    IMAGES.mkdir(exist_ok=True)
    # without date and version, so that the same drawing gives the same file
    figure.savefig(IMAGES / f"performance-{name}.png", metadata={"Software": None})
    plt.close(figure)
