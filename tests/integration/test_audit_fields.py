"""While a fleet is upgraded its tables differ: rows are compared by the fields that both sides have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arus.protocol.messages import FieldDifference, Verdict
from tests.support.coast import Coast

pytestmark = pytest.mark.slow


@pytest.fixture
def coast(tmp_path: Path) -> Iterator[Coast]:
    """A vessel whose crew has fields that are not stored here, and lacks the rank."""
    with Coast(tmp_path, "a") as coast:
        for number in range(5):
            coast.change("a", f"a{number}", name="Ann")
        coast.join()
        assert coast.audit_until_equal("a").equal
        coast.items = 0
        yield coast


def difference(verdict: Verdict) -> FieldDifference:
    told = verdict.entities["crew"].fields
    assert isinstance(told, FieldDifference)
    return told


def ranks(coast: Coast) -> dict[str, str | None]:
    rows = coast.connection.exec_driver_sql("SELECT id, rank FROM crew")
    return {row.id: row.rank for row in rows}


def test_what_one_side_lacks_is_said_once_with_its_names(
    coast: Coast, caplog: pytest.LogCaptureFixture
) -> None:
    told = difference(coast.audit("a"))
    assert told.missing_here == ("active", "createdAt", "onDuty", "updatedAt")
    assert told.missing_aboard == ("rank",)
    assert told.needed == ()
    coast.stop()
    coast.start()
    assert coast.audit("a").equal
    assert "compared by the fields" not in caplog.text
    (vessel,) = coast.told().vessels
    assert vessel.differences == {"crew": told}
    assert vessel.document()["fields"]["crew"]["missingAboard"] == ["rank"]


def test_a_field_that_comes_to_the_vessel_alone_sends_nothing(coast: Coast) -> None:
    coast.migrate("a", shoeSize=None)
    assert coast.audit_until_equal("a").equal
    coast.migrate("a", shoeSize=43)
    verdict = coast.audit_until_equal("a")
    assert verdict.equal
    assert "shoeSize" in difference(verdict).missing_here
    assert coast.items == 0


def test_a_field_that_both_sides_have_at_last_is_compared_and_only_what_differs_is_sent(
    coast: Coast,
) -> None:
    coast.migrate("a", rank=None)
    verdict = coast.audit_until_equal("a")
    assert verdict.equal
    assert difference(verdict).missing_aboard == ()
    assert coast.items == 0
    coast.ships["a"].rows["crew", "a1"]["rank"] = "mate"
    assert not coast.audit("a").equal
    assert coast.audit_until_equal("a").equal
    assert ranks(coast)["a1"] == "mate"
    assert 0 < coast.items < 5


def test_a_field_that_the_vessel_has_filled_meanwhile_is_fetched(coast: Coast) -> None:
    coast.migrate("a", rank="mate")
    assert not coast.audit("a").equal, "the ranks are not here"
    assert coast.audit_until_equal("a").equal
    assert set(ranks(coast).values()) == {"mate"}
    assert coast.items == 5


def test_a_field_that_the_vessel_loses_sends_nothing_and_counts_no_more(coast: Coast) -> None:
    coast.migrate("a", rank="mate")
    coast.audit_until_equal("a")
    coast.items = 0
    coast.drop("a", "rank")
    assert coast.audit_until_equal("a").equal
    coast.change("a", "a5", name="Ada")
    assert coast.audit_until_equal("a").equal
    assert coast.items == 0
    # What is wrong in the others is still found.
    coast.execute("UPDATE crew SET name = 'x' WHERE id = 'a1'")
    assert not coast.audit("a").equal


def test_rows_changed_here_are_not_taken_for_right_when_their_hashes_are_made_again(
    coast: Coast,
) -> None:
    coast.execute("UPDATE crew SET name = 'x' WHERE id = 'a1'")
    coast.migrate("a", rank=None)
    verdict = coast.audit("a")
    assert not verdict.equal
    assert coast.audit_until_equal("a").equal
    assert coast.rows()["crew", "a1"] == (1, "Ann")


def test_a_value_that_the_model_cant_read_stops_no_audit_when_hashes_are_made_again(
    coast: Coast,
) -> None:
    coast.execute("UPDATE crew SET rank = 'pirate' WHERE id = 'a1'")
    coast.migrate("a", rank=None)
    assert not coast.audit("a").equal
    assert coast.audit_until_equal("a").equal
    assert set(ranks(coast).values()) == {None}


def test_a_field_that_the_table_requires_is_one_clear_finding(
    coast: Coast, caplog: pytest.LogCaptureFixture
) -> None:
    ship = coast.ships["a"]
    for number in range(6, 16):
        message = ship.log_change("crew", {}, row_id=f"a{number}")
        del message["data"]["name"]
        coast.take("crew", message)
    coast.drop("a", "name")
    verdict = coast.audit_until_equal("a", rounds=3)
    assert not verdict.equal
    assert difference(verdict).needed == ("name",)
    assert coast.items == 0, "no repair can help"
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len([line for line in said if "does not send name" in line]) == 1
    assert len([line for line in said if "no row can be written" in line]) == 1
    assert not [record for record in caplog.records if "refused a message" in record.getMessage()]
    kept = coast.connection.exec_driver_sql("SELECT count(*) FROM arus_parked").scalar()
    assert kept == 10
