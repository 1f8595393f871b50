"""The dictionaries of the vessels that are followed: received on `system/dictionary/<id>`, and kept in the database.

What is kept is bounded for each vessel and in all, since anybody who may publish there can invent some. The id of a
dictionary is made from its content, so no other can take its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row

from arus.database import transaction, translated
from arus.errors import RefusedMessageError
from arus.logs import get_logger
from arus.protocol.frames import Dictionary
from arus.protocol.times import now_ms

from . import sql
from .sql.build import Some, execute_for

logger = get_logger(__name__)

#: Maximum number of dictionaries that are kept of a vessel, and of all vessels; and bytes likewise. A vessel has at
#: most 16 of 16 kB.
MAX_OF_VESSEL, MAX_BYTES_OF_VESSEL = 24, 524_288
MAX_IN_ALL, MAX_BYTES_IN_ALL = 4_096, 134_217_728
#: Dictionaries that are ready for use in memory.
_READY = 256


class VesselDictionaries:
    """The dictionaries of the vessels of one loop. Used by its thread only, outside of its transactions.

    :param connection: of `arus.database.open_engine`.
    :param vessels: ids of the vessels of a partition; None for all. The bounds in all are those of the partition then.
    """

    def __init__(self, connection: Connection, vessels: Some = None) -> None:
        self._connection = connection
        self._vessels = vessels
        #: By vessel and id; those that were used last are at the end.
        self._ready: OrderedDict[tuple[str, int], Dictionary] = OrderedDict()

    def find(self, vessel_id: str, dictionary_id: int) -> Dictionary | None:
        """Return a dictionary of a vessel; None if it was not received.

        :param vessel_id: empty if all vessels share a prefix.
        """
        key = (vessel_id, dictionary_id)
        found = self._ready.get(key)
        if found is not None:
            self._ready.move_to_end(key)
            return found
        wanted = {"vessel_id": vessel_id, "id": dictionary_id}
        with translated():
            content = self._connection.execute(sql.dictionaries.FIND, wanted).scalar()
        return None if content is None else self._remember(key, Dictionary(bytes(content)))

    def add(
        self, vessel_id: str, dictionary_id: int, content: bytes, known: Collection[str]
    ) -> None:
        """Keep a dictionary.

        :param dictionary_id: as in its topic.
        :param known: ids of the vessels that are followed; the dictionaries of others are forgotten first.
        :raises RefusedMessageError: it is malformed, or there are too many.
        """
        if self._vessels is not None and vessel_id not in self._vessels:
            return  # it has gone to another partition, which receives it as well
        if self.find(vessel_id, dictionary_id) is not None:
            return
        dictionary = Dictionary(content)
        if dictionary.id != dictionary_id:
            raise RefusedMessageError(f"this topic is not that of dictionary {dictionary.id}")
        row = {"vessel_id": vessel_id, "id": dictionary_id, "content": content}
        with transaction(self._connection):
            self._make_room(vessel_id, len(content), known)
            saved = {**row, "received_at": now_ms()}
            self._connection.execute(sql.dictionaries.ADD, saved)
        self._remember((vessel_id, dictionary_id), dictionary)

    def _make_room(self, vessel_id: str, size: int, known: Collection[str]) -> None:
        rows = list(
            execute_for(
                self._connection,
                sql.dictionaries.SIZES,
                sql.dictionaries.SIZES_OF_SOME,
                self._vessels,
            )
        )
        of_vessel = [row for row in rows if row.vessel_id == vessel_id]
        while len(of_vessel) >= MAX_OF_VESSEL or (
            of_vessel and _size(of_vessel) + size > MAX_BYTES_OF_VESSEL
        ):
            self._forget(of_vessel[0].vessel_id, of_vessel[0].id)
            rows.remove(of_vessel.pop(0))
        others = [row for row in rows if row.vessel_id and row.vessel_id not in known]
        while len(rows) >= MAX_IN_ALL or _size(rows) + size > MAX_BYTES_IN_ALL:
            if not others:
                raise RefusedMessageError("too many dictionaries are kept")
            self._forget(others[0].vessel_id, others[0].id)
            rows.remove(others.pop(0))

    def _forget(self, vessel_id: str, dictionary_id: int) -> None:
        wanted = {"vessel_id": vessel_id, "id": dictionary_id}
        self._connection.execute(sql.dictionaries.FORGET, wanted)
        self._ready.pop((vessel_id, dictionary_id), None)

    def _remember(self, key: tuple[str, int], dictionary: Dictionary) -> Dictionary:
        self._ready[key] = dictionary
        if len(self._ready) > _READY:
            self._ready.popitem(last=False)
        return dictionary


def _size(rows: Collection[Row[Any]]) -> int:
    return sum(row.size for row in rows)
