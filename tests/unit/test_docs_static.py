"""The API reference: Swagger UI as published, and nothing inline or from elsewhere around it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "blueprints" / "docs"
VENDOR = DOCS / "static" / "vendor"
SUMS = {
    name: digest
    for digest, name in (line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
}
PAGE = (DOCS / "templates" / "docs" / "api.html").read_text()


def test_every_vendored_file_is_listed() -> None:
    assert set(SUMS) == {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS"}
    assert any(name.startswith("LICENSE") for name in SUMS)


@pytest.mark.parametrize("name", SUMS)
def test_a_vendored_file_is_as_published(name: str) -> None:
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == SUMS[name]


def test_the_page_holds_no_inline_code_and_no_foreign_address() -> None:
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", PAGE)
    assert not re.search(r"<script(?![^>]*\ssrc=)", PAGE)
    assert not re.search(r"(?:src|href|action)=[\"'](?:https?:)?//", PAGE)


def test_the_page_loads_the_vendored_files() -> None:
    loaded = set(re.findall(r"filename='vendor/([^']+)'", PAGE))
    assert loaded == {name for name in SUMS if name.endswith((".js", ".css"))}


def test_our_scripts_and_styles_name_no_foreign_address() -> None:
    for path in (*DOCS.glob("static/*.js"), *DOCS.glob("static/*.css")):
        assert not re.search(r"https?://|@import|url\(", path.read_text()), path.name
