"""A fleet in a follower's database, written by the follower's own code: its messages come when a test says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import orjson
from flask import Flask
from sqlalchemy import update

from arus.database import open_engine
from arus.follower.applier import Applier
from arus.follower.audits.audits import Audits
from arus.follower.audits.ledger import Ledger
from arus.follower.link import save_link
from arus.follower.messages import Reader
from arus.follower.outcome import Inbound
from arus.follower.requests import Patience, ask
from arus.follower.rows import Copy
from arus.follower.store import Store
from arus.protocol.encoding import encode
from arus.protocol.times import iso, now_ms
from blueprints.equipment.models import Equipment
from tests.support.ship_model import DEFAULTS, ShipModel
from tests.support.waiting import eventually

#: Ids that a page must neither believe nor lose.
HOSTILE = (
    "<script>alert('id')</script>",
    'quote" onmouseover="x',
    "../../etc/passwd",
    "..",
    "a/b//c",
    "100%2F",
    "line\nbreak",
    "\u202egnp.lessev",
    "~home",
    " ",
    "?table=crew#x",
    "\u00c5lesund \u6e2f",
)
_PREFIX = "vessel/sync"


class FleetAshore:
    """Vessels, and the follower of them all.

    :param app: ashore (LOCAL_MODE is false), on a migrated database.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        state = app.extensions["arus"]
        with app.app_context():
            url = state.db.engine.url
        self._engine = open_engine(url)
        self.connection = self._engine.connect()
        self.copies = {one.entity: Copy(one) for one in state.registry}
        followed = {copy.followed.topic: copy.followed for copy in self.copies.values()}
        store, ledger = Store(self.connection, followed.values()), Ledger(self.connection)
        self.applier = Applier(
            self.connection, store, self.copies, Reader(_PREFIX, followed), "shore", ledger
        )
        self.audits = Audits(
            url, self.connection, ledger, self.copies, app.app_context, store.refusals
        )
        self.ships: dict[str, ShipModel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.audits.stop()
        self.connection.close()
        self._engine.dispose()

    def ship(self, vessel_id: str) -> ShipModel:
        """The vessel with this id."""
        return self.ships.setdefault(vessel_id, ShipModel(vessel_id))

    def change(
        self, vessel_id: str, topic: str = "crew", *, lost: bool = False, **row: Any
    ) -> dict[str, Any]:
        """Have a vessel write a row with all its fields; the message may get `lost`."""
        entity = next(one for one, copy in self.copies.items() if copy.followed.topic == topic)
        empty = dict.fromkeys(self.copies[entity].fields or ())
        message = self.ship(vessel_id).log_change(
            topic, {**empty, **DEFAULTS[topic], **_times(), **row}
        )
        if not lost:
            self.take((topic, message))
        return message

    def take(self, *messages: tuple[str, Any], retain: bool = False) -> None:
        """Apply messages in one transaction."""
        inbound = [
            Inbound(f"{_PREFIX}/{topic}", orjson.dumps(told), retain=retain)
            for topic, told in messages
        ]
        self.audits.heard(self.applier.apply(inbound).digests)

    def status(self, *vessel_ids: str, online: bool = True, retain: bool = False) -> None:
        """Have vessels tell their status."""
        told = [self.ship(one).status_document(online=online) for one in vessel_ids]
        self.take(*(("system/status", document) for document in told), retain=retain)

    def settle(self, *vessel_ids: str) -> None:
        """Have vessels answer all that is asked of them."""
        wanted = set(vessel_ids)
        for _ in range(6):
            requests = [
                orjson.loads(encode(request))
                for vessel in self.applier.vessels.values()
                if vessel.vessel_id in wanted
                for request in ask(vessel, now_ms() + 10_000_000, Patience(), _request_ids.__next__)
            ]
            if not requests:
                return
            self.take(
                *(
                    (f"catchup/{topic}", message)
                    for request in requests
                    for topic, messages in self.ships[request["vesselId"]].answers_to(request)
                    for message in messages
                )
            )

    def audit(self, *vessel_ids: str) -> None:
        """Have vessels tell their digests, and compare with them."""
        self.take(*(("system/digest", self.ships[one].digest_document()) for one in vessel_ids))
        self._conclude(*vessel_ids)

    def _conclude(self, *vessel_ids: str) -> None:
        vessels = [self.applier.vessels[one] for one in vessel_ids]
        before = {one.vessel_id: one.audit for one in vessels}

        def compared() -> bool:
            self.audits.step(vessels)
            return all(one.audit is not before[one.vessel_id] for one in vessels)

        eventually(compared, 60, interval=0.01, message="the audits have ended")
        self.applier.save({})

    def join(self, *vessel_ids: str, rows: int = 1) -> None:
        """Have vessels join with some rows, online and up to date."""
        self.take(
            *(
                (
                    "equipment",
                    self.change(one, "equipment", lost=True, name=f"Fire pump No.{n + 1}"),
                )
                for one in vessel_ids
                for n in range(rows)
            )
        )
        self.status(*vessel_ids)
        self.settle(*vessel_ids)

    def connected(self, reason: str | None = None) -> None:
        """Note that the follower is connected, or why it is not."""
        save_link(self.connection, "shore", reason, connected=reason is None)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Hold the lock of the process that follows."""
        with self.app.app_context(), self.app.extensions["arus"].lock.hold(lambda _: True):
            yield

    # -- what goes wrong --------------------------------------------------------------------------

    def refuse_a_row(self, vessel_id: str) -> None:
        """Have a vessel send a row that can't be written here: its name is a number."""
        self.change(vessel_id, "crew", name=7)

    def hold_a_change(self, vessel_id: str, other: str) -> None:
        """Have a vessel send a row that waits for another vessel's: a serial number is unique here."""
        self.connection.exec_driver_sql(
            "CREATE UNIQUE INDEX IF NOT EXISTS ix_once ON equipment (serial_number)"
        )
        serial = f"serial-{vessel_id}"[:60]
        self.change(other, "equipment", serialNumber=serial)
        self.change(vessel_id, "equipment", serialNumber=serial)

    def alter_a_row(self, vessel_id: str) -> None:
        """Change a row of a vessel behind the follower's back, and audit the vessel twice: it differs."""
        row_id = next(row_id for topic, row_id in self.ship(vessel_id).rows if topic == "equipment")
        self.connection.execute(
            update(Equipment).where(Equipment.id == row_id).values(location="elsewhere")
        )
        self.audit(vessel_id)

    def differ_in_fields(self, vessel_id: str) -> None:
        """Have a vessel tell that its crew has a field that is not stored here."""
        digest = self.ship(vessel_id).digest_document()
        fields = [*sorted(self.copies["crew"].fields or ()), "shoeSize"]
        own = digest["entities"]["crew"]
        part = {name: own[name] for name in ("digest", "buckets")}
        parts = [{"fields": fields[:-1], **part}]
        self.take(("system/digest", digest | {
            "entities": digest["entities"] | {"crew": own | {"fields": fields, "partial": parts}}
        }))  # fmt: skip
        self._conclude(vessel_id)

    def in_every_state(self, count: int, *, every_audit: bool = True) -> list[str]:
        """Have a fleet join in which some vessels are offline, behind, different, and so on; return the ids.

        :param every_audit: audit all vessels but one of ten; otherwise six of them.
        """
        ids = [f"imo-{9_300_000 + 37 * number}" for number in range(count)]
        self.join(*ids)
        audited = [one for number, one in enumerate(ids) if number % 10 != 4]
        self.audit(*(audited if every_audit else audited[:6]))
        for vessel_id in ids[3::9]:
            for _ in range(1 + len(vessel_id) % 3 + ids.index(vessel_id)):
                self.change(vessel_id, "alerts", lost=True)
            self.status(vessel_id)
        for vessel_id in ids[2::7]:
            self.status(vessel_id, online=False)
        for vessel_id in ids[5::40]:
            self.refuse_a_row(vessel_id)
        for vessel_id in ids[6::50]:
            self.hold_a_change(vessel_id, ids[0])
        for vessel_id in ids[1:60:45]:
            self.alter_a_row(vessel_id)
        for vessel_id in ids[8::70]:
            if vessel_id not in ids[3::9]:  # what is behind is not compared
                self.differ_in_fields(vessel_id)
        return ids


def _times() -> dict[str, Any]:
    return {"createdAt": iso(now_ms())}


def _numbered() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"request-{number}"


_request_ids = _numbered()
