"""What several parts of a page ask for, read once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from flask import has_request_context, request

Read = TypeVar("Read")

#: Of a request: what was read, by its key.
_READ = "arus.read_once"


def once_a_page(key: Hashable, read: Callable[[], Read]) -> Read:
    """Return what `read` returns, which is called once for a `key` while a page is shown.

    A request that may write, and code outside of requests, read each time.
    """
    if not has_request_context() or request.method != "GET":
        return read()
    kept: dict[Hashable, Any] = request.environ.setdefault(_READ, {})
    if key not in kept:
        kept[key] = read()
    found: Read = kept[key]
    return found
