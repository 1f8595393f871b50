"""Topic names and filters: validated and matched by the rules of MQTT 5, section 4.7."""

from __future__ import annotations

from urllib.parse import quote

from .errors import TopicError

#: The longest UTF-8 encoded string that MQTT can carry, in bytes (MQTT 5, section 1.5.4).
MAX_BYTES = 65_535

#: Topics under the prefix, beyond those of the registered entities.
STATUS = "system/status"
DIGEST = "system/digest"
SESSION = "system/session"
PROBE = "system/probe"
CONFLICTS = "conflicts"
CATCHUP = "catchup"
CATCHUP_REQUESTS = "catchup_requests"
WATERMARKS = "watermarks"
PROPOSALS = "proposals"


def level_of(text: str) -> str:
    """Return a topic level that stands for any text, such as a client id."""
    return quote(text, safe="")


def validate_name(topic: str) -> str:
    """Return `topic` if a message can be published to it.

    :raises TopicError: it is empty, too long, or holds a wildcard or a NUL (MQTT 5, 4.7.1 and 4.7.3).
    """
    _validate_text(topic)
    if "+" in topic or "#" in topic:
        raise TopicError(f"{topic!r} is not a topic name: it holds a wildcard (+ or #)")
    return topic


def validate_filter(topic_filter: str) -> str:
    """Return `topic_filter` if it can be subscribed to.

    :raises TopicError: a wildcard shares its level, `#` is not last, or a shared subscription
        (`$share/NAME/FILTER`, MQTT 5, 4.8.2) has no name or no filter.
    """
    _validate_text(topic_filter)
    if topic_filter.startswith("$share/"):
        _, name, *rest = topic_filter.split("/", 2)
        if not name or "+" in name or "#" in name or not rest or not rest[0]:
            raise TopicError(f"{topic_filter!r} is not a shared subscription: $share/NAME/FILTER")
        validate_filter(rest[0])
        return topic_filter
    levels = topic_filter.split("/")
    for position, level in enumerate(levels):
        if "#" in level and (level != "#" or position != len(levels) - 1):
            raise TopicError(f"{topic_filter!r}: # must be the last level and alone in it")
        if "+" in level and level != "+":
            raise TopicError(f"{topic_filter!r}: + must be alone in its level")
    return topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a message on `topic` reaches a subscription to `topic_filter`."""
    if topic_filter.startswith("$share/"):
        topic_filter = topic_filter.split("/", 2)[2]
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False  # MQTT 5, 4.7.2: a leading wildcard never matches a $-topic.
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True  # Also where "a/#" meets "a": the parent is included (MQTT 5, 4.7.1.2).
        if position == len(levels) or level not in {"+", levels[position]}:
            return False
    return len(wanted) == len(levels)


def _validate_text(topic: str) -> None:
    if not topic:
        raise TopicError("a topic can't be empty")
    if "\0" in topic:
        raise TopicError("a topic can't hold a NUL character")
    try:
        encoded = topic.encode()
    except UnicodeEncodeError as error:
        raise TopicError(f"{topic!r} can't be encoded as UTF-8") from error
    if len(encoded) > MAX_BYTES:
        raise TopicError(f"a topic can't be longer than {MAX_BYTES} bytes")
