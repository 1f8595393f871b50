"""What waits for an acknowledgement, and since when."""

from __future__ import annotations

import math

from arus.outbox.status import STALLED_AFTER
from arus.relay.progress import Progress

MINUTE = STALLED_AFTER / 1000


def test_it_stalls_when_something_waits_and_nothing_is_acknowledged() -> None:
    progress = Progress()
    assert not progress.is_stalled(math.inf, 1e9)  # nothing waits
    assert not progress.is_stalled(100.0, 100.0 + MINUTE - 1)
    assert progress.is_stalled(100.0, 100.0 + MINUTE)
    progress.heard(130.0)
    assert not progress.is_stalled(100.0, 130.0 + MINUTE - 1)
    assert progress.is_stalled(100.0, 130.0 + MINUTE)


def test_a_new_connection_does_not_end_a_stall() -> None:
    progress = Progress()
    progress.end(100.0)
    assert progress.is_stalled(160.0, 100.0 + MINUTE)
    progress.end(170.0)
    assert progress.is_stalled(math.inf, 100.0 + MINUTE)
    progress.heard(200.0)
    assert not progress.is_stalled(math.inf, 1e9)


def test_a_connection_without_anything_waiting_leaves_nothing() -> None:
    progress = Progress()
    progress.heard(50.0)
    progress.end(math.inf)
    assert not progress.is_stalled(math.inf, 1e9)
    assert not progress.was_heard
