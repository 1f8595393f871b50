"""The private attributes of SQLAlchemy that capture uses; a new release may change them."""

from __future__ import annotations

from inspect import signature

from sqlalchemy import (
    Column,
    Connection,
    CursorResult,
    Engine,
    Integer,
    MetaData,
    Row,
    Table,
    delete,
    insert,
    update,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import CompileState
from sqlalchemy.sql.lambdas import StatementLambdaElement

from arus.errors import UnsupportedSQLAlchemyError

from .plugins import KINDS

_TABLE = Table("probe", MetaData(), Column("id", Integer, primary_key=True))
_RETURNING = ("_annotations", "_returning")
#: Objects or classes, and the private attributes that are used of each.
TOUCHED = (
    (
        Connection,
        (
            *("_execute_clauseelement", "_execute_context", "_handle_dbapi_exception"),
            "_is_autocommit_isolation",
        ),
    ),
    (Engine, ("_connection_cls", "_has_events", "_option_cls")),
    (Session(), ("_flushing", "_register_altered", "_remove_newly_deleted")),
    (
        insert(_TABLE),
        (
            *_RETURNING,
            *(
                "_inline",
                "_multi_values",
                "_post_values_clause",
                "_prefixes",
                "_values",
            ),
        ),
    ),
    (update(_TABLE), (*_RETURNING, "_propagate_attrs", "_return_defaults", "_values")),
    (delete(_TABLE), (*_RETURNING, "_propagate_attrs", "_return_defaults")),
    (CursorResult, ("_rewind",)),
    (DefaultExecutionContext, ("_rowcount",)),
    (StatementLambdaElement, ("_resolved",)),
    (Row, ("_mapping",)),
)
#: What is overridden of SQLAlchemy's classes for the ORM's bulk statements (`plugins`).
OVERRIDDEN = ("orm_pre_session_exec", "orm_execute_statement")


def check_database_library() -> None:
    """Check that the installed SQLAlchemy has the private attributes that capture uses.

    :raises UnsupportedSQLAlchemyError: it lacks one.
    """
    missing = [
        f"{(owner if isinstance(owner, type) else type(owner)).__name__}.{name}"
        for owner, names in TOUCHED
        for name in names
        if not hasattr(owner, name)
    ]
    plugins = getattr(CompileState, "plugins", {})
    missing += [
        f"the ORM's class for {kind.upper()}"
        for kind in KINDS
        if not all(hasattr(plugins.get(("orm", kind)), name) for name in OVERRIDDEN)
    ]
    if "_parent_execute_state" not in signature(Session.execute).parameters:
        missing.append("Session.execute(_parent_execute_state)")
    if missing:
        raise UnsupportedSQLAlchemyError(
            f"the installed SQLAlchemy lacks {', '.join(missing)}; install the pinned version"
        )
