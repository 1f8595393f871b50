"""The soak: run after run until the time is up. `make soak MINUTES=60 SEED=7 DATABASE=postgresql BROKER=shipped`."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Sequence

from tests.faults.databases import free_directory
from tests.faults.faults import Fault
from tests.faults.oracle import Verdict, table
from tests.faults.run import run

#: Faults a run; a fresh stage keeps the accounts small and a failure's story short.
FAULTS = 30
DATABASES = ("sqlite", "postgresql")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code says whether anything failed."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, help="the first run's; the next ones count on")
    parser.add_argument("--database", choices=DATABASES, help="both in turn when not given")
    parser.add_argument(
        "--broker", choices=("ours", "shipped"), default="ours", help="its settings"
    )
    parser.add_argument("--faults", type=int, default=FAULTS, help="a run")
    parser.add_argument("--keep", action="store_true", help="the accounts of each run")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1, 1_000_000) if given.seed is None else given.seed
    databases = [given.database] if given.database else list(DATABASES)
    first = seed
    deadline = time.monotonic() + given.minutes * 60
    results: dict[str, list[tuple[Verdict, Sequence[Fault]]]] = {name: [] for name in databases}
    failed: list[str] = []
    missing: dict[str, str] = {}
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    while seed == first or time.monotonic() < deadline:
        for database in databases:
            name = f"DATABASE={database} SEED={seed}"
            began = time.monotonic()
            try:
                outcome = run(
                    database,
                    seed,
                    given.faults,
                    as_shipped=given.broker == "shipped",
                    keep=given.keep,
                )
            except AssertionError as error:
                failed.append(f"{name}: {error}")
                print(f"{name}: did not come to its end: {error}", flush=True)
                continue
            verdict = outcome.verdict
            results[database].append((verdict, outcome.faults))
            missing.update(outcome.missing)
            print(
                f"{name}: {len(outcome.faults)} faults, {verdict.obligations} promises,"
                f" {verdict.seen} of {verdict.changes} seen, healed in {outcome.healed_after:.1f} s,"
                f" {time.monotonic() - began:.0f} s, {verdict.counts.total()} failures",
                flush=True,
            )
            if verdict.failures:
                failed.append(f"{name}: {outcome.directory}")
                print("\n".join(f"  {failure[:600]}" for failure in verdict.failures), flush=True)
            elif not given.keep:
                free_directory(outcome.directory)
        seed += 1
    for database, verdicts in results.items():
        print(f"\n{database}\n{table(verdicts)}")
    for kind, why in missing.items():
        print(f"left out: {kind}: {why}")
    print("\n".join(["", "failed:", *failed]) if failed else "\nnothing failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
