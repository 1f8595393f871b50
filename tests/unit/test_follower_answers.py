"""What a follower says about messages that the broker refuses."""

from __future__ import annotations

import pytest

from arus.follower.answers import Obstacles
from arus.follower.outgoing import Kind
from arus.mqtt.diagnosis import Diagnosis

NOT_AUTHORIZED, QUOTA_EXCEEDED = 0x87, 0x97


def test_a_refusal_is_logged_once_until_the_broker_takes_a_message_on_that_topic(
    caplog: pytest.LogCaptureFixture,
) -> None:
    obstacles = Obstacles()
    for _ in range(3):
        obstacles.refused(Kind.WATERMARK, "a/watermarks/shore", NOT_AUTHORIZED)
        # Of other vessels some are refused, and some are taken.
        obstacles.refused(Kind.WATERMARK, "b/watermarks/shore", NOT_AUTHORIZED)
        obstacles.taken("c/watermarks/shore")
    assert len(caplog.messages) == 1
    obstacles.refused(Kind.REQUEST, "a/catchup_requests", QUOTA_EXCEEDED)
    assert len(caplog.messages) == 2
    obstacles.taken("a/watermarks/shore")
    obstacles.refused(Kind.WATERMARK, "b/watermarks/shore", NOT_AUTHORIZED)
    assert [" on b/" in line for line in caplog.messages] == [False, False, True]


def test_what_is_refused_is_told_with_the_fix_until_it_is_taken() -> None:
    obstacles = Obstacles()
    assert str(obstacles) == ""
    obstacles.refused(Kind.PROPOSAL, "a/proposals/crew", NOT_AUTHORIZED)
    obstacles.refused(Kind.REQUEST, "a/catchup_requests", QUOTA_EXCEEDED)
    told = Diagnosis.parse(str(obstacles))
    assert "proposals on a/proposals/crew (not authorized)" in told.says
    assert "requests on a/catchup_requests (quota exceeded)" in told.says
    assert told.fix is not None
    assert "allow its user to publish on a/proposals/crew" in told.fix
    obstacles.taken("a/proposals/crew")
    assert "proposals" not in str(obstacles)
    obstacles.begin()
    assert str(obstacles) == ""
