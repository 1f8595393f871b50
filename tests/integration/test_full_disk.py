"""On a full disk what was accepted is delivered when the link is back, without a person."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support import full_disk


@pytest.mark.slow
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_what_was_accepted_is_delivered_once_though_the_disk_is_full(
    tmp_path: Path, journal_mode: str
) -> None:
    found = full_disk.run(tmp_path, journal_mode)
    assert len(found["committed"]) > 50, "the disk was not empty"
    assert (found["depth"], found["owned"]) == (0, True)
    assert found["kept"] > 0.9, "the reserve is there for the next time"
    says, fix = found["told"]
    assert "the application's writes fail" in says
    assert fix.startswith("make room in ")
    assert found["told later"] is None
    received = [message_id for _, message_id in found["received"]]
    assert set(received) == set(found["committed"])
    alerts = Counter(message_id for entity, message_id in found["received"] if entity == "alerts")
    assert set(alerts.values()) == {1}
