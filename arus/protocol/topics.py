"""Topic names and filters: validation and matching by the rules of MQTT 5, section 4.7; and the vessels' prefixes."""

from __future__ import annotations

import re
from urllib.parse import quote

from msgspec import Struct

from arus.errors import TopicError

#: The longest UTF-8 encoded string that MQTT can carry, in bytes (MQTT 5, section 1.5.4).
MAX_BYTES = 65_535

#: Topics under the prefix, in addition to those of the registered entities.
STATUS = "system/status"
DIGEST = "system/digest"
SESSION = "system/session"
PROBE = "system/probe"
DICTIONARY = "system/dictionary"
CONFLICTS = "conflicts"
CATCHUP = "catchup"
CATCHUP_REQUESTS = "catchup_requests"
WATERMARKS = "watermarks"
PROPOSALS = "proposals"


#: The level of `MQTT_TOPIC_PREFIX` that stands for the vessel's id.
VESSEL_ID_LEVEL = "{vessel_id}"
#: What stands in its place in topics that address all vessels; no vessel may have this id.
ALL_VESSELS = "_all"

#: Valid names of a follower: the name is the last level of its watermarks' topic.
FOLLOWER_NAME = re.compile(r"[0-9A-Za-z._-]{1,64}")


def proposals_topic(topic: str) -> str:
    """Return the topic, under the prefix, of proposals for the rows of another topic."""
    return f"{PROPOSALS}/{topic}"


def dictionary_topic(dictionary_id: int) -> str:
    """Return the topic, under the prefix, of a dictionary."""
    return f"{DICTIONARY}/{dictionary_id}"


def level_of(text: str) -> str:
    """Return any text, such as a client id, encoded as a topic level."""
    return quote(text, safe="")


def validate_name(topic: str) -> str:
    """Return `topic` if a message can be published to it.

    :raises TopicError: it is empty, too long, or contains a wildcard or a NUL (MQTT 5, 4.7.1 and 4.7.3).
    """
    _validate_text(topic)
    if "+" in topic or "#" in topic:
        raise TopicError(f"{topic!r} is not a topic name: it contains a wildcard (+ or #)")
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
    """Return whether a message on `topic` matches a subscription to `topic_filter`."""
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


def validate_prefix(prefix: str) -> str:
    """Return `prefix` if topics can be below it: `MQTT_TOPIC_PREFIX`.

    :raises TopicError: it is not a topic name, or has `{vessel_id}` twice or mixed into a level.
    """
    validate_name(prefix)
    levels = prefix.split("/")
    if levels.count(VESSEL_ID_LEVEL) > 1:
        raise TopicError(f"{prefix!r} has {VESSEL_ID_LEVEL} twice")
    for level in levels:
        # A misspelt placeholder would be shared by all vessels.
        if level != VESSEL_ID_LEVEL and ("{" in level or "}" in level):
            raise TopicError(f"{prefix!r}: {VESSEL_ID_LEVEL} must be a level of its own")
    return prefix


def is_vessel_level(text: str) -> bool:
    """Whether a text can be the vessel's level of a topic, and is not the one that addresses all vessels."""
    return (
        text not in {"", ALL_VESSELS}
        and not text.startswith("$")
        and not any(character in text for character in "/+#\0")
    )


class TopicTree(Struct, frozen=True):
    """The topics of all vessels: what `MQTT_TOPIC_PREFIX` stands for.

    Without `{vessel_id}` in it, all vessels share one prefix: that of one vessel, the filter of all and the prefix that
    addresses all are the same.
    """

    #: `MQTT_TOPIC_PREFIX`, as it was set.
    pattern: str

    @property
    def is_per_vessel(self) -> bool:
        """Whether each vessel has its own prefix."""
        return VESSEL_ID_LEVEL in self.pattern.split("/")

    def prefix_of(self, vessel_id: str) -> str:
        """Return the prefix of one vessel.

        :raises TopicError: the id can't be a level of a topic.
        """
        if self.is_per_vessel and not is_vessel_level(vessel_id):
            raise TopicError(f"{vessel_id!r} can't be the level {VESSEL_ID_LEVEL} of a topic")
        return self._with(vessel_id)

    @property
    def of_all(self) -> str:
        """The prefix of messages to all vessels."""
        return self._with(ALL_VESSELS)

    @property
    def any_vessel(self) -> str:
        """The prefix of filters that match every vessel's topics."""
        return self._with("+")

    def split(self, topic: str) -> tuple[str | None, str] | None:
        """Return the vessel's id in a topic (None if all share the prefix), and the name under the prefix.

        :returns: None if the topic is not below a vessel's prefix.
        """
        levels = self.pattern.split("/")
        found = topic.split("/")
        if len(found) <= len(levels):
            return None
        vessel_id = None
        for wanted, level in zip(levels, found, strict=False):
            if wanted == VESSEL_ID_LEVEL:
                vessel_id = level
            elif wanted != level:
                return None
        if vessel_id is not None and not is_vessel_level(vessel_id):
            return None
        return vessel_id, "/".join(found[len(levels) :])

    def _with(self, level: str) -> str:
        levels = self.pattern.split("/")
        return "/".join(level if one == VESSEL_ID_LEVEL else one for one in levels)


def _validate_text(topic: str) -> None:
    if not topic:
        raise TopicError("a topic can't be empty")
    if "\0" in topic:
        raise TopicError("a topic can't contain a NUL character")
    try:
        encoded = topic.encode()
    except UnicodeEncodeError as error:
        raise TopicError(f"{topic!r} can't be encoded as UTF-8") from error
    if len(encoded) > MAX_BYTES:
        raise TopicError(f"a topic can't be longer than {MAX_BYTES} bytes")
