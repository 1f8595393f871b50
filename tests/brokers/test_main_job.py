"""The main job with each broker: nothing is lost in the end, whatever that broker keeps and forgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.catalogue import CASES, Case
from tests.brokers.main_job import LIVE, QUEUED, STREAMED, MainJob
from tests.brokers.table import table

pytestmark = pytest.mark.slow

#: The equipment, and what is created on a sound link, in the outage, and while the owner is killed.
ALL = 1 + 2 * LIVE + QUEUED + STREAMED


@pytest.fixture
def template(_migrated: Callable[[str], str]) -> Path:
    """A migrated database."""
    return Path(_migrated("sqlite"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_main_job(case: Case, tmp_path: Path, template: Path) -> None:
    job = MainJob(case, tmp_path, template)
    try:
        measured = job.run()
    finally:
        print(table([(case, job.measured)]))
    keeps = case.keeps
    assert (measured.protocol, measured.attempts <= keeps.attempts) == (keeps.protocol, True)
    assert measured.live
    assert measured.backlog
    assert measured.owner_killed

    # what the broker had acknowledged reached a connected subscriber, in order
    for arrived in (measured.live, measured.backlog, measured.owner_killed):
        assert (arrived.lost, arrived.out_of_order) == (0, 0)
        if keeps.alerts_once:
            assert arrived.repeated_alerts == 0
    assert measured.live.expected == 1 + 2 * LIVE
    assert measured.backlog.expected == QUEUED
    assert measured.owner_killed.expected == STREAMED
    assert measured.alerts_arrived_at == (2 if keeps.alerts_once else 1)

    # what is queued and retained outlives a restart, where the broker keeps it
    if keeps.queue is not None:
        assert measured.kept_ashore == (measured.queued_ashore if keeps.queue else 0)
    assert measured.retained
    assert measured.retained_for_wildcards is keeps.retained_for_wildcards
    assert measured.retained_after_restart is keeps.retained

    assert measured.catchup_total == ALL
    # Mosquitto as shipped keeps 1,000 messages for a client: one that is slow misses some of these.
    assert measured.catchup_arrived == ALL or "as shipped" in str(case)
    assert measured.follower_equal
    assert measured.will_time is not None
    assert keeps.alerts_once or "QoS 2" in measured.doctor
