"""`make bench`: run all benchmarks, or the named ones; ARGS="--rounds 3 backlog_drain".

All together have twenty minutes, of which each has its part; what each took is printed at the end.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping

from bench.report import Report, summary, table

#: Seconds that each may take, on two quiet cores. In this order: those that disturb the disk's caches most come last.
BENCHMARKS = {
    "request_cost": 240,
    "capture_cost": 43,
    "page_time": 22,
    "latency": 29,
    "takeover": 18,
    "idle": 28,
    "idle_change": 60,
    "backlog_drain": 106,
    "vessel_drain": 15,
    "bursts": 34,
    "follower_apply": 50,
    "far_link": 104,
    "link_bytes": 114,
    "million": 95,
    "growth": 29,
    "outage_bytes": 17,
    "fleet": 196,
}
#: Seconds that all of them may take.
BUDGET = 20 * 60


def main() -> int:
    """Run the benchmarks, show and save the results; continue after a failure and report it at the end."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all when none")
    parser.add_argument("--rounds", type=int, help="more rounds, narrower ranges")
    arguments = parser.parse_args()
    names = arguments.name or BENCHMARKS
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no {name}; there are {', '.join(BENCHMARKS)}")
    failed, took = [], {}
    for name in names:
        began = time.monotonic()
        run: Callable[..., Report] = importlib.import_module(f"bench.{name}").run
        try:
            (run(arguments.rounds) if arguments.rounds else run()).keep()
        except Exception:  # noqa: BLE001  # the others are to be measured all the same
            traceback.print_exc()
            failed.append(name)
        took[name] = time.monotonic() - began
        print(f"{name}: {took[name]:.0f} s", file=sys.stderr, flush=True)
    print(f"\nEvery figure that has a target\n\n{summary()}\n")
    print(f"{times(took)}\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def times(took: Mapping[str, float]) -> str:
    """Return what benchmarks took as a table, each beside its part of the budget, in seconds."""
    rows = [(name, seconds, BENCHMARKS[name]) for name, seconds in took.items()]
    whole = sum(took.values())
    if took.keys() == BENCHMARKS.keys():
        rows.append(("all together", whole, BUDGET))
    return table(
        ("benchmark", "took", "may take"),
        [
            (name, f"{seconds:.0f} s", f"{most} s" + (": TOO LONG" if seconds > most else ""))
            for name, seconds, most in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
