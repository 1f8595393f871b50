"""The right that each endpoint asks for: the one place that decides. What is not listed is refused.

A rule is a right, or several of which one is enough; `OPEN` for everybody. Where it depends on the method or on
the address, it is a function of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Request

from arus.web.access import SAFE_METHODS

from .rights import Right

Rule = frozenset[Right]

OPEN: Rule = frozenset()
READ = frozenset({Right.READ})
REPORT = frozenset({Right.REPORT})
WRITE = frozenset({Right.WRITE})
SYNC = frozenset({Right.SYNC})
SEE_SYNC = frozenset({Right.READ, Right.SYNC})
METRICS = frozenset({Right.METRICS})
DECIDE = frozenset({Right.DECIDE})
ADMINISTER = frozenset({Right.ADMINISTER})
OWN = frozenset({Right.OWN})
#: Rights with which rows are changed.
CHANGES_ROWS = REPORT | WRITE

#: What crew may create.
_REPORTED = {"work-orders", "alerts"}
#: Actions on a page's row with which nothing but a report is made.
_REPORTS = {"acknowledge", "work-order"}


#: What is asked for, by the method and the values of the address.
Chooser = Callable[[str, Mapping[str, Any]], Rule]


def _rows(write: Rule) -> Chooser:
    return lambda method, _values: READ if method in SAFE_METHODS else write


def _new_row(_method: str, values: Mapping[str, Any]) -> Rule:
    return REPORT if values.get("kind") in _REPORTED else WRITE


def _act(_method: str, values: Mapping[str, Any]) -> Rule:
    return REPORT if values.get("verb") in _REPORTS else WRITE


RULES: Mapping[str, Rule | Chooser] = {
    # the API
    **{f"{name}.rows": _rows(REPORT) for name in ("work_orders", "alerts")},
    **{f"{name}.rows": _rows(WRITE) for name in ("equipment", "crew", "maintenance_schedules")},
    **{
        f"{name}.row": _rows(WRITE)
        for name in ("work_orders", "alerts", "equipment", "crew", "maintenance_schedules")
    },
    **{
        f"exports.{name}": READ
        for name in ("work_orders", "alerts", "equipment", "crew", "maintenance_schedules")
    },
    "alerts.acknowledge_alert": REPORT,
    "maintenance_schedules.create_work_order": REPORT,
    "sync_api.health": METRICS,
    "sync_api.fleet": SEE_SYNC,
    "sync_api.request_catchup": SYNC,
    "sync_api.catchup": SEE_SYNC,
    "sync_api.changes": SEE_SYNC,
    "sync_api.change": SEE_SYNC,
    "sync_api.retry": DECIDE,
    "sync_api.discard": DECIDE,
    "api-docs.openapi_json": READ,
    "docs.page": READ,
    # for the supervisor of the process
    "health.healthz": OPEN,
    "health.readyz": OPEN,
    "health.scrape": METRICS,
    # the pages
    "ui.index": READ,
    "fleet.index": READ,
    "fleet.vessel": READ,
    "fleet.refresh": READ,
    "fleet.refresh_vessel": READ,
    "ui.rows": READ,
    "ui.rows_csv": READ,
    "ui.search": READ,
    "ui.calendar": READ,
    "ui.row": READ,
    "ui.refresh": READ,
    "ui.choices": READ,
    "ui.ask_who": READ,
    "ui.answer_who": REPORT,
    "ui.create_row": _new_row,
    "ui.new_row": _new_row,
    "ui.act": _act,
    "ui.save_filter": OWN,
    "ui.remove_filter": OWN,
    "ui.tick": WRITE,
    "ui.enter_hours": WRITE,
    "ui.edit_row": WRITE,
    "ui.delete_row": WRITE,
    "arus_sync.index": READ,
    "arus_sync.live": READ,
    "arus_sync.report": READ,
    "arus_sync.report_csv": READ,
    "arus_sync.changes": READ,
    "arus_sync.change": READ,
    "arus_sync.conflicts": READ,
    "arus_sync.conflict": READ,
    "arus_sync.dead_letters": READ,
    "arus_sync.dead_letter": READ,
    "arus_sync.ask": SYNC,
    "arus_sync.decide": DECIDE,
    "arus_sync.act": DECIDE,
    "arus_sync.decide_dead_letter": DECIDE,
    "arus_sync.act_dead_letter": DECIDE,
    # logging in
    "access.login": OPEN,
    "access.logout": OWN,
    "access.account": OWN,
    "access.users": ADMINISTER,
    "access.add_user": ADMINISTER,
    "access.change_user": ADMINISTER,
    "access.tokens_page": ADMINISTER,
    "access.add_token": ADMINISTER,
    "access.revoke_token": ADMINISTER,
    # files that are the same for everybody
    "static": OPEN,
    "ui.static": OPEN,
    "docs.static": OPEN,
    "arus_sync.static": OPEN,
}
#: Endpoints that a request from this machine itself needs no right for.
FROM_LOOPBACK = frozenset({"health.scrape", "sync_api.health"})


def rule_of(request: Request) -> Rule | None:
    """Return what a request asks for; None if its endpoint has no rule."""
    return rule_for(request.endpoint or "", request.method, request.view_args or {})


def rule_for(endpoint: str, method: str, values: Mapping[str, Any]) -> Rule | None:
    """Return what an endpoint asks for; None if it has no rule."""
    rule = RULES.get(endpoint)
    return rule(method, values) if callable(rule) else rule


def is_allowed(rule: Rule, rights: frozenset[Right]) -> bool:
    """Return whether somebody with these rights may do what `rule` asks for."""
    return not rule or bool(rule & rights)


def describe(rule: Rule) -> str:
    """Return the rights of a rule, for people."""
    return " or ".join(sorted(rule))


def missing(app: Any) -> list[str]:
    """Return the endpoints of an application that have no rule."""
    return sorted(set(app.view_functions) - set(RULES))
