"""A follower waits for a dictionary that it lacks: in order, for each vessel, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from sqlalchemy import MetaData, StaticPool, create_engine

from arus.follower.dictionaries import MAX_OF_VESSEL, VesselDictionaries
from arus.follower.outcome import Inbound
from arus.follower.received_queue import (
    FORGIVEN_AFTER,
    MAX_BATCH,
    MAX_FAILED,
    MAX_FAILED_VESSELS,
    MAX_WAITING,
    PATIENCE,
    ReceivedQueue,
)
from arus.follower.tables import define
from arus.mqtt.client import Session
from arus.protocol.frames import MAX_CONTENT, Compressor, Dictionary
from arus.protocol.topics import TopicTree
from tests.support.ship_messages import dictionary, messages


class Asked:
    """The session, as far as it is needed here."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.acknowledged: list[int] = []

    def ask(self, filters: list[tuple[str, int]]) -> int:
        self.subscribed += [name for name, _ in filters]
        assert all(qos == 0 for _, qos in filters)
        return 1

    def forget(self, filters: list[str]) -> None:
        self.unsubscribed += filters

    def acknowledge(self, packet_id: int) -> None:
        self.acknowledged.append(packet_id)


class Queue(ReceivedQueue):
    """With a clock that a test sets."""

    def __init__(self, dictionaries: VesselDictionaries) -> None:
        self.session = Asked()
        self.now = 0.0
        tree = TopicTree("fleet/{vessel_id}/sync")
        super().__init__(
            cast("Session", self.session), tree, dictionaries, {"a", "b"}, lambda: self.now
        )
        self.packet_id = 0

    def receive(self, topic: str, payload: bytes, vessel: str = "a") -> None:
        self.packet_id += 1
        self.add(Inbound(f"fleet/{vessel}/sync/{topic}", payload, retain=False), self.packet_id)

    def take(self) -> list[tuple[str, bytes]]:
        """What comes out: the vessel, and the payload or the fault."""
        batch = self.batch(1000)
        self.acknowledge()
        return [(one.topic.split("/")[1], one.fault.encode()[:20] or one.payload) for one in batch]


@pytest.fixture
def dictionaries() -> Iterator[VesselDictionaries]:
    engine = create_engine("sqlite://", poolclass=StaticPool, isolation_level="AUTOCOMMIT")
    metadata = MetaData()
    define(metadata)
    metadata.create_all(engine)
    with engine.connect() as connection:
        yield VesselDictionaries(connection)


@pytest.fixture
def queue(dictionaries: VesselDictionaries) -> Queue:
    return Queue(dictionaries)


def compressed(count: int, known: Dictionary | None = None) -> list[tuple[bytes, bytes]]:
    """Messages and their frames."""
    compressor = Compressor(known or dictionary())
    return [(each, compressor.compress(each)) for each in messages(count)]


def name(known: Dictionary) -> str:
    return f"system/dictionary/{known.id}"


def test_plain_messages_and_frames_without_a_dictionary_pass(queue: Queue) -> None:
    plain = messages(2)
    queue.receive("crew", plain[0])
    queue.receive("crew", Compressor().compress(plain[1]))
    assert queue.take() == [("a", plain[0]), ("a", plain[1])]
    assert queue.session.acknowledged == [1, 2]
    assert not queue.session.subscribed


def test_a_dictionary_that_came_before_is_used_also_after_a_restart(
    queue: Queue, dictionaries: VesselDictionaries
) -> None:
    (message, frame), (_, another) = compressed(2)
    queue.receive(name(dictionary()), dictionary().content)
    queue.receive("crew", frame)
    assert queue.take() == [("a", message)]
    assert queue.session.acknowledged == [1, 2]
    later = Queue(VesselDictionaries(dictionaries._connection))
    later.receive("crew", another)
    assert len(later.take()) == 1
    assert not later.session.subscribed


def test_messages_wait_for_their_dictionary_in_order_and_other_vessels_do_not(
    queue: Queue,
) -> None:
    (first, frame), (second, _) = compressed(2)
    queue.receive("crew", frame)
    queue.receive("crew", second)  # plain, but behind the first
    queue.receive("crew", second, vessel="b")
    assert queue.take() == [("b", second)]
    assert queue.session.subscribed == [f"fleet/a/sync/{name(dictionary())}"]
    assert (len(queue), queue.is_ready) == (2, False)
    assert queue.session.acknowledged == [3]
    queue.receive(name(dictionary()), dictionary().content)
    assert queue.take() == [("a", first), ("a", second)]
    assert queue.session.unsubscribed == queue.session.subscribed
    assert sorted(queue.session.acknowledged) == [1, 2, 3, 4]


def test_a_dictionary_that_does_not_come_is_given_up_and_its_frames_are_refused(
    queue: Queue,
) -> None:
    (_, frame), (second, another) = compressed(2)
    queue.receive("crew", frame)
    queue.receive("crew", second)
    assert queue.take() == []
    assert queue.wake_at == PATIENCE
    queue.now = PATIENCE
    fault = b"it is compressed with dictionary"[:20]
    assert queue.take() == [("a", fault), ("a", second)]
    queue.receive("crew", another)
    assert queue.take() == [("a", fault)]  # at once
    queue.receive(name(dictionary()), dictionary().content)
    queue.receive("crew", another)
    assert queue.take() == [("a", second)]


def test_a_vessel_that_names_one_invented_dictionary_after_the_other_is_not_waited_for(
    queue: Queue,
) -> None:
    frames = [bytearray(frame) for _, frame in compressed(MAX_FAILED + 2)]
    for number, frame in enumerate(frames):
        frame[5:9] = (70_000 + number).to_bytes(4, "little")
    for number, frame in enumerate(frames):
        queue.receive("crew", bytes(frame))
        assert len(queue.take()) == (number >= MAX_FAILED)
        queue.now += PATIENCE
        assert len(queue.take()) == (number < MAX_FAILED)
    assert len(queue.session.subscribed) == MAX_FAILED
    queue.now += FORGIVEN_AFTER
    queue.receive("crew", compressed(1)[0][1])
    assert queue.take() == []


def test_no_dictionary_is_waited_for_on_a_topic_of_no_vessel(queue: Queue) -> None:
    frame = Compressor(dictionary()).compress(messages(1)[0])
    for topic in ("fleet/_all/sync/crew", "fleet/_all/sync/system/dictionary/7", "elsewhere"):
        queue.add(Inbound(topic, frame, retain=False), None)
    assert [one.fault for one in queue.batch(9)] == ["not a topic of a vessel"] * 3
    assert not queue.session.subscribed


def test_names_that_are_invented_take_no_room_for_long(queue: Queue) -> None:
    (_, frame), *_ = compressed(1)
    for number in range(MAX_FAILED_VESSELS + 50):
        queue.receive("crew", frame, vessel=f"ghost-{number}")
        assert queue.take() == []
        queue.now += PATIENCE
        assert len(queue.take()) == 1
    assert len(queue._failed) == MAX_FAILED_VESSELS


def test_no_more_than_so_many_messages_wait(queue: Queue) -> None:
    (_, frame), *_ = compressed(1)
    for _ in range(MAX_WAITING + 1):
        queue.receive("crew", frame)
    assert queue.take()
    assert len(queue) == 0


def test_a_lost_connection_loses_no_message_and_asks_again(queue: Queue) -> None:
    (first, frame), (second, _) = compressed(2)
    queue.receive("crew", frame)
    queue.receive("crew", second)
    assert queue.take() == []
    queue.lost()
    assert queue.take() == []
    assert len(queue.session.subscribed) == 2
    queue.receive(name(dictionary()), dictionary().content)
    assert queue.take() == [("a", first), ("a", second)]
    assert queue.session.acknowledged == [3]  # the others' packet ids were of the lost connection


def test_small_frames_of_large_messages_come_a_few_at_a_time(queue: Queue) -> None:
    frame = Compressor().compress(b'"' + b" " * (MAX_CONTENT - 2) + b'"')
    for _ in range(100):
        queue.receive("crew", frame)
    sizes = []
    while batch := queue.batch(500):
        sizes.append(sum(len(one.payload) for one in batch))
    assert sum(sizes) == 100 * MAX_CONTENT
    assert max(sizes) <= MAX_BATCH


def test_what_is_no_dictionary_is_refused_and_one_that_is_deleted_stays(queue: Queue) -> None:
    queue.receive(name(dictionary()), b"no dictionary")
    queue.receive("system/dictionary/x", dictionary().content)
    queue.receive("system/dictionary/70000", dictionary().content)
    assert [fault for _, fault in queue.take()] == [
        b"not a zstd dictionary"[:20], b"not the topic of a d", b"this topic is not th",
    ]  # fmt: skip
    queue.receive(name(dictionary()), dictionary().content)
    queue.receive(name(dictionary()), b"")
    (message, frame), *_ = compressed(1)
    queue.receive("crew", frame)
    assert queue.take() == [("a", message)]


def test_a_vessels_dictionaries_are_bounded_and_the_oldest_go(
    queue: Queue, dictionaries: VesselDictionaries
) -> None:
    many = [dictionary(seed) for seed in range(1, MAX_OF_VESSEL + 3)]
    for one in many:
        queue.receive(name(one), one.content)
    other = dictionary()
    queue.receive(name(other), other.content, vessel="b")
    assert queue.take() == []
    kept = [dictionaries.find("a", one.id) is not None for one in many]
    assert kept == [False, False, *[True] * MAX_OF_VESSEL]
    assert dictionaries.find("b", other.id) is not None


def test_a_partition_bounds_and_deletes_the_dictionaries_of_its_own_vessels_only(
    queue: Queue, dictionaries: VesselDictionaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [dictionary(seed) for seed in (1, 2)]
    for one in others:
        queue.receive(name(one), one.content, vessel="c")
    assert queue.take() == []
    monkeypatch.setattr("arus.follower.dictionaries.MAX_IN_ALL", 2)
    connection = dictionaries._connection
    partition = VesselDictionaries(connection, {"a"})
    partition.add("a", dictionary().id, dictionary().content, known=())
    partition.add("b", dictionary().id, dictionary().content, known=())  # of another one
    everywhere = VesselDictionaries(connection)
    assert all(everywhere.find("c", one.id) is not None for one in others)
    assert everywhere.find("a", dictionary().id) is not None
    assert everywhere.find("b", dictionary().id) is None
