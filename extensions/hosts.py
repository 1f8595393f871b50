"""Requests for other hosts are refused (RFC 9110, 15.5.20), and answers for programs are neither stored nor guessed at.

A web page whose own name is made to lead here (DNS rebinding) would otherwise use a crew member's browser, and the
browser would take both for the same site.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from flask import Flask, Response, current_app, request

from .api import problem

#: Paths whose answers are for programs.
MACHINE_PATHS = ("/api/", "/metrics", "/healthz", "/readyz")
#: A Host header: a name or an address, and a port (RFC 9110, 7.2).
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{0,5})?", re.IGNORECASE)


def init_hosts(app: Flask) -> None:
    """Refuse requests for other hosts before anything else looks at them; the first extension to be bound."""
    app.before_request(_refuse_other_hosts)
    app.after_request(_for_programs)
    # A path of two slashes is no path of ours: redirecting it could name another host.
    app.url_map.merge_slashes = False


def _refuse_other_hosts() -> Response | None:
    host = request.environ.get("HTTP_HOST")
    if host is None or is_allowed(host, current_app.config["ALLOWED_HOSTS"]):
        return None
    return problem(421, "This server is not known by that name; add it to TRUSTED_HOSTS.")


def _for_programs(response: Response) -> Response:
    if request.path.startswith(MACHINE_PATHS) and request.endpoint != "docs.static":
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


def is_allowed(host: str, names: frozenset[str]) -> bool:
    """Return whether a Host header names one of `names`, or any IP address."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().rstrip(".")
    if name in names:
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
