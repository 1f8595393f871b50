"""Attacks on a small fleet: `python -m tests.fleet --attack NAME`; all of them, in any order, without it."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.attacks import ATTACKS, Attack
from tests.fleet.fleet import PREFIX, Fleet, migrate
from tests.fleet.trial import EQUAL_WITHIN, Trial
from tests.support.postgres import PostgresServer

VESSELS = 3


def main() -> int:
    """Try; the exit code says whether anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--attack", action="append", choices=sorted(ATTACKS), help="one of them")
    parser.add_argument("--seed", type=int, help="of what is chosen at random")
    parser.add_argument("--prefix", default=PREFIX, help="MQTT_TOPIC_PREFIX of all")
    parser.add_argument("--within", type=float, default=EQUAL_WITHIN, help="a quarter of the limit")
    parser.add_argument("--list", action="store_true", help="the attacks, and what they are about")
    given = parser.parse_args()
    if given.list:
        for one in ATTACKS.values():
            print(f"{one.name:26} {one.about}")
        return 0
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    chosen = [ATTACKS[name] for name in given.attack or in_order(seed)]
    print(f"seed {seed}", flush=True)
    failed = 0
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="arus-fleet-") as name:
        template = Path(name, "template.sqlite")
        migrate(f"sqlite:///{template}")
        migrated = server.create_database()
        migrate(server.url(migrated))
        for number, attack in enumerate(chosen):
            directory = Path(name, str(number))
            directory.mkdir()
            url = server.url(server.create_database(migrated))
            with _trial(directory, url, template, given.prefix) as trial:
                failed += _try(trial, attack, seed, given.within)
    return 1 if failed else 0


def in_order(seed: int) -> list[str]:
    """The names of all attacks in the order of a seed; those that leave much behind come last."""
    names = sorted(ATTACKS)
    random.Random(seed).shuffle(names)
    return sorted(names, key=lambda name: ATTACKS[name].last)


@contextmanager
def _trial(directory: Path, url: str, template: Path, prefix: str) -> Iterator[Trial]:
    with Fleet(directory, url, template, vessels=VESSELS, hosts=1, prefix=prefix) as fleet:
        trial = Trial(fleet)
        trial.prepare()
        yield trial


def _try(trial: Trial, attack: Attack, seed: int, within: float) -> bool:
    began = time.monotonic()
    failures = trial.run(attack, seed, within)
    said = "failed" if failures else "withstood"
    print(f"{attack.name}: {said}, {time.monotonic() - began:.0f} s", flush=True)
    for failure in failures:
        print(f"    {failure[:400]}", flush=True)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
