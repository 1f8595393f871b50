"""A resource: the operations on the rows of one table, used by the API, the pages and the commands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from marshmallow import Schema, ValidationError, fields, missing
from msgspec import Struct
from sqlalchemy import func, inspect, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from arus import Receipt
from arus.protocol.casing import CamelSchema, camel
from extensions import db, sync
from extensions.api import Errors, InvalidError, ProblemError, field_errors
from extensions.database import new_id
from extensions.text_keys import SearchedRow, complete_keys, equals_text, has_text

from .fields import AnyOf, Document, RowSchema, Steps, Text, Whole, is_id
from .idempotency import IdempotencyKey
from .paging import DEFAULT_LIMIT, MAX_LIMIT, page

R = TypeVar("R", bound=SearchedRow)

#: Maximum length of a text filter.
MAX_FILTER = 200


class Written(Struct, Generic[R], frozen=True):
    """A committed row."""

    row: R
    #: The id of the message that sends the change ashore; None if nothing was captured.
    receipt: Receipt | None = None
    #: An earlier, identical request wrote it.
    replayed: bool = False


def _accept(_row: Any) -> Errors:
    return {}


def _nothing(_row: Any) -> None:
    return None


class Resource(Struct, Generic[R], frozen=True, dict=True):
    """The rows of one table, with their rules."""

    model: type[R]
    schema: type[RowSchema]
    #: The name of a row in messages.
    noun: str
    #: Completes a new or changed row, and returns the errors of the row as a whole by JSON key.
    settle: Callable[[R], Errors] = _accept
    #: Called just before a row is inserted or deleted, in the same transaction.
    on_create: Callable[[R], None] = _nothing
    on_delete: Callable[[R], None] = _nothing

    def load(self, data: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
        """Return the attributes in `data`, which has JSON keys; texts from a form are accepted as values.

        :raises InvalidError: a field is not valid.
        """
        try:
            loaded: dict[str, Any] = self.schema(partial=partial).load(data)
        except ValidationError as error:
            raise InvalidError(field_errors(error)) from error
        return loaded

    def list(
        self,
        *,
        q: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        **filters: Any,
    ) -> tuple[list[R], str | None]:
        """Return a page of the matching rows, newest first, and the cursor of the next page.

        :param filters: the values that each attribute may have.
        """
        complete_keys(self.model)
        query = select(self.model)
        for name, values in filters.items():
            query = query.where(or_(*(self.equals(name, value) for value in values)))
        if q:
            query = query.where(has_text(self.model, q))
        return page(query, self.model, limit, cursor)

    def batches(
        self, size: int, *, limit: int | None = None, **filters: Any
    ) -> Iterator[Sequence[R]]:
        """Return all matching rows, newest first, `size` of them at a time.

        :param limit: at most so many rows.
        """
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            wanted = size if left is None else min(size, left)
            rows, cursor = self.list(limit=wanted, cursor=cursor, **filters)
            yield rows
            if cursor is None:
                return
            left = None if left is None else left - len(rows)

    def equals(self, name: str, value: Any) -> Any:
        """Return the condition that an attribute has a value; texts are compared as people do."""
        if value is not None and name in self.model.searched:
            return equals_text(self.model, name, value)
        return getattr(self.model, name) == value

    def get(self, row_id: str) -> R:
        """Return one row.

        :raises ProblemError: there is none.
        """
        row = db.session.get(self.model, row_id) if is_id(row_id) else None
        if row is None:
            raise ProblemError(404, f"There is no {self.noun} with this id.")
        return row

    def create(
        self,
        data: Mapping[str, Any],
        key: IdempotencyKey | None = None,
        then: Callable[[R], None] = _nothing,
    ) -> Written[R]:
        """Insert a row; `then` is called after the insert, in the same transaction.

        :raises ProblemError: the row is not valid, or conflicts with another.
        """
        if key and (earlier := self.replay(key)):
            return earlier
        row = self.model(id=new_id(), **data)
        self._check(row)
        try:
            if key:
                key.record(row.id)
            self.on_create(row)
            db.session.add(row)
            db.session.flush()
            then(row)
            db.session.commit()
        except IntegrityError as error:
            db.session.rollback()
            if key and (earlier := self.replay(key)):
                return earlier
            raise self._conflict() from error
        except StaleDataError as error:
            db.session.rollback()
            raise self._conflict() from error
        return Written(row, sync.publish_change("create", row))

    def replay(self, key: IdempotencyKey) -> Written[R] | None:
        """Return the row that an earlier request with `key` created, if there is one."""
        row_id = key.created()
        if row_id is None:
            return None
        row = db.session.get(self.model, row_id)
        if row is None:
            raise ProblemError(410, f"This request created a {self.noun} that was deleted since.")
        return Written(row, replayed=True)

    def update(
        self,
        row_id: str,
        data: Mapping[str, Any],
        matches: Callable[[int], bool] | None = None,
    ) -> Written[R]:
        """Change a row if `matches` accepts its version.

        :raises ProblemError: there is no such row, it is not valid, or it was changed meanwhile.
        """
        row = self._get_matching(row_id, matches)
        with db.session.no_autoflush:
            for name, value in data.items():
                setattr(row, name, value)
            if not db.session.is_modified(row):
                return Written(row)
            self._check(row)
        try:
            db.session.commit()
        except StaleDataError as error:
            db.session.rollback()
            raise self._changed_meanwhile(matches) from error
        except IntegrityError as error:
            db.session.rollback()
            raise self._conflict() from error
        return Written(row, sync.publish_change("update", row))

    def delete(self, row_id: str, matches: Callable[[int], bool] | None = None) -> Written[R]:
        """Delete a row that nothing refers to.

        :raises ProblemError: there is no such row, others refer to it, or it was changed meanwhile.
        """
        row = self._get_matching(row_id, matches)
        try:
            self.on_delete(row)
            db.session.flush()
            db.session.delete(row)
            db.session.commit()
        except StaleDataError as error:
            db.session.rollback()
            raise self._changed_meanwhile(matches) from error
        except IntegrityError as error:
            db.session.rollback()
            raise ProblemError(409, self._why_kept(row_id)) from error
        return Written(row, sync.publish_change("delete", row))

    @cached_property
    def row_schema(self) -> RowSchema:
        """The schema of a row, for all who read it: each new one is bound to its fields anew."""
        return self.schema()

    @cached_property
    def patch_schema(self) -> RowSchema:
        """The schema of a PATCH: any of the fields."""
        name = self.schema.__name__.removesuffix("Schema") + "PatchSchema"
        return type(name, (self.schema,), {"example": self.schema.patch_example})(partial=True)

    @cached_property
    def page_schema(self) -> type[Schema]:
        """The schema of a page of rows."""
        example = {"items": [self.schema.example], "next": None}
        base: type[Schema] = type("Page", (CamelSchema,), {"example": example})
        return base.from_dict(
            {
                "items": fields.List(fields.Nested(self.schema)),
                "next": fields.String(
                    allow_none=True, metadata={"description": "the `cursor` for the next page"}
                ),
            },
            name=self.schema.__name__.removesuffix("Schema") + "PageSchema",
        )

    @cached_property
    def query_schema(self) -> type[Schema]:
        """The schema of a list's query: each field as a filter, and the paging parameters."""
        return CamelSchema.from_dict(
            {
                **self._filters(),
                "limit": Whole(1, MAX_LIMIT, load_default=DEFAULT_LIMIT),
                "cursor": Text(200, metadata={"description": "`next` of the previous page"}),
            },
            name=self.schema.__name__.removesuffix("Schema") + "QuerySchema",
        )

    @cached_property
    def csv_query_schema(self) -> type[Schema]:
        """The schema of the query of a list as CSV: the same filters, and all rows unless there is a limit."""
        limit = Whole(1, 2**31 - 1, metadata={"description": "the newest so many; all without it"})
        return CamelSchema.from_dict(
            {**self._filters(), "limit": limit},
            name=self.schema.__name__.removesuffix("Schema") + "CsvQuerySchema",
        )

    def _filters(self) -> dict[str, Any]:
        filters: dict[str, Any] = {
            name: AnyOf(_as_filter(field))
            for name, field in self.schema._declared_fields.items()
            if name not in {"id", "version"} and not isinstance(field, Document | Steps)
        }
        return {**filters, "q": Text(200, metadata={"description": "searched for in the texts"})}

    def _get_matching(self, row_id: str, matches: Callable[[int], bool] | None) -> R:
        row = self.get(row_id)
        if matches and not matches(row.version):
            raise self._changed_meanwhile(matches)
        return row

    def _check(self, row: R) -> None:
        with db.session.no_autoflush:
            errors = self._missing_references(row) | self.settle(row)
        if errors:
            db.session.rollback()
            raise InvalidError(errors)

    def _missing_references(self, row: R) -> Errors:
        errors: Errors = {}
        state = inspect(row)
        for column in self.model.__table__.columns:
            for reference in column.foreign_keys:
                value = getattr(row, column.key)
                if value is None or not state.attrs[column.key].history.has_changes():
                    continue
                query = select(reference.column).where(reference.column == value)
                if db.session.execute(query).first() is None:
                    entity = reference.column.table.name.replace("_", " ")
                    errors[camel(column.key)] = [f"There is nothing with this id in {entity}."]
        return errors

    def _why_kept(self, row_id: str) -> str:
        """Return a sentence about the rows that refer to this one."""
        counts = []
        for table in db.metadata.sorted_tables:
            for constraint in table.foreign_key_constraints:
                if constraint.referred_table is not self.model.__table__:
                    continue
                (column,) = constraint.columns
                query = select(func.count()).select_from(table).where(column == row_id)
                if count := db.session.scalar(query):
                    counts.append(f"{count} in {table.name.replace('_', ' ')}")
        return f"The {self.noun} can't be deleted: other rows refer to it ({', '.join(counts)})."

    def _changed_meanwhile(self, matches: object) -> ProblemError:
        if matches:
            return ProblemError(412, f"The {self.noun} was changed since: read it again.")
        return ProblemError(409, f"The {self.noun} was changed at the same time: try again.")

    def _conflict(self) -> ProblemError:
        return ProblemError(
            409, "A row that this one refers to was changed at the same time: try again."
        )


def _as_filter(field: fields.Field[Any]) -> fields.Field[Any]:
    field = copy.deepcopy(field)
    field.required = field.dump_only = False
    field.load_default = missing
    if isinstance(field, Text):
        # The length of a URL is limited anyway, to some thousand bytes by any server.
        field.maximum = min(field.maximum, MAX_FILTER)
        field.metadata = {**field.metadata, "maxLength": field.maximum}
    # A blank filter selects the rows without a value.
    field.pre_load = [lambda value: None if value == "" else value]
    return field
