"""A short play of the convergence scenario; `python -m tests.faults.convergence` plays it in full."""

from __future__ import annotations

import pytest

from tests.faults.convergence import WORTH_LOSING, run
from tests.faults.databases import free_directory

SEED = 20_261_122


@pytest.mark.postgresql
@pytest.mark.timeout(1200)
def test_followers_that_missed_something_become_equal_while_writes_go_on() -> None:
    figures = run(SEED, orders=600, updates=120, deletes=60, note=print)
    print(figures.table())
    everyone = {"robbed", "restored", "away", "late", "javascript"}
    assert set(figures.equal) == everyone
    assert set(figures.finally_equal) == everyone
    assert all(seq >= figures.last_seq for seq in figures.finally_equal.values())
    assert figures.counts["changes lost by the broker"] > WORTH_LOSING
    assert figures.counts["cuts of the link"] > 0
    assert figures.catchups["snapshot"][0] > 0
    assert figures.catchups["log"][0] > 0
    free_directory(figures.directory)
