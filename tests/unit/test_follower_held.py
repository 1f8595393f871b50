"""Held changes: each waits for the row that is in its way, and is tried when that row is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from marshmallow import Schema, fields
from sqlalchemy import CheckConstraint, ForeignKey, MetaData, String, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool

from arus.clock import replaced
from arus.follower import held as held_module
from arus.follower import tables
from arus.follower.applier import RETRIES
from arus.follower.circles import MOST
from arus.follower.outcome import NOT_HELD, REFUSED, REPEATED, Inbound
from arus.outbox.counters import read_counters
from arus.outbox.tables import define
from arus.registry import Registry
from tests.support.applier import change_message, new_applier


class Base(DeclarativeBase):
    metadata = MetaData()


class Pump(Base):
    __tablename__ = "pump"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    serial: Mapped[str | None] = mapped_column(unique=True)
    weight: Mapped[int | None] = mapped_column(CheckConstraint("weight > 0"))


class Order(Base):
    __tablename__ = "work_order"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    pump_id: Mapped[str | None] = mapped_column(ForeignKey("pump.id"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("work_order.id"))
    next_id: Mapped[str | None] = mapped_column(ForeignKey("work_order.id"))


class Valve(Base):
    """A row whose unique value and whose reference can't be empty."""

    __tablename__ = "valve"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    tag: Mapped[str] = mapped_column(unique=True)
    pump_id: Mapped[str] = mapped_column(ForeignKey("pump.id"))


class PumpSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    serial = fields.String()
    weight = fields.Integer()


class OrderSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    pump_id = fields.String()
    parent_id = fields.String()
    next_id = fields.String()


class ValveSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    tag = fields.String()
    pump_id = fields.String()


define(Base.metadata)
tables.define(Base.metadata)
REGISTRY = Registry()
REGISTRY.add(Pump, "pumps", topic="pumps", qos=1, schema=PumpSchema(), version="version")
REGISTRY.add(Order, "orders", topic="orders", qos=1, schema=OrderSchema(), version="version")
REGISTRY.add(Valve, "valves", topic="valves", qos=1, schema=ValveSchema(), version="version")


class Upgraded(DeclarativeBase):
    """The same orders, of an application that has been upgraded: each needs a place."""

    metadata = MetaData()


class OrderWithPlace(Upgraded):
    __tablename__ = "work_order"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    pump_id: Mapped[str | None]
    place: Mapped[str]


class OrderWithPlaceSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    pump_id = fields.String()
    place = fields.String()


STRICT = Registry()
STRICT.add(Pump, "pumps", topic="pumps", qos=1, schema=PumpSchema(), version="version")
STRICT.add(
    OrderWithPlace,
    "orders",
    topic="orders",
    qos=1,
    schema=OrderWithPlaceSchema(),
    version="version",
)


EMPTY: dict[str, dict[str, Any]] = {
    "pumps": {"serial": None},
    "orders": {"pump_id": None, "parent_id": None, "next_id": None},
    "valves": {},
}


class Shore:
    """A follower without a broker, on a database that insists on references."""

    def __init__(self) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool, isolation_level="AUTOCOMMIT")
        Base.metadata.create_all(engine)
        self.connection = engine.connect()
        self.connection.exec_driver_sql("PRAGMA foreign_keys = on")
        self.seqs: dict[str, int] = {}
        self.versions: dict[tuple[str, str], int] = {}
        self.statements = 0
        event.listen(engine, "before_cursor_execute", self._note)
        self.start()

    def _note(self, *_: Any) -> None:
        self.statements += 1

    def start(self, registry: Registry = REGISTRY) -> None:
        """Begin from the database alone."""
        self.applier = new_applier(self.connection, registry)

    def message(self, topic: str, row_id: str, operation: str, vessel: str, row: Any) -> Inbound:
        seq = self.seqs[vessel] = self.seqs.get(vessel, 0) + 1
        version = self.versions[vessel, row_id] = self.versions.get((vessel, row_id), 0) + 1
        data = {"id": row_id, "version": version, **EMPTY[topic], **row}
        return change_message(topic, operation, data, seq=seq, vessel=vessel)

    def send(
        self, topic: str, row_id: str, operation: str = "create", *, by: str = "ship", **row: Any
    ) -> None:
        """Apply a change, and then what has become ready."""
        self.applier.apply([self.message(topic, row_id, operation, by, row)])
        self.retry()

    def retry(self) -> int:
        """Try what is due; return in how many transactions."""
        times = 0
        while self.applier.has_due:
            self.applier.retry_held()
            times += 1
            assert times < 1000, "it is tried again and again"
        return times

    def cost(self, apply: Callable[[], Any]) -> int:
        """The statements that something takes."""
        before = self.statements
        apply()
        return self.statements - before

    def ids(self, model: type[Any]) -> list[str]:
        return sorted(self.connection.execute(select(model.__table__.c.id)).scalars())

    def values(self, attribute: Any) -> dict[str, Any]:
        """A column's value by row id."""
        columns = attribute.class_.__table__.c
        found = self.connection.execute(select(columns.id, columns[attribute.key]))
        return {row[0]: row[1] for row in found}

    def waits(self) -> dict[str, str]:
        rows = self.connection.exec_driver_sql("SELECT row_id, waits_for FROM arus_held")
        return {row.row_id: row.waits_for for row in rows}


@pytest.fixture
def shore() -> Shore:
    return Shore()


@pytest.mark.parametrize("restart", [False, True])
def test_a_child_waits_for_its_parent(shore: Shore, restart: bool) -> None:
    shore.send("orders", "o1", pump_id="p1")
    shore.send("orders", "o2", parent_id="o1")
    assert shore.waits() == {"o1": "pump/p1", "o2": "work_order/o1"}
    shore.send("pumps", "p2")
    assert shore.ids(Order) == []
    if restart:
        shore.start()
    shore.send("pumps", "p1")
    assert shore.ids(Order) == ["o1", "o2"]
    assert shore.waits() == {}
    assert shore.applier.held == 0


def test_a_held_change_of_a_vessel_that_is_not_followed_any_more_is_refused(shore: Shore) -> None:
    shore.send("orders", "o1", pump_id="p1")
    shore.start(STRICT)
    del shore.applier.vessels["ship"]
    shore.send("pumps", "p1", by="another ship")
    assert shore.waits() == {}
    assert shore.ids(Order) == []


def test_a_unique_value_is_waited_for_until_its_holder_changes(shore: Shore) -> None:
    shore.send("pumps", "p1", serial="7")
    shore.send("pumps", "p2", serial="7")
    assert shore.waits() == {"p2": "pump/p1"}
    shore.send("pumps", "p1", "update", serial="8")
    assert shore.ids(Pump) == ["p1", "p2"]
    shore.send("pumps", "p3", serial="8")
    shore.send("pumps", "p1", "delete")
    assert shore.ids(Pump) == ["p2", "p3"]
    assert shore.waits() == {}


def test_the_deletion_of_a_row_waits_for_those_that_refer_to_it(shore: Shore) -> None:
    shore.send("pumps", "p1")
    for number in range(3):
        shore.send("orders", f"o{number}", pump_id="p1")
    shore.send("pumps", "p1", "delete")
    assert list(shore.waits()) == ["p1"]
    for number in range(3):
        assert shore.ids(Pump) == ["p1"]
        shore.send("orders", f"o{number}", "delete")
    assert (shore.ids(Pump), shore.waits()) == ([], {})


def test_a_newer_version_replaces_a_held_one(shore: Shore) -> None:
    shore.send("orders", "o1", pump_id="p1")
    shore.send("orders", "o1", "update", pump_id=None)
    assert (shore.ids(Order), shore.waits()) == (["o1"], {})
    shore.send("pumps", "p1")
    (pump_id,) = shore.connection.execute(select(Order.pump_id)).scalars()
    assert pump_id is None


def test_a_row_that_the_table_never_accepts_is_refused_not_held(shore: Shore) -> None:
    shore.send("pumps", "p1", weight=-1)
    assert shore.waits() == {}
    rows = shore.connection.exec_driver_sql("SELECT row_id, reason FROM arus_refused").all()
    assert [row.row_id for row in rows] == ["p1"]
    assert "CHECK constraint failed" in rows[0].reason


def test_a_refused_row_with_a_field_that_is_not_copied_is_refused_once(shore: Shore) -> None:
    for _ in range(2):
        shore.versions.clear()
        shore.send("pumps", "p1", weight=-1, colour="red")
    counters = read_counters(shore.connection)
    assert (counters[REFUSED, "", "", ""], counters[REPEATED, "pumps", "", ""]) == (1, 1)


@pytest.mark.parametrize("restart", [False, True])
def test_rows_that_refer_to_each_other_are_written_and_deleted_together(
    shore: Shore, restart: bool, caplog: pytest.LogCaptureFixture
) -> None:
    shore.send("orders", "o1", parent_id="o2", pump_id="p1")
    shore.send("orders", "o2", parent_id="o3")
    if restart:
        shore.start()
    # The circle is closed, but one of its rows waits for yet another one.
    shore.send("orders", "o3", parent_id="o1")
    assert shore.ids(Order) == []
    shore.send("pumps", "p1")
    assert (shore.ids(Order), shore.waits()) == (["o1", "o2", "o3"], {})
    assert shore.values(Order.parent_id) == {"o1": "o2", "o2": "o3", "o3": "o1"}
    shore.send("orders", "o1", "delete")
    shore.send("orders", "o2", "delete")
    assert shore.ids(Order) == ["o1", "o2", "o3"]
    caplog.clear()
    shore.send("orders", "o3", "delete")
    assert (shore.ids(Order), shore.waits(), caplog.messages) == ([], {}, [])


def test_two_circles_that_share_a_row_are_written_together(shore: Shore) -> None:
    shore.send("pumps", "p1", serial="1")
    shore.send("pumps", "p2", serial="2")
    shore.send("valves", "v1", tag="a", pump_id="p1")
    shore.send("valves", "v2", tag="b", pump_id="p2")
    # The tags are exchanged, and so are the serial numbers; one valve's pump comes with the other pump's number.
    shore.send("valves", "v1", "update", tag="b", pump_id="p3")
    shore.send("valves", "v2", "update", tag="a", pump_id="p2")
    shore.send("pumps", "p3", serial="1")
    assert sorted(shore.waits()) == ["p3", "v1", "v2"]
    shore.send("pumps", "p1", "update", serial="2")
    shore.send("pumps", "p2", "update", serial="1")
    assert sorted(shore.waits()) == ["p3", "v1", "v2"]
    shore.send("pumps", "p2", "update", serial="3")
    assert shore.waits() == {}
    tags = shore.values(Valve.tag)
    assert tags == {"v1": "b", "v2": "a"}


@pytest.mark.parametrize("together", [False, True])
def test_rows_that_exchange_a_unique_value_are_written_together(
    shore: Shore, together: bool
) -> None:
    shore.send("pumps", "p0")
    for topic, name in (("pumps", "serial"), ("valves", "tag")):
        rows = [{name: value, "pump_id": "p0"} for value in "abc"]
        for number, row in enumerate(rows):
            shore.send(topic, f"{topic}{number}", **row)
        news = [
            shore.message(topic, f"{topic}{number}", "update", "ship", rows[(number + 1) % 3])
            for number in range(3)
        ]
        for batch in [news] if together else [[one] for one in news]:
            shore.applier.apply(batch)
        assert shore.waits() == {}
    serials = shore.values(Pump.serial)
    assert serials == {"p0": None, "pumps0": "b", "pumps1": "c", "pumps2": "a"}
    tags = shore.values(Valve.tag)
    assert tags == {"valves0": "b", "valves1": "c", "valves2": "a"}


def test_a_missing_parent_is_in_nobodys_way_where_references_are_not_checked(shore: Shore) -> None:
    shore.connection.exec_driver_sql("PRAGMA foreign_keys = off")
    for number, tag in enumerate(["a", "b", "b", "a"]):
        operation = "create" if number < 2 else "update"
        shore.send("valves", f"v{number % 2}", operation, tag=tag, pump_id="missing")
    assert (shore.values(Valve.tag), shore.waits()) == ({"v0": "b", "v1": "a"}, {})


def test_what_nobody_announces_is_tried_after_growing_pauses(shore: Shore) -> None:
    shore.connection.exec_driver_sql("CREATE UNIQUE INDEX lower_serial ON pump (lower(serial))")
    shore.send("pumps", "p1", serial="a")
    shore.send("pumps", "p2", serial="A")
    assert shore.waits() == {"p2": ""}
    began = time.time_ns()
    tries = []
    for second in range(200):
        with replaced(lambda second=second: began + second * 1_000_000_000):  # type: ignore[misc]
            if shore.retry():
                tries.append(second)
    assert tries == [1, 3, 7, 15, 31, 63, 127]
    shore.send("pumps", "p1", "delete")
    with replaced(lambda: began + 400 * 1_000_000_000):
        shore.retry()
    assert (shore.ids(Pump), shore.waits()) == (["p2"], {})


def test_many_held_changes_do_not_delay_another_vessel(shore: Shore) -> None:
    count = 10 * RETRIES
    held = [
        shore.message("orders", f"o{number}", "create", "ship", {"pump_id": "p1"})
        for number in range(count)
    ]
    shore.applier.apply(held)
    assert shore.applier.held == count
    shore.send("pumps", "q0", by="other")
    cost = shore.cost(lambda: shore.send("pumps", "q1", by="other"))
    assert shore.ids(Pump) == ["q0", "q1"]
    assert cost < 20, "it costs as much as without them"
    # When the parent arrives, they are tried in portions: messages of other vessels are applied in between.
    shore.applier.apply([shore.message("pumps", "p1", "create", "ship", {})])
    assert shore.applier.held == count
    assert shore.retry() == count // RETRIES
    assert (len(shore.ids(Order)), shore.applier.held) == (count, 0)


def test_a_long_chain_is_released_in_portions_not_row_by_row(shore: Shore) -> None:
    count = 3 * RETRIES
    rows = [{"parent_id": f"o{number + 1}"} for number in range(count)]
    chain = [shore.message("orders", f"o{n}", "create", "ship", row) for n, row in enumerate(rows)]
    shore.applier.apply(chain)
    shore.applier.apply([shore.message("orders", f"o{count}", "create", "ship", {})])
    assert shore.applier.held == count
    while shore.applier.has_due:
        before = shore.applier.held
        assert shore.cost(shore.applier.retry_held) < 10 * RETRIES
        assert before - shore.applier.held == RETRIES
    assert (len(shore.ids(Order)), shore.waits()) == (count + 1, {})


def ladder(shore: Shore, pairs: int) -> list[Inbound]:
    """Pairs of orders that refer to each other; one of each pair refers to the next pair too, the last one to `end`."""
    messages = []
    for n in range(pairs):
        after = f"a{n + 1}" if n + 1 < pairs else "end"
        for row_id, row in (
            (f"b{n}", {"parent_id": f"a{n}"}),
            (f"a{n}", {"parent_id": f"b{n}", "next_id": after}),
        ):
            messages.append(shore.message("orders", row_id, "create", "ship", row))
    return messages


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("together", [True, False])
def test_circles_that_wait_for_other_circles_are_tried_when_they_can_be_written(
    shore: Shore, order: int, together: bool
) -> None:
    messages = ladder(shore, 12)[::order]
    batches = [messages] if together else [[one] for one in messages]
    # With each message comes the vessel's position: a few statements for each transaction.
    cost = sum(shore.cost(lambda batch=batch: shore.applier.apply(batch)) for batch in batches)  # type: ignore[misc]
    assert cost < 20 * len(messages), "no circle is tried"
    assert shore.applier.held == len(messages)
    last = shore.message("orders", "end", "create", "ship", {})
    cost = shore.cost(lambda: (shore.applier.apply([last]), shore.retry()))
    assert cost < 25 * len(messages), "each circle is tried once"
    assert (len(shore.ids(Order)), shore.waits()) == (len(messages) + 1, {})


def test_rows_of_several_circles_are_written_with_one_attempt(shore: Shore) -> None:
    messages = [
        *ladder(shore, 12),
        shore.message("orders", "end", "create", "ship", {"next_id": "a0"}),
    ]
    cost = shore.cost(lambda: shore.applier.apply(messages))
    assert cost < 20 * len(messages)
    assert (len(shore.ids(Order)), shore.waits()) == (len(messages), {})


def test_many_circles_are_closed_in_portions(shore: Shore) -> None:
    pairs = MOST
    first, second = (
        [shore.message("orders", f"{one}{n}", "create", "ship", {"parent_id": f"{other}{n}"}) for n in range(pairs)]
        for one, other in ("ab", "ba")
    )  # fmt: skip
    shore.applier.apply(first)
    shore.applier.apply(second)
    assert len(shore.ids(Order)) == MOST, "messages of other vessels are applied in between"
    assert shore.retry() == 1
    assert (len(shore.ids(Order)), shore.waits()) == (2 * pairs, {})


def test_the_number_held_is_bounded_for_each_vessel(
    shore: Shore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(held_module, "MAX_HELD", 20)
    with caplog.at_level(logging.WARNING):
        shore.applier.apply(
            [shore.message("orders", f"o{n}", "create", "ship", {"pump_id": "p"}) for n in range(50)]
        )  # fmt: skip
    shore.send("orders", "x1", by="other", pump_id="p")
    assert shore.applier.held == 21
    assert caplog.text.count("are held already") == 1
    assert [record.name for record in caplog.records[1:]] == ["arus.follower.writer"] * 2
    assert read_counters(shore.connection)[NOT_HELD, "orders", "", ""] == 30
    shore.send("pumps", "p")
    assert (len(shore.ids(Order)), shore.applier.held) == (21, 0)
