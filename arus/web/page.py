"""The sync page, as a blueprint that any Flask application can register."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson
from flask import (
    Blueprint,
    Response,
    abort,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue

from arus.errors import (
    CatchupBusyError,
    CatchupOffError,
    CatchupRequestError,
    ChangeError,
    UnknownChangeError,
    UnknownMessageError,
)
from arus.inbound.dead_letters import find_dead_letter, list_dead_letters
from arus.ops.overview import find_conflict, read_conflicts
from arus.ops.record import Record, read_record
from arus.ops.record_file import as_csv
from arus.outbox.changes import find_change, list_changes
from arus.outbox.followers import read_followers
from arus.protocol.entries import ChangeState
from arus.protocol.messages import ALL
from arus.protocol.requests import parse_since, read_request
from arus.protocol.times import iso, now_ms
from arus.runtime import current

from . import parts
from .access import Action, Rule, guard
from .words import helpers

#: The base template for an application that provides none.
OWN_BASE = "arus/base.html"
#: Sent only with `OWN_BASE`; with an application's own template, the policy is the application's.
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
#: Days that a record may be of; the second is shown first.
SPANS = (7, 30, 90)
#: Rows of a list on one page.
PAGE_SIZE = 50

_REQUEST = re.compile(r"[0-9a-f]{32}")

Answer = ResponseReturnValue

#: What the access rule is asked about, by endpoint; the others view.
_ACTIONS: dict[str, Action] = {
    "ask": "catchup",
    **dict.fromkeys(("decide", "act", "decide_dead_letter", "act_dead_letter"), "decide"),
}


def sync_page(
    name: str = "arus_sync",
    *,
    base: str = OWN_BASE,
    allow: Rule | None = None,
    zone: str | Callable[[], str] | None = None,
    url_prefix: str = "/sync",
) -> Blueprint:
    """Return the blueprint of the sync page.

    :param name: the blueprint's name, before the dot in `url_for("arus_sync.index")`.
    :param base: the template that the pages extend; it has the blocks `title`, `arus_head` and `arus_main`.
    :param allow: the access rule; without one only an application in debug mode answers.
    :param zone: the time zone of the charts, such as `Europe/Oslo`; the reader's own when not given.
    :param url_prefix: the URL prefix, unless `register_blueprint` sets another.
    """
    blueprint = Blueprint(
        name,
        __name__,
        url_prefix=url_prefix,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    may = guard(blueprint, allow, _ACTIONS, otherwise=False)

    @blueprint.context_processor
    def words() -> dict[str, Any]:
        return {
            **helpers(),
            "arus_base": base,
            "arus": name,
            "arus_zone": zone() if callable(zone) else zone or "",
            "arus_may": may,
        }

    @blueprint.after_request
    def secure(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        if request.endpoint != f"{name}.static":
            response.headers.setdefault("Cache-Control", "no-store")
            if base == OWN_BASE:
                response.headers.setdefault("Content-Security-Policy", POLICY)
                response.headers.setdefault("Referrer-Policy", "same-origin")
        return response

    _add_overview(blueprint)
    _add_changes(blueprint)
    _add_inbound(blueprint)
    return blueprint


# --- the page itself -----------------------------------------------------------------------------


def _add_overview(blueprint: Blueprint) -> None:
    _add_record(blueprint)

    @blueprint.get("/")
    def index() -> Answer:
        """The page."""
        return _index()

    @blueprint.get("/live")
    def live() -> Answer:
        """What has changed since the page's last poll: pieces of HTML, and points of the charts."""
        view = parts.read_overview(current())
        known = request.args
        changed = {
            piece: html
            for piece, html in parts.render_parts(view).items()
            if known.get(piece) != parts.digest(html)
        }
        after = _whole(known.get("after")) or 0
        body = {
            "now": view.now,
            "depth": view.status.depth,
            "parts": changed,
            "digests": {piece: parts.digest(html) for piece, html in changed.items()},
            "samples": parts.chart_points(view.day.samples, after),
        }
        return Response(orjson.dumps(body), mimetype="application/json")

    @blueprint.post("/catchup")
    def ask() -> Answer:
        """Request a catch-up."""
        return _ask()


def _ask() -> Answer:
    state = current()
    typed = {name: request.form.get(name, "").strip() for name in ("entity", "since", "limit")}
    document, errors = _request_of(typed)
    try:
        read_request(document, state.entities())
        if not errors:
            asked = state.catchups.request(document)
            url = _url("index", asked=asked.catchup_id, _anchor="arus-catchups")
            return redirect(url, 303)
    except CatchupRequestError as error:
        errors = {**error.errors, **errors}
    except CatchupOffError:
        errors["_schema"] = ["ashore"]
    except CatchupBusyError as error:
        errors["_schema"] = [str(error)]
    return _index(422, typed=typed, errors=errors)


def _request_of(typed: dict[str, str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the document of a catch-up request as typed, and the errors of fields that can't be parsed."""
    errors: dict[str, list[str]] = {}
    document: dict[str, Any] = {"entity": typed["entity"], "limit": None}
    given = request.form.get("request", "")
    if _REQUEST.fullmatch(given):
        document["requestId"] = given  # a double click makes one request
    if typed["since"]:
        try:
            document["since"] = iso(round(parse_since(typed["since"]).timestamp() * 1000))
        except ValueError as error:
            errors["since"] = [str(error)]
    if typed["limit"]:
        document["limit"] = _whole(typed["limit"]) or typed["limit"]
    return document, errors


def _index(status: int = 200, **form: Any) -> Answer:
    state = current()
    view = parts.read_overview(state)
    rendered = parts.render_parts(view)
    page = render_template(
        "arus/page.html",
        view=view,
        arus_parts=rendered,
        arus_digests={name: parts.digest(html) for name, html in rendered.items()},
        hours=parts.hours(view.day),
        entities=[ALL, *state.entities()],
        typed=form.get("typed", {"entity": ALL, "since": "", "limit": ""}),
        errors=form.get("errors", {}),
        asked=request.args.get("asked"),
        request_id=uuid4().hex,
    )
    return page, status


# --- the ship's record ---------------------------------------------------------------------------


def _add_record(blueprint: Blueprint) -> None:
    @blueprint.get("/report")
    def report() -> Answer:
        """The record of some days, to read and to print."""
        days = _span()
        return render_template("arus/report.html", record=_record(days), spans=SPANS, chosen=days)

    @blueprint.get("/report.csv")
    def report_csv() -> Answer:
        """The same, a line for each day."""
        response = Response(as_csv(_record(_span())), content_type="text/csv; charset=utf-8")
        response.headers["Content-Disposition"] = 'attachment; filename="record.csv"'
        return response


def _span() -> int:
    days = _whole(request.args.get("days"))
    return days if days in SPANS else SPANS[1]


def _record(days: int) -> Record:
    state, end = current(), now_ms()
    with state.engine.connect() as connection:
        return read_record(connection, state.data_budget, end - days * 86_400_000, end)


# --- the change log ------------------------------------------------------------------------------


def _add_changes(blueprint: Blueprint) -> None:
    @blueprint.get("/changes")
    def changes() -> Answer:
        """The change log, newest first."""
        state = current()
        states = [s for s in ChangeState if s in request.args.getlist("state")]
        entity = request.args.get("entity") or None
        if entity is not None and entity not in state.entities():
            abort(404)
        with state.db.engine.connect() as connection:
            page = list_changes(
                connection,
                states=states,
                entity=entity,
                limit=PAGE_SIZE,
                cursor=_whole(request.args.get("cursor")),
            )
        return render_template(
            "arus/changes.html",
            page=page,
            states=list(ChangeState),
            chosen=states,
            entity=entity,
            entities=state.entities(),
            first=request.args.get("cursor") is None,
        )

    @blueprint.get("/changes/<message_id>")
    def change(message_id: str) -> Answer:
        """One change: its data and its timeline."""
        return _change(message_id)

    @blueprint.get("/changes/<message_id>/<any(retry, discard):action>")
    def decide(message_id: str, action: str) -> Answer:
        """Ask for confirmation."""
        return _change(message_id, asks=action)

    @blueprint.post("/changes/<message_id>/<any(retry, discard):action>")
    def act(message_id: str, action: str) -> Answer:
        """Retry or discard a quarantined change."""
        state = current()
        try:
            (state.changes.retry if action == "retry" else state.changes.discard)(message_id)
        except UnknownChangeError:
            abort(404)
        except ChangeError as error:
            return _change(message_id, 409, trouble=str(error))
        return redirect(_url("change", message_id=message_id, done=action), 303)


def _change(message_id: str, status: int = 200, **more: Any) -> Answer:
    state = current()
    with state.db.engine.connect() as connection:
        try:
            found = find_change(connection, message_id)
        except UnknownChangeError:
            abort(404)
        followers = read_followers(connection)
    page = render_template(
        "arus/change.html",
        change=found,
        followers=followers,
        done=request.args.get("done"),
        **more,
    )
    return page, status


# --- what came from ashore -----------------------------------------------------------------------


def _add_inbound(blueprint: Blueprint) -> None:
    @blueprint.get("/conflicts")
    def conflicts() -> Answer:
        """Conflicts, newest first."""
        before = _whole(request.args.get("cursor"))
        with current().db.engine.connect() as connection:
            found = read_conflicts(connection, limit=PAGE_SIZE + 1, before=before)
        return _list("arus/conflicts.html", found, before)

    @blueprint.get("/conflicts/<conflict_id>")
    def conflict(conflict_id: str) -> Answer:
        """One conflict: both versions, and which of them won."""
        with current().db.engine.connect() as connection:
            found = find_conflict(connection, conflict_id)
        if found is None:
            abort(404)
        return render_template("arus/conflict.html", conflict=found)

    @blueprint.get("/inbox")
    def dead_letters() -> Answer:
        """Dead letters, newest first."""
        with current().db.engine.connect() as connection:
            found = list_dead_letters(connection, PAGE_SIZE)
        return render_template("arus/dead_letters.html", items=found)

    @blueprint.get("/inbox/<int:letter_id>")
    def dead_letter(letter_id: int) -> Answer:
        """One dead letter."""
        return _dead_letter(letter_id)

    @blueprint.get("/inbox/<int:letter_id>/<any(replay, discard):action>")
    def decide_dead_letter(letter_id: int, action: str) -> Answer:
        """Ask for confirmation."""
        return _dead_letter(letter_id, asks=action)

    @blueprint.post("/inbox/<int:letter_id>/<any(replay, discard):action>")
    def act_dead_letter(letter_id: int, action: str) -> Answer:
        """Replay or discard a dead letter."""
        state = current()
        _dead_letter(letter_id)  # 404 if there is none
        try:
            (state.dead_letters.replay if action == "replay" else state.dead_letters.discard)(
                letter_id
            )
        except Exception as error:  # noqa: BLE001  # what the application's handler raises is shown
            return _dead_letter(letter_id, 409, trouble=f"{type(error).__name__}: {error}")
        return redirect(_url("dead_letters", done=action), 303)


def _dead_letter(letter_id: int, status: int = 200, **more: Any) -> Answer:
    try:
        with current().db.engine.connect() as connection:
            found = find_dead_letter(connection, letter_id if letter_id < 2**63 else 0)
    except UnknownMessageError:
        abort(404)
    return render_template("arus/dead_letter.html", message=found, **more), status


def _list(template: str, found: list[Any], before: int | None) -> Answer:
    more = len(found) > PAGE_SIZE
    shown = found[:PAGE_SIZE]
    return render_template(
        template, items=shown, next=shown[-1].id if more else None, first=before is None
    )


def _url(endpoint: str, **values: Any) -> str:
    return url_for(f".{endpoint}", **values)


def _whole(given: str | None) -> int | None:
    """Parse a number from a URL or a form; None for anything that can't be a number of the log."""
    if given is None or not (given.isascii() and given.isdigit()) or len(given) > 18:
        return None
    return int(given) or None
