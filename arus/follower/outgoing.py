"""What a follower publishes: requests, watermarks, proposals and roll calls, each on the topics of its vessel."""

from __future__ import annotations

import math
import uuid
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.protocol.encoding import encode
from arus.protocol.messages import CatchupRequest, Message, RollCall
from arus.protocol.topics import CATCHUP_REQUESTS, TopicTree

from .proposals import DueProposal

logger = get_logger(__name__)


class Kind(StrEnum):
    """What a message is, for people."""

    REQUEST = "requests"
    WATERMARK = "watermarks"
    PROPOSAL = "proposals"
    ROLL_CALL = "roll calls"


class Sent(NamedTuple):
    """A message whose answer is waited for."""

    kind: Kind
    topic: str
    #: Empty if it is for all vessels.
    vessel_id: str
    #: The proposal in it.
    proposal_id: str | None = None


class _Message(NamedTuple):
    sent: Sent
    payload: bytes
    retain: bool = False


class Outgoing:
    """Publishes the messages, and knows which of them the broker has not answered. Used by the follower's thread.

    No more are unanswered than the broker accepts at a time (MQTT 5, 3.2.2.3.3); the others wait.

    :param name: the follower's.
    """

    def __init__(self, session: Session, tree: TopicTree, name: str) -> None:
        self._session = session
        self._tree = tree
        self._name = name
        #: Published messages that are not answered yet, by packet id.
        self._unanswered: dict[int, Sent] = {}
        #: Messages that wait for room: a watermark by its topic, so that only the newest does, others by their number.
        self._waiting: dict[str | int, _Message] = {}
        self._number = 0
        #: Messages that the broker accepts at a time.
        self._limit = math.inf

    @property
    def is_empty(self) -> bool:
        """Whether the broker has answered everything."""
        return not self._unanswered and not self._waiting

    def begin(self, receive_maximum: int | None) -> None:
        """Forget what was published: a new connection has begun.

        :param receive_maximum: messages that the broker accepts at a time; None if it does not say.
        """
        self._unanswered.clear()
        self._waiting.clear()
        self._limit = receive_maximum or math.inf

    def acknowledged(self, packet_id: int) -> Sent | None:
        """Note an acknowledgement, whatever it says; return the message that it is for, None if it is not known."""
        sent = self._unanswered.pop(packet_id, None)
        self._send()
        return sent

    def request(self, request: CatchupRequest, window: int) -> None:
        """Request a catch-up from its vessel.

        :param window: items that it may send beyond those that are reported to it as received.
        """
        vessel_id = request.vessel_id
        assert vessel_id is not None, "a follower addresses each request"
        logger.info(
            "[MQTT Reliable Sync] asking %s for %s (%s)",
            vessel_id,
            request.entity,
            request.mode or f"since {_since(request)}",
            extra={"request": request.request_id},
        )
        named = replace(request, consumer=self._name, window=window)
        topic = self._topic(vessel_id, CATCHUP_REQUESTS)
        self._publish(Sent(Kind.REQUEST, topic, vessel_id), named)

    def watermark(self, vessel_id: str, name: str, message: Message) -> None:
        """Publish a vessel's watermark, retained."""
        topic = self._topic(vessel_id, name)
        self._publish(Sent(Kind.WATERMARK, topic, vessel_id), message, retain=True)

    def proposal(self, due: DueProposal) -> None:
        """Publish a proposal to its vessel."""
        topic = self._topic(due.vessel_id, due.topic)
        sent = Sent(Kind.PROPOSAL, topic, due.vessel_id, due.proposal_id)
        self._queue(_Message(sent, due.payload))

    def roll_call(self) -> None:
        """Ask all vessels for their status, to find those that are not known."""
        logger.info("[MQTT Reliable Sync] asking all vessels for their status")
        call = RollCall(request_id=str(uuid.uuid4()), roll_call=True)
        topic = f"{self._tree.of_all}/{CATCHUP_REQUESTS}"
        self._publish(Sent(Kind.ROLL_CALL, topic, ""), call)

    def _topic(self, vessel_id: str, name: str) -> str:
        return f"{self._tree.prefix_of(vessel_id)}/{name}"

    def _publish(self, sent: Sent, message: Message, *, retain: bool = False) -> None:
        self._queue(_Message(sent, encode(message), retain))

    def _queue(self, message: _Message) -> None:
        self._number += 1
        self._waiting[message.sent.topic if message.retain else self._number] = message
        self._send()

    def _send(self) -> None:
        while self._waiting and self._session.beside < self._limit:
            message = self._waiting.pop(next(iter(self._waiting)))
            packet_id = self._session.publish_beside(
                message.sent.topic, message.payload, retain=message.retain
            )
            self._unanswered[packet_id] = message.sent


def _since(request: CatchupRequest) -> str:
    return "the beginning" if request.since_seq is None else str(request.since_seq)
