"""Audits of all vessels: from a digest to a verdict, and the repair of what differs.

The loop reports changed records to the ledger (`Applier`), passes on digests (`Audits.heard`), and calls
`Audits.step` at each tick, which returns the requests to publish on `catchup_requests`.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import URL, Connection

from arus.audit.contents import Context
from arus.database import open_engine, reading, translated
from arus.errors import LogUnavailableError
from arus.follower.claims import read_claims
from arus.follower.position import Need, Position
from arus.follower.refusals import Refusals
from arus.follower.rows import Copy
from arus.follower.sql.build import Some
from arus.follower.vessels import VesselState, request_tails
from arus.logs import get_logger
from arus.protocol.messages import ALL, CatchupRequest, Digest
from arus.protocol.times import now_ms

from .case import PAUSE, Case, Table, Verification, differing_buckets, note_refused
from .fields import ComparedFields, Rehashing, Usable, common_fields, needed_of, usable
from .ledger import Ledger
from .orphans import adopt
from .sharing import Shared
from .verdicts import lines, names, verdict_on, with_repaired
from .verification import examine

logger = get_logger(__name__)

#: Digests that are requested for the sweep of a repair before the repair counts as over: in some two minutes.
MAX_DIGESTS = 6
_NO_ROWS = ("0" * 16,) * 64


class Audits:
    """Compares the copy with the vessels' digests, and repairs differences. Used by the loop's thread only.

    :param url: of the application's database.
    :param connection: the loop's own.
    :param copies: the tables, by entity.
    :param context: returns the context in which the models' schemas run (`app.app_context`).
    :param refusals: the refused rows: they are named, and not requested again.
    :param vessels: ids of the vessels that are followed; None for all.
    :param shared: what it shares with the audits of other partitions; None if there are none.
    """

    def __init__(
        self,
        url: str | URL,
        connection: Connection,
        ledger: Ledger,
        copies: Mapping[str, Copy],
        context: Context,
        refusals: Refusals,
        vessels: Some = None,
        shared: Shared | None = None,
    ) -> None:
        self._connection = connection
        self._refusals = refusals
        self._ledger = ledger
        self._copies = copies
        self._context = context
        self._cases: defaultdict[str, Case] = defaultdict(Case)
        self._stopping = threading.Event()
        self._engine = open_engine(url)
        self._fields = ComparedFields(connection, copies, vessels)
        self._shared = shared or Shared.with_nobody(self._engine, copies, self._stopping)
        self._threads: list[threading.Thread] = []
        #: The claims that were logged.
        self._said: set[tuple[str, str, str]] = set()

    def heard(self, digests: Iterable[Digest]) -> None:
        """Note received digests; the last one of each vessel counts."""
        for digest in digests:
            for entity in self._copies:
                self._ledger.open(digest.vessel_id, entity)
            self._cases[digest.vessel_id].hear(needed_of(digest, self._copies))

    def forget(self, vessel_id: str) -> None:
        """Forget a vessel that is not known any more; a running verification is about rows that are gone with it."""
        self._cases.pop(vessel_id, None)
        self._fields.forget(vessel_id)
        self._ledger.forget(vessel_id)
        self._shared.permit.give(vessel_id)

    def repaired(self, vessel_id: str, entity: str, row_ids: Iterable[str]) -> None:
        """Note rows that a repair has changed."""
        self._cases[vessel_id].repaired[entity].update(row_ids)

    def doubted(self, vessel_id: str, entity: str) -> None:
        """Note that a repair was answered twice: what is not repaired now may be repaired by another one."""
        self._cases[vessel_id].not_repaired(entity)

    def questioned(self, vessel_id: str) -> None:
        """Note that a vessel's copy may differ from it, though it was proved."""
        self._cases[vessel_id].question()

    def step(self, vessels: Iterable[VesselState]) -> list[CatchupRequest]:
        """Perform the steps that are due; return the requests to publish. Must not be called in a transaction.

        A verdict is put into the vessel's `audit`, which must then be saved.
        """
        requests = []
        # First those that have waited longest for one of the verifications: further digests don't move a vessel back.
        for vessel in sorted(vessels, key=lambda one: self._cases[one.vessel_id].waits_since):
            case = self._cases[vessel.vessel_id]
            if case.verification is not None:
                self._conclude(vessel, case, case.verification)
            elif case.repairing:
                self._finish_repair(vessel, case)
            elif case.rehashing:
                self._hash_again(vessel, case)
            elif case.digest is not None:
                self._compare(vessel, case, case.digest)
            elif _is_due(vessel, case):
                case.again()
                case.asked_away = not vessel.online
                requests.append(_request(vessel, case))
        self._shared.permit.step()
        self._shared.orphans.step()
        return requests

    def stop(self) -> None:
        """Abort running verifications."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self._shared.stop()
        self._engine.dispose()

    # -- one digest after the other -----------------------------------------------------------------

    def _compare(self, vessel: VesselState, case: Case, digest: Digest) -> None:
        if digest.epoch != vessel.epoch:
            case.digest = None
            return
        digests = self._usable(vessel, case, digest)
        if digests is None:
            return
        if not self._is_comparable(vessel, case, digest):
            if vessel.caught_up and case.is_stale(vessel):
                # Nothing follows them that would show a gap: the broker may have dropped the end of a backlog. But a
                # vessel that is sending one may have given its digest long before its end.
                if case.is_quiet(vessel) or not vessel.is_draining:
                    request_tails(vessel, digest.heads, now_ms())
                case.digest = None
                case.again()
            return
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if not self._shared.slots.is_free:
            return  # later
        tables: dict[str, Table] = {}
        for entity, theirs in digests.items():
            ours = self._ledger.at(vessel.vessel_id, entity, digest.seq)
            if ours is None:
                case.digest, case.wanted = None, True
                return
            tables[entity] = Table(
                differing_buckets(ours, theirs),
                difference=self._fields.difference(vessel.vessel_id, entity),
                absent=entity not in digest.entities,
            )
        case.digest = None
        self._verify(case, digest, tables)

    def _usable(self, vessel: VesselState, case: Case, digest: Digest) -> dict[str, Usable] | None:
        """Return the comparable digests by entity; None if others have to be requested, or rows to be hashed first."""
        digests = {}
        for entity, copy in self._copies.items():
            told = digest.entities.get(entity)
            if told is None:
                digests[entity] = Usable(None, _NO_ROWS, 0)
                _note_absent(self._ledger, vessel, copy, digest)
                continue
            found = usable(copy, told)
            if found is None:
                case.fields[entity] = common_fields(copy, told)
            else:
                digests[entity] = found
        if len(digests) < len(self._copies):
            case.digest = None
            case.again()
            return None
        for entity, found in digests.items():
            if (told := digest.entities.get(entity)) is None:
                continue
            if self._fields.wants_hashes(vessel.vessel_id, entity, found.fields):
                case.rehashing.append(
                    Rehashing(self._copies[entity], vessel.vessel_id, found.fields, self._context)
                )
            self._fields.agree(vessel.vessel_id, entity, found.fields, told)
        return None if case.rehashing else digests

    def _hash_again(self, vessel: VesselState, case: Case) -> None:
        rehashing = case.rehashing[0]
        if not rehashing.step(self._connection):
            case.rehashing.pop(0)
            self._ledger.forget(vessel.vessel_id, rehashing.entity)
            self._ledger.open(vessel.vessel_id, rehashing.entity)

    def _is_comparable(self, vessel: VesselState, case: Case, digest: Digest) -> bool:
        """Whether the copy can be compared at the digest's number now."""
        # Changes above the digest's number are undone for the comparison. So the vessel itself must have confirmed
        # that it has assigned those numbers; otherwise a row that it never had would go unnoticed.
        case.known = min(vessel.highest, vessel.highest if case.known is None else case.known)
        if case.known > max(digest.seq, vessel.confirmed):
            # One request is enough: its answer contains the head of all topics. This is the normal case, because
            # changes continue aboard: with a request for each topic the copy would never become comparable.
            if vessel.caught_up:
                vessel.look_into(max(digest.seq, vessel.confirmed), most=1)
            if not vessel.caught_up:
                return False
        for entity, copy in self._copies.items():
            position = vessel.positions[copy.followed.topic]
            told = digest.entities.get(entity)
            if not _is_current(position) or (
                told is not None and vessel.reached(position) < told.last_seq
            ):
                return False
        return True

    def _verify(self, case: Case, digest: Digest, tables: dict[str, Table]) -> None:
        """Start to compare a vessel's rows with their records."""
        vessel_id = digest.vessel_id
        fields = {entity: self._fields.of(vessel_id, entity) for entity in tables}

        def run() -> None:
            with _logged(), reading(self._engine) as connection:
                for entity, table in tables.items():
                    copy, over = self._copies[entity], fields[entity]
                    table.found = examine(
                        connection, copy, vessel_id, over, self._context, self._stopping
                    )
                verification.complete = not self._stopping.is_set()

        thread = self._shared.slots.thread(run)
        verification = case.verification = Verification(digest, tables, thread.is_alive)
        self._threads.append(thread)
        thread.start()

    def _conclude(self, vessel: VesselState, case: Case, verification: Verification) -> None:
        if verification.is_running():
            return
        digest, tables = verification.digest, verification.tables
        if not verification.complete or digest.epoch != vessel.epoch:
            case.verification = None
            case.again()
            return
        orphans = self._shared.orphans.since(case.heard_at)
        if orphans is None:
            return  # later
        case.verification = None
        if case.is_doubtful(tables, orphans):
            case.soon()
            return
        for entity, table in tables.items():
            table.orphans = list(orphans[entity])
        self._decide(vessel, case, digest, tables)

    def _decide(
        self, vessel: VesselState, case: Case, digest: Digest, tables: dict[str, Table]
    ) -> None:
        for entity, table in tables.items():
            note_refused(self._refusals, self._connection, vessel.vessel_id, entity, table)
        verdict = verdict_on(digest, tables)
        vessel.history.judged(verdict, vessel.audit)
        vessel.audit, vessel.changed = verdict, True
        said = tuple(lines(vessel.vessel_id, digest, tables))
        for line in said:
            if line not in case.said:
                logger.error("[MQTT Reliable Sync] %s", line)
        case.said = said
        if any(table.found.held_by for table in tables.values()):
            _log_claims(self._connection, vessel.vessel_id, self._said)
        # When the digest arrived, changes before it may have been missing; now none is.
        vessel.told(digest.heads)
        if not any(table.buckets for table in tables.values()):
            vessel.proved(digest.seq)
        if verdict.equal:
            case.wanted, case.pause = False, PAUSE
            case.attempted.clear()
            logger.info(
                "[MQTT Reliable Sync] equal with %s at seq %d", vessel.vessel_id, digest.seq
            )
        elif time.monotonic() < case.repair_after:
            case.again()
        else:
            self._repair(vessel, case, tables)

    # -- repairs ------------------------------------------------------------------------------------

    def _repair(self, vessel: VesselState, case: Case, tables: dict[str, Table]) -> None:
        """Request the rows of the differing buckets from the vessel, unless that can't help."""
        buckets = case.worth_repairing(tables)
        if not buckets:
            case.again()
            return
        case.begin_repair()
        if self._sweeps(vessel, tables):
            for entity in buckets:
                adopt(
                    self._connection, vessel.vessel_id, self._copies[entity], tables[entity].orphans
                )
                self._ledger.forget(vessel.vessel_id, entity)
        for entity, numbers in buckets.items():
            position = vessel.positions[self._copies[entity].followed.topic]
            position.repaired = None
            case.asked.add(entity)
            if position.need is Need.NOTHING:
                position.need, position.buckets = Need.ROWS, tuple(sorted(numbers))
                position.request = None

    def _sweeps(self, vessel: VesselState, tables: Mapping[str, Table]) -> bool:
        """Whether this vessel's repair deletes the orphans: one vessel's is enough."""
        there_are = any(table.orphans for table in tables.values())
        return there_are and self._shared.permit.take(vessel.vessel_id)

    def _finish_repair(self, vessel: VesselState, case: Case) -> None:
        if any(map(_is_repairing, vessel.positions.values())):
            return
        case.repairing = False
        self._shared.permit.give(vessel.vessel_id)
        _note_replaced(vessel, case)
        if vessel.audit is None:
            return
        vessel.audit = with_repaired(vessel.audit, case.repaired)
        vessel.changed = True
        _log_repaired(vessel.vessel_id, case.repaired)
        case.check_repair()


def _is_repairing(position: Position) -> bool:
    """Whether the rows of a repair are still to come, or a digest that decides on the rows that it left over.

    Other audits wait for it, so a digest that never comes, or never can be compared, is not waited for.
    """
    if position.need is Need.ROWS:
        return True
    sweep = position.sweep
    if sweep is None or not sweep.repairs or sweep.disputed:
        return False
    return sweep.attempts <= MAX_DIGESTS


def _note_replaced(vessel: VesselState, case: Case) -> None:
    """Note which repairs were not carried out: their requests were replaced by ones for changes, or for everything."""
    for position in vessel.positions.values():
        if position.entity in case.asked and position.repaired is None:
            case.not_repaired(position.entity)
    case.asked.clear()


def _is_due(vessel: VesselState, case: Case) -> bool:
    """Whether to request a digest: the last verdict is missing or not equal, or another digest is wanted."""
    if vessel.caught_up and case.is_behind and vessel.audit is None:
        # The answers to earlier requests were published behind a backlog, of which the broker may have dropped a part.
        case.hurry()
    case.is_behind = not vessel.caught_up
    if time.monotonic() < case.not_before or vessel.online is None:
        return False
    if vessel.online:
        case.asked_away = False
    elif case.asked_away:
        return False  # the broker keeps the request until the vessel is online
    missing = [one for one in vessel.positions.values() if one.wants is not Need.NOTHING]
    if missing:
        # The digest tells whether the vessel has these entities at all.
        return vessel.online and all(map(_is_unanswered, missing))
    return case.wanted or vessel.audit is None or not vessel.audit.equal


def _log_repaired(vessel_id: str, repaired: Mapping[str, set[str]]) -> None:
    for entity, row_ids in repaired.items():
        if row_ids:
            logger.warning(
                "[MQTT Reliable Sync] %d rows of %s of %s were repaired: %s",
                len(row_ids),
                entity,
                vessel_id,
                ", ".join(names(sorted(row_ids))),
            )


def _log_claims(connection: Connection, vessel_id: str, logged: set[tuple[str, str, str]]) -> None:
    """Log why a vessel sends rows of another one, once for each reason."""
    with translated():
        claims = read_claims(connection)
    for claim in claims:
        key = (claim.vessel_id, claim.owner, claim.cause)
        if claim.vessel_id == vessel_id and key not in logged:
            logged.add(key)
            logger.error("[MQTT Reliable Sync] %s; fix: %s", claim.says, claim.fix)


@contextmanager
def _logged() -> Iterator[None]:
    """Log an error that ends a verification; it is repeated later."""
    try:
        yield
    except LogUnavailableError as error:
        logger.warning("[MQTT Reliable Sync] the tables can't be verified: %s", error)
    except Exception:  # the models and schemas are the application's
        logger.exception("[MQTT Reliable Sync] the tables can't be verified")


def _is_current(position: Position) -> bool:
    """Whether a topic's copy has the state of one number: nothing is missing, and no catch-up is running."""
    return position.wants is Need.NOTHING and (position.run is None or not position.run.useful)


def _is_unanswered(position: Position) -> bool:
    """Whether nothing of a topic was ever received, and requests for it are not answered."""
    request = position.request
    return position.seq == 0 and request is not None and request.attempts > 0 and not request.begun


def _note_absent(ledger: Ledger, vessel: VesselState, copy: Copy, digest: Digest) -> None:
    """Request nothing more of an entity that the vessel does not have."""
    position = vessel.positions[copy.followed.topic]
    ours = ledger.at(vessel.vessel_id, copy.registration.entity, digest.seq)
    if position.wants is not Need.NOTHING and ours is not None and not ours.count:
        position.absent(digest.seq)
        vessel.changed = True


def _request(vessel: VesselState, case: Case) -> CatchupRequest:
    fields, case.fields = case.fields or None, {}
    return CatchupRequest(
        request_id=f"digest-{now_ms()}",
        vessel_id=vessel.vessel_id,
        entity=ALL,
        mode="digest",
        fields=fields,
    )
