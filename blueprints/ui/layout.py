"""What all pages share: the blueprint, the navigation, and answers that are pages or pieces of one."""

from __future__ import annotations

from dataclasses import dataclass
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
from werkzeug.wrappers import Response

from blueprints.common.fields import iso

from . import sync_view
from .browser import is_htmx, refuse_foreign_forms, secure, show_problem
from .i18n import lazy

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


@dataclass(frozen=True, slots=True)
class NavLink:
    """An entry of the navigation."""

    text: Any
    endpoint: str
    #: The kind of rows that it lists; blank where it leads elsewhere.
    kind: str = ""

    @property
    def url(self) -> str:
        """Where it leads."""
        return url_for(self.endpoint, kind=self.kind) if self.kind else url_for(self.endpoint)

    @property
    def current(self) -> str:
        """What `aria-current` says of it: nothing, that it is this page, or that this page is below."""
        if self.kind:
            here = (request.view_args or {}).get("kind") == self.kind
            return ("page" if request.endpoint == self.endpoint else "true") if here else ""
        own = self.endpoint.rpartition(".")[0]
        if request.endpoint == self.endpoint:
            return "page"
        return "true" if own != "ui" and request.blueprint == own else ""


NAVIGATION = (
    NavLink(lazy("Overview"), "ui.index"),
    NavLink(lazy("Work orders"), "ui.rows", "work-orders"),
    NavLink(lazy("Alerts"), "ui.rows", "alerts"),
    NavLink(lazy("Maintenance"), "ui.rows", "schedules"),
    NavLink(lazy("Equipment"), "ui.rows", "equipment"),
    NavLink(lazy("Crew"), "ui.rows", "crew"),
    NavLink(lazy("Sync"), "arus_sync.index"),
)


@blueprint.app_template_global("navigation")
def navigation() -> list[NavLink]:
    """Return the links to what is there."""
    return [link for link in NAVIGATION if link.endpoint in current_app.view_functions]


def page(template: str, status: int = 200, **context: Any) -> tuple[str, int]:
    """Return a page, or for htmx what goes into its main part."""
    layout = "ui/_bare.html" if is_htmx() else "ui/base.html"
    return render_template(template, layout=layout, **context), status


def go(url: str, said: str = "") -> Response:
    """Send the browser to another page, which says what was done."""
    if said:
        flash(said)
    if is_htmx():
        return Response(headers={"HX-Redirect": url})
    return redirect(url, 303)


def back(otherwise: str) -> str:
    """Return the page that the request was sent from, if it is one of ours."""
    source = urlsplit(request.referrer or "")
    if source.netloc != request.host:
        return otherwise
    # One slash: two would name another host.
    path = "/" + source.path.lstrip("/")
    return f"{path}?{source.query}" if source.query else path


def part(name: str, *args: Any) -> Markup:
    """Return a piece of a page."""
    return Markup(get_template_attribute(PARTS, name)(*args))  # noqa: S704  # rendered by Jinja


def partial(target: str, content: Markup, swap: str = "innerHTML") -> Markup:
    """Return a piece of a page that goes where `target` says."""
    return part("partial", target, content, swap)


def pieces(*parts: Markup) -> str:
    """Return the pieces of a page that a write has changed, the chip among them."""
    chip = partial("#chip", part("chip", sync_view.chip()))
    return str(Markup("").join((*parts, chip)))
