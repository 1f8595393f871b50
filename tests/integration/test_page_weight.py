"""What a page costs on a slow tablet: compressed, and nothing fetched twice."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from html import unescape

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.browser import FILES

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)]

#: Bytes that a first visit may cost, with all that the page asks for.
MOST = 150_000
#: For developers: it may weigh what Swagger UI does.
API_REFERENCE = "/api/docs"
MOST_OF_API_REFERENCE = 520_000
GZIP = {"Accept-Encoding": "gzip, deflate", "Accept": "text/html,*/*;q=0.8"}


@pytest.fixture
def client(make_app: Callable[..., Flask], migrated_database_url: str) -> FlaskClient:
    app = make_app(migrated_database_url)
    loaded = app.test_cli_runner().invoke(args=["demo", "load"])
    assert "Loaded" in loaded.output
    return app.test_client()


def get(client: FlaskClient, address: str, headers: dict[str, str] | None = None) -> TestResponse:
    """GET, read to its end and closed."""
    answer = client.get(address, headers=headers)
    answer.get_data()
    answer.close()
    return answer


def files(page: str) -> set[str]:
    """The addresses of all that a page loads by itself."""
    found = re.findall(r'<(?:link|script|img)[^>]*?\s(?:href|src)="([^"]+)"', page)
    return {unescape(address) for address in found}


def links(page: str) -> set[str]:
    found = {unescape(href) for href in re.findall(r'<a\s[^>]*?href="(/[^"#]*)', page)}
    return {href for href in found if not FILES.search(href.partition("?")[0])}


def test_a_first_load_of_any_page_is_small(client: FlaskClient) -> None:
    start = get(client, "/", GZIP)
    pages = {"/", *links(gzip.decompress(start.data).decode())}
    assert len(pages) > 6
    pages.remove(API_REFERENCE)
    weights = {}
    for address in pages:
        answer = get(client, address, GZIP)
        assert answer.status_code == 200, (address, answer.status)
        assert answer.headers["Content-Encoding"] == "gzip", address
        weights[address] = len(answer.data) + sum(
            len(get(client, file, GZIP).data)
            for file in files(gzip.decompress(answer.data).decode())
        )
    heaviest = max(weights, key=weights.__getitem__)
    print(f"heaviest: {heaviest}, {weights[heaviest]} bytes; all: {sorted(weights.values())}")
    assert weights[heaviest] < MOST, weights


def test_the_api_reference_weighs_what_swagger_ui_does(client: FlaskClient) -> None:
    page = get(client, API_REFERENCE)
    weight = len(page.data) + sum(len(get(client, file, GZIP).data) for file in files(page.text))
    assert weight < MOST_OF_API_REFERENCE
    for file in files(page.text):
        kept = get(client, file, GZIP)
        assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable", file


def test_files_are_kept_for_ever_under_addresses_that_change_with_them(client: FlaskClient) -> None:
    found = files(get(client, "/").text)
    assert found
    for file in found:
        kept = get(client, file)
        assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable", file
        path = file.partition("?")[0]
        for other in (path, f"{path}?v=0123456789ab"):
            assert "immutable" not in get(client, other).headers["Cache-Control"]
        again = get(client, path, {"If-None-Match": kept.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")


def test_a_text_is_the_same_compressed_and_not(client: FlaskClient) -> None:
    for address in ("/api/openapi.json", *files(get(client, "/").text)):
        plain, packed = get(client, address), get(client, address, GZIP)
        assert "Content-Encoding" not in plain.headers
        assert plain.vary == packed.vary
        if len(plain.data) > 1000:
            assert "Accept-Encoding" in packed.vary
            assert gzip.decompress(packed.data) == plain.data
            with client.head(address, headers=GZIP) as head:
                assert head.content_length == len(packed.data)
        refused = get(client, address, {"Accept-Encoding": "gzip;q=0"})
        assert refused.data == plain.data


def test_a_row_keeps_its_strong_tag(client: FlaskClient) -> None:
    (row, *_) = get(client, "/api/equipment").get_json()["items"]
    body = {"specifications": {f"part{number}": "x" * 50 for number in range(40)}}
    assert client.patch(f"/api/equipment/{row['id']}", json=body).status_code == 200
    answer = get(client, f"/api/equipment/{row['id']}", GZIP)
    assert "Content-Encoding" not in answer.headers
    changed = client.patch(
        f"/api/equipment/{row['id']}",
        json={"location": "Deck"},
        headers={"If-Match": answer.headers["ETag"]},
    )
    assert changed.status_code == 200
