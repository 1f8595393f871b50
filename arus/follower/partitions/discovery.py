"""Finds vessels that are not known yet, by their statuses, and gives each a place in a partition.

One process at a time does this. Its session at the broker ends with its connection: the status of a vessel is retained,
and where the broker does not send retained messages for a filter with wildcards, a roll call asks for it.
"""

from __future__ import annotations

import select
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple

from sqlalchemy import Connection as DatabaseConnection

from arus.database import transaction
from arus.errors import LogUnavailableError, RefusedMessageError, SessionError
from arus.follower import outgoing, sql
from arus.follower.admission import Admission
from arus.follower.answers import Obstacles
from arus.follower.known_vessels import MAX_VESSELS, SILENCE
from arus.follower.messages import Reader
from arus.follower.roll_calls import SILENT, RollCalls
from arus.follower.subscriptions import prefixes_of
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.connection import Connection
from arus.mqtt.events import Connected, LookedBack, Received, SessionEvent, Subscribed
from arus.mqtt.packets import Ack, in_packets
from arus.mqtt.refusals import REFUSED
from arus.protocol.encoding import encode
from arus.protocol.messages import RollCall, Status
from arus.protocol.times import now_ms
from arus.protocol.topics import CATCHUP_REQUESTS, STATUS

from .agreement import place, read_places, remove
from .lease import Lease
from .locks import BEAT, Kind, open_session, share_database, take
from .names import discovery_of
from .unused import end_session, forget_session, read_unused
from .waker import Waker
from .worker import Resources

logger = get_logger(__name__)

#: Vessels that are placed in a second at most: names may be invented.
RATE = 100
#: Vessels in all partitions at most; of those that have proved nothing, as many as one follower knows in all.
MAX_PLACED = 10 * MAX_VESSELS
MAX_UNPROVEN = MAX_VESSELS
#: Bytes of a status that are kept at most.
MAX_STATUS = 8_192
#: Seconds between two looks for vessels that are to be forgotten, or silent; and for sessions to be ended.
LOOK = 60.0


class _Heard(NamedTuple):
    online: bool
    heard_at: int


class Discovery:
    """Looks for vessels in a thread until it is stopped, or loses its lock."""

    def __init__(self, resources: Resources, partitions: int) -> None:
        self._resources = resources
        self._partitions = partitions
        self._stopping = threading.Event()
        self._waker = Waker()
        self._thread = threading.Thread(target=self._run, name="arus discovery", daemon=True)

    def start(self) -> None:
        """Take the lock and look for vessels, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()
        self._waker.wake()

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            with open_session(self._resources.common.url) as connection:
                if not (share_database(connection) and take(connection, Kind.DISCOVERY)):
                    return
                with closing(Lease(connection, self._resources.keeper)) as lease:
                    _Search(
                        self._resources,
                        self._partitions,
                        connection,
                        lease,
                        self._stopping,
                        self._waker,
                    ).run()
        except LogUnavailableError as error:
            logger.warning("[MQTT Reliable Sync] new vessels are not looked for: %s", error)
        except Exception:  # another process, or this one a little later, tries again
            logger.exception("[MQTT Reliable Sync] new vessels are not looked for")


class _Search:
    """The loop of the search, in its thread."""

    def __init__(
        self,
        resources: Resources,
        partitions: int,
        database: DatabaseConnection,
        lease: Lease,
        stopping: threading.Event,
        waker: Waker,
    ) -> None:
        settings = resources.common.settings
        self._resources = resources
        self._settings = settings
        self._partitions = partitions
        self._database = database
        self._lease = lease
        self._stopping = stopping
        self._waker = waker
        self._tree = settings.topics
        self._reader = Reader(settings.topic_prefix, {})
        self._admission = Admission(self._tree, settings.follow_vessels)
        named = settings.follow_vessels
        self._filters = [f"{prefix}/{STATUS}" for prefix in prefixes_of(self._tree, named)]
        self._session = Session(
            settings.of_all(), discovery_of(resources.common.name), lasting=False
        )
        self._connection = Connection(self._session, settings.of_all(), stopping=stopping.is_set)
        resources.inform(self._session)
        self._roll_calls = RollCalls()
        #: The packet id of the last roll call in this connection, and what the broker has said to it.
        self._call_id: int | None = None
        self._obstacles = Obstacles()
        self._is_subscribed = False
        self._placed = set(read_places(database))
        #: Statuses of vessels that are not placed yet.
        self._found: dict[str, str | None] = {}
        self._next_place = self._next_look = 0.0
        self._silent = False

    def run(self) -> None:
        """Search until stopped.

        :raises LogUnavailableError: the database can't be used, or the lock is lost.
        """
        try:
            while not self._stopping.is_set():
                try:
                    self._round()
                except SessionError as error:
                    self._is_subscribed = False
                    self._connection.ended(error).log(self._settings.broker)
            if self._connection.is_open:
                self._session.say_goodbye(time.monotonic() + 1)
        finally:
            self._session.close()

    def _round(self) -> None:
        self._lease.check()
        if self._connection.step() is not None:
            self._connection.connect(clean_start=True)
        self._wait()
        if self._session.fileno() is not None:
            for event in self._session.receive():
                self._take(event)
        now = time.monotonic()
        if self._found and now >= self._next_place:
            self._next_place = now + 1
            self._place()
        if now >= self._next_look:
            self._next_look = now + LOOK
            self._look()
        if self._is_subscribed and self._roll_calls.is_due(self._silent_vessels(), now_ms()):
            self._call()
        if self._session.fileno() is not None:
            self._session.flush()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        if (sock := self._session.fileno()) is not None:
            poll.register(
                sock, select.POLLIN | (select.POLLOUT if self._session.wants_write else 0)
            )
        poll.poll((0.2 if self._found else BEAT / 2) * 1000)

    def _take(self, event: SessionEvent) -> None:
        match event:
            case Connected():
                if not self._connection.accepted(event):
                    self._opened()
            case LookedBack():
                self._connection.looked_back()
                self._opened()
            case Subscribed() if not self._is_subscribed:  # the next is about our claim
                self._is_subscribed = True
                self._roll_calls.subscribed()
            case Ack() if event.packet_id == self._call_id:
                self._answered(event)
            case Received() if self._connection.take_claim(event):
                pass
            case Received():
                self._hear(event)
                if event.qos:
                    self._session.acknowledge(event.packet_id)

    def _opened(self) -> None:
        self._connection.open()
        self._call_id = None
        self._resources.learn(self._session)
        if self._connection.claim_due:
            self._connection.publish_claim()
        for some in in_packets(self._filters):
            self._session.ask([(one, 1) for one in some])

    def _hear(self, received: Received) -> None:
        found = self._tree.split(received.topic)
        if found is None or found[0] is None or found[0] in self._placed or found[0] in self._found:
            return
        if len(self._found) >= RATE:
            return  # its next status is heard again, in 15 minutes at most
        try:
            status = self._reader.read(received.topic, received.payload)
        except RefusedMessageError as error:
            logger.debug("[MQTT Reliable Sync] a status can't be read: %s", error)
            return
        is_known = isinstance(status, Status) and status.epoch is not None
        if is_known and self._admission.admits(status, self._placed, now_ms()):
            short = len(received.payload) <= MAX_STATUS
            self._found[status.vessel_id] = received.payload.decode() if short else None

    # -- places -----------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Give the vessels that were found their places, as far as there is room."""
        found, self._found = self._found, {}
        with transaction(self._database):
            room = self._make_room(len(found))
            placed = dict(list(found.items())[:room])
            place(self._database, placed, self._partitions)
        self._placed |= placed.keys()
        for vessel_id in placed:
            logger.info("[MQTT Reliable Sync] found vessel %s", vessel_id)
        if len(placed) < len(found):
            logger.error(
                "[MQTT Reliable Sync] %d vessels are known: %d others are not followed",
                len(self._placed),
                len(found) - len(placed),
            )

    def _make_room(self, wanted: int) -> int:
        """Return how many vessels may be placed: at the bound, others that have proved nothing give way."""
        unproven = list(self._database.execute(sql.partitions.UNPROVEN))
        gone = min(len(unproven), max(0, len(unproven) + wanted - MAX_UNPROVEN))
        unproven.sort(key=lambda row: row.heard_at or row.placed_at)
        self._remove(row.vessel_id for row in unproven[:gone])
        return max(0, min(MAX_PLACED - len(self._placed), MAX_UNPROVEN - (len(unproven) - gone)))

    def _remove(self, vessel_ids: Iterable[str]) -> None:
        if self._settings.follow_vessels is not None:
            return  # these are named by a person: nobody invents them
        gone = list(vessel_ids)
        remove(self._database, gone)
        self._placed.difference_update(gone)

    def _look(self) -> None:
        """Forget vessels that proved nothing and are gone, and end sessions that are not used any more."""
        before = now_ms() - SILENCE
        with transaction(self._database):
            rows = self._database.execute(sql.partitions.UNPROVEN).all()
            self._remove(
                row.vessel_id for row in rows if row.heard_at is None and row.placed_at < before
            )
        silent = {"before": now_ms() - SILENT}
        self._silent = self._database.execute(sql.partitions.SILENT, silent).first() is not None
        for client_id in read_unused(self._database):
            if self._stopping.is_set():
                return
            self._lease.check()
            if end_session(self._settings, client_id):
                forget_session(self._database, client_id)

    # -- roll calls -------------------------------------------------------------------------------------

    def _silent_vessels(self) -> list[_Heard]:
        return [_Heard(online=True, heard_at=0)] if self._silent else []

    def _call(self) -> None:
        logger.info("[MQTT Reliable Sync] asking all vessels for their status")
        call = RollCall(request_id=str(uuid.uuid4()), roll_call=True)
        topic = f"{self._tree.of_all}/{CATCHUP_REQUESTS}"
        self._call_id = self._session.publish_beside(topic, encode(call), retain=False)
        self._roll_calls.sent()

    def _answered(self, ack: Ack) -> None:
        """Note the broker's answer to a roll call."""
        topic = f"{self._tree.of_all}/{CATCHUP_REQUESTS}"
        if ack.reason < REFUSED:
            self._obstacles.taken(topic)
        else:
            self._obstacles.refused(outgoing.Kind.ROLL_CALL, topic, ack.reason)
