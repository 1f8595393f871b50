"""What moves a position, an epoch or a row, with real brokers: hostile publishers, restored vessels, full queues."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, create_engine, text

from arus.inbound.router import Claim
from arus.outbox.log import ChangeLog
from arus.relay.epochs import NewEpochs
from arus.relay.restored import RestoreClaims
from tests.faults.link import Link, Mode
from tests.support.follower import FollowerProcess, FollowerThread, ScriptedVessel
from tests.support.gunicorn_app import GunicornApp
from tests.support.mosquitto import Mosquitto
from tests.support.ship_model import ShipModel
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually, free_port

HUGE = 2**53 - 1
SHORE = "vessel/sync/watermarks/shore"

only_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


# -- a hostile publisher -------------------------------------------------------------------------------


@pytest.fixture
def shore(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> Iterator[FollowerThread]:
    """A follower."""
    app = make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        MQTT_BROKER_URL=mosquitto.url,
        MQTT_RECONNECT_PERIOD="0.2",
    )
    with FollowerThread(app) as follower:
        yield follower


@pytest.fixture
def ship(mosquitto: Mosquitto) -> Iterator[ScriptedVessel]:
    """A vessel that answers requests for digests too."""
    with ScriptedVessel(mosquitto.port) as ship:
        ship.describes = True
        yield ship


def speak(ship: ScriptedVessel, topic: str, *messages: dict[str, Any]) -> None:
    """Publish what somebody else says under the vessel's name."""
    for message in messages:
        ship.publish(topic, message, retain=False)


def catchup(liar: ShipModel, **about: Any) -> list[dict[str, Any]]:
    """A complete snapshot of the crew that nobody has requested."""
    request = {"entity": "crew", "mode": "snapshot", "requestId": None}
    ((_, messages),) = liar.answers_to(request)
    return [{**message, **about} for message in messages]


@pytest.mark.slow
def test_whatever_is_said_under_a_vessels_name_its_rows_stay(
    shore: FollowerThread, ship: ScriptedVessel
) -> None:
    for number in range(40):
        ship.change("crew", {"name": f"Sailor {number}"}, row_id=f"s{number}")
    ship.status()
    shore.wait_equal(ship)
    liar = ShipModel(ship.vessel_id)
    liar.seq = 10_000
    mine = ShipModel(ship.vessel_id)
    mine.epoch, mine.seq = ship.epoch, ship.seq
    change = {**ship.log[-1], "previousSeq": ship.seq, "messageId": "1_a"}
    # An invented epoch, and snapshots without rows in both epochs.
    speak(ship, "system/status", liar.status_document())
    speak(ship, "catchup/crew", *catchup(liar), *catchup(mine))
    speak(ship, "system/status", liar.status_document(online=False))
    # A log that nobody has requested, with a delete in it.
    gone = {**ship.log[3], "operation": "delete", "version": 2, "type": "catchup", "sequence": 0}
    begin, *_, end = catchup(mine, mode="log", sinceSeq=0, total=1)
    item = {**gone, "catchupId": begin["catchupId"], "total": 1, "seq": ship.seq + 1}
    speak(ship, "catchup/crew", begin, item, end)
    ship.status()
    shore.wait_equal(ship)
    # Numbers that can't be.
    speak(ship, "crew", {**change, "seq": HUGE}, {**change, "seq": 2**63})
    speak(ship, "system/status", {**ship.status_document(), "seq": HUGE, "topics": {"crew": HUGE}})
    speak(ship, "crew", {**change, "seq": HUGE - 1})
    speak(ship, "catchup/crew", *catchup(mine, highSeq=HUGE))
    speak(ship, "system/digest", {**ship.digest_document(), "seq": HUGE})
    later = ship.change("crew", {"name": "Later"}, row_id="later")
    ship.change("crew", {"id": "s1", "name": "Renamed"})
    ship.change("crew", operation="delete", row_id="s2")
    ship.status()
    shore.wait_equal(ship)
    assert later["data"]["id"] in {row_id for _, row_id in shore.rows()}
    counters = shore.status().counters
    assert (counters["swept"], counters["epochs"] >= 2) == (0, True)


# -- a vessel that was restored ------------------------------------------------------------------------


def watermark(vessel: Vessel, **changes: Any) -> str:
    told = {"vesselId": "ship-1", "epoch": vessel.status().epoch, "seq": 100, **changes}
    return json.dumps(told)


def statuses(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [body for body in subscriber.payloads if body.get("status") == "online"]


@pytest.mark.slow
@only_sqlite
def test_a_watermark_above_the_head_proves_a_restore_when_it_is_repeated(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    start_subscriber: Callable[..., Subscriber],
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = start_subscriber("vessel/sync/system/status")
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(5)
    vessel.wait_drained()
    epoch = vessel.status().epoch

    def claims(number: int, **changes: Any) -> None:
        mosquitto.publish(SHORE, watermark(vessel, **changes), "-q", "1")
        eventually(lambda: caplog.text.count("is not accepted") >= number, 10)

    def answered(number: int) -> None:
        eventually(lambda: len(statuses(subscriber)) >= number, 15, message="it has answered")

    # One without the vessel's name is no claim; the first that is one has the vessel publish its status again.
    claims(1, vesselId=None)
    claims(2)
    answered(2)
    # A true one in between ends the claim.
    mosquitto.publish(SHORE, watermark(vessel, seq=5), "-q", "1")
    eventually(lambda: vessel.query("SELECT seq FROM arus_follower") == [(5,)])
    claims(3)
    answered(3)
    assert vessel.status().epoch == epoch
    claims(4)
    eventually(lambda: vessel.status().epoch != epoch, message="it has begun a new epoch")
    proof = "follower shore has applied change 100 of this vessel, but the log ends at 5"
    eventually(lambda: proof in caplog.text)  # said after the commit
    answered(4)
    assert statuses(subscriber)[-1]["epoch"] == vessel.status().epoch
    # Not twice a day: a forged one would make all followers refetch everything.
    epoch = vessel.status().epoch
    vessel.wait_connected()
    claims(5)
    answered(5)
    claims(6)
    eventually(lambda: "less than a day ago" in caplog.text)
    assert vessel.status().epoch == epoch


def test_a_retained_watermark_above_the_head_proves_nothing_by_itself(log: Connection) -> None:
    owner = ChangeLog(log, vessel_id="ship-1")
    epoch, claims = owner.epoch, RestoreClaims(owner, NewEpochs(owner), clock=lambda: 100.0)
    for _ in range(3):
        claims.take([Claim("shore", 9, retained=True)])
        claims.answer_due()
    claims.begin()
    claims.take([Claim("shore", 9, retained=False)])
    assert owner.epoch == epoch, "nothing was answered in this connection"


# -- a full queue --------------------------------------------------------------------------------------


class Crew:
    """Whoever writes aboard."""

    def __init__(self, app: GunicornApp) -> None:
        self._app = app
        self.count = 0

    def create(self) -> str:
        self.count += 1
        answer = self._app.post("/api/crew", {"name": f"Sailor {self.count}"})
        assert answer.status == 201, answer.text
        return str(answer.json["id"])

    def rename(self, row_id: str) -> None:
        self.count += 1
        body = {"name": f"Sailor {self.count}"}
        assert self._app.request("PATCH", f"/api/crew/{row_id}", body).status == 200

    def dismiss(self, row_id: str) -> None:
        assert self._app.request("DELETE", f"/api/crew/{row_id}").status == 204


@only_sqlite
def test_an_overflow_reaches_a_connected_follower_without_a_request(
    start_app: Callable[..., GunicornApp],
    start_subscriber: Callable[..., Subscriber],
    mosquitto: Mosquitto,
    migrated_database_url: str,
    shore_database_url: str,
    tmp_path: Path,
) -> None:
    link = Link(free_port(), mosquitto.port, 1, distance=0)
    link.start()
    url = f"mqtt://127.0.0.1:{link.port}"
    app = start_app({"MQTT_BROKER_URL": url, "MQTT_MAX_QUEUE_SIZE": "30"})
    app.wait_connected()
    crew = Crew(app)
    known = [crew.create() for _ in range(8)]
    settings = {"DATABASE_URL": shore_database_url, "MQTT_BROKER_URL": mosquitto.url}
    ship, shore = create_engine(migrated_database_url), create_engine(shore_database_url)

    def rows(side: Any) -> list[Any]:
        with side.connect() as connection:
            return list(connection.execute(text("SELECT id, version, name FROM crew ORDER BY id")))

    def equal() -> bool:
        return rows(ship) == rows(shore)

    with ExitStack() as stack:
        stack.callback(link.stop)
        stack.callback(ship.dispose)
        stack.callback(shore.dispose)
        log = tmp_path / "follower.log"
        stack.callback(lambda: print(log.read_text()))
        stack.enter_context(FollowerProcess(log, settings))
        eventually(lambda: "equal with" in log.read_text(), 60)
        assert equal()
        requests = start_subscriber("vessel/sync/catchup_requests")
        link.set_mode(Mode.DOWN)
        made = [crew.create() for _ in range(40)]
        for row_id in (*known[:3], *made[:3]):
            crew.rename(row_id)
        crew.dismiss(known[4])
        for row_id in made[10:30]:
            crew.rename(row_id)
        crew.dismiss(made[11])
        [crew.create() for _ in range(10)]
        eventually(lambda: app.health()["detailedMetrics"]["messagesDropped"] > 20, 20)
        link.set_mode(Mode.OPEN)
        eventually(equal, 60, message="the follower has what was dropped")
        # The vessel proves it with a digest of its own.
        eventually(lambda: log.read_text().count("equal with") >= 2, 60)
        assert [body for body in requests.payloads if "requestId" in body] == []
