"""Topic names and filters by the rules of MQTT 5, section 4.7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from arus.errors import TopicError
from arus.protocol.topics import MAX_BYTES, matches, validate_filter, validate_name

LEVEL = st.sampled_from(["", "a", "b", "$SYS", "ü"])
NAMES = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(
        st.lists(LEVEL | st.just("+"), min_size=0, max_size=4),
        st.sampled_from([[], ["#"]]),
    )
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)


@pytest.mark.parametrize("name", ["a", "a/b", "/", "a//b", " ", "$SYS/x", "vessel/sync/ärger"])
def test_a_name_is_any_text_without_wildcards(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize("name", ["", "a/+", "#", "a#b", "a+b", "a\0", "\ud800", "é" * 40_000])
def test_a_name_is_not_empty_nor_too_long_and_holds_no_wildcard(name: str) -> None:
    with pytest.raises(TopicError):
        validate_name(name)


def test_a_name_may_be_as_long_as_mqtt_can_say() -> None:
    assert validate_name("x" * MAX_BYTES)
    with pytest.raises(TopicError, match="65535 bytes"):
        validate_name("x" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+",
        "a/#",
        "a/+/b",
        "+/+",
        "/+",
        "/#",
        "$SYS/#",
        "$share/g/a/#",
        "$share/g/#",
        "$share/g//",
    ],
)
def test_a_filter_may_have_wildcards_in_levels_of_their_own(topic_filter: str) -> None:
    assert validate_filter(topic_filter) == topic_filter


@pytest.mark.parametrize(
    "topic_filter",
    [
        "", "a#", "#/a", "a/#/b", "a+", "+a/b", "##", "++", "a\0", "$share/g", "$share//a", "$share/g/",
        "$share/+/a", "$share/g#/a", "$share/g/a#",
    ],
)  # fmt: skip
def test_a_filter_that_breaks_the_rules_is_refused(topic_filter: str) -> None:
    with pytest.raises(TopicError):
        validate_filter(topic_filter)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("a/b", "a/b"), ("a/+", "a/b"), ("a/+", "a/"), ("+/+", "/a"), ("/+", "/a"), ("#", "a/b/c"),
        ("a/#", "a"), ("a/#", "a/"), ("a/#", "a/b/c"), ("+/#", "a"), ("$SYS/#", "$SYS/x"),
        ("$SYS/+", "$SYS/x"), ("$share/g/a/#", "a"), ("$share/g/+", "b"),
    ],
)  # fmt: skip
def test_a_filter_matches(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("a", "A"), ("a", "a/"), ("a/", "a"), ("+", "/a"), ("a/+", "a"), ("a/+", "a/b/c"), ("a/#", "ab"),
        ("a/b", "a"), ("#", "$SYS/x"), ("+/x", "$SYS/x"), ("+", "$x"), ("$share/g/#", "$SYS/x"),
        ("$share/g/a", "$share/g/a"),
    ],
)  # fmt: skip
def test_a_filter_does_not_match(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)


@given(FILTERS, NAMES)
def test_matching_agrees_with_pahos(topic_filter: str, topic: str) -> None:
    assert matches(validate_filter(topic_filter), topic) == topic_matches_sub(topic_filter, topic)


@given(NAMES)
def test_a_name_matches_itself_and_only_wildcards_of_its_kind(topic: str) -> None:
    assert matches(topic, topic)
    assert matches("#", topic) != topic.startswith("$")
