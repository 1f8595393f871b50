"""Handing over, whatever three vessels have sent of a row: afterwards it has one owner as before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import MetaData, text

from arus.database import open_engine, transaction
from arus.follower import tables
from arus.follower.hand_over import hand_over
from arus.outbox.tables import define

#: The giver, the receiver and a third vessel.
VESSELS = ("a", "b", "c")


class Record(NamedTuple):
    """A vessel's record of the row."""

    version: int
    deleted: bool
    owner: str = ""

    @property
    def is_own(self) -> bool:
        return not self.owner and self.version >= 0


#: The records of the row by vessel.
Records = dict[str, Record]
#: A row that was found ashore.
ORPHAN = Record(-1, deleted=False)


def every_state() -> Iterator[Records]:
    """All records that there may be of one row."""
    for chosen in itertools.product(*(_records_of(name) for name in VESSELS)):
        records = {name: one for name, one in zip(VESSELS, chosen, strict=True) if one is not None}
        if is_consistent(records):
            yield records


def _records_of(name: str) -> list[Record | None]:
    owners = ["", *(other for other in VESSELS if other != name)]
    sent = [Record(3, deleted, owner) for deleted in (False, True) for owner in owners]
    return [None, ORPHAN, *sent]


def is_consistent(records: Records) -> bool:
    """Whether the row belongs to one vessel at most, and whoever it is said to belong to has sent it first."""
    own = {name for name, one in records.items() if one.is_own}
    present = owners(records)
    return len(present) <= 1 and all(
        one.owner in (present if present and not one.deleted else own)
        for one in records.values()
        if one.owner
    )


def owners(records: Records) -> set[str]:
    return {name for name, one in records.items() if one.is_own and not one.deleted}


def has_owner(records: Records) -> bool:
    return any(one.is_own for one in records.values())


class Done(NamedTuple):
    """What a hand-over has done."""

    #: The records of each row before and after.
    rows: list[tuple[Records, Records]]
    #: The vessels that count as audited.
    audited: set[str]


def hand_everything_over(directory: Path, *, online: bool) -> Done:
    """Hand over rows in every state at once."""
    metadata = MetaData()
    define(metadata)
    tables.define(metadata)
    engine = open_engine(f"sqlite:///{directory}/shore.sqlite")
    metadata.create_all(engine)
    states = list(every_state())
    rows: list[dict[str, Any]] = [
        {"vessel": name, "row": f"{number:03}", **one._asdict()}
        for number, records in enumerate(states)
        for name, one in records.items()
    ]
    with engine.connect() as connection:
        with transaction(connection):
            connection.execute(VESSEL, [{"vessel": one, "online": online} for one in VESSELS])
            connection.execute(ROW, rows)
        hand_over(connection, "a", "b", None, ["crew"])
        after: list[Records] = [{} for _ in states]
        for row in connection.execute(text("SELECT * FROM arus_row")):
            record = Record(row.version, bool(row.deleted), row.owner)
            after[int(row.row_id)][row.vessel_id] = record
        audited = text(
            "SELECT vessel_id FROM arus_vessel WHERE audit IS NOT NULL OR audited_at IS NOT NULL"
        )
        done = Done(
            list(zip(states, after, strict=True)), set(connection.execute(audited).scalars())
        )
    engine.dispose()
    return done


VESSEL = text(
    "INSERT INTO arus_vessel (vessel_id, epoch, heard_at, online, audit, audited_at, equal_at)"
    " VALUES (:vessel, 'e', 0, :online, '{}', 7, 7)"
)
ROW = text(
    "INSERT INTO arus_row (vessel_id, entity, row_id, version, seq, deleted, bucket, owner)"
    " VALUES (:vessel, 'crew', :row, :version, 9, :deleted, 0, :owner)"
)


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The vessels are offline: everything is handed over."""
    return hand_everything_over(tmp_path_factory.mktemp("away"), online=False)


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The vessels are online: only what both have is handed over."""
    return hand_everything_over(tmp_path_factory.mktemp("online"), online=True)


@pytest.mark.parametrize("kind", ["away", "online"])
def test_a_row_has_one_owner_after_it_was_handed_over_as_before(
    request: pytest.FixtureRequest, kind: str
) -> None:
    done: Done = request.getfixturevalue(kind)
    assert len(done.rows) > 100
    assert [step for step in done.rows if not is_consistent(step[1])] == []
    # The receiver may have a row that the giver has deleted: then it is asked for it.
    assert [step for step in done.rows if owners(step[0]) and not owners(step[1])] == []
    # A row that was deleted still belongs to somebody, or another vessel could take it.
    assert [step for step in done.rows if has_owner(step[0]) and not has_owner(step[1])] == []
    assert all(owners(after) == {"c"} for before, after in done.rows if owners(before) == {"c"})


def test_all_that_a_vessel_has_goes_over_when_it_is_offline(away: Done) -> None:
    assert not any("a" in after for _, after in away.rows)
    assert all(owners(after) == {"b"} for before, after in away.rows if owners(before) == {"a"})
    # What was deleted stays the property of the vessel that goes on, too.
    deleted = {"a": Record(3, deleted=True)}
    assert [after for before, after in away.rows if before == deleted] == [
        {"b": Record(0, deleted=True)}
    ]


def test_only_rows_that_both_have_go_over_while_both_are_online(online: Done) -> None:
    for before, after in online.rows:
        if owners(before) == {"a"}:
            has = before.get("b", ORPHAN)
            claims = has.owner == "a" and not has.deleted
            assert owners(after) == ({"b"} if claims else {"a"}), (before, after)


def test_neither_vessel_counts_as_equal_until_it_is_audited_again(away: Done, online: Done) -> None:
    assert (away.audited, online.audited) == ({"c"}, {"c"})
