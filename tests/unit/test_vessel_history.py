"""Since when a vessel is online, when it was last heard, and since when its copy is behind."""

from __future__ import annotations

from typing import Any

import pytest

from arus.follower.vessel_history import VesselHistory
from arus.protocol.messages import Comparison, Numbered, Status, Verdict
from arus.protocol.times import iso

HOUR = 3_600_000
NOW = 1_795_334_400_000


def status(presence: str, sent_at: int | None = None, **told: Any) -> Status:
    timestamp = "" if sent_at is None else iso(sent_at)
    return Status(status=presence, vessel_id="a", timestamp=timestamp, epoch="e", seq=1, **told)  # type: ignore[arg-type]


@pytest.fixture
def history() -> VesselHistory:
    """Of a vessel that came online five hours ago, and wrote something four hours ago."""
    history = VesselHistory()
    history.heard(status("online", NOW - 5 * HOUR), None, NOW - 5 * HOUR, retained=False)
    history.heard(Numbered(vessel_id="a", epoch="e", seq=2), True, NOW - 4 * HOUR, retained=False)
    assert (history.online_since, history.spoke_at) == (NOW - 5 * HOUR, NOW - 4 * HOUR)
    return history


def test_a_last_will_is_no_sign_of_life(history: VesselHistory) -> None:
    """The broker sends it in the vessel's name; its timestamp is that of the connection's begin."""
    history.heard(status("offline", NOW - 5 * HOUR), True, NOW, retained=False)
    assert history.spoke_at == NOW - 4 * HOUR
    assert history.online_since == NOW
    assert [event.kind for event in history.events] == ["online", "offline"]


def test_what_the_broker_had_kept_is_as_old_as_it_says(history: VesselHistory) -> None:
    history.heard(status("online", NOW - HOUR), True, NOW, retained=True)
    assert history.spoke_at == NOW - HOUR
    history.heard(status("online", NOW - 3 * HOUR), True, NOW, retained=True)
    assert history.spoke_at == NOW - HOUR


def test_a_clock_that_is_ahead_makes_no_vessel_heard_in_the_future(history: VesselHistory) -> None:
    history.heard(status("online", NOW + HOUR), True, NOW, retained=True)
    assert history.spoke_at == NOW


@pytest.mark.parametrize("timestamp", ["", "yesterday", "9" * 40])
def test_a_kept_message_without_a_time_changes_nothing(
    history: VesselHistory, timestamp: str
) -> None:
    told = Status(status="online", vessel_id="a", timestamp=timestamp)
    history.heard(told, True, NOW, retained=True)
    assert history.spoke_at == NOW - 4 * HOUR


def test_a_vessel_that_was_offline_when_the_follower_came_is_so_since_it_was_last_heard() -> None:
    history = VesselHistory()
    history.heard(status("offline", NOW - 72 * HOUR), None, NOW, retained=True)
    assert history.online_since == history.spoke_at == NOW - 72 * HOUR


def test_a_status_that_says_the_same_again_is_no_event(history: VesselHistory) -> None:
    history.heard(status("online", NOW), True, NOW, retained=False)
    assert history.online_since == NOW - 5 * HOUR
    assert [event.kind for event in history.events] == ["online"]


def test_a_copy_is_behind_since_the_first_missing_number_until_none_is_missing() -> None:
    history = VesselHistory()
    for behind, at, since in ((0, 1, None), (3, 2, 2), (1, 3, 2), (0, 4, None), (1, 5, 5)):
        history.measured(behind, at)
        assert history.behind_since == since


def verdict(at: int, **entities: bool) -> Verdict:
    told = {entity: Comparison(equal=equal) for entity, equal in entities.items()}
    return Verdict(seq=9, timestamp=iso(at), equal=all(entities.values()), entities=told)


def test_an_audit_that_finds_the_same_again_is_no_event() -> None:
    history = VesselHistory()
    first, second = verdict(NOW, crew=True), verdict(NOW + 1, crew=True)
    third, fourth = verdict(NOW + 2, crew=False, alerts=False), verdict(NOW + 3, crew=True)
    for one, before in ((first, None), (second, first), (third, second), (fourth, third)):
        history.judged(one, before)
    told = [(event.equal, event.differing) for event in history.events]
    assert told == [(True, ""), (False, "alerts, crew"), (True, "")]
    assert history.equal_at == NOW + 3


def test_what_was_equal_in_another_epoch_does_not_count() -> None:
    history = VesselHistory(equal_at=NOW, behind_since=NOW)
    history.new_epoch()
    assert (history.equal_at, history.behind_since) == (None, None)
    assert [event.kind for event in history.events] == ["epoch"]
