"""Which version of MQTT is spoken: an answer decides, a hang-up or a silence never does."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.mqtt.negotiation import BELIEVED, UNANSWERED, Found, Negotiation

NOW = 1_800_000_000_000
Event = Literal["accepted", "unanswered", "refused otherwise", "no trial result"]


def test_5_is_first_and_3_1_1_follows_a_refusal() -> None:
    asking = Negotiation("auto")
    assert asking.choose(NOW) == "5"
    assert asking.refused("5", NOW)
    assert asking.choose(NOW) == "3.1.1"


def test_what_was_found_is_believed_for_a_day() -> None:
    asking = Negotiation("auto", Found("3.1.1", NOW))
    assert asking.choose(NOW + BELIEVED - 1) == "3.1.1"
    assert asking.choose(NOW + BELIEVED) == "5"
    assert asking.choose(NOW - 1) == "5"  # the clock was set back: who knows when that was


@pytest.mark.parametrize("wanted", ["5", "3.1.1"])
def test_a_version_of_the_settings_never_changes(wanted: Literal["5", "3.1.1"]) -> None:
    asking = Negotiation(wanted, Found("5" if wanted == "3.1.1" else "3.1.1", NOW))
    assert not asking.refused("5", NOW)
    for _ in range(10):
        asking.unanswered("5")
    assert not asking.wants_trial(NOW)
    assert asking.choose(NOW) == wanted


def test_a_trial_is_due_after_silence_and_only_where_nothing_is_known() -> None:
    asking = Negotiation("auto")
    for _ in range(UNANSWERED):
        assert not asking.wants_trial(NOW)
        asking.unanswered("5")
    assert asking.wants_trial(NOW)
    asking.tried("3.1.1", NOW)
    assert asking.choose(NOW) == "3.1.1"
    known = Negotiation("auto", Found("5", NOW))
    for _ in range(10):
        known.unanswered("5")
    assert not known.wants_trial(NOW)


@given(
    st.lists(
        st.sampled_from(["accepted", "unanswered", "refused otherwise", "no trial result"]),
        max_size=60,
    )
)
def test_no_bad_link_makes_it_speak_3_1_1(events: list[Event]) -> None:
    asking = Negotiation("auto")
    for event in events:
        if asking.wants_trial(NOW):
            asking.tried(None, NOW)
        version = asking.choose(NOW)
        assert version == "5"
        if event == "accepted":
            asking.accepted(version, NOW)
        elif event == "unanswered":
            asking.unanswered(version)
        elif event == "refused otherwise":
            asking.answered()
        else:
            asking.tried(None, NOW)
