"""`make bench`: all benchmarks, or those named; ARGS="--rounds 3 backlog_drain"."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bench import backlog_drain, far_link, request_cost
from bench.report import Report

BENCHMARKS: dict[str, Callable[..., Report]] = {
    "request_cost": request_cost.run,
    "backlog_drain": backlog_drain.run,
    "far_link": far_link.run,
}


def main() -> None:
    """Run, show and keep them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all when none")
    parser.add_argument("--rounds", type=int, help="more rounds, narrower ranges")
    arguments = parser.parse_args()
    names = arguments.name or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no {name}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        run = BENCHMARKS[name]
        (run(arguments.rounds) if arguments.rounds else run()).keep()


if __name__ == "__main__":
    main()
