"""What a follower publishes: requests, watermarks, proposals and roll calls, each on the topics of its vessel."""

from __future__ import annotations

import math
import uuid
from typing import NamedTuple

from msgspec.structs import replace

from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.protocol.encoding import encode
from arus.protocol.messages import CatchupRequest, Message, RollCall
from arus.protocol.topics import CATCHUP_REQUESTS, TopicTree

from .proposals import DueProposal

logger = get_logger(__name__)


class _Message(NamedTuple):
    topic: str
    payload: bytes
    retain: bool = False
    #: The proposal in it.
    proposal_id: str | None = None


class Outgoing:
    """Publishes the messages, and knows which of them the broker has not acknowledged. Used by the follower's thread.

    No more are unacknowledged than the broker accepts at a time (MQTT 5, 3.2.2.3.3); the others wait.

    :param name: the follower's.
    """

    def __init__(self, session: Session, tree: TopicTree, name: str) -> None:
        self._session = session
        self._tree = tree
        self._name = name
        #: Packet ids of published messages that are not acknowledged yet.
        self._unacknowledged: set[int] = set()
        #: Ids of published proposals by packet id.
        self._proposed: dict[int, str] = {}
        #: Messages that wait for room: a watermark by its topic, so that only the newest does, others by their number.
        self._waiting: dict[str | int, _Message] = {}
        self._number = 0
        #: Messages that the broker accepts at a time.
        self._limit = math.inf

    @property
    def is_empty(self) -> bool:
        """Whether the broker has acknowledged everything."""
        return not self._unacknowledged and not self._waiting

    def begin(self, receive_maximum: int | None) -> None:
        """Forget what was published: a new connection has begun.

        :param receive_maximum: messages that the broker accepts at a time; None if it does not say.
        """
        self._unacknowledged.clear()
        self._proposed.clear()
        self._waiting.clear()
        self._limit = receive_maximum or math.inf

    def acknowledged(self, packet_id: int) -> str | None:
        """Note an acknowledgement; return the id of the proposal that it is for."""
        self._unacknowledged.discard(packet_id)
        self._send()
        return self._proposed.pop(packet_id, None)

    def request(self, request: CatchupRequest, window: int) -> None:
        """Request a catch-up from its vessel.

        :param window: items that it may send beyond those that are reported to it as received.
        """
        assert request.vessel_id is not None, "a follower addresses each request"
        logger.info(
            "[MQTT Reliable Sync] asking %s for %s (%s)",
            request.vessel_id,
            request.entity,
            request.mode or f"since {_since(request)}",
            extra={"request": request.request_id},
        )
        named = replace(request, consumer=self._name, window=window)
        self._publish(self._topic(request.vessel_id, CATCHUP_REQUESTS), named)

    def watermark(self, vessel_id: str, name: str, message: Message) -> None:
        """Publish a vessel's watermark, retained."""
        self._publish(self._topic(vessel_id, name), message, retain=True)

    def proposal(self, due: DueProposal) -> None:
        """Publish a proposal to its vessel."""
        topic = self._topic(due.vessel_id, due.topic)
        self._queue(_Message(topic, due.payload, proposal_id=due.proposal_id))

    def roll_call(self) -> None:
        """Ask all vessels for their status, to find those that are not known."""
        logger.info("[MQTT Reliable Sync] asking all vessels for their status")
        call = RollCall(request_id=str(uuid.uuid4()), roll_call=True)
        self._publish(f"{self._tree.of_all}/{CATCHUP_REQUESTS}", call)

    def _topic(self, vessel_id: str, name: str) -> str:
        return f"{self._tree.prefix_of(vessel_id)}/{name}"

    def _publish(self, topic: str, message: Message, *, retain: bool = False) -> None:
        self._queue(_Message(topic, encode(message), retain))

    def _queue(self, message: _Message) -> None:
        self._number += 1
        self._waiting[message.topic if message.retain else self._number] = message
        self._send()

    def _send(self) -> None:
        while self._waiting and self._session.beside < self._limit:
            message = self._waiting.pop(next(iter(self._waiting)))
            packet_id = self._session.publish_beside(
                message.topic, message.payload, retain=message.retain
            )
            self._unacknowledged.add(packet_id)
            if message.proposal_id is not None:
                self._proposed[packet_id] = message.proposal_id


def _since(request: CatchupRequest) -> str:
    return "the beginning" if request.since_seq is None else str(request.since_seq)
