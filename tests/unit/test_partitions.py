"""Where a vessel is placed, how many partitions a process takes, and how both are told."""

from __future__ import annotations

import select
from collections import Counter

import pytest

from arus.follower.partitions.members import Members
from arus.follower.partitions.names import MAX_NAME, link_of
from arus.follower.partitions.placement import MAX_PARTITIONS, partition_of, share_of
from arus.follower.partitions.report import numbers


def test_a_vessel_has_the_same_partition_in_each_process_and_release() -> None:
    assert [partition_of(f"imo-{number}", 64) for number in range(5)] == [50, 31, 47, 5, 51]


def test_vessels_are_spread_over_all_partitions() -> None:
    counts = Counter(partition_of(f"ship-{number}", 16) for number in range(1600))
    assert set(counts) == set(range(16))
    assert max(counts.values()) < 200


@pytest.mark.parametrize(("partitions", "workers"), [(64, 1), (64, 3), (8, 3), (2, 5), (1, 1)])
def test_the_shares_of_all_processes_are_all_partitions_and_differ_by_one_at_most(
    partitions: int, workers: int
) -> None:
    shares = [share_of(place, workers, partitions) for place in range(workers)]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


def test_numbers_are_told_as_a_person_writes_them() -> None:
    assert numbers([]) == ""
    assert numbers([3]) == "3"
    assert numbers([5, 0, 1, 2, 7, 8]) == "0-2, 5, 7-8"


def test_a_change_of_the_members_wakes_the_loop_once() -> None:
    members = Members()
    members.assign({"a": None})
    assert members.are_changed
    assert _is_readable(members)
    assert members.take() == {"a": None}
    assert not members.are_changed
    assert not _is_readable(members)
    members.assign({"a": "the same vessel"})
    assert not _is_readable(members)


def test_the_recorded_name_of_a_partition_fits_its_column() -> None:
    assert len(link_of("x" * MAX_NAME, MAX_PARTITIONS - 1)) <= 64


def _is_readable(members: Members) -> bool:
    poll = select.poll()
    poll.register(members.waker, select.POLLIN)
    return bool(poll.poll(0))
