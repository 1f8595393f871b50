"""`make docs` builds a site without a warning, which needs nothing from elsewhere."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.gunicorn_app import ROOT, clean_environment

SITE = ROOT / "build" / "docs" / "site"
#: What a page loads; what it only links to is the reader's choice.
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?([^\"' >]+)")
VENDORED = ROOT / "docs" / "site"


@pytest.fixture(scope="module")
def site() -> Path:
    """The built site."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.build_docs"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return SITE


def loaded(site: Path) -> Iterator[tuple[Path, str]]:
    for page in set(site.rglob("*.html")) - {site / "404.html"}:
        for address in LOADED.findall(page.read_text()):
            yield page, address


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.xdist_group("docs")
def test_the_site_has_all_parts_and_loads_nothing_from_elsewhere(
    site: Path, browser: Browser
) -> None:
    foreign = {
        address for _, address in loaded(site) if "://" in address or address.startswith("//")
    }
    assert not foreign
    for file, address in loaded(site):
        path = (file.parent / address.split("?")[0].split("#")[0]).resolve()
        assert path.exists(), f"{file.relative_to(site)} loads {address}"
    python = (site / "reference" / "python.html").read_text()
    for name in ("publish_change", "Follower", "memory_broker", "queue_flushed", "SettingError"):
        assert name in python, name
    assert "flask sync catchup" in (site / "reference" / "commands.html").read_text()
    assert "/api/work-orders.csv" in (site / "reference" / "http.html").read_text()
    assert "arus_mqtt_queue_depth" in (site / "reference" / "metrics.html").read_text()
    with closing(browser.new_page()) as page:
        _search(site, page)


def _search(site: Path, page: Page) -> None:
    """Search in the folder, without a server."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").fill("superseded")
    page.locator(".md-search-result__link").first.wait_for()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked


def test_the_script_of_others_is_as_published() -> None:
    sums = dict(line.split()[::-1] for line in (VENDORED / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in VENDORED.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == digest, name
