"""Vessels with the same rows: renamed, or set up from a copied disk; told apart, reported, and handed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from arus.errors import FollowError
from arus.follower.claims import Cause
from arus.follower.outcome import FOREIGN
from arus.follower.proposals import propose
from arus.protocol.entries import Operation
from tests.support.coast import Coast

pytestmark = pytest.mark.slow


@pytest.fixture
def coast(tmp_path: Path) -> Iterator[Coast]:
    """Vessel a, which has some rows, a deleted one, and equipment."""
    with Coast(tmp_path, "a") as coast:
        for number in range(4):
            coast.change("a", f"a{number}", name="Ann")
        coast.change("a", "a0", "delete")
        coast.change("a", "e1", topic="equipment", name="Pump")
        coast.join()
        assert coast.audit_until_equal("a").equal
        yield coast


def aboard(coast: Coast, name: str) -> dict[tuple[str, str], tuple[int, str]]:
    rows = coast.ships[name].rows.items()
    return {key: (row["version"], row["name"]) for key, row in rows}


def rename(coast: Coast) -> None:
    """Vessel a becomes vessel b, and goes on writing."""
    coast.clone("a", "b")
    coast.status("a", online=False)
    coast.change("b", "a1", name="Bo")
    coast.change("b", "a2", "delete")
    coast.change("b", "b1", name="Bea")
    coast.join("b")


def test_a_renamed_vessel_is_reported_and_ends_equal_when_its_rows_are_handed_over(
    coast: Coast, caplog: pytest.LogCaptureFixture
) -> None:
    rename(coast)
    verdict = coast.audit("b")
    assert not verdict.equal
    assert set(verdict.entities["crew"].held_by or {}) == {"a1", "a3"}
    before = coast.rows()
    assert before["crew", "a1"] == (1, "Ann")
    (claim,) = coast.told().vessels[1].claims
    assert (claim.owner, claim.cause, claim.rows) == (
        "a",
        Cause.RENAMED,
        {"crew": 2, "equipment": 1},
    )
    assert "flask sync hand-over a b" in caplog.text

    done = coast.hand_over("a", "b")
    assert done.retired
    assert coast.rows() == before, "no row is touched"
    # The broker still has what vessel a had published last.
    coast.take("system/status", coast.ships["a"].status_document(online=False), retain=True)
    coast.take("crew", coast.ships["a"].log[-2], retain=True)
    coast.join("b")
    assert coast.audit_until_equal("b").equal
    assert coast.rows() == aboard(coast, "b")
    assert [vessel.vessel_id for vessel in coast.told().vessels] == ["b"]
    assert coast.told().vessels[0].claims == ()


def test_a_renamed_vessel_may_be_handed_its_rows_before_it_was_heard_out(coast: Coast) -> None:
    coast.clone("a", "b")
    coast.status("a", online=False)
    coast.status("b")
    coast.change("b", "a1", "delete")
    coast.hand_over("a", "b")
    coast.join("b")
    assert coast.audit_until_equal("b").equal
    assert coast.rows() == aboard(coast, "b")


def test_a_vessel_that_comes_back_after_it_has_handed_over_everything_is_followed_again(
    coast: Coast,
) -> None:
    rename(coast)
    coast.hand_over("a", "b")
    coast.join("a", "b")
    coast.change("a", "a9", name="new")
    coast.exchange()
    assert coast.audit_until_equal("b").equal
    verdict = coast.audit("a")
    assert set(verdict.entities["crew"].held_by or {}) == {"a1", "a2", "a3"} & {
        row_id for topic, row_id in coast.ships["a"].rows if topic == "crew"
    }
    assert coast.rows()["crew", "a9"] == (1, "new")


def test_a_clone_is_told_apart_while_both_are_online(
    coast: Coast, caplog: pytest.LogCaptureFixture
) -> None:
    coast.clone("a", "b")
    coast.join("a", "b")
    coast.change("a", "a1", name="A")
    coast.change("b", "a1", name="B")
    assert not coast.audit("b").equal
    assert coast.audit("a").equal
    assert coast.rows()["crew", "a1"] == (2, "A")
    (claim,) = coast.told().vessels[1].claims
    assert claim.cause is Cause.CLONED
    assert "give b a database of its own" in caplog.text
    counted = "SELECT sum(value) FROM arus_counter WHERE name = :name"
    assert coast.connection.execute(text(counted), {"name": FOREIGN}).scalar() == 6

    # The rows of one entity go to the clone: now vessel a's are refused.
    done = coast.hand_over("a", "b", "crew")
    assert (done.retired, done.rows) == (False, {"crew": 3})
    coast.join("a", "b")
    verdict = coast.audit_until_equal("b")
    assert verdict.entities["crew"].equal
    assert not verdict.entities["equipment"].equal
    assert coast.rows()["crew", "a1"] == (2, "B")
    assert set(coast.audit("a").entities["crew"].held_by or {}) == {"a1", "a2", "a3"}


def test_rows_that_only_the_giver_has_stay_its_own_while_it_is_online(coast: Coast) -> None:
    coast.clone("a", "b")
    coast.join("a", "b")
    coast.change("a", "mine", name="A")
    coast.hand_over("a", "b")
    coast.join("a", "b")
    assert coast.audit_until_equal("b").equal
    verdict = coast.audit_until_equal("a", rounds=2)
    assert "mine" not in (verdict.entities["crew"].held_by or {})
    assert coast.rows()["crew", "mine"] == (1, "A")


def test_a_row_that_the_clone_has_deleted_stays_with_the_vessel_that_has_it(coast: Coast) -> None:
    coast.clone("a", "b")
    coast.join("a", "b")
    coast.change("b", "a1", "delete")
    coast.hand_over("a", "b")
    coast.join("a", "b")
    assert coast.audit_until_equal("b").equal
    assert "a1" not in (coast.audit_until_equal("a", rounds=2).entities["crew"].held_by or {})
    assert coast.rows()["crew", "a1"] == (1, "Ann")


def test_only_the_same_ids_are_no_copied_disk(coast: Coast) -> None:
    coast.ships["c"] = type(coast.ships["a"])("c")
    coast.change("c", "a1", name="other")
    coast.join("c")
    (claim,) = coast.told().vessels[1].claims
    assert (claim.cause, claim.rows) == (Cause.SAME_IDS, {"crew": 1})


def test_a_third_vessels_claims_and_pending_proposals_go_along(coast: Coast) -> None:
    rename(coast)
    coast.ships["c"] = type(coast.ships["a"])("c")
    coast.change("c", "a3", name="third")
    propose(
        coast.connection,
        coast.copies["crew"],
        Operation.UPDATE,
        "a3",
        {"name": "Z"},
        origin="shore",
    )
    new = {"id": "n1", "name": "New"}
    crew = coast.copies["crew"]
    propose(coast.connection, crew, Operation.CREATE, "n1", new, origin="shore", vessel_id="a")
    coast.execute("UPDATE arus_proposal SET sent_at = 1, attempts = 2")
    coast.hand_over("a", "b")
    owners = coast.connection.exec_driver_sql(
        "SELECT owner FROM arus_row WHERE vessel_id = 'c' AND row_id = 'a3'"
    ).scalar()
    proposed = "SELECT vessel_id, sent_at, attempts FROM arus_proposal"
    assert owners == "b"
    # Also that of a row that no vessel has: vessel b was sent neither of them.
    assert coast.connection.exec_driver_sql(proposed).all() == [("b", None, 0)] * 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("a", "nobody", None), "no vessel 'nobody' is followed"),
        (("a", "a", None), "to itself"),
        (("a", "b", "nothing"), "no entity 'nothing'"),
    ],
)
def test_what_cant_be_handed_over_is_refused(
    coast: Coast, given: tuple[str, str, str | None], says: str
) -> None:
    rename(coast)
    with pytest.raises(FollowError, match=says):
        coast.hand_over(*given)
