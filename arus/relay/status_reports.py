"""Reports to followers in addition to the changes: the vessel's status with the head of the log, and digests."""

from __future__ import annotations

import time

from msgspec import UNSET

from arus.audit.auditor import Auditor
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.meter import Kind
from arus.mqtt.packets import Ack
from arus.outbox.log import ChangeLog
from arus.protocol.encoding import encode
from arus.protocol.messages import Presence, Status
from arus.protocol.times import iso, now_ms
from arus.protocol.topics import DIGEST, STATUS

from .answers import Answers
from .publisher import Publisher

logger = get_logger(__name__)

#: Minimum seconds between two status messages of a connection that report the head of the log.
HEARTBEAT = 60.0
#: Seconds after which the status is published again even if nothing has changed: at least each 15 minutes, so that
#: followers know an idle vessel. Each status costs an idle ship some 280 bytes.
PRESENCE = 890.0
#: Minimum seconds between two digests that prove the repairs after dropped changes.
PROOF_PERIOD = 600.0


class StatusReports:
    """Publishes the vessel's status, and the digests of its tables. Runs in the relay's thread.

    :param prefix: of all topics.
    """

    def __init__(
        self, log: ChangeLog, session: Session, publisher: Publisher, auditor: Auditor, prefix: str
    ) -> None:
        self._log = log
        self._session = session
        self._publisher = publisher
        self._auditor = auditor
        self._digest_topic = f"{prefix}/{DIGEST}"
        self.topic = f"{prefix}/{STATUS}"
        #: A status waits for room.
        self._status_due = False
        #: A digest that waits for room.
        self._digest: bytes | None = None
        #: The last digest that was sent.
        self._sent_digest: bytes | None = None
        self._status_answers = Answers("status", self.topic)
        self._digest_answers = Answers("digest", self._digest_topic)
        #: The number and the depth in the last status, when it was sent (monotonic seconds), and its bytes.
        self._published = (0, 0)
        self._published_at = 0.0
        self._size = 0
        #: Monotonic seconds before which repairs cause no digest.
        self._prove_at = 0.0

    def begin(self) -> None:
        """Note that a connection has begun: its first status is due."""
        self._status_due = True
        self._status_answers.begin()
        self._digest_answers.begin()

    def acknowledged(self, ack: Ack) -> None:
        """Process an acknowledgement of any message: what was refused for the moment is due again."""
        status_refused = self._status_answers.refused(ack)
        self._status_due = self._status_due or status_refused
        digest_refused = self._digest_answers.refused(ack)
        if digest_refused:
            self._digest = self._digest or self._sent_digest
        if status_refused or digest_refused:
            self._session.features.refused(ack.reason, now_ms())  # both are retained

    @property
    def obstacle(self) -> str | None:
        """Why the broker refuses the status or the digests; None if it does not."""
        return self._status_answers.obstacle or self._digest_answers.obstacle

    def announce(self, *, again: bool) -> None:
        """Publish a status that is due, once the broker accepts it.

        :param again: publish it again.
        """
        again = again or self._publisher.budget.take_changed()
        if self._publisher.repairs.take_changed():
            again = True
            if not self._publisher.repairs.pending and time.monotonic() >= self._prove_at:
                # Followers compare it with what the repairs have told them.
                self._prove_at = time.monotonic() + PROOF_PERIOD
                self._auditor.request()
        self._status_due = self._status_due or again or self._publisher.compression.is_news
        if (
            self._status_due
            and self._publisher.has_room_beside
            and not self._status_answers.is_paused
        ):
            self._status_due = False
            self.publish("online")

    def refresh(self, *, asked: bool = False) -> None:
        """Fetch a finished digest, and publish the status if it is outdated; to be called at each poll.

        :param asked: a follower has asked for the status.
        """
        self._status_due = self._status_due or asked
        self._digest = self._auditor.take() or self._digest
        if self._digest is not None and not self._publisher.fits(DIGEST, self._digest):
            logger.error(
                "[MQTT Reliable Sync] the digest of the tables is larger than the broker accepts (%d bytes)",
                len(self._digest),
            )
            self._digest = None
        # Followers can rely on the heads only if nothing is pending, so the end of pending changes is news too.
        news = not self._publisher.depth and (self._log.head_seq, 0) != self._published
        age = time.monotonic() - self._published_at
        heartbeat = max(HEARTBEAT, self._publisher.budget.pause_between(self._size))
        if age >= (min(heartbeat, PRESENCE) if news else PRESENCE) and self._publisher.has_room:
            self.publish("online")

    def publish_digest(self) -> None:
        """Publish the waiting digest, if the broker accepts it now."""
        if (
            self._digest is not None
            and self._publisher.has_room
            and not self._digest_answers.is_paused
            and self._publisher.budget.admits(len(self._digest))
        ):
            packet_id = self._session.publish_beside(
                self._digest_topic, self._digest, retain=True, kind=Kind.DIGESTS
            )
            self._digest_answers.sent(packet_id)
            self._sent_digest, self._digest = self._digest, None

    def publish(self, status: Presence) -> int:
        """Publish a status; return its packet id."""
        self._published = (self._log.head_seq, self._publisher.depth)
        self._published_at = time.monotonic()
        payload = self.encode(status)
        self._size = len(payload)
        packet_id = self._session.publish_beside(
            self.topic, payload, retain=True, kind=Kind.STATUSES
        )
        self._status_answers.sent(packet_id)
        self._publisher.compression.announced()
        return packet_id

    @property
    def _is_complete(self) -> bool:
        return self._log.reach().complete_since == 0

    def encode(self, status: Presence) -> bytes:
        """Return the message for a status."""
        until = self._publisher.budget.catchups_until
        message = Status(
            status=status,
            vessel_id=self._log.vessel_id,
            timestamp=iso(now_ms()),
            generation=self._log.generation,
            epoch=self._log.epoch,
            seq=self._log.head_seq,
            topics={
                topic_queue.topic: topic_queue.head_seq
                for topic_queue in self._log.topic_queues.values()
            },
            pending=self._publisher.depth,
            paused_until=UNSET if until is None or status == "offline" else iso(until),
            repairs=(self._log.repairs() or UNSET) if status == "online" else UNSET,
            dictionary=self._publisher.compression.new_dictionary_id,
            complete=True if status == "online" and self._is_complete else UNSET,
        )
        return encode(message)
