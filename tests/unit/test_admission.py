"""Which vessels a follower follows."""

from __future__ import annotations

import logging

import pytest

from arus.follower.admission import MAX_REFUSED, RECORDED_EVERY, Admission
from arus.follower.report import Scope
from arus.protocol.messages import Status
from arus.protocol.topics import TopicTree

FLEET = TopicTree("fleet/{vessel_id}/sync")
SHARED = TopicTree("vessel/sync")


def status(vessel_id: str, epoch: str | None = "e") -> Status:
    return Status(status="online", vessel_id=vessel_id, epoch=epoch, seq=0)


def test_with_a_prefix_for_each_every_vessel_is_admitted() -> None:
    admission = Admission(FLEET, None)
    admission.begin()
    assert admission.admits(status("a"), {}, 0)
    assert admission.admits(status("b"), {"a": 1}, 0)


@pytest.mark.parametrize("tree", [FLEET, SHARED])
def test_only_named_vessels_are_admitted(tree: TopicTree) -> None:
    admission = Admission(tree, {"a", "b"})
    assert [admission.admits(status(one), {}, 0) for one in "abc"] == [True, True, False]
    assert [admission.follows(one) for one in "abc"] == [True, True, False]
    assert not admission.refused


def test_on_a_shared_prefix_the_known_vessels_stay_and_another_is_refused_once_clearly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    admission = Admission(SHARED, None)
    known = {"a": 1, "b": 1}  # from the time before
    for now in range(100):
        admission.begin()
        assert admission.admits(status("a"), known, now)
        assert admission.admits(status("b"), known, now)
        assert not admission.admits(status("c"), known, now)
    assert admission.refused == {"c": 99}
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "not following c" in line.message
    assert "{vessel_id}" in line.message
    assert "\n" not in line.message


def test_on_a_shared_prefix_a_new_follower_follows_the_first_vessel_of_a_batch() -> None:
    admission = Admission(SHARED, None)
    admission.begin()
    assert not admission.admits(status("will", epoch=None), {}, 0)
    assert [admission.admits(status(one), {}, 0) for one in "aba"] == [True, False, True]
    # It was not followed after all: its message was ignored.
    admission.begin()
    assert admission.admits(status("b"), {}, 0)


def test_refused_vessels_are_bounded_and_recorded_once_a_minute() -> None:
    admission = Admission(SHARED, None)
    assert admission.to_record(5) is None
    for number in range(10_000):
        admission.admits(status(f"x{number}"), {"a": 1}, 10)
    assert len(admission.refused) == MAX_REFUSED
    assert admission.to_record(10) == admission.refused
    admission.admits(status("x0"), {"a": 1}, 20)
    assert admission.to_record(20) is None
    assert admission.to_record(10 + RECORDED_EVERY) == admission.refused


def test_a_vessel_without_topics_of_its_own_is_not_followed() -> None:
    assert not Admission(FLEET, None).follows("a/b")
    assert Admission(SHARED, None).follows("a/b")


def test_the_scope_is_told_in_words() -> None:
    assert str(Scope(FLEET)) == "fleet/+/sync/#: every vessel"
    assert str(Scope(FLEET, {"b", "a"})) == "fleet/+/sync/#: a, b"
    assert str(Scope(SHARED)) == "vessel/sync/#: one vessel, and those that it knows already"
