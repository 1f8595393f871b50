"""The pause after a broker was asked too much."""

from __future__ import annotations

import pytest

from arus.errors import ConnectError, ConnectionLostError, RefusedError
from arus.mqtt.back_off import LONGEST, BackOff


@pytest.mark.parametrize("code", [0x89, 0x96, 0x97, 0x9F])
def test_the_pause_doubles_up_to_a_minute_until_a_message_is_accepted(code: int) -> None:
    back_off = BackOff(5.0)
    busy = ConnectionLostError("too much", code, hung_up=True)
    assert [back_off.ended(busy) for _ in range(5)] == [10, 20, 40, LONGEST, LONGEST]
    assert back_off.ended(RefusedError("too much", code)) == LONGEST
    back_off.accepted()
    assert back_off.ended(busy) == 10


def test_other_ends_need_no_pause_and_do_not_reset_it() -> None:
    back_off = BackOff(5.0)
    busy = RefusedError("quota exceeded", 0x97)
    assert back_off.ended(busy) == 10
    assert back_off.ended(ConnectionLostError("cut")) == 0
    assert back_off.ended(ConnectError("refused")) == 0
    assert back_off.ended(RefusedError("server unavailable", 0x88)) == 0
    assert back_off.ended(busy) == 20
