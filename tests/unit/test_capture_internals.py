"""What the capture uses of SQLAlchemy without a promise is checked at the start."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, CursorResult, Delete, Engine, Insert, Row, Update
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import CompileState
from sqlalchemy.sql.lambdas import StatementLambdaElement

import arus.outbox.capture
from arus import ReliableSync
from arus.errors import UnsupportedSQLAlchemyError
from arus.outbox.capture import check_database_library
from arus.outbox.capture.internals import TOUCHED

#: What is checked that a class has; `Session._flushing` is set by its constructor.
OWNERS = {
    "Connection._execute_clauseelement": Connection,
    "Connection._execute_context": Connection,
    "Connection._handle_dbapi_exception": Connection,
    "Connection._is_autocommit_isolation": Connection,
    "Engine._connection_cls": Engine,
    "Engine._has_events": Engine,
    "Engine._option_cls": Engine,
    "Session._register_altered": Session,
    "Session._remove_newly_deleted": Session,
    "Insert._returning": Insert,
    "Insert._inline": Insert,
    "Insert._multi_values": Insert,
    "Insert._post_values_clause": Insert,
    "Insert._prefixes": Insert,
    "Insert._values": Insert,
    "Update._returning": Update,
    "Update._values": Update,
    "Delete._returning": Delete,
    "CursorResult._rewind": CursorResult,
    "StatementLambdaElement._resolved": StatementLambdaElement,
    "Row._mapping": Row,
}


def remove(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    for base in owner.__mro__:
        if name in vars(base):
            monkeypatch.delattr(base, name)


def test_the_installed_one_has_all() -> None:
    check_database_library()


@pytest.mark.parametrize("what", OWNERS)
def test_a_sqlalchemy_without_what_the_capture_touches_is_refused(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(monkeypatch, OWNERS[what], what.rpartition(".")[2])
    with pytest.raises(UnsupportedSQLAlchemyError, match=f"{what}.*install the pinned version"):
        check_database_library()


@pytest.mark.parametrize("kind", ["insert", "update", "delete"])
def test_a_sqlalchemy_without_a_class_for_bulk_statements_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(CompileState.plugins, ("orm", kind))
    with pytest.raises(UnsupportedSQLAlchemyError, match=f"class for {kind.upper()}"):
        check_database_library()


def test_an_application_does_not_start_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    remove(monkeypatch, Session, "_register_altered")
    app = Flask("app")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    with pytest.raises(UnsupportedSQLAlchemyError, match=r"Session\._register_altered"):
        ReliableSync().init_app(app, db)


def test_the_capture_touches_nothing_else_without_a_promise() -> None:
    checked = {name for _, names in TOUCHED for name in names}
    used = {
        node.attr
        for path in Path(arus.outbox.capture.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert used == checked
