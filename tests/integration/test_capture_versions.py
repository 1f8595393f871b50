"""The versions in the log: each change of a row carries one above the last, whoever raises it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy import delete, insert, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from tests.support.small_app import Hull, small_app
from tests.support.small_app import db as small_db
from tests.support.small_app import log as small_log
from tests.support.small_app import sync as small_sync


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Lamp(Base):
    """Has a version that neither SQLAlchemy nor the database raises, and a key that may be used again."""

    __tablename__ = "v_lamp"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int | None]
    name: Mapped[str | None]
    size: Mapped[int | None]


class LampSchema(Schema):
    id = fields.Integer()
    version = fields.Integer()
    name = fields.String()


class Bulb(Base):
    """Its version is raised by SQLAlchemy."""

    __tablename__ = "v_bulb"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    name: Mapped[str | None]
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Fuse(Base):
    """Its version may repeat: it is the time in hours."""

    __tablename__ = "v_fuse"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    name: Mapped[str | None]
    __mapper_args__ = {"version_id_col": version, "version_id_generator": lambda _: 490_000}  # noqa: RUF012


class Shade(Base):
    """The log keeps its versions."""

    __tablename__ = "v_shade"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    size: Mapped[int | None]
    document = mapped_column(sa.JSON)


class ShadeSchema(Schema):
    id = fields.Integer()
    name = fields.String()
    document = fields.Raw()


MODELS: dict[str, Any] = {"lamps": Lamp, "bulbs": Bulb, "shades": Shade}
sync.register(Lamp, "lamps", schema=LampSchema)
sync.register(Bulb, "bulbs", schema=LampSchema)
sync.register(Fuse, "fuses", schema=LampSchema)
sync.register(Shade, "shades", schema=ShadeSchema)


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    app = Flask("versions", instance_relative_config=True)
    app.config.update(SQLALCHEMY_DATABASE_URI=small_database_url, LOCAL_MODE="true")
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        db.create_all()
        empty()  # of tests with other models
        yield app
        db.session.remove()
        empty()
        app.extensions["arus"].notifier.close()
        db.engine.dispose()


def empty() -> None:
    with db.engine.begin() as connection:
        for model in (*MODELS.values(), Fuse):
            connection.execute(delete(model))
        for table in ("arus_change", "arus_row_version"):
            connection.execute(sa.text(f"DELETE FROM {table}"))


def log() -> list[tuple[str, int, str | None]]:
    """Operation, version and name of each entry; the version is that of the row."""
    with db.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT operation, version, data FROM arus_change ORDER BY id")
        ).all()
    found = [(operation, version, orjson.loads(bytes(data))) for operation, version, data in rows]
    assert all(
        data["version"] == version for operation, version, data in found if operation != "delete"
    )
    return [(operation, version, data["name"]) for operation, version, data in found]


def in_table() -> tuple[int | None, str | None]:
    with db.engine.connect() as connection:
        version, name = connection.execute(sa.select(Lamp.version, Lamp.name)).one()
        return version, name


def added(**values: Any) -> Lamp:
    lamp = Lamp(id=1, name="a", **values)
    db.session.add(lamp)
    db.session.commit()
    return lamp


def test_a_version_that_nothing_raises_is_raised_by_the_capture(app: Flask) -> None:
    lamp = added()
    lamp.name = "b"
    db.session.commit()
    lamp.name = sa.literal("c") + "!"
    db.session.commit()
    db.session.execute(update(Lamp).values(name="d"))
    db.session.commit()
    db.session.delete(lamp)
    db.session.commit()
    assert log() == [
        ("create", 1, "a"),
        ("update", 2, "b"),
        ("update", 3, "c!"),
        ("update", 4, "d"),
        ("delete", 5, "d"),
    ]


@pytest.mark.parametrize("version", [0, -5])
def test_a_new_row_with_a_version_that_no_message_may_have_gets_the_first(
    app: Flask, version: int
) -> None:
    lamp = added(version=version)
    assert lamp.version == 1
    lamp.name = "b"
    db.session.commit()
    assert in_table() == (2, "b")
    db.session.delete(lamp)
    db.session.commit()
    assert log() == [("create", 1, "a"), ("update", 2, "b"), ("delete", 3, "b")]


def test_a_version_that_the_application_raises_is_left_to_it(app: Flask) -> None:
    lamp = added(version=5)
    lamp.name, lamp.version = "b", 7
    db.session.commit()
    db.session.execute(update(Lamp).values(name="c", version=9))
    db.session.commit()
    assert lamp.version == 9
    lamp.name, lamp.version = "d", 2
    db.session.commit()
    assert [version for _, version, _ in log()] == [5, 7, 9, 10]
    assert in_table() == (10, "d")


def test_a_key_that_is_used_again_goes_on_from_the_version_of_the_row_before(app: Flask) -> None:
    lamp = added()
    for name in ("b", "c"):
        lamp.name = name
        db.session.commit()
    db.session.delete(lamp)
    db.session.commit()
    again = added()
    assert again.version == 5
    receipt = sync.publish_change("create", again)
    assert receipt
    assert receipt.data
    assert orjson.loads(receipt.data)["version"] == 5
    again.name = "d"
    db.session.add(Lamp(id=2, name="other"))
    db.session.commit()
    db.session.execute(delete(Lamp))
    db.session.commit()
    db.session.execute(insert(Lamp), [{"id": number, "name": "e"} for number in (1, 2, 3)])
    db.session.commit()
    assert log()[3:7] == [
        ("delete", 4, "c"),
        ("create", 5, "a"),
        ("create", 1, "other"),
        ("update", 6, "d"),
    ]
    assert sorted(log()[9:]) == [("create", 1, "e"), ("create", 3, "e"), ("create", 8, "e")]


def test_a_version_column_of_the_orm_goes_on_too(small_database_url: str) -> None:
    with small_app(small_database_url):
        for name in ("a", "b", "c"):
            hull = Hull(id="1", name=name)
            small_db.session.add(hull)
            small_db.session.commit()
            hull.name = name + "!"
            small_db.session.commit()
            small_db.session.delete(hull)
            small_db.session.commit()
        assert [(entry.operation, entry.version) for entry in small_log()] == [
            (operation, 3 * number + step)
            for number in range(3)
            for step, operation in enumerate(("create", "update", "delete"), 1)
        ]


def test_a_version_that_the_applications_generator_repeats_is_raised(app: Flask) -> None:
    fuse = Fuse(id=1, name="a")
    db.session.add(fuse)
    db.session.commit()
    for name in ("b", "c"):
        fuse.name = name
        db.session.commit()
    db.session.delete(fuse)
    db.session.commit()
    assert log() == [
        ("create", 490_000, "a"), ("update", 490_001, "b"), ("update", 490_002, "c"), ("delete", 490_003, "c"),
    ]  # fmt: skip


def test_a_recorded_change_that_left_the_version_as_it_was_gets_the_next(
    small_database_url: str,
) -> None:
    with small_app(small_database_url):
        hull = Hull(id="1", name="a")
        small_db.session.add(hull)
        small_db.session.commit()
        small_db.session.execute(sa.text("UPDATE hull SET name = 'b'"))
        small_sync.record("update", hull)
        small_db.session.commit()
        hull.name = "c"
        small_db.session.commit()
        assert [(entry.version, entry.data["version"]) for entry in small_log()] == [
            (1, 1),
            (2, 2),
            (3, 3),
        ]


def orm_delete(model: Any) -> None:
    for row in db.session.scalars(sa.select(model)):
        db.session.delete(row)
    db.session.flush()


def orm_delete_in_the_flush_that_adds(model: Any) -> None:
    for row in db.session.scalars(sa.select(model)):
        db.session.delete(row)


def bulk_delete(model: Any) -> None:
    db.session.execute(delete(model))


def core_delete(model: Any) -> None:
    db.session.execute(delete(model.__table__))


def orm_add(model: Any) -> None:
    db.session.add(model(id=1, name="new"))
    db.session.flush()


def bulk_insert(model: Any) -> None:
    db.session.execute(insert(model), [{"id": 1, "name": "new"}])


def core_insert(model: Any) -> None:
    values = {"id": 1, "name": "new", "version": 1}
    named = {key: value for key, value in values.items() if hasattr(model, key)}
    db.session.execute(insert(model.__table__).values(named))


def in_a_savepoint(step: Any) -> Any:
    def execute(model: Any) -> None:
        with db.session.begin_nested():
            step(model)

    return execute


def undone(step: Any) -> Any:
    def execute(model: Any) -> None:
        savepoint = db.session.begin_nested()
        step(model)
        savepoint.rollback()

    return execute


def both(*steps: Any) -> Any:
    def execute(model: Any) -> None:
        for step in steps:
            step(model)

    return execute


DELETIONS = [orm_delete, bulk_delete, core_delete]
ADDITIONS = [orm_add, bulk_insert, core_insert]
REPLACED: dict[str, tuple[list[Any], tuple[str, int, str]]] = {
    f"{deletion.__name__} and {addition.__name__}": ([deletion, addition], ("update", 8, "new"))
    for deletion in DELETIONS
    for addition in ADDITIONS
}
REPLACED |= {
    "in one flush": ([orm_delete_in_the_flush_that_adds, orm_add], ("update", 8, "new")),
    "twice": ([bulk_delete, orm_add, core_delete, bulk_insert], ("update", 8, "new")),
    "and deleted again": ([bulk_delete, orm_add, orm_delete], ("delete", 8, "old")),
    "added in a savepoint": (
        [bulk_delete, in_a_savepoint(orm_add)],
        ("update", 8, "new"),
    ),
    "deleted in a savepoint": (
        [in_a_savepoint(bulk_delete), orm_add],
        ("update", 8, "new"),
    ),
    "in a savepoint after it was replaced": (
        [bulk_delete, orm_add, in_a_savepoint(both(core_delete, core_insert))],
        ("update", 8, "new"),
    ),
    "in a savepoint in a savepoint": (
        [in_a_savepoint(both(orm_delete, in_a_savepoint(orm_add)))],
        ("update", 8, "new"),
    ),
    "replaced and deleted in savepoints": (
        [in_a_savepoint(both(bulk_delete, orm_add)), in_a_savepoint(orm_delete)],
        ("delete", 8, "old"),
    ),
    "deleted in a savepoint that is rolled back": (
        [bulk_delete, orm_add, undone(orm_delete)],
        ("update", 8, "new"),
    ),
    "added in a savepoint that is rolled back": (
        [bulk_delete, undone(orm_add)],
        ("delete", 8, "old"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REPLACED)
def test_a_row_that_a_transaction_deletes_and_adds_again_goes_on_from_its_version(
    app: Flask, case: str
) -> None:
    steps, last = REPLACED[case]
    for entity, model in MODELS.items():
        row = model(id=1)
        db.session.add(row)
        for number in range(7):
            row.name = "old" if number == 6 else str(number)
            db.session.commit()
        db.session.remove()
        for step in steps:
            step(model)
        db.session.commit()
        expected = [last]
        if last[0] == "update":
            db.session.get_one(model, 1).name = "newer"
            db.session.commit()
            expected.append(("update", 9, "newer"))
        assert entries_of(entity)[7:] == expected, entity


def test_a_row_replaced_in_one_flush_goes_on_from_its_version_when_it_is_deleted_again(
    app: Flask,
) -> None:
    lamp = added(version=7)
    db.session.expire(lamp)
    db.session.delete(lamp)
    orm_add(Lamp)
    orm_delete(Lamp)
    db.session.commit()
    assert entries_of("lamps") == [("create", 7, "a"), ("delete", 8, "a")]


def entries_of(entity: str) -> list[tuple[str, int, str]]:
    with db.engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT operation, version, data FROM arus_change WHERE entity = :entity ORDER BY id"
            ),
            {"entity": entity},
        ).all()
    found = [(operation, version, orjson.loads(bytes(data))) for operation, version, data in rows]
    for operation, version, data in found:
        assert (
            data.get("version", version) + (operation == "delete" and "version" in data) == version
        )
    return [(operation, version, data["name"]) for operation, version, data in found]


class Other:
    """Changes a lamp from a session of its own, which has loaded it before others change it."""

    def __init__(self) -> None:
        self.session = sa.orm.Session(db.engine, expire_on_commit=False)
        self.lamp = self.session.get_one(Lamp, 1)
        self.session.commit()

    def commit(self) -> None:
        self.session.commit()
        self.session.close()


def test_changes_of_a_row_that_was_loaded_before_others_changed_it_go_on_from_their_versions(
    app: Flask,
) -> None:
    lamp = added()
    others = [Other(), Other(), Other(), Other()]
    lamp.name, lamp.version = "b", 2
    db.session.commit()
    others[0].lamp.version, others[0].lamp.size = 2, 7
    others[0].commit()
    assert in_table() == (3, "b")
    others[1].lamp.name = "c"
    others[1].commit()
    others[2].lamp.name, others[2].lamp.version = "d", None
    others[2].commit()
    assert in_table() == (5, "d")
    others[3].session.delete(others[3].lamp)
    others[3].commit()
    assert log() == [
        ("create", 1, "a"),
        ("update", 2, "b"),
        ("update", 3, "b"),
        ("update", 4, "c"),
        ("update", 5, "d"),
        ("delete", 6, "d"),
    ]


@pytest.mark.parametrize("version", [1, 0, None, sa.null(), Lamp.version - 2])
@pytest.mark.parametrize("table", [Lamp, Lamp.__table__])
def test_a_statement_that_sets_an_older_version_is_a_change_with_the_next_one(
    app: Flask, table: Any, version: Any
) -> None:
    added(version=5)
    db.session.execute(update(table).values(name="b", version=version))
    db.session.commit()
    assert in_table() == (6, "b")
    upsert = importlib.import_module(f"sqlalchemy.dialects.{db.engine.dialect.name}").insert
    values = {"id": 1, "name": "c", "version": 1}
    statement = upsert(table).values(values)
    new = {"name": "c", "version": version if version is not None else sa.null()}
    db.session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=new))
    db.session.commit()
    assert in_table() == (7, "c")
    db.session.execute(update(Lamp), [{"id": 1, "name": "d", "version": 2}])
    db.session.commit()
    assert [version for _, version, _ in log()] == [5, 6, 7, 8]
    with db.engine.begin() as connection:
        connection.execute(update(Lamp).values(name="e", version=version))
    assert log()[-1] == ("update", 9, "e")


@pytest.mark.parametrize("entity", ["lamps", "shades"])
def test_an_update_has_what_others_have_written_to_other_columns_since_its_object_was_loaded(
    app: Flask, entity: str
) -> None:
    model = MODELS[entity]
    db.session.add_all([model(id=number, name="a") for number in (1, 2)])
    db.session.commit()
    with sa.orm.Session(db.engine, expire_on_commit=False) as other:
        rows = other.scalars(sa.select(model).order_by(model.id)).all()
        other.commit()
        db.session.execute(update(model).where(model.id == 1).values(name="b"))
        db.session.commit()
        for row in rows:
            row.size = 7
        other.commit()
        assert [row.name for row in rows] == ["b", "a"]
    changes = sorted(entries_of(entity)[2:])
    assert changes == [("update", 2, "a"), ("update", 2, "b"), ("update", 3, "b")]


@pytest.mark.filterwarnings("ignore:DELETE statement on table")
def test_the_deletion_of_a_row_that_another_transaction_has_deleted_is_in_the_log_once(
    app: Flask,
) -> None:
    for entity in ("lamps", "shades"):
        model = MODELS[entity]
        db.session.add_all([model(id=number, name="a") for number in (1, 2)])
        db.session.commit()
        with sa.orm.Session(db.engine, expire_on_commit=False) as other:
            rows = other.scalars(sa.select(model)).all()
            other.commit()
            db.session.delete(db.session.get_one(model, 1))
            db.session.commit()
            for row in rows:
                other.delete(row)
            other.commit()
        db.session.add(model(id=1, name="b"))
        db.session.commit()
        entries = entries_of(entity)
        assert entries[:4] == [("create", 1, "a")] * 2 + [("delete", 2, "a")] * 2
        assert [(operation, name) for operation, _, name in entries[4:]] == [("create", "b")]


def test_an_update_tells_an_equal_value_that_is_another_one_in_json(app: Flask) -> None:
    shade = Shade(id=1, name="a")
    db.session.add(shade)
    db.session.commit()
    for before, after in (
        ({"on": 1}, {"on": True}),
        ([0.5, 0], [0.5, False]),
        ([[1]], [[1.0]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ):
        shade.document = before
        db.session.commit()
        with sa.orm.Session(db.engine, expire_on_commit=False) as other:
            stale = other.get_one(Shade, 1)
            other.commit()
            db.session.execute(update(Shade).values(document=after))
            db.session.commit()
            stale.size = (stale.size or 0) + 1
            other.commit()
        assert last_document() == orjson.dumps(after)


def last_document() -> bytes:
    with db.engine.connect() as connection:
        data = connection.execute(
            sa.text("SELECT data FROM arus_change ORDER BY id DESC LIMIT 1")
        ).scalar_one()
    return orjson.dumps(orjson.loads(bytes(data))["document"])
