"""SQL on our tables is in one place for the log and one for the follower; columns follow from the tables."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData, TextClause

import arus
import arus.follower.sql
import arus.outbox.sql
from arus.follower.tables import define as define_follower
from arus.outbox.sql import build
from arus.outbox.sql.entries import WRITTEN, insert_entry
from arus.outbox.tables import define
from arus.protocol.entries import Entry

ROOT = Path(arus.__path__[0])
PLACES = (arus.outbox.sql, arus.follower.sql)
#: Modules that hold SQL beside these, and why.
EXCEPTIONS = {
    "outbox/tables.py": "conditions of indexes, and defaults of columns",
    "follower/tables.py": "defaults of columns",
    "database.py": "transactions, and the pragmas of a connection",
}
#: Words that begin a statement. A transaction's own (BEGIN, SAVEPOINT ...) touch no table.
STATEMENT = re.compile(
    r"\s*(SELECT\s|INSERT INTO\s|UPDATE \w+ SET\s|DELETE FROM\s|WITH \w+ AS\s|SHOW\s"
    r"|PRAGMA \w+\s*(=\s*\w*|\(.*)?\s*$"
    r"|SET (LOCAL|SESSION|CONSTRAINTS)\s|ALTER\s|CREATE\s|DROP\s|ANALYZE\s|VACUUM|EXPLAIN\s)"
)
CLAUSE = re.compile(r"\b(FROM|JOIN|INTO|UPDATE)\s+arus_\w+|\bFOR UPDATE\b")


def _tables() -> frozenset[str]:
    metadata = MetaData()
    define(metadata)
    define_follower(metadata)
    return frozenset(metadata.tables)


TABLES = _tables()


def sql_in(source: str) -> Iterator[str]:
    """Where a module holds SQL."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy"):
            for name in node.names:
                if name.name in {"text", "TextClause"}:
                    yield f"line {node.lineno}: imports {name.name} of SQLAlchemy"
        elif isinstance(node, ast.Attribute) and node.attr == "text":
            if isinstance(node.value, ast.Name) and node.value.id in {"sa", "sqlalchemy"}:
                yield f"line {node.lineno}: {node.value.id}.text"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value
            if STATEMENT.match(words) or CLAUSE.search(words) or words in TABLES:
                yield f"line {node.lineno}: {words[:60]!r}"


def modules() -> list[str]:
    names = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
    places = ("outbox/sql/", "follower/sql/")
    return [name for name in names if not name.startswith(places) and name not in EXCEPTIONS]


@pytest.mark.parametrize("name", modules())
def test_no_module_but_those_for_it_holds_sql(name: str) -> None:
    found = list(sql_in((ROOT / name).read_text(encoding="utf-8")))
    assert not found, f"{name}: move it to arus.outbox.sql or arus.follower.sql"


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_one(name: str) -> None:
    assert list(sql_in((ROOT / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "from sqlalchemy import text",
        "import sqlalchemy as sa\nsa.text('x')",
        "a = 'SELECT 1'",
        "a = f'DELETE FROM {table}'",
        "a = 'x' + ' FROM arus_lane'",
        "a = metadata.tables['arus_change']",
        "connection.exec_driver_sql('PRAGMA journal_mode')",
    ],
)
def test_sql_would_be_found(source: str) -> None:
    assert list(sql_in(source))


def test_every_public_constant_of_the_places_is_a_whole_statement() -> None:
    """`tests/integration/test_query_plans.py` finds statements by that."""
    for place in PLACES:
        submodules = {info.name for info in pkgutil.iter_modules(place.__path__)} - {"build"}
        assert set(place.__all__) == submodules
        for name in submodules:
            module = importlib.import_module(f"{place.__name__}.{name}")
            constants = {key: value for key, value in vars(module).items() if key.isupper()}
            for key, value in constants.items():
                if key.startswith("_") or key in {"TABLES", "WRITTEN"}:
                    continue
                assert isinstance(value, TextClause) or STATEMENT.match(value), f"{name}.{key}"


# -- columns --------------------------------------------------------------------------------------


def test_an_entry_is_its_row_without_what_became_of_it() -> None:
    assert {*Entry._fields, "outcome", "reason"} == set(build.names(build.TABLES.change))


def test_what_a_commit_writes_is_all_but_the_numbers_that_the_owner_gives() -> None:
    assert set(WRITTEN) == set(build.names(build.TABLES.change)) - {"id", "seq", "previous_seq"}
    assert insert_entry("qmark").count("?") == len(WRITTEN)
    assert insert_entry("pyformat").count("%s") == len(WRITTEN)


def test_columns_are_those_of_the_definition() -> None:
    sample = build.TABLES.sample
    assert build.columns(sample) == "minute, depth, published, sent"
    assert build.columns(sample, without=("depth",), alias="s") == "s.minute, s.published, s.sent"
    assert build.columns(sample, "published", "minute") == "published, minute"
    assert build.insert(sample, "minute", depth="0") == (
        "INSERT INTO arus_sample (minute, depth) VALUES (:minute, 0)"
    )
    assert build.upsert(sample, keep=("depth",)) == (
        "INSERT INTO arus_sample (minute, depth, published, sent) VALUES (:minute, :depth, :published, :sent)"
        " ON CONFLICT (minute) DO UPDATE SET published = excluded.published, sent = excluded.sent"
    )


@pytest.mark.parametrize("wrong", [("nothing",), ("minute", "nothing")])
def test_a_column_that_a_table_has_not_is_refused(wrong: tuple[str, ...]) -> None:
    for make in (build.columns, build.insert):
        with pytest.raises(KeyError, match="nothing"):
            make(build.TABLES.sample, *wrong)
    with pytest.raises(KeyError, match="nothing"):
        build.names(build.TABLES.sample, without=wrong)


def test_the_tables_can_be_defined_in_several_metadata_and_again() -> None:
    first, second = MetaData(), MetaData()
    for metadata in (first, second):
        for defined in (define, define_follower):
            assert defined(metadata) == defined(metadata)
    assert define(first).change is not define(second).change
    assert define(first).change is not build.TABLES.change
