"""What a broker supports: an answer decides, hang-ups alone never do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.mqtt.features import HANG_UPS, HANG_UPS_OF_KNOWN, Features, FoundQos
from arus.mqtt.negotiation import BELIEVED

NOW = 1_800_000_000_000


def connected(features: Features, now: int = NOW, *, new: bool = False, **announced: int) -> None:
    features.connected(
        maximum_qos=announced.get("maximum_qos"),
        retains=bool(announced.get("retains", True)),
        session_present=not new,
        now=now,
    )


def test_nothing_is_lacking_until_the_broker_says_so() -> None:
    features = Features()
    assert (features.maximum_qos, features.retains) == (2, True)
    connected(features)
    assert (features.maximum_qos, features.retains) == (2, True)


def test_an_announcement_holds_for_its_connection() -> None:
    features = Features()
    connected(features, maximum_qos=1, retains=0)
    assert (features.maximum_qos, features.retains) == (1, False)
    assert not features.wants_check(NOW)  # a QoS 2 PUBLISH would break the rules
    connected(features)
    assert (features.maximum_qos, features.retains) == (2, True)


@pytest.mark.parametrize(("known", "limit"), [(None, HANG_UPS), (2, HANG_UPS_OF_KNOWN)])
def test_hang_ups_ask_for_a_trial_and_decide_nothing(known: int | None, limit: int) -> None:
    features = Features()
    features.found = None if known is None else FoundQos(known, NOW)
    for _ in range(limit):
        assert not features.wants_trial()
        features.hung_up()
    assert features.wants_trial()
    assert features.maximum_qos == 2
    features.tried(None, NOW)
    assert features.maximum_qos == 2
    assert not features.wants_trial()  # the link is bad: later


def test_a_finding_is_looked_at_again_after_a_day_or_with_a_new_session() -> None:
    features = Features()
    features.tried(1, NOW)
    connected(features)
    assert features.maximum_qos == 1
    assert not features.wants_check(NOW + BELIEVED - 1)
    assert features.wants_check(NOW + BELIEVED)
    assert features.wants_check(NOW - 1)  # the clock was set back
    assert features.maximum_qos == 1  # until the check has a result
    connected(features, new=True)
    assert features.wants_check(NOW)
    features.tried(2, NOW)
    assert features.maximum_qos == 2
    assert not features.wants_check(NOW + BELIEVED)


def test_an_answer_of_the_wrong_kind_lowers_the_qos_and_a_right_one_raises_it() -> None:
    features = Features()
    features.lowered(NOW)
    assert (features.maximum_qos, features.lowers_qos) == (1, True)
    features.confirmed(NOW)
    assert (features.maximum_qos, features.lowers_qos) == (2, False)
    features.refused(0x9B, NOW)
    assert features.maximum_qos == 1


def test_a_refused_retained_message_is_not_sent_again_for_a_day() -> None:
    features = Features()
    features.refused(0x9A, NOW)
    connected(features)
    assert not features.retains
    connected(features, NOW + BELIEVED)
    assert features.retains


@given(st.lists(st.sampled_from(["hung up", "connected", "new session", "no result"]), max_size=60))
def test_no_bad_link_lowers_the_qos(events: list[str]) -> None:
    features = Features()
    for event in events:
        if event == "hung up":
            features.hung_up()
        elif event == "no result":
            features.tried(None, NOW)
        else:
            connected(features, new=event == "new session")
        assert features.maximum_qos == 2
