"""What a catch-up says besides its rows: about rows that were refused, items that never arrive, and forged answers."""

from __future__ import annotations

from arus.logs import get_logger
from arus.protocol.messages import CatchupBegin

from .outcome import REFUSED, Outcome
from .position import Position
from .refusals import Refusals
from .runs import Proof
from .vessels import VesselState

logger = get_logger(__name__)


def note_arrived(
    refusals: Refusals, outcome: Outcome, vessel: VesselState, position: Position, proof: Proof
) -> None:
    """Note which rows a catch-up did not contain, and whether some of them never arrive."""
    vessel_id, entity = vessel.vessel_id, position.entity
    if proof.missing:
        reason = (
            f"{proof.missing} items of catch-ups never arrive: they are larger than MQTT_MAX_PACKET_SIZE, or a broker"
            " discards them"
        )
        outcome.count(REFUSED, amount=proof.missing)
        logger.error(
            "[MQTT Reliable Sync] %s of %s, up to %d: %s", entity, vessel_id, proof.high_seq, reason
        )
        refusals.add_missing(vessel_id, entity, proof.high_seq, reason)
    elif proof.complete:
        refusals.all_arrived(vessel_id, entity)
    if proof.sweep:
        refusals.swept(vessel_id, entity, proof.high_seq, proof.sweep, proof.buckets)


def note_begun(outcome: Outcome, vessel: VesselState, begin: CatchupBegin) -> Position:
    """Return the position of a catch-up that begins; note if it is another answer to a repair's request.

    A vessel answers a request once, so one of the two answers is forged.
    """
    position = vessel.position_of(begin.entity)
    if position.repaired is None or begin.request_id != position.repaired[0]:
        return position
    if begin.catchup_id != position.repaired[1]:
        position.repaired = None
        outcome.doubted.append((vessel.vessel_id, position.entity))
        logger.warning(
            "[MQTT Reliable Sync] a request for rows of %s of %s was answered twice: one answer is forged",
            position.entity,
            vessel.vessel_id,
        )
    return position
