"""The writes whose cost `bench.capture_cost` compares: runs alone, also with an older checkout on the path."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync

#: Operations before those that are measured: the statements are compiled and cached.
WARM = 3
#: Rows of a large commit.
MANY = 100


class Base(DeclarativeBase):
    """The application's models."""


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
sync = ReliableSync()


def now() -> datetime:
    """Return the time as the database stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


class Order(Base):
    """Registered."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    version: Mapped[int] = mapped_column(sa.Integer)
    reason: Mapped[str]
    description: Mapped[str | None]
    priority: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class Memo(Base):
    """Not registered."""

    __tablename__ = "memo"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    text: Mapped[str]


class OrderSchema(Schema):
    """The form of an order in messages."""

    id = fields.String()
    version = fields.Integer()
    reason = fields.String()
    description = fields.String()
    priority = fields.Integer()
    created_at = fields.DateTime(data_key="createdAt")
    updated_at = fields.DateTime(data_key="updatedAt")


sync.register(Order, "orders", schema=OrderSchema)


def _order() -> Order:
    return Order(
        id=str(uuid4()),
        reason="Cylinder 4: exhaust valve leaks",
        description="Found at the daily round. " * 6,
        priority=2,
    )


def _orders(count: int) -> list[Order]:
    """Add orders, for an operation that changes or deletes them."""
    rows = [_order() for _ in range(count)]
    db.session.add_all(rows)
    db.session.commit()
    return rows


def create(count: int) -> None:
    """Create a row in each transaction."""
    for _ in range(count):
        db.session.add(_order())
        db.session.commit()


def update(count: int) -> None:
    """Update a row in each transaction."""
    (row,) = _orders(1)
    for number in range(count):
        row.reason = f"Cylinder {number}"
        db.session.commit()


def delete(count: int) -> None:
    """Delete a row in each transaction; all are created before, also where none is deleted."""
    rows = _orders(MANY)
    for row in rows[:count]:
        db.session.delete(row)
        db.session.commit()


def many(count: int) -> None:
    """Create 100 rows in each transaction."""
    for _ in range(count):
        db.session.add_all([_order() for _ in range(MANY)])
        db.session.commit()


def memo(count: int) -> None:
    """Create and update a row of a table that is not registered, in each transaction."""
    for _ in range(count):
        row = Memo(id=str(uuid4()), text="Bring spanners")
        db.session.add(row)
        db.session.commit()
        row.text = "Bring pliers"
        db.session.commit()


def core(count: int) -> None:
    """Change a table that is not registered by statements and by a SQL text, in each transaction."""
    for _ in range(count):
        key = str(uuid4())
        db.session.execute(sa.insert(Memo.__table__).values(id=key, text="Bring spanners"))
        db.session.execute(sa.text("UPDATE memo SET text = 'Pliers' WHERE id = :id"), {"id": key})
        db.session.execute(sa.delete(Memo).where(Memo.id == key))
        db.session.commit()


def select(count: int) -> None:
    """Read a registered row by its key, by a condition and by a SQL text, in each transaction."""
    (row,) = _orders(1)
    for _ in range(count):
        db.session.expunge_all()
        db.session.get(Order, row.id)
        db.session.scalars(sa.select(Order).where(Order.id == row.id)).all()
        db.session.execute(
            sa.text("SELECT reason FROM orders WHERE id = :id"), {"id": row.id}
        ).all()
        db.session.rollback()


#: By what is measured; and how many operations are.
CASES: dict[str, tuple[Callable[[int], None], int]] = {
    "create": (create, MANY),
    "update": (update, MANY),
    "delete": (delete, MANY),
    "commit of 100 rows": (many, 3),
    "unregistered table, ORM": (memo, MANY),
    "unregistered table, Core and text": (core, MANY),
    "SELECT": (select, MANY),
}


def in_child(measured: Callable[[int], None], count: int) -> dict[str, Any]:
    """Run some operations in a child, and return its id and CPU time."""
    gc.collect()
    gc.freeze()
    child = os.fork()
    if child == 0:
        measured(WARM)
        measured(count)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0, f"the child ended with {status}"
    return {"pid": child, "cpu": _cpu(usage)}


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print what each case's children were: without operations, and with them."""
    directory, local_mode = Path(sys.argv[1]), sys.argv[2]
    app = Flask("capture_work", instance_path=str(directory))
    app.config.update(
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{directory / 'work.sqlite'}",
        LOCAL_MODE=local_mode,
        MQTT_BROKER_URL="mqtt://127.0.0.1:9",
    )
    db.init_app(app)
    sync.init_app(app, db)
    with app.app_context():
        db.create_all()
        found = {}
        for name in sys.argv[3:] or CASES:
            case, count = CASES[name]
            case(WARM)
            db.session.remove()
            db.engine.dispose()
            found[name] = [in_child(case, 0), in_child(case, count)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
