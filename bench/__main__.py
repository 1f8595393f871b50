"""`make bench`: run all benchmarks, or the named ones; ARGS="--rounds 3 backlog_drain"."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable

from bench.report import Report, summary

#: In this order: the benchmarks that disturb the disk's caches most come last.
BENCHMARKS = (
    "request_cost",
    "capture_cost",
    "page_time",
    "latency",
    "takeover",
    "idle",
    "idle_change",
    "backlog_drain",
    "vessel_drain",
    "bursts",
    "follower_apply",
    "far_link",
    "link_bytes",
    "million",
    "growth",
    "outage_bytes",
    "fleet",
)


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
    failed = []
    for name in names:
        began = time.monotonic()
        run: Callable[..., Report] = importlib.import_module(f"bench.{name}").run
        try:
            (run(arguments.rounds) if arguments.rounds else run()).keep()
        except Exception:  # noqa: BLE001  # the others are to be measured all the same
            traceback.print_exc()
            failed.append(name)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"\nEvery figure that has a target\n\n{summary()}\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
