"""What browsers are sent: text compressed, and files at addresses that change with their content.

Done here, so that a vessel needs no proxy in front of gunicorn.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from hashlib import blake2s
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, request
from werkzeug.utils import safe_join

#: What is worth compressing.
TEXTS = {
    "text/html",
    "text/css",
    "text/javascript",
    "application/javascript",
    "application/json",
    "image/svg+xml",
}
#: Bytes; below, the header would cost what compression gains.
SMALLEST = 1000
#: Pages are made anew each time, files are compressed once.
PAGE_LEVEL, FILE_LEVEL = 5, 9
#: Seconds that a browser may keep what its address names exactly.
YEAR = 365 * 24 * 3600


def init_assets(app: Flask) -> None:
    """Version the addresses of `app`'s files, and compress what it answers.

    Called before all that add `after_request` functions: these run in reverse.
    """
    app.after_request(_compress)
    app.after_request(_keep)
    app.url_defaults(_version)


def _is_static(endpoint: str | None) -> bool:
    return endpoint is not None and endpoint.rpartition(".")[2] == "static"


def _version(endpoint: str, values: dict[str, Any]) -> None:
    """Add the content's hash to the address of a file."""
    if not _is_static(endpoint) or "v" in values or "filename" not in values:
        return
    if version := _version_of(endpoint, values["filename"]):
        values["v"] = version


def _version_of(endpoint: str, name: str) -> str | None:
    owner = current_app.blueprints.get(endpoint.rpartition(".")[0], current_app)
    place = safe_join(owner.static_folder, name) if owner.static_folder else None
    try:
        changed = Path(place).stat().st_mtime_ns if place else 0
    except OSError:
        return None
    return _digest(place, changed) if place else None


@lru_cache(maxsize=256)
def _digest(place: str, _changed: int) -> str:
    return blake2s(Path(place).read_bytes(), digest_size=6).hexdigest()


def _keep(response: Response) -> Response:
    """Let a browser keep a file that its address names exactly."""
    if not _is_static(request.endpoint) or response.status_code not in {200, 304}:
        return response
    asked = request.args.get("v")
    if asked and asked == _version_of(
        request.endpoint or "", (request.view_args or {})["filename"]
    ):
        response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
    # compressed or not, it is the same file
    if etag := response.get_etag()[0]:
        response.set_etag(etag, weak=True)
    return response


def _compress(response: Response) -> Response:
    """Compress a text for a browser that takes it so.

    An answer of the API with an `ETag` is left as it is: clients send the tag back in `If-Match`,
    which takes strong tags only, and a compressed answer can't have the same.
    """
    is_file = _is_static(request.endpoint)
    if (
        response.mimetype not in TEXTS
        or response.status_code in {204, 206, 304}
        or "Content-Encoding" in response.headers
        or not (is_file or response.is_sequence)
        or ("ETag" in response.headers and not is_file)
        or (response.content_length or SMALLEST) < SMALLEST
    ):
        return response
    response.vary.add("Accept-Encoding")
    if not request.accept_encodings.quality("gzip"):
        return response
    response.direct_passthrough = False
    data = response.get_data()
    if len(data) < SMALLEST:
        return response
    response.set_data(_file(data) if is_file else gzip.compress(data, PAGE_LEVEL, mtime=0))
    response.headers["Content-Encoding"] = "gzip"
    return response


@lru_cache(maxsize=64)
def _file(data: bytes) -> bytes:
    return gzip.compress(data, FILE_LEVEL, mtime=0)
