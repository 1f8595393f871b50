"""`/api/<list>.csv`: each list of the API as a file for spreadsheets."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask.views import MethodView
from flask_smorest import Blueprint

from blueprints.alerts.service import alerts
from blueprints.common.csv_rows import BATCH, cell, csv_response, lines
from blueprints.common.resource import Resource
from blueprints.crew.service import crew
from blueprints.equipment.service import equipment
from blueprints.maintenance.service import maintenance_schedules
from blueprints.work_orders.service import work_orders

blueprint = Blueprint(
    "exports", __name__, url_prefix="/api", description="Exports: lists as CSV for spreadsheets"
)


def _rows_as_csv(resource: Resource[Any], name: str) -> type[MethodView]:
    columns = {column.data_key: column for column in resource.row_schema.dump_fields.values()}
    example = resource.schema.example
    cells = [cell(value, columns[key]) for key, value in example.items()]
    file = lines([list(example), cells]).decode()

    class RowsAsCsv(MethodView):
        @blueprint.arguments(resource.csv_query_schema, location="query")
        @blueprint.response(200, {"type": "string"}, content_type="text/csv", example=file)
        def get(self, query: dict[str, Any]) -> Response:
            """List as CSV, newest first, streamed: times in UTC, decimals with a dot, texts never as formulas."""
            return csv_response(resource.row_schema, resource.batches(BATCH, **query), name)

    return RowsAsCsv


for each in (work_orders, alerts, equipment, crew, maintenance_schedules):
    table = each.model.__tablename__
    slug = table.replace("_", "-")
    blueprint.add_url_rule(f"/{slug}.csv", table, _rows_as_csv(each, slug))
