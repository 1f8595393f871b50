"""Make what a vessel of an older version and its broker leave on their disks when the power fails during an outage.

    .venv/bin/python -m tests.data.upgrade.make efd3353

takes the code of any commit out of git, and runs it with the packages of this environment: gunicorn on SQLite, a
Mosquitto that keeps its sessions, and a subscriber whose session is durable. What they leave is packed into
`tests/data/upgrade/REVISION.tar.xz`, named after the commit's newest migration:

- `arus.sqlite`: the database with 500 pending changes, copied by that version's own `flask sync backup`. Some alerts
  are in flight, and their handshakes were interrupted at each of the four packets.
- `mosquitto.db`: the sessions of the vessel and of the subscriber, which was offline; and the retained messages.
- `expected.json`: what must still arrive at the subscriber, in order, which handshakes are open, and where the numbers end.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tests.support.broker import ROOT
from tests.support.gunicorn_app import GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL
from tests.support.stalling_link import StallingLink
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

HERE = Path(__file__).parent
VESSEL_ID = "ship-1"
#: The client id of the durable subscriber, and what it subscribes to.
SUBSCRIBER, TOPICS = "ashore", "vessel/sync/#"
#: Changes that are delivered to the subscriber, and then those that its broker keeps for it.
DELIVERED, KEPT = 60, 20
PENDING = 500
#: Alerts whose PUBLISH reaches the broker; those of them whose PUBREC comes back; and those whose PUBREL arrives.
PUBLISHED, RECEIVED, RELEASED = 12, 8, 4
#: Other changes, at QoS 1, that reach the broker, and whose PUBACK does not come back.
UNACKNOWLEDGED = 3
#: Alerts, then other changes, that are sent when nothing passes any more.
LATE_ALERTS, LATE_OTHERS = 4, 3

EQUIPMENT, WORK_ORDERS, ALERTS = "equipment", "work-orders", "alerts"
CREW, MAINTENANCE = "crew", "maintenance-schedules"
#: How often each kind of row is written, and what is done to it.
KINDS = {WORK_ORDERS: 45, ALERTS: 25, MAINTENANCE: 15, CREW: 10, EQUIPMENT: 5}
DEEDS = {"create": 45, "update": 42, "delete": 13}
#: A text of each kind that is changed.
CHANGED = {
    EQUIPMENT: "location",
    WORK_ORDERS: "description",
    ALERTS: "message",
    CREW: "notes",
    MAINTENANCE: "description",
}


class People:
    """Whoever writes on board: rows of all five resources are created, changed and deleted."""

    def __init__(self, app: GunicornApp, seed: int) -> None:
        self._app = app
        self._random = random.Random(seed)
        self._rows: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self._count = 0
        self.create(EQUIPMENT)

    def work(self, count: int) -> None:
        """Write `count` changes."""
        for _ in range(count):
            (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
            (deed,) = self._random.choices(list(DEEDS), list(DEEDS.values()))
            if deed == "create" or not self._rows[kind]:
                self.create(kind)
            elif deed == "update" or kind == EQUIPMENT:  # others refer to equipment
                self.update(kind)
            else:
                self._delete(kind)

    def create(self, kind: str) -> None:
        """Write a new row."""
        self._count += 1
        answer = self._app.post(f"/api/{kind}", self._body(kind))
        assert answer.status == 201, answer.text
        self._rows[kind].append(answer.json["id"])

    def update(self, kind: str) -> None:
        """Change a row."""
        self._count += 1
        path = f"/api/{kind}/{self._random.choice(self._rows[kind])}"
        answer = self._app.request(
            "PATCH", path, {CHANGED[kind]: f"Noted as {self._count}: sjøvann"}
        )
        assert answer.status == 200, answer.text

    def _delete(self, kind: str) -> None:
        row = self._rows[kind].pop(self._random.randrange(len(self._rows[kind])))
        answer = self._app.request("DELETE", f"/api/{kind}/{row}")
        assert answer.status == 204, answer.text

    def _body(self, kind: str) -> dict[str, Any]:
        n = self._count
        if kind == EQUIPMENT:
            return {"name": f"Pump {n}", "type": "pump", "specifications": {"bar": n / 8}}
        if kind == CREW:
            return {"name": f"Åse Berg {n}", "rank": "Second engineer"}
        body: dict[str, Any] = {"equipmentId": self._random.choice(self._rows[EQUIPMENT])}
        if kind == WORK_ORDERS:
            return body | {"reason": f"Leak {n}", "priority": n % 5 + 1, "estimatedHours": n / 4}
        if kind == MAINTENANCE:
            date = f"2027-{n % 12 + 1:02}-01T08:00:00.000Z"
            return body | {"scheduledDate": date, "maintenanceType": "oil change"}
        alert = {"sensorType": "temperature", "alertType": "warning", "message": f"Hot {n}"}
        return body | alert | {"value": n + 0.5, "threshold": 90}


class Voyage:
    """The older version at sea, from its first change to the power cut."""

    def __init__(self, code: Path, directory: Path, stack: ExitStack) -> None:
        self._code, self._directory = code, directory
        self.database = directory / "ship.sqlite"
        self.mosquitto = stack.enter_context(Mosquitto(directory / "mosquitto"))
        self.link = stack.enter_context(StallingLink(self.mosquitto.port))
        self.ashore = Subscriber(self.mosquitto.port, TOPICS, client_id=SUBSCRIBER, args=("-R",))
        stack.callback(self.ashore.close)
        self.settings = {
            "LOCAL_MODE": "true",
            "SECRET_KEY": "for-tests-only-and-long-enough",
            "DATABASE_URL": f"sqlite:///{self.database}",
            "VESSEL_ID": VESSEL_ID,
            "MQTT_BROKER_URL": self.link.url,
            "MQTT_MAX_INFLIGHT": "64",
            "MQTT_RECONNECT_PERIOD": "600",  # once the link is cut, it stays so
        }
        flask("db", "upgrade", settings=self.settings, code=code)
        self.app = stack.enter_context(GunicornApp(directory, self.settings, code=code))
        self.app.wait_connected()

    def sail(self) -> None:
        """Write, lose the subscriber, lose the link, write 500 changes, and lose the power."""
        self.ashore.start()
        people = People(self.app, seed=20)
        people.work(DELIVERED - 1)
        self._wait_depth(0)
        self.ashore.wait_until(self._all_arrived, 20, f"{DELIVERED} changes")
        self.ashore.stop()
        people.work(KEPT)
        self._wait_depth(0)
        self._interrupt_handshakes(people)
        self.link.cut()
        people.work(PENDING - PUBLISHED - UNACKNOWLEDGED - LATE_ALERTS - LATE_OTHERS)
        self._wait_depth(PENDING)
        eventually(self._all_numbered, message="all changes are numbered")
        self.app.kill_all()
        self.mosquitto.stop()

    def pack(self, target: Path) -> None:
        """Write the archive."""
        backup = self._directory / "backup.sqlite"
        flask("sync", "backup", str(backup), settings=self.settings, code=self._code)
        with closing(sqlite3.connect(backup)) as connection:
            connection.execute(
                "UPDATE arus_session SET owner_host = 'ship'"
            )  # not whose machine it was
            connection.commit()
            connection.execute("VACUUM")
            expected = json.dumps(_expected(connection, {c["seq"] for c in self.ashore.changes()}))
        contents = {
            "arus.sqlite": backup.read_bytes(),
            "mosquitto.db": self.mosquitto.saved.read_bytes(),
            "expected.json": expected.replace('{"seq"', '\n{"seq"').encode() + b"\n",
        }
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for name, content in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    def _interrupt_handshakes(self, people: People) -> None:
        """Leave alerts in flight: the link stalls at once, in both directions, between two packets of theirs."""
        inward, outward = self.link.inward, self.link.outward
        self.link.hold()
        for _ in range(PUBLISHED):
            people.create(ALERTS)
        for _ in range(UNACKNOWLEDGED):
            people.create(WORK_ORDERS)
        sent = PUBLISHED + UNACKNOWLEDGED
        eventually(lambda: len(outward.held(PUBLISH)) == sent, message="all are sent")
        inward.limit({PUBREC: RECEIVED})
        outward.limit({PUBREL: RELEASED})
        eventually(
            lambda: (
                len(inward.held(PUBREC)) == PUBLISHED - RECEIVED
                and len(inward.held(PUBACK)) == UNACKNOWLEDGED
                and len(inward.held(PUBCOMP)) == RELEASED
                and len(outward.held(PUBREL)) == RECEIVED - RELEASED
            ),
            message="the handshakes are interrupted",
        )
        for _ in range(LATE_ALERTS):
            people.create(ALERTS)
        for _ in range(LATE_OTHERS):
            people.create(WORK_ORDERS)
        late = LATE_ALERTS + LATE_OTHERS
        eventually(lambda: len(outward.held(PUBLISH)) == late, message="the late ones are sent")

    def _all_arrived(self) -> bool:
        return len({change["seq"] for change in self.ashore.changes()}) == DELIVERED

    def _wait_depth(self, depth: int) -> None:
        def reached() -> bool:
            waiting = self.app.health()["mqtt"]["queuedMessages"]
            assert waiting == depth, f"{waiting} changes are waiting, not {depth}"
            return True

        eventually(reached, 20, interval=0.1)

    def _all_numbered(self) -> bool:
        with closing(sqlite3.connect(self.database)) as connection:
            query = "SELECT count(*) FROM arus_change WHERE seq IS NULL"
            return bool(connection.execute(query).fetchone() == (0,))


def _expected(connection: sqlite3.Connection, arrived: set[int]) -> dict[str, Any]:
    """What a subscriber that has got some changes must still get, and what the vessel knows of it."""
    connection.row_factory = sqlite3.Row
    (session,) = connection.execute("SELECT epoch, head_seq FROM arus_session").fetchall()
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    changes = [
        {
            "seq": row["seq"],
            "previousSeq": row["previous_seq"],
            "messageId": row["message_id"],
            "topic": row["topic"],
            "entity": row["entity"],
            "operation": row["operation"],
            "rowId": row["row_id"],
            "version": row["version"],
        }
        for row in connection.execute("SELECT * FROM arus_change ORDER BY seq")
        if row["seq"] not in arrived
    ]
    return {
        "revision": revision,
        "vesselId": VESSEL_ID,
        "epoch": session["epoch"],
        "headSeq": session["head_seq"],
        "handshakes": dict(_handshakes(connection)),
        "changes": changes,
    }


def _handshakes(connection: sqlite3.Connection) -> Iterator[tuple[str, list[int]]]:
    """The numbers of the alerts in flight by the packet that was lost; fails if the log does not say the same."""
    (queue,) = connection.execute("SELECT * FROM arus_lane WHERE topic = 'alerts'").fetchall()
    alerts = connection.execute(
        "SELECT seq FROM arus_change WHERE topic = 'alerts' AND seq > ? ORDER BY seq",
        (queue["acked_seq"],),
    )
    numbers = [seq for (seq,) in alerts]
    assert queue["received_seq"] == numbers[RECEIVED - 1], tuple(queue)
    assert queue["sent_seq"] == numbers[PUBLISHED + LATE_ALERTS - 1], tuple(queue)
    yield "PUBCOMP", numbers[:RELEASED]
    yield "PUBREL", numbers[RELEASED:RECEIVED]
    yield "PUBREC", numbers[RECEIVED:PUBLISHED]
    yield "PUBLISH", numbers[PUBLISHED : PUBLISHED + LATE_ALERTS]


def _newest_migration(code: Path) -> str:
    return max(path.name.split("_")[0] for path in (code / "migrations/versions").glob("[0-9]*.py"))


def main() -> None:
    """Make the archive of one commit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", help="whose code makes it")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the archive is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        code, directory = Path(place, "code"), Path(place, "voyage")
        directory.mkdir()
        git = ["git", "-C", str(ROOT), "archive", options.commit]
        content = subprocess.run(git, check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(code, filter="data")
        voyage = Voyage(code, directory, stack)
        voyage.sail()
        target = options.folder / f"{_newest_migration(code)}.tar.xz"
        voyage.pack(target)
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
