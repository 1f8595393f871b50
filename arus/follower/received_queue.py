"""The messages that a follower has received and not applied yet: decompressed, and in order.

A message that is compressed with a dictionary that is not here waits for it, and with it all later messages of its
vessel. The dictionary is requested by a subscription to its own topic. The wait is bounded in time and number; after
it, or if a message can't be decompressed at all, the message is passed on with its fault, and is refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection

from msgspec import Struct, field

from arus.errors import MissingDictionaryError, RefusedMessageError
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.protocol.frames import Dictionary, decompress, is_frame
from arus.protocol.topics import DICTIONARY, TopicTree, dictionary_topic

from .dictionaries import VesselDictionaries
from .outcome import Inbound

logger = get_logger(__name__)

#: Seconds for which messages wait for a dictionary.
PATIENCE = 10.0
#: Messages that wait, of all vessels. The broker sends no more than a limited number before they are acknowledged.
MAX_WAITING = 500
#: Dictionaries of a vessel that did not come, after which none is waited for; and for how many seconds.
MAX_FAILED, FORGIVEN_AFTER = 3, 600.0
#: Vessels of which that is known.
MAX_FAILED_VESSELS = 1000
#: Bytes of decompressed messages in a batch.
MAX_BATCH = 33_554_432

#: A message, and its packet id in this connection; None if it needs no acknowledgement.
Item = tuple[Inbound, int | None]


class Wait(Struct):
    """The messages of one vessel that wait for a dictionary."""

    dictionary_id: int
    #: The topic that was subscribed to.
    topic: str
    #: Monotonic seconds.
    until: float
    items: deque[Item] = field(default_factory=deque)


class ReceivedQueue:
    """Received messages, oldest first. Used by the follower's thread only.

    :param known: ids of the vessels that are followed.
    :param clock: returns monotonic seconds.
    """

    def __init__(
        self,
        session: Session,
        tree: TopicTree,
        dictionaries: VesselDictionaries,
        known: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._tree = tree
        self._dictionaries = dictionaries
        self._known = known
        self._clock = clock
        self._ready: deque[Item] = deque()
        #: By vessel: its id, or an empty text if all vessels share a prefix.
        self._waits: dict[str, Wait] = {}
        self._waiting = 0
        #: Dictionaries that did not come, by vessel, with the time until which they count; monotonic seconds.
        self._failed: dict[str, dict[int, float]] = {}
        #: Packet ids of this connection of messages that are handled.
        self._handled: list[int] = []

    def __len__(self) -> int:
        return len(self._ready) + self._waiting

    @property
    def is_ready(self) -> bool:
        """Whether a message can be applied."""
        return bool(self._ready)

    @property
    def wake_at(self) -> float:
        """When the first wait ends, in monotonic seconds."""
        return min((wait.until for wait in self._waits.values()), default=float("inf"))

    def add(self, inbound: Inbound, packet_id: int | None) -> None:
        """Add a received message."""
        self._ready.append((inbound, packet_id))

    def batch(self, most: int) -> list[Inbound]:
        """Return the next messages to apply; `handled` acknowledges them."""
        now = self._clock()
        for vessel_id in [one for one, wait in self._waits.items() if wait.until <= now]:
            self._give_up(vessel_id)
        found: list[Inbound] = []
        size = 0
        while self._ready and len(found) < most and size < MAX_BATCH:
            inbound, packet_id = self._ready.popleft()
            taken = self._take(inbound, packet_id)
            if taken is None:
                continue
            if packet_id is not None:
                self._handled.append(packet_id)
            found.append(taken)
            size += len(taken.payload)
        return found

    def acknowledge(self) -> None:
        """Acknowledge the messages of the last batches, which are applied."""
        for packet_id in self._handled:
            self._session.acknowledge(packet_id)
        self._handled.clear()

    def lost(self) -> None:
        """Note that the connection has ended: its packet ids are not valid any more, but its messages are."""
        for vessel_id in list(self._waits):
            self._resume(vessel_id, asked=False)
        self._ready = deque((inbound, None) for inbound, _ in self._ready)
        self._handled.clear()

    # -- one message ------------------------------------------------------------------------------

    def _take(self, inbound: Inbound, packet_id: int | None) -> Inbound | None:
        """Return a message as it is to be applied; None if it waits, or is applied already."""
        is_compressed = is_frame(inbound.payload)
        if not is_compressed and not self._waits and DICTIONARY not in inbound.topic:
            return inbound
        split = self._tree.split(inbound.topic)
        if split is None:  # nobody's dictionary is waited for
            return inbound._replace(fault="not a topic of a vessel") if is_compressed else inbound
        vessel_id, name = split
        if name.startswith(f"{DICTIONARY}/"):
            return self._take_dictionary(inbound, vessel_id or "", name, packet_id)
        if (vessel_id or "") in self._waits:
            self._wait(vessel_id or "", inbound, packet_id)
            return None
        return self._decompressed(inbound, vessel_id or "", packet_id) if is_compressed else inbound

    def _decompressed(
        self, inbound: Inbound, vessel_id: str, packet_id: int | None
    ) -> Inbound | None:
        def find(dictionary_id: int) -> Dictionary | None:
            return self._dictionaries.find(vessel_id, dictionary_id)

        try:
            return inbound._replace(payload=decompress(inbound.payload, find))
        except MissingDictionaryError as error:
            if self._may_wait(vessel_id, error.dictionary_id):
                self._begin_wait(vessel_id, inbound.topic, error.dictionary_id)
                self._wait(vessel_id, inbound, packet_id)
                return None
            return inbound._replace(fault=str(error))
        except RefusedMessageError as error:
            return inbound._replace(fault=str(error))

    def _take_dictionary(
        self, inbound: Inbound, vessel_id: str, name: str, packet_id: int | None
    ) -> Inbound | None:
        named = name[len(DICTIONARY) + 1 :]
        if (
            not inbound.payload
        ):  # the vessel has deleted it; what waits at the broker may still need it
            self._done(packet_id)
            return None
        try:
            if not (named.isascii() and named.isdigit() and len(named) <= 10):
                raise RefusedMessageError("not the topic of a dictionary")
            self._dictionaries.add(vessel_id, int(named), inbound.payload, self._known)
        except RefusedMessageError as error:
            return inbound._replace(fault=str(error))
        self._failed.get(vessel_id, {}).pop(int(named), None)
        wait = self._waits.get(vessel_id)
        if wait is not None and wait.dictionary_id == int(named):
            self._resume(vessel_id)
        self._done(packet_id)
        return None

    def _done(self, packet_id: int | None) -> None:
        if packet_id is not None:
            self._handled.append(packet_id)

    # -- waiting ----------------------------------------------------------------------------------

    def _may_wait(self, vessel_id: str, dictionary_id: int) -> bool:
        now = self._clock()
        failed = self._failed.get(vessel_id, {})
        for one in [one for one, until in failed.items() if until <= now]:
            del failed[one]
        if not failed:
            self._failed.pop(vessel_id, None)
        return dictionary_id not in failed and len(failed) < MAX_FAILED

    def _begin_wait(self, vessel_id: str, topic: str, dictionary_id: int) -> None:
        _, name = self._tree.split(topic) or (None, "")
        prefix = topic[: len(topic) - len(name) - 1]
        asked = f"{prefix}/{dictionary_topic(dictionary_id)}"
        logger.info("[MQTT Reliable Sync] asking for dictionary %d: %s", dictionary_id, asked)
        # At QoS 0: a broker that waits for acknowledgements of what waits here would not send it.
        self._session.ask([(asked, 0)])
        self._waits[vessel_id] = Wait(dictionary_id, asked, self._clock() + PATIENCE)

    def _wait(self, vessel_id: str, inbound: Inbound, packet_id: int | None) -> None:
        self._waits[vessel_id].items.append((inbound, packet_id))
        self._waiting += 1
        if self._waiting > MAX_WAITING:
            self._give_up(max(self._waits, key=lambda one: len(self._waits[one].items)))

    def _give_up(self, vessel_id: str) -> None:
        wait = self._waits[vessel_id]
        logger.error(
            "[MQTT Reliable Sync] dictionary %d did not come on %s: %d messages waited for it; those that need it are"
            " refused",
            wait.dictionary_id,
            wait.topic,
            len(wait.items),
        )
        # Anyone can invent names: the one that has failed last stands last, and the first goes.
        failed = self._failed.pop(vessel_id, {})
        failed[wait.dictionary_id] = self._clock() + FORGIVEN_AFTER
        self._failed[vessel_id] = failed
        if len(self._failed) > MAX_FAILED_VESSELS:
            del self._failed[next(iter(self._failed))]
        self._resume(vessel_id)

    def _resume(self, vessel_id: str, *, asked: bool = True) -> None:
        """Put the messages that have waited back to the front."""
        wait = self._waits.pop(vessel_id)
        self._waiting -= len(wait.items)
        self._ready.extendleft(reversed(wait.items))
        if asked:
            self._session.forget([wait.topic])
