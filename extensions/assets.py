"""Compression of responses, and static files at URLs that change with their content.

Flask-Compress compresses, so that a vessel needs no proxy in front of gunicorn. This module adds the
versioned URLs, and excludes the responses that must not be compressed.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2s
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, request
from flask_compress import Compress
from werkzeug.utils import safe_join

compress = Compress()
#: Seconds that a browser may cache a file with a versioned URL.
YEAR = 365 * 24 * 3600


def init_assets(app: Flask) -> None:
    """Version the URLs of `app`'s files, and compress its responses.

    Call it before anything else adds an `after_request` function, because these run in reverse order.
    """
    compress.init_app(app)
    app.after_request(_compress)
    app.after_request(_keep)
    app.url_defaults(_version)


def _is_static(endpoint: str | None) -> bool:
    return endpoint is not None and endpoint.rpartition(".")[2] == "static"


def _version(endpoint: str, values: dict[str, Any]) -> None:
    """Add the hash of its content to the URL of a file."""
    if "filename" not in values or "v" in values or not _is_static(endpoint):
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
    """Let browsers cache a file with a versioned URL."""
    if not _is_static(request.endpoint) or response.status_code not in {200, 304}:
        return response
    asked = request.args.get("v")
    if asked and asked == _version_of(
        request.endpoint or "", (request.view_args or {})["filename"]
    ):
        response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
    # the same for the compressed and the plain file
    if etag := response.get_etag()[0]:
        response.set_etag(etag, weak=True)
    return response


def _compress(response: Response) -> Response:
    """Compress a response, unless that would make it wrong.

    These are not compressed:

    - Responses of the API with an `ETag`: clients send the tag back in `If-Match`, which requires a strong
      tag, and Flask-Compress changes the tag of a compressed response.
    - Parts of a file: the range counts the bytes of the uncompressed file.
    - Responses to clients that refuse gzip with `q=0`, which Flask-Compress ignores.
    """
    is_file = _is_static(request.endpoint)
    if response.status_code == 206 or ("ETag" in response.headers and not is_file):
        return response
    if not request.accept_encodings.quality("gzip"):
        response.vary.add("Accept-Encoding")
        return response
    if is_file and response.mimetype in compress.compress_mimetypes_set:
        # Read completely, so that HEAD reports the compressed length.
        response.direct_passthrough = False
        response.make_sequence()
    return compress.after_request(response)
