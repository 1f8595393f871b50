"""Roll calls: a follower asks all vessels to publish their status again, to find those that it does not know.

Some brokers send no retained messages for a subscription with wildcards (RabbitMQ), so that an idle vessel would be
unknown to a new follower. The answers of a fleet are spread at random, because they all go to the follower at once.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from arus.catchup.limiter import TokenBucket
from arus.errors import RefusedMessageError
from arus.logs import get_logger
from arus.mqtt.events import Received
from arus.protocol.encoding import decode_roll_call
from arus.protocol.topics import CATCHUP_REQUESTS

logger = get_logger(__name__)

#: Seconds within which a roll call is answered.
ANSWERED_WITHIN = 30.0
#: Roll calls that are answered in a row, and seconds until one more is.
BURST = 6
PERIOD = 300.0


class RollCalls:
    """Decides when the status is due for roll calls; at most one answer is pending. Used by the relay's thread.

    :param prefix: of messages to all vessels.
    """

    def __init__(
        self,
        prefix: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        #: The only topic of messages to all vessels that a vessel subscribes to.
        self.topic = f"{prefix}/{CATCHUP_REQUESTS}"
        self._clock = clock
        # A generator of its own: the application may have seeded the shared one, in all vessels alike.
        self._rng = rng or random.Random()
        self._answers = TokenBucket(BURST, 1 / PERIOD, clock)
        #: Log lines about refused messages.
        self._lines = TokenBucket(BURST, 1 / PERIOD, clock)
        #: When the pending answer is due, in monotonic seconds.
        self.due_at = math.inf

    def take(self, received: Received) -> bool:
        """Process a message to all vessels; return whether it is a roll call that will be answered."""
        if received.retain:
            return self._refuse("it is retained: requests are not")
        try:
            decode_roll_call(received.payload)
        except RefusedMessageError as error:
            return self._refuse(str(error))
        if self.due_at < math.inf:
            return True  # the pending answer is for both
        if not self._answers.take():
            return self._refuse(f"more than one roll call every {PERIOD:.0f} s")
        self.due_at = self._clock() + self._rng.uniform(0, ANSWERED_WITHIN)
        return True

    def is_due(self) -> bool:
        """Return whether the status is to be published now; true once for each answer."""
        if self._clock() < self.due_at:
            return False
        self.due_at = math.inf
        return True

    def clear(self) -> None:
        """Drop the pending answer: a connection has begun, and its first message is the status."""
        self.due_at = math.inf

    def _refuse(self, why: str) -> bool:
        if self._lines.take():
            logger.warning("[MQTT Reliable Sync] a message on %s is refused: %s", self.topic, why)
        return False
