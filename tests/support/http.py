"""HTTP as a client of ours would speak it: every status is an answer, none an exception."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An HTTP response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def request(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 90,
) -> Answer:
    """One request to a loopback port. `body` is sent as JSON, bytes as they are.

    :raises OSError: there was no answer, or not all of one.
    """
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = dict(headers or {})
    if content is not None:
        sent.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, content, sent)
        response = connection.getresponse()
        # case-insensitive already; a plain dict would not be
        return Answer(response.status, response.headers, response.read())  # type: ignore[arg-type]
    except http.client.HTTPException as error:
        raise ConnectionError(f"the answer broke off: {error!r}") from error
    finally:
        connection.close()
