"""The sync page, as a blueprint that any Flask application registers under a prefix of its own."""

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
    current_app,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue

from arus.changes import find_change, list_changes
from arus.errors import (
    CatchupBusyError,
    CatchupOffError,
    CatchupRequestError,
    ChangeError,
    UnknownChangeError,
    UnknownMessageError,
)
from arus.extension import AppState, state_of_app
from arus.followers import read_followers
from arus.message import ChangeState, iso
from arus.overview import (
    find_conflict,
    read_conflicts,
)
from arus.parked import find_parked, list_parked
from arus.requests import ALL, parse, parse_since

from . import parts
from .access import Rule, guard
from .words import helpers

#: The page alone, for an application that gives no base template.
OWN_BASE = "arus/base.html"
#: What holds for `OWN_BASE`; an application's own template has the application's policy.
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
#: Rows of a list on one page.
PAGE_SIZE = 50

_REQUEST = re.compile(r"[0-9a-f]{32}")

Answer = ResponseReturnValue


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
    :param allow: who may see and use the page; everybody when not given.
    :param zone: the time zone of the charts, `Europe/Oslo`; the reader's own when not given.
    :param url_prefix: where it is, unless `register_blueprint` says otherwise.
    """
    blueprint = Blueprint(
        name,
        __name__,
        url_prefix=url_prefix,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    guard(blueprint, allow, otherwise=False)

    @blueprint.context_processor
    def words() -> dict[str, Any]:
        return {
            **helpers(),
            "arus_base": base,
            "arus": name,
            "arus_zone": zone() if callable(zone) else zone or "",
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
    @blueprint.get("/")
    def index() -> Answer:
        """The page."""
        return _index()

    @blueprint.get("/live")
    def live() -> Answer:
        """What has changed since the page last heard: pieces of HTML, and points of the charts."""
        view = parts.read_overview(_state())
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
        """Ask for a catch-up."""
        state = _state()
        typed = {name: request.form.get(name, "").strip() for name in ("entity", "since", "limit")}
        errors: dict[str, list[str]] = {}
        document: dict[str, Any] = {"entity": typed["entity"], "limit": None}
        given = request.form.get("request", "")
        if _REQUEST.fullmatch(given):
            document["requestId"] = given  # a double click asks once
        if typed["since"]:
            try:
                document["since"] = iso(round(parse_since(typed["since"]).timestamp() * 1000))
            except ValueError as error:
                errors["since"] = [str(error)]
        if typed["limit"]:
            document["limit"] = _whole(typed["limit"]) or typed["limit"]
        try:
            parse(document, state.entities())
            if not errors:
                asked = state.request_catchup(document, "http")
                url = _url("index", asked=asked.catchup_id, _anchor="arus-catchups")
                return redirect(url, 303)
        except CatchupRequestError as error:
            errors = {**error.errors, **errors}
        except CatchupOffError:
            errors["_schema"] = ["ashore"]
        except CatchupBusyError as error:
            errors["_schema"] = [str(error)]
        return _index(422, typed=typed, errors=errors)


def _index(status: int = 200, **form: Any) -> Answer:
    state = _state()
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


# --- the change log ------------------------------------------------------------------------------


def _add_changes(blueprint: Blueprint) -> None:
    @blueprint.get("/changes")
    def changes() -> Answer:
        """The change log, newest first."""
        state = _state()
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
        """One change: what it carries and what became of it."""
        return _change(message_id)

    @blueprint.get("/changes/<message_id>/<any(retry, discard):action>")
    def decide(message_id: str, action: str) -> Answer:
        """Ask whether that is really meant."""
        return _change(message_id, asks=action)

    @blueprint.post("/changes/<message_id>/<any(retry, discard):action>")
    def act(message_id: str, action: str) -> Answer:
        """Send a quarantined change after all, or give it up."""
        state = _state()
        try:
            (state.retry_change if action == "retry" else state.discard_change)(message_id)
        except UnknownChangeError:
            abort(404)
        except ChangeError as error:
            return _change(message_id, 409, trouble=str(error))
        return redirect(_url("change", message_id=message_id, done=action), 303)


def _change(message_id: str, status: int = 200, **more: Any) -> Answer:
    state = _state()
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
        with _state().db.engine.connect() as connection:
            found = read_conflicts(connection, limit=PAGE_SIZE + 1, before=before)
        return _list("arus/conflicts.html", found, before)

    @blueprint.get("/conflicts/<conflict_id>")
    def conflict(conflict_id: str) -> Answer:
        """One conflict: both versions, and which of them won."""
        with _state().db.engine.connect() as connection:
            found = find_conflict(connection, conflict_id)
        if found is None:
            abort(404)
        return render_template("arus/conflict.html", conflict=found)

    @blueprint.get("/inbox")
    def inbox() -> Answer:
        """Parked messages, newest first."""
        with _state().db.engine.connect() as connection:
            found = list_parked(connection, PAGE_SIZE)
        return render_template("arus/inbox.html", items=found)

    @blueprint.get("/inbox/<int:parked_id>")
    def parked(parked_id: int) -> Answer:
        """One parked message."""
        return _parked(parked_id)

    @blueprint.get("/inbox/<int:parked_id>/<any(replay, discard):action>")
    def decide_parked(parked_id: int, action: str) -> Answer:
        """Ask whether that is really meant."""
        return _parked(parked_id, asks=action)

    @blueprint.post("/inbox/<int:parked_id>/<any(replay, discard):action>")
    def act_parked(parked_id: int, action: str) -> Answer:
        """Hand a parked message to its handlers once more, or give it up."""
        state = _state()
        _parked(parked_id)  # 404 where it is not there
        try:
            (state.replay_parked if action == "replay" else state.discard_parked)(parked_id)
        except Exception as error:  # noqa: BLE001  # what the application's handler raises is shown
            return _parked(parked_id, 409, trouble=f"{type(error).__name__}: {error}")
        return redirect(_url("inbox", done=action), 303)


def _parked(parked_id: int, status: int = 200, **more: Any) -> Answer:
    try:
        with _state().db.engine.connect() as connection:
            found = find_parked(connection, parked_id if parked_id < 2**63 else 0)
    except UnknownMessageError:
        abort(404)
    return render_template("arus/parked.html", message=found, **more), status


def _list(template: str, found: list[Any], before: int | None) -> Answer:
    more = len(found) > PAGE_SIZE
    shown = found[:PAGE_SIZE]
    return render_template(
        template, items=shown, next=shown[-1].id if more else None, first=before is None
    )


def _state() -> AppState:
    return state_of_app(current_app)


def _url(endpoint: str, **values: Any) -> str:
    return url_for(f".{endpoint}", **values)


def _whole(given: str | None) -> int | None:
    """Return a number that an address or a form gives; None for anything that the log can't hold."""
    if given is None or not (given.isascii() and given.isdigit()) or len(given) > 18:
        return None
    return int(given) or None
