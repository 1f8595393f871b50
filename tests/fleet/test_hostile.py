"""A hostile publisher that may publish everything: each attack of `tests.fleet.attacks`, one after the other on one fleet."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fleet.attacks import ATTACKS
from tests.fleet.fleet import Fleet
from tests.fleet.trial import Trial
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hostile")]


class Stage:
    """Makes a fleet for the first attack, and another one after an attack that did harm."""

    def __init__(self, directory: Path, server: PostgresServer, migrated: tuple[str, Path]) -> None:
        self._directory = directory
        self._server = server
        self._migrated, self._template = migrated
        self._stack = ExitStack()
        self._trial: Trial | None = None

    def trial(self) -> Trial:
        """A fleet that is equal."""
        if self._trial is None:
            url = self._server.url(self._server.create_database(self._migrated))
            directory = self._directory / str(len(list(self._directory.iterdir())))
            directory.mkdir()
            fleet = Fleet(directory, url, self._template, vessels=3, hosts=1)
            self._trial = Trial(self._stack.enter_context(fleet))
            self._trial.prepare()
        return self._trial

    def clear(self) -> None:
        """End the fleet."""
        self._stack.close()
        self._trial = None


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    _migrated: Callable[[str], str],
) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("hostile")
    migrated = _migrated("postgresql"), Path(_migrated("sqlite"))
    stage = Stage(directory, postgres_server, migrated)
    yield stage
    stage.clear()


#: Those that leave much behind come last.
NAMES = sorted((attack.last, name) for name, attack in ATTACKS.items())


@pytest.mark.parametrize("name", [name for _, name in NAMES])
def test_honest_vessels_lose_nothing_and_audits_stay_true_under(name: str, stage: Stage) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"python -m tests.fleet --attack {name} --seed {seed}")
    trial = stage.trial()
    failures = trial.run(ATTACKS[name], seed)
    if failures:
        for path in trial.fleet.logs():
            print(f"--- {path.name}\n{path.read_text(errors='backslashreplace')[-3000:]}")
        stage.clear()
    assert not failures, "\n".join(failures)
