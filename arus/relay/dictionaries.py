"""The vessel's dictionaries: which one is used, which ones the broker holds, and how long each is kept.

A dictionary is published, retained, before the first message that needs it, and used once the broker has acknowledged
it and the status has named it. A newer one takes its place if it saves a tenth. The older one is kept until the log has
no change that was sent with it, and no topic's retained message needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from arus.logs import get_logger
from arus.mqtt.meter import Kind
from arus.mqtt.refusals import REFUSED, name_of
from arus.outbox import sql
from arus.protocol.frames import Dictionary
from arus.protocol.times import now_ms
from arus.protocol.topics import dictionary_topic

if TYPE_CHECKING:
    from collections.abc import Collection

    from arus.mqtt.client import Session
    from arus.outbox.log import ChangeLog

logger = get_logger(__name__)

#: Dictionaries that are kept; no newer one is made beyond that.
MAX_KEPT = 16


class Stored(Struct):
    """A dictionary in the database."""

    dictionary: Dictionary
    #: When it was last compared with a newer one, in milliseconds since the epoch.
    checked_at: int
    #: The log's last number when it was made.
    created_seq: int
    #: The broker holds it.
    acknowledged: bool
    #: When a newer one took its place, in milliseconds since the epoch, and the log's last number then.
    retired_at: int | None = None
    retired_seq: int | None = None
    #: The broker has refused it in this connection.
    refused: bool = False


class Dictionaries:
    """The dictionaries of one vessel. Used by the relay's thread only.

    :param keep: milliseconds for which messages remain replayable after their delivery.
    """

    def __init__(self, log: ChangeLog, session: Session, prefix: str, *, keep: int) -> None:
        self._log = log
        self._session = session
        self._prefix = prefix
        self._keep = keep
        #: By id, oldest first.
        self._stored: dict[int, Stored] = {}
        #: By packet id: the dictionary that is being published, or, if true, deleted.
        self._sent: dict[int, tuple[int, bool]] = {}
        #: Ids that the broker has acknowledged since the last journal, and those whose deletion it has.
        self._acknowledged: list[int] = []
        self._deleted: list[int] = []
        self.reload()

    def reload(self) -> None:
        """Read them again: what was not journalled is forgotten."""
        self._sent.clear()
        self._acknowledged.clear()
        self._deleted.clear()
        self._stored = {}
        for row, dictionary in self._log.dictionaries():
            if dictionary is None:
                continue
            self._stored[row.id] = Stored(
                dictionary,
                row.checked_at,
                row.created_seq,
                bool(row.acknowledged),
                row.retired_at,
                row.retired_seq,
            )

    # -- which one is used ------------------------------------------------------------------------

    @property
    def current(self) -> Stored | None:
        """The newest one; None before the first."""
        newest = next(reversed(self._stored.values()), None)
        return newest if newest is not None and newest.retired_at is None else None

    @property
    def usable(self) -> Stored | None:
        """The newest one that the broker holds."""
        if not self._session.features.retains:
            return None
        for stored in reversed(self._stored.values()):
            if stored.acknowledged and stored.retired_at is None:
                return stored
        return None

    @property
    def is_full(self) -> bool:
        """Whether no newer one may be made."""
        return len(self._stored) >= MAX_KEPT

    def find(self, dictionary_id: int) -> Dictionary | None:
        """Return a dictionary; None if there is none with this id."""
        stored = self._stored.get(dictionary_id)
        return None if stored is None else stored.dictionary

    def is_with_broker(self, dictionary_id: int) -> bool:
        """Whether messages that need a dictionary may be sent: the broker holds it, or does not take it."""
        stored = self._stored.get(dictionary_id)
        return (
            stored is None
            or stored.acknowledged
            or stored.refused
            or not self._session.features.retains
        )

    # -- training ---------------------------------------------------------------------------------

    def add(self, dictionary: Dictionary) -> None:
        """Save a new dictionary; it takes the place of the current one once the broker holds it."""
        now = now_ms()
        seq = self._log.head_seq
        row = {"id": dictionary.id, "content": dictionary.content, "created_seq": seq}
        with self._log.fenced_transaction() as fenced:
            fenced.execute(sql.dictionaries.ADD, {**row, "created_at": now, "checked_at": now})
        before = self._stored.pop(dictionary.id, None)
        is_acknowledged = before is not None and before.acknowledged
        self._stored[dictionary.id] = Stored(dictionary, now, seq, is_acknowledged)

    def retire(self, successor: int = 0) -> None:
        """Note that dictionaries are not used for new messages any more.

        :param successor: the id of the one that is; 0 if none is.
        """
        retired = {
            dictionary_id: stored
            for dictionary_id, stored in self._stored.items()
            if stored.retired_at is None and dictionary_id != successor
        }
        if not retired:
            return
        now, seq = now_ms(), self._log.head_seq
        with self._log.fenced_transaction() as fenced:
            fenced.execute(sql.dictionaries.RETIRE, {"now": now, "seq": seq, "id": successor})
        for stored in retired.values():
            stored.retired_at, stored.retired_seq = now, seq

    def checked(self, stored: Stored) -> None:
        """Save that a dictionary was compared with a newer one, which would save too little."""
        stored.checked_at = now_ms()
        with self._log.fenced_transaction() as fenced:
            wanted = {"id": stored.dictionary.id, "now": stored.checked_at}
            fenced.execute(sql.dictionaries.CHECKED, wanted)

    # -- publishing -------------------------------------------------------------------------------

    def begin(self, *, session_present: bool) -> None:
        """Begin a connection.

        :param session_present: the broker has kept its session; if not, it may have lost what it had retained too.
        """
        self._sent.clear()
        for stored in self._stored.values():
            stored.refused = False
        if session_present or not any(one.acknowledged for one in self._stored.values()):
            return
        with self._log.fenced_transaction() as fenced:
            fenced.execute(sql.dictionaries.NONE_ACKNOWLEDGED)
        for stored in self._stored.values():
            stored.acknowledged = False

    def to_publish(self, needed: Collection[int]) -> Dictionary | None:
        """Return the dictionary to publish next; None if there is none, or one is on its way.

        :param needed: ids of those that messages need which are sent now; others wait.
        """
        if self._sent or not self._session.features.retains:
            return None
        for stored in reversed(self._stored.values()):
            is_wanted = stored.retired_at is None or stored.dictionary.id in needed
            if is_wanted and not stored.acknowledged and not stored.refused:
                return stored.dictionary
        return None

    def publish(self, dictionary: Dictionary) -> None:
        """Publish a dictionary, retained."""
        self._send(dictionary.id, dictionary.content)

    def too_large(self, dictionary: Dictionary) -> None:
        """Note that the broker accepts no packets of this size."""
        self._stored[dictionary.id].refused = True

    def delete(self, dictionary_id: int) -> None:
        """Have the broker delete a dictionary; it is deleted here once the broker has acknowledged that."""
        self._send(dictionary_id, b"")

    def _send(self, dictionary_id: int, content: bytes) -> None:
        topic = f"{self._prefix}/{dictionary_topic(dictionary_id)}"
        packet_id = self._session.publish_beside(
            topic, content, retain=True, kind=Kind.DICTIONARIES
        )
        self._sent[packet_id] = (dictionary_id, not content)

    def acknowledged(self, packet_id: int, reason: int) -> None:
        """Process an acknowledgement of any message; `journal` writes what it means."""
        sent = self._sent.pop(packet_id, None)
        if sent is None:
            return
        dictionary_id, is_deleted = sent
        if is_deleted:
            if reason < REFUSED:
                self._deleted.append(dictionary_id)
        elif reason < REFUSED:
            self._acknowledged.append(dictionary_id)
        else:
            self._stored[dictionary_id].refused = True
            logger.error(
                "[MQTT Reliable Sync] the broker refuses dictionary %d (%s): messages are compressed without it; allow"
                " the vessel to publish on %s/%s",
                dictionary_id,
                name_of(reason),
                self._prefix,
                dictionary_topic(dictionary_id),
            )

    def journal(self) -> None:
        """Save what the broker has acknowledged."""
        if not self._acknowledged and not self._deleted:
            return
        with self._log.fenced_transaction() as fenced:
            for dictionary_id in self._acknowledged:
                fenced.execute(sql.dictionaries.ACKNOWLEDGED, {"id": dictionary_id})
            for dictionary_id in self._deleted:
                fenced.execute(sql.dictionaries.DELETE, {"id": dictionary_id})
        for dictionary_id in self._acknowledged:
            self._stored[dictionary_id].acknowledged = True
            if self._stored[dictionary_id] is self.current:
                self.retire(successor=dictionary_id)
            logger.info(
                "[MQTT Reliable Sync] messages are compressed with dictionary %d", dictionary_id
            )
        for dictionary_id in self._deleted:
            del self._stored[dictionary_id]
        self._acknowledged.clear()
        self._deleted.clear()

    # -- retention --------------------------------------------------------------------------------

    def expired(self, needed: Collection[int]) -> list[int]:
        """Return the ids of dictionaries that nothing needs any more.

        :param needed: ids of those that the last message of a topic, or an unacknowledged one, needs.
        """
        now = now_ms()
        old = {
            dictionary_id: stored.retired_seq or 0
            for dictionary_id, stored in self._stored.items()
            if stored.retired_at is not None and not 0 <= now - stored.retired_at < self._keep
            if dictionary_id not in needed
        }
        if not old:
            return []
        pruned_seq = self._log.reach().pruned_seq
        return [dictionary_id for dictionary_id, seq in old.items() if seq <= pruned_seq]
