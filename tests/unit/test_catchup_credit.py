"""How much of a catch-up may be sent, and whose is next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from arus.catchup.credit import FIRST_CREDIT, MAX_CONSUMERS, Credits, RunKey
from arus.catchup.run_queue import RunQueue
from arus.catchup.runs import Run


def run(catchup_id: str = "c1", **changes: Any) -> Run:
    values: dict[str, Any] = {
        "id": 1, "catchup_id": catchup_id, "request_id": "r", "entity": "crew", "topic": "crew", "mode": "log",
        "consumer": "shore", "receive_window": 400, "since_at": None, "since_seq": 0, "since_epoch": None,
        "cursor": None, "item_limit": None, "buckets": None, "wants_snapshot": False, "position": "",
        "high_seq": 9, "total": 9, "published": 0, "received": 0, "digest": "",
    }  # fmt: skip
    return Run(**{**values, **changes})


@pytest.mark.parametrize("changes", [{"receive_window": None}, {"consumer": None}])
def test_without_a_window_or_a_name_there_is_no_limit(changes: dict[str, Any]) -> None:
    assert Credits().of(run(published=10_000, **changes)) is None


@pytest.mark.parametrize(
    ("published", "received", "credit"),
    [
        (0, 0, 400),
        (100, 0, 300),
        (300, 0, 100),
        (301, 0, 0),
        (400, 0, 0),
        (400, 200, 200),
        (0, 50, 400),
    ],
)
def test_no_more_is_sent_than_the_window_beyond_what_was_reported(
    published: int, received: int, credit: int
) -> None:
    assert Credits().of(run(published=published, received=received)) == credit


def test_what_was_not_reported_of_earlier_runs_counts_until_a_later_one_is_reported() -> None:
    accounts = Credits()
    accounts.finished(run("c1", published=250, received=0))
    assert accounts.of(run("c2")) == 150
    accounts.reported("shore", RunKey("c1", "crew"), 200)
    assert accounts.of(run("c2")) == 350
    accounts.reported("shore", RunKey("c2", "crew"), 1)
    assert accounts.of(run("c2")) == 400


def test_a_run_may_begin_whatever_its_consumer_has_never_reported() -> None:
    accounts = Credits()
    for number in range(20):
        accounts.finished(run(f"c{number}", published=400))
    assert accounts.of(run("next")) == FIRST_CREDIT
    assert accounts.of(run("next", published=FIRST_CREDIT)) == 0


def test_of_invented_consumers_no_more_are_remembered_than_fit() -> None:
    accounts = Credits()
    for number in range(MAX_CONSUMERS * 2):
        accounts.finished(run(consumer=f"c{number}", published=400))
    assert len(accounts._unreported) == MAX_CONSUMERS


@dataclass
class Row:
    id: int
    requester: str | None
    consumer: str | None = None
    entity: str = "crew"
    origin: str = "mqtt"


def taken(queue: RunQueue, busy: tuple[str, ...] = ()) -> list[int]:
    found = []
    while (run_id := queue.take(busy)) is not None:
        found.append(run_id)
    return found


def test_ten_runs_of_one_requester_do_not_delay_the_first_of_another() -> None:
    queue = RunQueue()
    queue.refresh([*(Row(n, "eager") for n in range(10)), Row(10, "shore"), Row(11, "/http")])
    assert taken(queue)[:4] == [0, 10, 11, 1]


def test_a_requester_that_was_served_comes_after_one_that_was_not() -> None:
    queue = RunQueue()
    queue.refresh([Row(1, "eager"), Row(2, "eager")])
    assert queue.take(()) == 1
    queue.refresh([Row(1, "eager"), Row(2, "eager"), Row(3, "shore")])
    assert taken(queue) == [3, 2]


def test_a_consumer_is_sent_one_run_at_a_time_and_does_not_hold_up_its_requester() -> None:
    queue = RunQueue()
    queue.refresh([Row(1, "/mqtt", "mute"), Row(2, "/mqtt", "mute"), Row(3, "/mqtt")])
    assert taken(queue, busy=("mute",)) == [3]
    assert queue
    assert taken(queue) == [1, 2]


def test_an_older_row_that_was_committed_later_is_not_passed_over() -> None:
    queue = RunQueue()
    queue.refresh([Row(2, "a")])
    assert taken(queue) == [2]
    queue.refresh([Row(1, "a"), Row(2, "a")])
    assert taken(queue) == [1]


def test_a_later_request_for_the_same_entity_is_noticed() -> None:
    queue = RunQueue()
    queue.refresh([Row(5, "shore", "shore"), Row(6, "shore", "shore", "alerts")])
    assert queue.is_requested_again(4, "shore", "crew")
    assert not queue.is_requested_again(5, "shore", "crew")
    assert not queue.is_requested_again(4, "other", "crew")
    assert not queue.is_requested_again(4, None, "crew")
