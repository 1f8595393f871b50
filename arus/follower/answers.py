"""The broker's answers to what a follower publishes: what it has taken, and what it refuses and why.

A broker that speaks MQTT 3.1.1 can't say that it refuses a message: it acknowledges and discards it, or closes the
connection.
"""

from __future__ import annotations

from arus.errors import FIX
from arus.logs import get_logger
from arus.mqtt.diagnosis import Diagnosis
from arus.mqtt.packets import Ack
from arus.mqtt.refusals import NOT_AUTHORIZED, REFUSED, TOO_LARGE, name_of

from .applier import Applier
from .outgoing import Kind, Outgoing, Sent
from .proposals import Outbox
from .watermarks import Watermarks

logger = get_logger(__name__)


class Obstacles:
    """What the broker refuses at present. Each kind of message is logged once for a reason, until one is taken."""

    def __init__(self) -> None:
        #: The topic of a refused message by the kind and the reason code: those of this connection, and those that
        #: were logged. One topic is enough: a broker may refuse the topics of some vessels only, and each message that
        #: it takes for another one would have the next refusal logged again.
        self._present: dict[tuple[Kind, int], str] = {}
        self._logged: dict[tuple[Kind, int], str] = {}

    def begin(self) -> None:
        """Note that a connection has begun: its broker may have other rules."""
        self._present.clear()

    def taken(self, topic: str) -> None:
        """Note that the broker has taken a message."""
        if self._logged:
            for known in (self._present, self._logged):
                for key in [key for key, refused in known.items() if refused == topic]:
                    del known[key]

    def refused(self, kind: Kind, topic: str, reason: int) -> None:
        """Note that the broker has refused a message.

        :param reason: the reason code.
        """
        self._present.setdefault((kind, reason), topic)
        if (kind, reason) not in self._logged:
            self._logged[kind, reason] = topic
            logger.error("[MQTT Reliable Sync] %s", _diagnosis(kind, topic, reason))

    def __str__(self) -> str:
        """What is refused, and how to fix it, as `Diagnosis.parse` reads it; empty if nothing is."""
        found = [_diagnosis(kind, topic, code) for (kind, code), topic in self._present.items()]
        says = "; ".join(one.says for one in found)
        fixes = "; ".join(dict.fromkeys(one.fix or "" for one in found))
        return f"{says}{FIX}{fixes}" if found else ""


class Answers:
    """Processes the broker's answers. Used by the follower's thread."""

    def __init__(self, outgoing: Outgoing, outbox: Outbox, watermarks: Watermarks) -> None:
        self._outgoing = outgoing
        self._outbox = outbox
        self._watermarks = watermarks
        self._obstacles = Obstacles()
        #: The obstacles that are recorded.
        self._recorded = ""
        #: Ids of proposals that the broker has taken, and refused, and that are not processed yet.
        self._taken: list[str] = []
        self._refused: list[str] = []

    def begin(self) -> None:
        """Note that a connection has begun, and that this was recorded."""
        self._obstacles.begin()
        self._recorded = ""

    def take(self, ack: Ack) -> None:
        """Note an acknowledgement of any message."""
        sent = self._outgoing.acknowledged(ack.packet_id)
        if sent is None:
            return
        if ack.reason < REFUSED:
            self._obstacles.taken(sent.topic)
            if sent.proposal_id is not None:
                self._taken.append(sent.proposal_id)
        else:
            self._obstacles.refused(sent.kind, sent.topic, ack.reason)
            self._send_again(sent)

    def _send_again(self, sent: Sent) -> None:
        """Have a refused message sent again. A request is repeated like one that the vessel does not answer."""
        if sent.proposal_id is not None:
            self._refused.append(sent.proposal_id)
        elif sent.kind is Kind.WATERMARK:
            self._watermarks.refused(sent.vessel_id)

    def process(self) -> None:
        """Note in the database what was taken. Must not be called in a transaction."""
        if self._refused:
            self._outbox.refused(self._refused)
            self._refused.clear()
        if self._taken:
            self._outbox.taken(self._taken)
            self._taken.clear()

    def record(self, applier: Applier, link: str) -> None:
        """Record what the broker refuses, if that has changed. Must not be called in a transaction."""
        obstacles = str(self._obstacles)
        if obstacles != self._recorded:
            self._recorded = obstacles
            applier.obstructed(link, obstacles or None)


def _diagnosis(kind: Kind, topic: str, reason: int) -> Diagnosis:
    says = f"the broker refuses this follower's {kind} on {topic} ({name_of(reason)})"
    if reason == NOT_AUTHORIZED:
        fix = f"allow its user to publish on {topic} in the broker's access rules"
    elif reason == TOO_LARGE:
        fix = "raise the broker's limit for the size of a packet"
    else:
        fix = (
            "none needed if it passes: they are sent again; if it lasts, the broker's log says why"
        )
    return Diagnosis(says, fix)
