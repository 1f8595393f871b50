"""Shared by all pages: the blueprint, the navigation, and responses that are pages or pieces of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    current_app,
    flash,
    get_template_attribute,
    redirect,
    render_template,
    request,
    url_for,
)
from markupsafe import Markup
from msgspec import Struct
from werkzeug.wrappers import Response

from blueprints.common.fields import is_id, iso

from . import sync_view
from .browser import is_htmx, refuse_foreign_forms, secure, show_problem
from .i18n import lazy
from .once import once_a_page

PARTS = "ui/_parts.html"

Answer = Response | str | tuple[str, int]

blueprint = Blueprint(
    "ui",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/ui/static",
)
blueprint.before_request(refuse_foreign_forms)
blueprint.after_request(secure)
blueprint.after_app_request(show_problem)
blueprint.add_app_template_filter(iso, "utc")
blueprint.add_app_template_global(sync_view.chip, "sync_chip")
blueprint.add_app_template_global(sync_view.vessel_id, "vessel_id")
blueprint.add_app_template_global(sync_view.is_ashore, "is_ashore")
blueprint.add_app_template_global(sync_view.shows_copies, "shows_copies")
blueprint.add_app_template_global(sync_view.copy_of, "copy_of")


class NavLink(Struct, frozen=True):
    """An entry of the navigation."""

    text: Any
    endpoint: str
    #: The kind of rows that it lists; blank for other pages.
    kind: str = ""
    #: The right without which it is not shown.
    right: str = "read"
    #: Shown ashore alone, or aboard alone; None for both.
    ashore: bool | None = None

    @property
    def url(self) -> str:
        """The URL it links to."""
        return url_for(self.endpoint, kind=self.kind) if self.kind else url_for(self.endpoint)

    @property
    def current(self) -> str:
        """The value of `aria-current`: for this page, for a page above this one, or empty."""
        if self.kind:
            here = (request.view_args or {}).get("kind") == self.kind
            return ("page" if request.endpoint == self.endpoint else "true") if here else ""
        own = self.endpoint.rpartition(".")[0]
        if request.endpoint == self.endpoint or (self.ashore and request.endpoint == "ui.index"):
            return "page"
        # The pages of `access` each have an entry of their own.
        return "true" if own not in {"ui", "access"} and request.blueprint == own else ""


NAVIGATION = (
    NavLink(lazy("Dashboard"), "ui.index", ashore=False),
    NavLink(lazy("Fleet"), "fleet.index", ashore=True),
    NavLink(lazy("Work orders"), "ui.rows", "work-orders"),
    NavLink(lazy("Alerts"), "ui.rows", "alerts"),
    NavLink(lazy("Maintenance"), "ui.rows", "schedules"),
    NavLink(lazy("Calendar"), "ui.calendar"),
    NavLink(lazy("Equipment"), "ui.rows", "equipment"),
    NavLink(lazy("Crew"), "ui.rows", "crew"),
    NavLink(lazy("Sync"), "arus_sync.index"),
    NavLink(lazy("People"), "access.users", right="administer"),
    NavLink(lazy("Tokens"), "access.tokens_page", right="administer"),
)


@blueprint.app_template_global("navigation")
def navigation() -> list[NavLink]:
    """Return the links to the pages that exist in this application."""
    return [
        link
        for link in NAVIGATION
        if link.endpoint in current_app.view_functions
        and link.ashore in {None, sync_view.is_ashore()}
    ]


#: Stands for an id in an address.
_ANY_ID = "00000000-0000-4000-8000-000000000000"


def urls_of_rows(endpoint: str, **values: Any) -> Callable[[str], str]:
    """Return the function that returns the address of a row at an endpoint: for hundreds, `url_for` takes too long."""
    address = url_for(endpoint, row_id=_ANY_ID, **values)

    def url_of(row_id: str) -> str:
        if is_id(row_id):
            return address.replace(_ANY_ID, row_id)
        return url_for(endpoint, row_id=row_id, **values)

    return url_of


@blueprint.app_template_global("row_url")
def row_url(slug: str, row_id: str) -> str:
    """Return the address of a row's page.

    :param slug: of the row's kind.
    """
    make = once_a_page(("row_url", slug), lambda: urls_of_rows("ui.row", kind=slug))
    return make(row_id)


@blueprint.app_template_global("verb_url")
def verb_url(slug: str, row_id: str, verb: str) -> str:
    """Return the address of an action on a row.

    :param slug: of the row's kind.
    :param verb: the action's name.
    """
    make = once_a_page(
        ("verb_url", slug, verb), lambda: urls_of_rows("ui.act", kind=slug, verb=verb)
    )
    return make(row_id)


def page(template: str, status: int = 200, **context: Any) -> tuple[str, int]:
    """Return a page; for htmx only its main part."""
    layout = "ui/_bare.html" if is_htmx() else "ui/base.html"
    return render_template(template, layout=layout, **context), status


def go(url: str, said: str = "") -> Response:
    """Redirect the browser to another page, which shows the message `said`."""
    if said:
        flash(said)
    if is_htmx():
        return Response(headers={"HX-Redirect": url})
    return redirect(url, 303)


def back(otherwise: str) -> str:
    """Return the URL of the page that sent the request, if it is on this server; else `otherwise`."""
    source = urlsplit(request.referrer or "")
    if source.netloc != request.host:
        return otherwise
    # Exactly one slash: a path with two would name another host.
    path = "/" + source.path.lstrip("/")
    return f"{path}?{source.query}" if source.query else path


def part(name: str, *args: Any) -> Markup:
    """Return a piece of a page."""
    return Markup(get_template_attribute(PARTS, name)(*args))  # noqa: S704  # rendered by Jinja


def partial(target: str, content: Markup, swap: str = "innerHTML") -> Markup:
    """Return a piece of a page that htmx puts in the element `target`."""
    return part("partial", target, content, swap)


def pieces(*parts: Markup) -> str:
    """Return the pieces of a page that a write has changed, including the chip."""
    chip = partial("#chip", part("chip", sync_view.chip()))
    return str(Markup("").join((*parts, chip)))
