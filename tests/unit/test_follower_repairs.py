"""What a vessel dropped and repairs by itself is not requested; who forges a repair does no lasting harm."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arus.follower.outcome import REPEATED, UNREQUESTED
from arus.protocol.times import now_ms
from tests.support.ship_model import ShipModel

from .test_follower_trust import Fleet


class Overflow(Fleet):
    """A vessel whose queue has overflowed while its link was down."""

    def __init__(self) -> None:
        super().__init__("a")
        self.ship = self.ships["a"]
        for number in range(6):
            self.change("a", f"a{number}", name="Ann")
        self.settle()
        #: What is still in the queue.
        self.queue: list[dict[str, Any]] = []

    def write(self, row_id: str, *, dropped: bool, delete: bool = False) -> None:
        row = {} if delete else {"name": f"n{self.ship.seq}"}
        message = self.ship.log_change("crew", row, "delete" if delete else None, row_id)
        if dropped:
            self.ship.drop(message)
        else:
            self.queue.append(message)

    def status(self) -> None:
        self.shore.take(("system/status", self.ship.status_document(pending=len(self.queue))))

    def drain(self) -> None:
        self.shore.take(*[("crew", message) for message in self.queue])
        self.queue.clear()

    def repair(self) -> None:
        for topic, messages in self.ship.repairs():
            self.shore.take(*[(f"catchup/{topic}", message) for message in messages])

    def assert_equal(self) -> None:
        assert self.crew() == self.aboard("a")
        vessel = self.shore.applier.vessels["a"]
        assert vessel.caught_up
        assert vessel.seq == self.ship.seq

    def asked(self) -> list[dict[str, Any]]:
        """What is requested soon after; not what is requested when nothing comes for hours."""
        self.shore.clock = now_ms() - 9_990_000  # it adds 10,000 s
        return self.shore.ask()


@pytest.fixture
def fleet() -> Overflow:
    """Dropped and kept changes, as an eviction leaves them: a kept delete in the middle, newer changes of dropped rows."""
    fleet = Overflow()
    for number in range(4):
        fleet.write(f"new{number}", dropped=True)
    fleet.write("a5", dropped=False, delete=True)
    fleet.write("a0", dropped=True)
    fleet.write("a1", dropped=True)
    fleet.write("a1", dropped=False)
    fleet.write("last", dropped=False)
    return fleet


@pytest.mark.parametrize("order", ["queue first", "repair first"])
def test_an_overflow_is_made_up_for_without_a_request(fleet: Overflow, order: str) -> None:
    fleet.status()
    if order == "queue first":
        fleet.drain()
        assert fleet.asked() == [], "it waits for the repair"
        fleet.repair()
    else:
        fleet.repair()
        fleet.drain()
    assert fleet.asked() == []
    fleet.status()
    assert fleet.asked() == []
    fleet.assert_equal()


def test_a_repair_that_a_retained_status_announces_is_waited_for(fleet: Overflow) -> None:
    # While a follower renews its subscription, a status reaches it as a retained one alone.
    document = fleet.ship.status_document(pending=len(fleet.queue))
    fleet.shore.take_retained(("system/status", document))
    fleet.drain()
    assert fleet.asked() == []
    fleet.repair()
    assert fleet.asked() == []
    fleet.assert_equal()


def test_a_retained_status_that_is_older_than_what_is_known_announces_no_repair(
    fleet: Overflow,
) -> None:
    document = fleet.ship.status_document(pending=len(fleet.queue))
    fleet.ship.repairs()  # lost
    fleet.change("a", "a2", name="Anna")
    fleet.shore.take_retained(("system/status", document))
    assert len(fleet.asked()) == 1
    fleet.settle()
    fleet.assert_equal()


def test_a_repair_that_does_not_come_is_requested_once_it_is_no_longer_announced(
    fleet: Overflow,
) -> None:
    fleet.status()
    fleet.drain()
    fleet.ship.repairs()  # lost
    assert fleet.asked() == []
    fleet.status()
    (request,) = fleet.asked()
    assert (request["entity"], request["sinceSeq"]) == ("crew", 6)
    fleet.settle()
    fleet.assert_equal()


def test_a_repair_with_a_missing_item_closes_nothing(fleet: Overflow) -> None:
    fleet.status()
    fleet.drain()
    ((_, messages),) = fleet.ship.repairs()
    del messages[2]
    fleet.shore.take(*[("catchup/crew", message) for message in messages])
    fleet.status()
    assert len(fleet.asked()) == 1
    fleet.settle()
    fleet.assert_equal()


def forgery(ship: ShipModel, covers: list[list[int]], **changes: Any) -> list[dict[str, Any]]:
    """A repair of that name, empty but for one row."""
    liar = ShipModel(ship.vessel_id)
    liar.epoch, liar.seq, liar.heads = ship.epoch, covers[0][0], {"crew": covers[0][0]}
    liar.drop(liar.log_change("crew", {"name": "forged"}, row_id="a0"))
    ((_, messages),) = liar.repairs()
    about = {"covers": covers, "highSeq": covers[-1][1], **changes}
    return [{**messages[0], **about}, *messages[1:]]


@pytest.mark.parametrize(
    "covers", [[[6, 7]], [[6, 20]], [[6, 90_000]], [[6, 2**53 - 1]], [[0, 50]]]
)
def test_a_repair_that_no_status_has_announced_changes_nothing(covers: list[list[int]]) -> None:
    fleet = Overflow()
    before = fleet.crew()
    fleet.shore.take(*[("catchup/crew", one) for one in forgery(fleet.ship, covers)])
    assert fleet.crew() == before
    assert fleet.counted(UNREQUESTED) > 0
    assert fleet.shore.applier.vessels["a"].positions["crew"].seq == 6
    fleet.change("a", "a1", name="Anna")
    assert fleet.crew()["a1"] == (2, "Anna")
    assert fleet.shore.ask() == []


@pytest.mark.parametrize("covers", [[[6, 14]], [[6, 90_000]], [[6, 2**53 - 1]]])
def test_a_forged_repair_before_the_real_one_does_not_last(
    fleet: Overflow, covers: list[list[int]]
) -> None:
    fleet.status()
    fleet.shore.take(*[("catchup/crew", one) for one in forgery(fleet.ship, covers)])
    fleet.drain()
    fleet.repair()
    fleet.settle()
    vessel = fleet.shore.applier.vessels["a"]
    assert (vessel.caught_up, vessel.seq) == (True, fleet.ship.seq)
    found = {row_id: row for row_id, row in fleet.crew().items() if row_id != "a0"}
    assert found == {row_id: row for row_id, row in fleet.aboard("a").items() if row_id != "a0"}


# -- what a broker has dropped -------------------------------------------------------------------------


def with_gaps(dropped: set[int]) -> Fleet:
    """Of 300 changes of a vessel these have not arrived."""
    fleet = Fleet("a")
    fleet.change("a", "first", name="Ann")
    fleet.settle()
    changes = [
        fleet.ships["a"].log_change("crew", {"name": f"n{n}"}, None, f"a{n}") for n in range(300)
    ]
    fleet.shore.take(*[("crew", change) for n, change in enumerate(changes) if n not in dropped])
    return fleet


def test_what_a_broker_has_dropped_is_requested_without_what_has_arrived() -> None:
    fleet = with_gaps({*range(50, 60), *range(150, 155), *range(200, 210), 299})
    before = fleet.counted(REPEATED)
    fleet.settle()
    assert fleet.crew() == fleet.aboard("a")
    assert fleet.shore.applier.vessels["a"].caught_up
    assert fleet.counted(REPEATED) == before


def test_gaps_that_are_close_to_each_other_are_requested_together() -> None:
    fleet = with_gaps({50, 52, 54, 150})
    before = fleet.counted(REPEATED)
    assert [request["limit"] for request in fleet.shore.ask()] == [5]
    fleet.settle()
    assert fleet.crew() == fleet.aboard("a")
    assert fleet.counted(REPEATED) == before + 2


def test_a_gap_that_the_log_does_not_reach_back_to_is_filled_by_a_snapshot_of_all_rows() -> None:
    fleet = with_gaps({*range(50, 60)})
    fleet.ships["a"].prune()
    fleet.settle()
    assert fleet.crew() == fleet.aboard("a")
    assert fleet.shore.applier.vessels["a"].caught_up


STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 12), st.booleans(), st.booleans()),
    st.tuples(st.just("write"), st.integers(0, 12), st.booleans(), st.booleans()),
    st.tuples(st.sampled_from(["status", "repair", "drain", "restart", "lose repair"])),
)


@settings(deadline=None, max_examples=20)
@given(st.lists(STEP, max_size=40))
def test_whatever_is_dropped_it_ends_equal(steps: list[tuple[Any, ...]]) -> None:
    fleet = Overflow()
    gone: set[str] = set()
    for step in steps:
        match step:
            case ("write", number, dropped, delete):
                row_id = f"a{number}"
                if row_id in gone or (delete and ("crew", row_id) not in fleet.ship.rows):
                    continue
                gone |= {row_id} if delete else set()
                fleet.write(row_id, dropped=dropped, delete=delete)
            case ("restart",):
                fleet.shore.start()
            case ("lose repair",):
                fleet.ship.repairs()
            case (name,):
                getattr(fleet, name)()
    fleet.status()
    fleet.drain()
    fleet.repair()
    fleet.settle()
    fleet.assert_equal()
