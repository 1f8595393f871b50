"""How much a requester of catch-ups may be sent in an hour before its next run waits."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from arus.catchup import quota
from arus.catchup.quota import PERIOD, REPAIR, STEP, Quotas
from arus.catchup.run_queue import RunQueue
from tests.unit.test_catchup_credit import Row


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Quotas:
    """Of a hundred messages, or four copies."""
    monkeypatch.setattr(quota, "MIN_MESSAGES", 100)
    return Quotas(clock=clock)


def test_a_requester_waits_once_it_has_used_up_its_quota_and_others_do_not(
    quotas: Quotas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    quotas.sent("eager", 99)
    assert quotas.exhausted(["eager", "shore"]) == set()
    quotas.sent("eager", 1)
    for _ in range(3):
        assert quotas.exhausted(["eager", "shore"]) == {"eager"}
    assert [r.getMessage() for r in caplog.records] == [
        "[MQTT Reliable Sync] catch-ups for eager wait: it was sent 100 messages of them in the last hour"
    ]


def test_the_quota_is_free_again_after_an_hour(quotas: Quotas, clock: Clock) -> None:
    quotas.sent("eager", 60)
    clock.now += PERIOD / 2
    quotas.sent("eager", 60)
    clock.now += PERIOD / 2 - 1
    assert quotas.exhausted(["eager"])
    clock.now += 1
    assert not quotas.exhausted(["eager"])


def test_in_no_hour_a_requester_is_sent_more_than_its_quota_and_one_run(
    quotas: Quotas, clock: Clock
) -> None:
    run, sent = 7, []
    while clock.now < 1_000 + 5 * PERIOD:
        if not quotas.exhausted(["eager"]):
            quotas.sent("eager", run)
            sent.append(clock.now)
        clock.now += 11
    for start in sent:
        within = [at for at in sent if start <= at < start + PERIOD - STEP]
        assert len(within) * run <= 100 + run


def test_a_quota_is_several_copies_of_large_tables(quotas: Quotas) -> None:
    quotas.planned("crew", 1_000)
    quotas.planned("crew", 10)
    quotas.planned("alerts", 500)
    assert quotas.allowance == 4 * 1_500
    quotas.sent("shore", 4 * 1_500 - 1)
    assert not quotas.exhausted(["shore"])


def test_the_vessels_own_repairs_have_no_quota(quotas: Quotas) -> None:
    quotas.sent(REPAIR, 1_000)
    assert not quotas.exhausted([REPAIR])


def test_of_invented_requesters_no_more_are_remembered_than_fit(quotas: Quotas) -> None:
    for number in range(quota.MAX_REQUESTERS * 2):
        quotas.sent(f"r{number}", 1)
    assert len(quotas._sent) == quota.MAX_REQUESTERS


def test_a_requester_is_remembered_in_few_steps(quotas: Quotas, clock: Clock) -> None:
    for _ in range(10_000):
        quotas.sent("eager", 1)
        quotas.exhausted(["eager"])
        clock.now += 1
    assert len(quotas._sent["eager"]) <= PERIOD / STEP + 1


@dataclass
class Recorded:
    """What the log has of a run."""

    requester: str | None
    published: int
    finished_at: int | None
    entity: str = "crew"
    total: int | None = 10


def test_a_new_owner_counts_what_earlier_ones_have_sent(quotas: Quotas, clock: Clock) -> None:
    now, minute = 1_795_334_400_000, 60_000
    quotas.resume(
        [
            Recorded("old", 500, now - 61 * minute),
            Recorded("eager", 60, now - 50 * minute),
            Recorded("running", 200, None),
            Recorded("ahead", 200, now + 5 * minute),
            Recorded("eager", 60, now - 5 * minute),
            Recorded("asked", 0, now),
        ],
        now,
    )
    names = ["old", "eager", "running", "ahead", "asked"]
    assert quotas.exhausted(names) == {"eager", "running", "ahead"}
    clock.now += 10 * 60
    assert quotas.exhausted(names) == {"running", "ahead"}
    clock.now += 50 * 60
    assert not quotas.exhausted(names)


def test_runs_of_an_exhausted_requester_stay_queued_and_others_are_taken() -> None:
    queue = RunQueue()
    queue.refresh([Row(1, "eager"), Row(2, "shore"), Row(3, None, origin="http")])
    assert queue.requesters() == {"eager", "shore", "/http"}
    assert queue.take((), {"eager", "/http"}) == 2
    assert queue.take((), {"eager", "/http"}) is None
    assert queue.take((), ()) == 1
