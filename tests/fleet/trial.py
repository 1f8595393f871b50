"""A trial: one attack on a fleet that works, and what must hold all the same.

The rows that no honest vessel changes stay ashore, the copy becomes equal, the audits say so (and say nothing else before
it is true), nothing is asked for again and again, memory is bounded, and no log has a control character.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fleet.attacks import Attack
from tests.fleet.fleet import Fleet
from tests.fleet.hostile import PIRATE, Hostile

#: Changes a second of the honest vessels together.
RATE = 10.0
#: Rows of each vessel that nobody changes.
SENTINELS = 60
#: Seconds until the copy must be equal after an attack; multiplied by the patience of the tests.
EQUAL_WITHIN = 75.0
#: The part of a vessel's rows that may be missing for a while where somebody speaks in its name.
SWEPT_AT_MOST = 0.1
#: Bytes that a process may grow by in a trial.
GROWTH = 150 * 2**20
#: Requests for catch-ups and digests to the honest vessels that a trial may cost.
REQUESTS = 120
#: What may not be in a log: controls but for the line feed, separators of lines, and marks of direction.
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LOOK_EVERY = 0.3


@dataclass
class Seen:
    """What was seen ashore while a trial went on."""

    #: Sentinels of the vessel that missed most, and the part of its sentinels.
    missing: float = 0.0
    #: Sentinels that were ashore with another content.
    altered: int = 0
    memory: int = 0
    failures: list[str] = field(default_factory=list)


class Watch:
    """Looks at the sentinels ashore again and again, in a thread."""

    def __init__(self, fleet: Fleet, sentinels: Mapping[str, Mapping[str, Any]]) -> None:
        self._fleet = fleet
        self._sentinels = sentinels
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen = Seen()

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Look during the block."""
        self._thread.start()
        try:
            yield self.seen
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  # the trial fails by it
                self.seen.failures.append(f"the watch: {error!r}")
                return
            self._stop.wait(_LOOK_EVERY)

    def _look(self) -> None:
        statement = "SELECT id, version, name, location FROM equipment"
        ashore = {row.id: row for row in self._fleet.shore.query(statement)}
        for rows in self._sentinels.values():
            found = [(row, ashore.get(row_id)) for row_id, row in rows.items()]
            missing = sum(there is None for _, there in found) / len(found)
            self.seen.missing = max(self.seen.missing, missing)
            altered = sum(there is not None and _differs(row, there) for row, there in found)
            self.seen.altered = max(self.seen.altered, altered)
        shore = self._fleet.shore
        if shore.following:
            self.seen.memory = max(self.seen.memory, shore.memory)


def _differs(row: Mapping[str, Any], there: Any) -> bool:
    told = (row["version"], row["name"], row["location"])
    return told != (there.version, there.name, there.location)


class Trial:
    """Tries attacks on one fleet, one after the other."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        fleet.ignored = PIRATE
        self._sentinels: dict[str, dict[str, Any]] = {}

    def prepare(self) -> None:
        """Have everything in place and equal."""
        self.fleet.do_all("fill", rows=SENTINELS)
        self._sentinels = {
            vessel_id: {row["id"]: row for row in rows.values()}
            for vessel_id, rows in self.fleet.tables().items()
        }
        self.fleet.join()
        self.fleet.wait_equal()

    def run(self, attack: Attack, seed: int, within: float = EQUAL_WITHIN) -> list[str]:
        """Play an attack; what failed."""
        fleet = self.fleet
        logs = {path: path.stat().st_size for path in fleet.logs() if path.exists()}
        before = fleet.tap.traffic()
        memory = fleet.shore.memory
        watch = Watch(fleet, self._sentinels)
        failures: list[str] = []
        with watch.watching() as seen, Hostile(fleet, seed, self._sentinels) as hostile:
            fleet.begin_writing(RATE)
            try:
                attack.play(hostile)
            except AssertionError as error:
                failures.append(str(error))
            fleet.end_writing()
            try:
                fleet.wait_equal(within)
            except AssertionError as error:
                failures.append(str(error))
        failures += seen.failures
        failures += self._lost(attack, seen)
        if seen.memory - memory > GROWTH:
            failures.append(f"the follower grew by {(seen.memory - memory) >> 20} MB")
        if not fleet.shore.following:
            failures.append(f"the follower has ended: {fleet.shore.log[-500:]}")
        failures += self._repeats(attack, before, hostile)
        failures += list(self._controls(logs))
        return failures

    def _lost(self, attack: Attack, seen: Seen) -> Iterator[str]:
        allowed = 0.0 if attack.strict else SWEPT_AT_MOST
        if seen.missing > allowed:
            yield f"{seen.missing:.0%} of a vessel's rows were lost for a while"
        if attack.strict and seen.altered:
            yield f"{seen.altered} rows of a vessel were altered for a while"

    def _repeats(self, attack: Attack, before: Any, hostile: Hostile) -> Iterator[str]:
        passed = self.fleet.tap.traffic().since(before)
        asked = passed.messages["request"] - hostile.requests
        if asked > REQUESTS:
            yield f"{asked} requests were published"
        items = passed.messages["catchup item"] - hostile.items
        if items > attack.items:
            yield f"{items} items of catch-ups were published"

    def _controls(self, logs: Mapping[Path, int]) -> Iterator[str]:
        for path in self.fleet.logs():
            with path.open("rb") as file:
                file.seek(logs.get(path, 0))
                text = file.read().decode(errors="replace")
            if found := _CONTROLS.search(text):
                around = text[max(0, found.start() - 60) : found.end() + 20]
                yield f"a control character in {path.name}: {around!r}"
