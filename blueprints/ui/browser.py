"""Security headers, refusal of forms from other sites, and error pages."""

from __future__ import annotations

from flask import Response, abort, render_template, request

from arus.web.problems import PROBLEM
from blueprints.common.origin import SAFE_METHODS, is_same_origin
from extensions.hosts import MACHINE_PATHS

#: No inline scripts or styles, nothing from other sites; Pico's icons are data: images.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def refuse_foreign_forms() -> None:
    """Refuse a write that was sent by a page of another site."""
    if request.method not in SAFE_METHODS and not is_same_origin(otherwise=False):
        abort(403, "The form was not sent from a page of this server.")


def secure(response: Response) -> Response:
    """Add the security headers of a page."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    if request.endpoint != "ui.static":
        response.headers["Cache-Control"] = "no-store"
        response.vary.update(("HX-Request", "Accept"))
    return response


def is_htmx() -> bool:
    """Return whether htmx sent the request, so that the response is a piece of a page."""
    return request.headers.get("HX-Request") == "true"


def show_problem(response: Response) -> Response:
    """Turn a problem document into a page if the browser asked for a page."""
    wants_page = (
        response.mimetype == PROBLEM
        and not request.path.startswith(MACHINE_PATHS)
        and request.accept_mimetypes.best_match((PROBLEM, "application/json", "text/html"))
        == "text/html"
    )
    if not wants_page:
        return response
    problem = response.get_json(silent=True) or {"title": response.status}
    template = "ui/_problem.html" if is_htmx() else "ui/error.html"
    response.set_data(render_template(template, problem=problem, status=response.status_code))
    response.content_type = "text/html; charset=utf-8"
    return secure(response)
