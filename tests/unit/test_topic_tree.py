"""The prefixes of vessels: what MQTT_TOPIC_PREFIX stands for, with and without the level {vessel_id}."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import TopicError
from arus.protocol.topics import TopicTree, is_vessel_level, matches

FLEET = TopicTree("fleet/{vessel_id}/sync")
SHARED = TopicTree("vessel/sync")
levels = st.text(st.characters(exclude_characters="/+#\0{}", exclude_categories=["Cs"]), max_size=8)
trees = st.builds(
    lambda before, after: TopicTree("/".join(["p", *before, "{vessel_id}", *after])),
    st.lists(levels, max_size=3),
    st.lists(levels, max_size=3),
)
ids = levels.filter(is_vessel_level)


def test_each_vessel_has_its_own_prefix() -> None:
    assert FLEET.is_per_vessel
    assert FLEET.prefix_of("ship-1") == "fleet/ship-1/sync"
    assert FLEET.any_vessel == "fleet/+/sync"
    assert FLEET.of_all == "fleet/_all/sync"
    assert FLEET.split("fleet/ship-1/sync/catchup/crew") == ("ship-1", "catchup/crew")


def test_without_the_level_all_vessels_share_one() -> None:
    assert not SHARED.is_per_vessel
    assert SHARED.prefix_of("ship/1") == SHARED.any_vessel == SHARED.of_all == "vessel/sync"
    assert SHARED.split("vessel/sync/crew") == (None, "crew")


@pytest.mark.parametrize("vessel_id", ["", "_all", "a/b", "+", "#", "a+", "$SYS", "a\0b"])
def test_an_id_that_is_no_level_of_a_topic_has_no_prefix(vessel_id: str) -> None:
    with pytest.raises(TopicError):
        FLEET.prefix_of(vessel_id)


@pytest.mark.parametrize(
    "topic",
    [
        "fleet/ship-1/sync",
        "fleet/ship-1/other/crew",
        "other/ship-1/sync/crew",
        "fleet/_all/sync/crew",
        "fleet//sync/crew",
        "fleet/$x/sync/crew",
        "vessel/sync/crew",
        "",
    ],
)
def test_a_topic_that_is_no_vessels_is_not_split(topic: str) -> None:
    assert FLEET.split(topic) is None


@given(trees, ids, st.lists(levels, min_size=1, max_size=3))
def test_what_a_vessel_publishes_is_found_again_and_matches_the_filter_of_every_vessel(
    tree: TopicTree, vessel_id: str, name: list[str]
) -> None:
    topic = f"{tree.prefix_of(vessel_id)}/{'/'.join(name)}"
    assert tree.split(topic) == (vessel_id, "/".join(name))
    assert matches(f"{tree.any_vessel}/#", topic)


@given(trees, ids, ids, levels)
def test_no_topic_is_of_two_vessels(tree: TopicTree, one: str, other: str, name: str) -> None:
    if one != other:
        assert not matches(f"{tree.prefix_of(one)}/#", f"{tree.prefix_of(other)}/{name}")
        assert not matches(f"{tree.prefix_of(one)}/#", f"{tree.of_all}/{name}")
