"""Ten vessels, a broker as its package ships it, and a follower on PostgreSQL: the main job, with everything going wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.fleet.fleet import Fleet

VESSELS = 10
#: Rows that each vessel has when it joins.
ROWS = 60
#: Changes a second, of all together.
RATE = 20.0
#: Publishes at the broker for each change of a steady fleet.
MOST_PUBLISHES = 3.0

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fleet")]


@pytest.fixture
def fleet(start_fleet: Callable[..., Fleet]) -> Fleet:
    """Ten vessels with rows that have not connected yet; the first has a process of its own."""
    fleet = start_fleet(vessels=VESSELS, hosts=2, alone=1)
    fleet.do_all("fill", rows=ROWS)
    return fleet


def test_ten_vessels_join_work_and_recover_and_all_audits_are_equal(fleet: Fleet) -> None:
    victim = fleet.vessel_ids[0]
    _join(fleet)
    _work(fleet)

    fleet.begin_writing(RATE)
    fleet.shore.leave()
    _write_for(2)
    fleet.shore.follow()
    _write_for(1)

    fleet.broker.kill()
    _write_for(2)
    fleet.broker.start()
    _write_for(1)

    fleet.kill_host(victim)
    _write_for(1)
    fleet.restart_host(victim)
    fleet.end_writing()
    fleet.do_all("write", count=1)
    print(f"equal {fleet.wait_equal():.1f} s after the last write")


def _join(fleet: Fleet) -> None:
    """All join at once, while the follower is there: each row is published once."""
    before = fleet.tap.settled()
    fleet.join()
    took = fleet.wait_equal()
    passed = fleet.tap.settled().since(before)
    print(f"joined and equal after {took:.1f} s: {passed}")
    assert passed.messages["change"] == VESSELS * ROWS
    assert not passed.repeated, f"{passed.repeated} rows were sent twice: {passed}"


def _work(fleet: Fleet) -> None:
    """Steady writes cost few publishes, and nothing is sent twice."""
    before = fleet.tap.settled()
    fleet.begin_writing(RATE)
    _write_for(5)
    changes = len(fleet.end_writing())
    took = fleet.wait_equal()
    passed = fleet.tap.settled().since(before)
    # The proof of equality was asked for by this test: a digest and a verdict for each vessel.
    asked_for = 2 * passed.messages["digest"]
    print(f"{changes} changes, equal {took:.1f} s later: {passed}")
    assert passed.published - asked_for <= MOST_PUBLISHES * changes
    assert passed.delivered - asked_for <= MOST_PUBLISHES * changes
    assert not passed.repeated, f"{passed.repeated} rows were sent twice"


def _write_for(seconds: float) -> None:
    """Let the vessels write for a while: the time is the test's input, not a wait for something."""
    time.sleep(seconds)
