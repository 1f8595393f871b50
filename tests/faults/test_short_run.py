"""A short run of the fault harness on each database; `make soak` goes on for as long as it is told."""

from __future__ import annotations

import pytest

from tests.faults.databases import free_directory
from tests.faults.oracle import table
from tests.faults.run import run

SEED = 20_261_122
FAULTS = 18


# An odd seed speaks MQTT 3.1.1, where a broker as shipped can lose without a word.
@pytest.mark.parametrize(
    ("database", "seed", "as_shipped"),
    [("sqlite", SEED + 1, True), ("postgresql", SEED, False)],
    ids=["sqlite", "postgresql"],
)
def test_nothing_is_lost_repeated_or_reordered_whatever_goes_wrong(
    database: str, seed: int, as_shipped: bool
) -> None:
    outcome = run(database, seed, FAULTS, as_shipped=as_shipped)
    print(table([(outcome.verdict, outcome.faults)]))
    assert len(outcome.faults) == FAULTS
    assert outcome.verdict.obligations > 100
    assert not outcome.verdict.failures, f"{outcome.verdict.failures}; see {outcome.directory}"
    free_directory(outcome.directory)
