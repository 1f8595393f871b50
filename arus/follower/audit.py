"""A follower's side of an audit: is the copy what the vessel's tables were at one number, and if not, where?

Two comparisons make a verdict. What is noted of each row (`arus_row`) is compared with the vessel's digest, at
exactly the digest's number: the `Ledger` keeps bucket digests up to date and can take its last changes
back. And the tables are compared with what is noted of them, which finds rows that somebody has changed, deleted
or added behind the follower's back. What differs is named, and fetched anew from the vessel by its buckets.

For the loop: tell the ledger what is learnt of each row (`Applier`), hand over digests (`Audits.heard`), and
call `Audits.step` at each tick; it returns what is to be published on `catchup_requests`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import URL, Connection, bindparam, select, text

from arus.audit import each_row
from arus.database import open_engine, transaction
from arus.digest import BUCKETS, SetDigest, bucket_of, differing, row_token
from arus.errors import LogUnavailableError
from arus.message import iso, now_ms
from arus.snapshot import reading

from .inbound import Digest
from .position import Need, Position, VesselState
from .rows import Copy
from .store import Known

logger = logging.getLogger(__name__)

#: Changes of an entity that can be taken back.
MAX_UNDO = 50_000
#: Ids of rows in a verdict, for each entity.
MAX_NAMED = 20
#: Rows that are looked at in one query.
CHUNK = 500
#: Seconds between two requests for a digest: the first pause, and the longest.
PAUSE = 2.0
LONGEST_PAUSE = 600.0

_NO_ROWS = ["0" * 16] * BUCKETS
_ROWS = text(
    "SELECT row_id, version, hash, bucket FROM arus_row"
    " WHERE vessel_id = :vessel_id AND entity = :entity AND NOT deleted"
)
_LAST = text("SELECT MAX(seq) FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity")
_VESSELS = text("SELECT vessel_id FROM arus_vessel")
_NOTED = text(
    "SELECT vessel_id, row_id, version, hash, owner FROM arus_row"
    " WHERE entity = :entity AND row_id IN :row_ids AND NOT deleted"
).bindparams(bindparam("row_ids", expanding=True))
_KNOWN = text(
    "SELECT row_id FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity"
    " AND row_id IN :row_ids AND NOT deleted"
).bindparams(bindparam("row_ids", expanding=True))
_COUNT = text(
    "SELECT COUNT(*) FROM arus_row"
    " WHERE vessel_id = :vessel_id AND entity = :entity AND NOT deleted AND owner = ''"
)
_PAGE = text(
    "SELECT row_id FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity AND NOT deleted"
    " AND owner = '' AND row_id > :after ORDER BY row_id LIMIT :limit"
)
_CLAIMS = text(
    "SELECT row_id, owner FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity"
    " AND NOT deleted AND owner <> '' AND row_id > :after ORDER BY row_id LIMIT :limit"
)
_PROPOSED = text(
    "SELECT row_id FROM arus_proposal WHERE state = 'pending' AND entity = :entity"
    " AND row_id IN :row_ids"
).bindparams(bindparam("row_ids", expanding=True))
# A row that nobody knows: the sweep that ends the repair takes what the vessel does not name. In the version -1
# it is not the vessel's: whoever tells of it first has it.
_ADOPT = text(
    "INSERT INTO arus_row (vessel_id, entity, row_id, version, seq, deleted, hash, bucket, mark)"
    " VALUES (:vessel_id, :entity, :row_id, -1, 0, false, '', :bucket, 0)"
    " ON CONFLICT (vessel_id, entity, row_id) DO UPDATE SET deleted = false, hash = '', mark = 0"
)

_Key = tuple[str, str, str]


class Ledger:
    """Digests of what is noted of the rows of each vessel and entity, now and a while ago.

    :param connection: what they are read on, outside of any transaction.
    """

    def __init__(self, connection: Connection, *, most: int = MAX_UNDO) -> None:
        self._connection = connection
        self._most = most
        self._accounts: dict[tuple[str, str], _Account] = {}

    def learnt(self, key: _Key, before: Known | None, after: Known | None, seq: int) -> None:
        """Note that something else is known of a row.

        :param key: vessel, entity and row id.
        :param seq: the change that tells it.
        """
        account = self._accounts.get(key[:2])
        if account is None:
            return
        tokens, count = 0, 0
        for known, one in ((before, -1), (after, 1)):
            if known is not None and not known.deleted:
                tokens ^= row_token(key[2], known.version, known.hash)
                count += one
        if tokens or count:
            account.note(seq, bucket_of(key[2]), tokens, count, self._most)

    def forget(self, vessel_id: str, entity: str | None = None) -> None:
        """Read the digests anew when they are needed: rows were changed in another way."""
        for key in list(self._accounts):
            if key[0] == vessel_id and entity in {None, key[1]}:
                del self._accounts[key]

    def open(self, vessel_id: str, entity: str) -> None:
        """Begin to keep the digests of an entity."""
        if (vessel_id, entity) not in self._accounts:
            self._accounts[vessel_id, entity] = self._read(vessel_id, entity)

    def at(self, vessel_id: str, entity: str, seq: int) -> SetDigest | None:
        """Return an entity's digest as it was at a number; None where that is too long ago."""
        self.open(vessel_id, entity)
        return self._accounts[vessel_id, entity].at(seq)

    def _read(self, vessel_id: str, entity: str) -> _Account:
        wanted = {"vessel_id": vessel_id, "entity": entity}
        digest = SetDigest()
        for row in self._connection.execute(_ROWS, wanted):
            digest.toggle(row.bucket, row_token(row.row_id, row.version, row.hash), 1)
        return _Account(digest, self._connection.execute(_LAST, wanted).scalar() or 0)


@dataclass(slots=True)
class _Account:
    """One entity of one vessel."""

    digest: SetDigest
    #: It can be told what the digest was from this number on.
    floor: int
    #: Number, bucket, tokens and count of each change since, oldest first.
    changes: deque[tuple[int, int, int, int]] = field(default_factory=deque)

    def note(self, seq: int, bucket: int, tokens: int, count: int, most: int) -> None:
        self.digest.toggle(bucket, tokens, count)
        self.changes.append((seq, bucket, tokens, count))
        if len(self.changes) > most:
            self.floor = max(self.floor, self.changes.popleft()[0])

    def at(self, seq: int) -> SetDigest | None:
        if seq < self.floor:
            return None
        digest = self.digest.copy()
        for changed, bucket, tokens, count in self.changes:
            if changed > seq:
                digest.toggle(bucket, tokens, -count)
        return digest


# -- the tables against what is noted of them ---------------------------------------------------------


def verify(
    connection: Connection,
    copy: Copy,
    vessel_id: str,
    context: Callable[[], AbstractContextManager[Any]],
    stopping: threading.Event,
) -> Iterator[str]:
    """Yield the ids of a vessel's rows that are not what is noted of them: changed, gone, or nobody's.

    A row that the vessel has told of and that belongs to another vessel is among them: what is here is that
    one's. A row that this side proposes to change is what it proposes for the while: it is left out.

    :param connection: reads in one snapshot of the database.
    """
    for row_id, _ in _claims(connection, copy.registration.entity, vessel_id):
        yield row_id
    yield from _different(connection, copy, vessel_id, context, stopping)


def _different(
    connection: Connection,
    copy: Copy,
    vessel_id: str,
    context: Callable[[], AbstractContextManager[Any]],
    stopping: threading.Event,
) -> Iterator[str]:
    """Yield the ids of a vessel's own rows that are not what is noted of them."""
    registration = copy.registration
    entity = registration.entity
    there = 0
    rows = each_row(connection, registration, context, stopping)
    while chunk := list(islice(rows, CHUNK)):
        ids = [row_id for row_id, _, _ in chunk]
        noted: dict[str, list[Any]] = defaultdict(list)
        for row in connection.execute(_NOTED, {"entity": entity, "row_ids": ids}):
            # What is only adopted is nobody's.
            if not row.owner and (row.version >= 0 or row.vessel_id == vessel_id):
                noted[row.row_id].append(row)
        proposed = _proposed(connection, entity, ids)
        for row_id, version, content in chunk:
            notes = noted[row_id]
            own = next((note for note in notes if note.vessel_id == vessel_id), None)
            if own is None and notes:
                continue  # it is another vessel's
            if own is not None:
                there += 1
                # A row that two have can't be what both have told.
                if len(notes) == 1 and (own.version, own.hash) == (version, content):
                    continue
            if row_id not in proposed:
                yield row_id
    if stopping.is_set():
        return
    wanted = {"vessel_id": vessel_id, "entity": entity}
    if connection.execute(_COUNT, wanted).scalar_one() > there:
        yield from _gone(connection, copy, vessel_id)


def _claims(connection: Connection, entity: str, vessel_id: str) -> Iterator[tuple[str, str]]:
    """Yield the rows that a vessel has told of and that belong to other vessels ashore: ids and owners."""
    after = ""
    while True:
        wanted = {"vessel_id": vessel_id, "entity": entity, "after": after, "limit": CHUNK}
        rows = connection.execute(_CLAIMS, wanted).all()
        for row in rows:
            yield row.row_id, row.owner
        if len(rows) < CHUNK:
            return
        after = rows[-1].row_id


def verify_all(
    url: str | URL,
    copies: Mapping[str, Copy],
    context: Callable[[], AbstractContextManager[Any]],
) -> dict[str, dict[str, list[str]]]:
    """Return the ids that `verify` finds, by vessel and entity."""
    engine = open_engine(url)
    forever = threading.Event()
    try:
        with reading(engine) as connection:
            return {
                vessel_id: {
                    entity: list(verify(connection, copy, vessel_id, context, forever))
                    for entity, copy in copies.items()
                }
                for vessel_id in connection.execute(_VESSELS).scalars().all()
            }
    finally:
        engine.dispose()


def _gone(connection: Connection, copy: Copy, vessel_id: str) -> Iterator[str]:
    entity = copy.registration.entity
    column = copy.key_column
    after = ""
    while True:
        wanted = {"vessel_id": vessel_id, "entity": entity, "after": after, "limit": CHUNK}
        ids = connection.execute(_PAGE, wanted).scalars().all()
        if not ids:
            return
        keys = {copy.key_of(row_id): row_id for row_id in ids}
        found = set(connection.execute(select(column).where(column.in_(keys))).scalars())
        proposed = _proposed(connection, entity, ids)
        for key, row_id in keys.items():
            if key not in found and row_id not in proposed:
                yield row_id
        after = ids[-1]


def _proposed(connection: Connection, entity: str, row_ids: Sequence[str]) -> set[str]:
    wanted = {"entity": entity, "row_ids": list(row_ids)}
    return set(connection.execute(_PROPOSED, wanted).scalars())


# -- verdicts -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Claimed:
    """Rows of an entity that a vessel has and that belong to others ashore."""

    count: int = 0
    buckets: set[int] = field(default_factory=set)
    #: Some of them, with their owners.
    named: dict[str, str] = field(default_factory=dict)

    def add(self, row_id: str, owner: str) -> None:
        self.count += 1
        self.buckets.add(bucket_of(row_id))
        if len(self.named) < MAX_NAMED:
            self.named[row_id] = owner


@dataclass(slots=True)
class _Verification:
    """A look through a vessel's rows, in a thread of its own."""

    digest: Digest
    #: Buckets of each entity that differ from the vessel's.
    buckets: dict[str, list[int]]
    thread: threading.Thread | None = None
    #: Ids found, by entity; None while it runs or where it failed.
    found: dict[str, list[str]] | None = None
    #: Rows that other vessels have, by entity: a repair would bring nothing.
    claimed: dict[str, _Claimed] = field(default_factory=lambda: defaultdict(_Claimed))


@dataclass(slots=True)
class _Case:
    """What is going on about one vessel."""

    #: A digest that is not compared yet, and what tells the last one that was heard.
    digest: Digest | None = None
    heard: tuple[Any, ...] = ()
    #: The highest number that was taken for applied when it was compared first; None before.
    known: int | None = None
    verification: _Verification | None = None
    #: Buckets that differed the last time; a difference counts when it is seen twice.
    suspected: set[tuple[str, int]] = field(default_factory=set)
    repairing: bool = False
    #: Rows that the repair has changed, by entity.
    repaired: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: Another digest is wanted, and not before so many monotonic seconds.
    wanted: bool = False
    not_before: float = 0.0
    #: Monotonic seconds before which nothing is repaired again.
    repair_after: float = 0.0
    pause: float = PAUSE

    def again(self) -> None:
        """Want another digest, later each time."""
        self.wanted = True
        self.not_before = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


class Audits:
    """Compares the copy with the vessels' digests, and sees to what differs. Lives in the loop's thread.

    :param url: of the application's database.
    :param connection: the loop's own.
    :param copies: the tables, by entity.
    :param context: what the models' schemas may need around them (`app.app_context`).
    """

    def __init__(
        self,
        url: str | URL,
        connection: Connection,
        ledger: Ledger,
        copies: Mapping[str, Copy],
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._url = url
        self._connection = connection
        self._ledger = ledger
        self._copies = copies
        self._context = context
        self._cases: dict[str, _Case] = {}
        self._stopping = threading.Event()

    def heard(self, digests: Iterable[Digest]) -> None:
        """Take digests that have come; of each vessel the last one counts."""
        for digest in digests:
            for entity in self._copies:
                self._ledger.open(digest.vessel_id, entity)
            case = self._case(digest.vessel_id)
            heard = (digest.epoch, digest.seq, digest.document.get("timestamp"))
            if heard != case.heard:  # a new connection brings the last one again
                case.digest, case.heard, case.known = digest, heard, None
                case.wanted = False

    def repaired(self, vessel_id: str, entity: str, row_ids: Iterable[str]) -> None:
        """Note rows that a repair has changed."""
        self._case(vessel_id).repaired[entity].update(row_ids)

    def step(self, vessels: Iterable[VesselState]) -> list[dict[str, Any]]:
        """Do what can be done now; return the requests to publish. Not to be called in a transaction.

        A verdict is left in the vessel's `audit`, which is to be saved.
        """
        requests = []
        for vessel in vessels:
            case = self._case(vessel.vessel_id)
            if case.verification is not None:
                self._conclude(vessel, case, case.verification)
            elif case.repairing:
                self._finish_repair(vessel, case)
            elif case.digest is not None:
                self._compare(vessel, case, case.digest)
            elif self._is_due(vessel, case):
                case.again()
                requests.append(_request(vessel))
        return requests

    def stop(self) -> None:
        """Give up what is going on."""
        self._stopping.set()
        for case in self._cases.values():
            if case.verification is not None and case.verification.thread is not None:
                case.verification.thread.join(10)

    def _case(self, vessel_id: str) -> _Case:
        return self._cases.setdefault(vessel_id, _Case())

    def _is_due(self, vessel: VesselState, case: _Case) -> bool:
        """Whether to ask for a digest: where the last verdict is missing or bad, or somebody wants one."""
        if time.monotonic() < case.not_before or not vessel.online or not vessel.caught_up:
            return False
        return case.wanted or vessel.audit is None or not vessel.audit["equal"]

    # -- one digest after the other -----------------------------------------------------------------

    def _compare(self, vessel: VesselState, case: _Case, digest: Digest) -> None:
        if digest.epoch != vessel.epoch:
            case.digest = None
            return
        # What bears a number above the digest's is taken back for the comparison: that the number was given out
        # has to be the vessel's own word, or a row that it never had would pass.
        case.known = min(vessel.highest, vessel.highest if case.known is None else case.known)
        if case.known > max(digest.seq, vessel.confirmed):
            # One answer tells the head of all topics. Aboard, changes go on meanwhile, so this is the ordinary
            # case: a request for each topic, with each digest, would keep the copy from ever being comparable.
            if vessel.caught_up:
                vessel.look_into(max(digest.seq, vessel.confirmed), most=1)
            if not vessel.caught_up:
                return
        buckets: dict[str, list[int]] = {}
        for entity, copy in self._copies.items():
            position = vessel.positions[copy.followed.topic]
            if not _is_settled(position):
                return  # later
            told = digest.document["entities"].get(entity, {})
            if vessel.reached(position) < told.get("lastSeq", 0):
                return
            ours = self._ledger.at(vessel.vessel_id, entity, digest.seq)
            if ours is None:
                case.digest, case.wanted = None, True
                return
            buckets[entity] = _differing(ours, told)
        case.digest = None
        verification = _Verification(digest, buckets)
        verification.thread = threading.Thread(
            target=self._verify, args=(verification,), name="arus audit", daemon=True
        )
        case.verification = verification
        verification.thread.start()

    def _verify(self, verification: _Verification) -> None:
        engine = open_engine(self._url)
        vessel_id = verification.digest.vessel_id
        try:
            with reading(engine) as connection:
                found = {
                    entity: list(
                        _different(connection, copy, vessel_id, self._context, self._stopping)
                    )
                    for entity, copy in self._copies.items()
                }
                for entity in self._copies:
                    for row_id, owner in _claims(connection, entity, vessel_id):
                        verification.claimed[entity].add(row_id, owner)
            verification.found = found
        except LogUnavailableError as error:
            logger.warning("[MQTT Reliable Sync] the tables can't be verified: %s", error)
        except Exception:  # the models and schemas are the application's
            logger.exception("[MQTT Reliable Sync] the tables can't be verified")
        finally:
            engine.dispose()

    def _conclude(self, vessel: VesselState, case: _Case, verification: _Verification) -> None:
        if verification.thread is not None and verification.thread.is_alive():
            return
        case.verification = None
        digest, found = verification.digest, verification.found
        if found is None or self._stopping.is_set() or digest.epoch != vessel.epoch:
            case.again()
            return
        buckets = {entity: set(numbers) for entity, numbers in verification.buckets.items()}
        seen = {(entity, number) for entity, numbers in buckets.items() for number in numbers}
        confirmed = seen & case.suspected
        for entity, row_ids in found.items():
            buckets[entity].update(bucket_of(row_id) for row_id in row_ids)
        if not any(found.values()) and seen and not confirmed:
            # A catch-up's rows may be newer than its number: what is seen once may be that.
            case.suspected = seen
            case.wanted, case.not_before = True, time.monotonic() + PAUSE / 2
            return
        case.suspected = seen
        vessel.audit = _verdict(digest, buckets, found, verification.claimed)
        vessel.changed = True
        _log_claims(vessel, verification.claimed)
        if vessel.audit["equal"]:
            vessel.proved(digest.seq)
            case.wanted, case.pause = False, PAUSE
            logger.info(
                "[MQTT Reliable Sync] equal with %s at seq %d", vessel.vessel_id, digest.seq
            )
            return
        if any(buckets.values()):
            self._repair(vessel, case, buckets, found)
        else:
            case.again()  # who has the row has to be settled by people

    def _repair(
        self,
        vessel: VesselState,
        case: _Case,
        buckets: Mapping[str, set[int]],
        found: Mapping[str, list[str]],
    ) -> None:
        """Have the vessel send the rows of the buckets that differ."""
        for entity, numbers in buckets.items():
            if numbers:
                logger.error(
                    "[MQTT Reliable Sync] %s of %s differs at seq %d in %d of %d buckets; rows: %s",
                    entity,
                    vessel.vessel_id,
                    vessel.audit["seq"],
                    len(numbers),
                    BUCKETS,
                    ", ".join(found[entity][:MAX_NAMED]) or "not known yet",
                )
        if time.monotonic() < case.repair_after:
            case.again()
            return
        case.repair_after = time.monotonic() + case.pause
        case.repairing = True
        case.repaired.clear()
        self._adopt(vessel, found)
        for entity, numbers in buckets.items():
            position = vessel.positions[self._copies[entity].followed.topic]
            if numbers and position.need is Need.NOTHING:
                position.need, position.buckets = Need.ROWS, tuple(sorted(numbers))
                position.request = None

    def _adopt(self, vessel: VesselState, found: Mapping[str, list[str]]) -> None:
        """Note the rows that nobody knows, so that they are taken away."""
        for entity, row_ids in found.items():
            for start in range(0, len(row_ids), CHUNK):
                ids = row_ids[start : start + CHUNK]
                wanted = {"vessel_id": vessel.vessel_id, "entity": entity, "row_ids": ids}
                with transaction(self._connection):
                    rows = self._connection.execute(_KNOWN, wanted)
                    known = set(rows.scalars())
                    adopted = [
                        {
                            "vessel_id": vessel.vessel_id,
                            "entity": entity,
                            "row_id": row_id,
                            "bucket": bucket_of(row_id),
                        }
                        for row_id in ids
                        if row_id not in known
                    ]
                    if adopted:
                        self._connection.execute(_ADOPT, adopted)
            if row_ids:
                self._ledger.forget(vessel.vessel_id, entity)

    def _finish_repair(self, vessel: VesselState, case: _Case) -> None:
        if any(position.need is Need.ROWS for position in vessel.positions.values()):
            return
        case.repairing = False
        audit = vessel.audit
        if audit is None:
            return
        entities = {
            entity: {**told, "rows": _named([*told["rows"], *sorted(case.repaired[entity])])}
            for entity, told in audit["entities"].items()
        }
        vessel.audit = {**audit, "entities": entities}
        vessel.changed = True
        for entity, row_ids in case.repaired.items():
            if row_ids:
                logger.warning(
                    "[MQTT Reliable Sync] %d rows of %s of %s were repaired: %s",
                    len(row_ids),
                    entity,
                    vessel.vessel_id,
                    ", ".join(sorted(row_ids)[:MAX_NAMED]),
                )
        # What was found is fresh: have it confirmed soon.
        case.wanted, case.not_before = True, time.monotonic() + PAUSE / 2


def _is_settled(position: Position) -> bool:
    """Whether a topic's copy is of one number: nothing is missing, and no catch-up is on its way."""
    return position.wants is Need.NOTHING and (position.run is None or not position.run.useful)


def _differing(ours: SetDigest, told: Mapping[str, Any]) -> list[int]:
    theirs = told.get("buckets", _NO_ROWS)
    if not isinstance(theirs, list) or len(theirs) != BUCKETS:
        return list(range(BUCKETS))
    buckets = differing(ours.buckets, theirs)
    if not buckets and ours.count != told.get("count", 0):
        return list(range(BUCKETS))
    return buckets


def _verdict(
    digest: Digest,
    buckets: Mapping[str, set[int]],
    found: Mapping[str, list[str]],
    claimed: Mapping[str, _Claimed],
) -> dict[str, Any]:
    entities: dict[str, dict[str, Any]] = {}
    for entity, numbers in buckets.items():
        theirs = claimed.get(entity) or _Claimed()
        entities[entity] = {
            "equal": not numbers and not theirs.count,
            "buckets": sorted(numbers | theirs.buckets),
            "rows": _named([*found[entity], *theirs.named]),
        }
        if theirs.count:
            entities[entity]["heldBy"] = theirs.named
    return {
        "seq": digest.seq,
        "timestamp": iso(now_ms()),
        "equal": all(told["equal"] for told in entities.values()),
        "entities": entities,
    }


def _log_claims(vessel: VesselState, claimed: Mapping[str, _Claimed]) -> None:
    for entity, theirs in claimed.items():
        logger.error(
            "[MQTT Reliable Sync] %d rows of %s that %s has belong to other vessels ashore: %s",
            theirs.count,
            entity,
            vessel.vessel_id,
            ", ".join(f"{row_id} (held by {owner})" for row_id, owner in theirs.named.items()),
        )


def _named(row_ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(row_ids))[:MAX_NAMED]


def _request(vessel: VesselState) -> dict[str, Any]:
    return {
        "requestId": f"digest-{now_ms()}",
        "vesselId": vessel.vessel_id,
        "entity": "all",
        "mode": "digest",
    }
