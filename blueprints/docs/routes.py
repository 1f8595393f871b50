"""`/api/docs`: the OpenAPI document as a page, where requests can be tried; it loads nothing from other sites."""

from __future__ import annotations

from flask import Blueprint, Response, render_template, request

from blueprints.ui.browser import secure

blueprint = Blueprint(
    "docs",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/api/docs/static",
)


@blueprint.get("/api/docs")
def page() -> str:
    """Show the API's documentation."""
    return render_template("docs/api.html")


@blueprint.after_request
def secure_page(response: Response) -> Response:
    """Add the security headers of a page; its static files may be cached."""
    return response if request.endpoint == "docs.static" else secure(response)
