"""Debian's chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.support import selection
from tests.support.broker import find_program
from tests.support.vendored import AXE

ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
#: A name that the browser alone resolves: on plain http it makes no secure context.
SHIP_HOST = "ship-host"

#: Rules that depend on colours alone.
COLOURS = ("color-contrast", "link-in-text-block")
#: Rules that depend on what is where.
SHAPES = (
    "aria-hidden-focus",
    "empty-table-header",
    "heading-order",
    "link-in-text-block",
    "region",
    "scrollable-region-focusable",
    "skip-link",
    "target-size",
)

#: Milliseconds that a page on a slow and busy machine may take for anything.
PATIENCE = 60_000
expect.set_options(timeout=PATIENCE)

#: CSS pixels: a phone at 200 % and 100 %, a tablet and a laptop at 100 % and 125 %, the widest screen.
WIDTHS = (160, 320, 768, 1024, 1280, 2560)
PHONE: ViewportSize = {"width": 360, "height": 740}
DESK: ViewportSize = {"width": 1280, "height": 800}


@contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """A headless browser."""
    selection.starts("browser")
    arguments = [*ARGUMENTS, f"--host-resolver-rules=MAP {SHIP_HOST} 127.0.0.1", *more]
    if os.getuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_program("chromium"), args=arguments
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def strict_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page in a context of its own; an error in a script or by the CSP fails the test."""
    context = browser.new_context(**{"locale": "en-GB", "timezone_id": "UTC", **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    errors = complaints(page)
    try:
        yield page
    finally:
        context.close()
    assert not errors, f"the browser complained: {errors}"


def complaints(page: Page) -> list[str]:
    """What the console will say of errors from now on."""
    errors: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # a refused form is an answer, which chromium reports as a resource that failed
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(f"{page.url}: {message.text}")

    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
    return errors


@dataclass
class Traffic:
    """What a browser has asked for, and what it was answered."""

    requested: list[str] = field(default_factory=list)
    #: Answers of 400 and more: (status, address).
    refused: list[tuple[int, str]] = field(default_factory=list)

    @classmethod
    def of(cls, context: BrowserContext) -> Traffic:
        """Watch all pages of a context."""
        traffic = cls()
        context.on("request", lambda request: traffic.requested.append(request.url))
        context.on(
            "response",
            lambda response: (
                traffic.refused.append((response.status, response.url))
                if response.status >= 400
                else None
            ),
        )
        return traffic

    def outside(self, root: str) -> list[str]:
        """The requests for something that is not below `root`."""
        return [url for url in self.requested if not url.startswith((root, "data:", "blob:"))]


def choose(within: Page | Locator, label: str, text: str) -> None:
    """Choose an option of a list that is searched; without scripts it is a plain list."""
    box = within.get_by_role("combobox", name=label)
    if box.evaluate("element => element.tagName") == "SELECT":
        box.select_option(label=text)
        return
    box.fill(text)
    found = within.get_by_role("listbox", name="Choices").get_by_role(
        "option", name=text, exact=True
    )
    expect(found).to_be_visible()
    expect(box).to_have_attribute("aria-activedescendant", re.compile("."))
    found.click()
    expect(box).to_have_value(text)


# --- accessibility -------------------------------------------------------------------------------


def axe(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe finds on the page as it is, one line each; `rules`: these only."""
    # evaluated from outside, which the page's policy does not forbid
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{page.url} [{violation['id']}] {violation['help']}: {node['target']} {_why(node)}"
        for violation in found["violations"]
        for node in violation["nodes"][:5]
    ]


def _why(node: dict[str, Any]) -> str:
    return "; ".join(check["message"] for check in [*node["any"], *node["all"], *node["none"]])[
        :200
    ]


def faults(page: Page) -> list[str]:
    """What is wrong with the page for somebody: by light, in the dark, and on a phone."""
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size(DESK)
    page.locator("h1").first.wait_for()  # of the API page, which its script renders
    found = axe(page)
    if (headings := page.locator("h1").count()) != 1:
        found.append(f"{page.url}: {headings} h1")
    # What is in a noscript is text where there are scripts.
    if page.locator("noscript:visible").count():
        found.append(f"{page.url}: what is for browsers without scripts is shown")
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    found += [f"dark: {fault}" for fault in axe(page, COLOURS)]
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size(PHONE)
    found += [f"360 px: {fault}" for fault in axe(page, SHAPES)]
    page.set_viewport_size(DESK)
    found += misfits(page, WIDTHS)
    return found


_MISFITS = """async () => {
  // Charts are drawn again in the next frame.
  for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
  const width = document.documentElement.clientWidth, found = [];
  const say = (what, element) =>
    found.push(`${what}: ${element.outerHTML.slice(0, 80)}: ${element.textContent.trim().slice(0, 40)}`);
  const page = document.documentElement.scrollWidth;
  if (page > width) found.push(`the page is ${page} px wide`);
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.checkVisibility({ visibilityProperty: true }) || element.closest("svg, .uplot, option, .skip")) continue;
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (box.width === 0 || box.height === 0 || box.right <= 0) continue;  // kept for screen readers
    if (box.right > width + 1) say(`ends at ${Math.round(box.right)} px`, element);
    else if (box.left < -1) say(`begins at ${Math.round(box.left)} px`, element);
    const isInput = ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName);
    const isWider = element.scrollWidth > element.clientWidth + 1;
    if (!isInput && isWider && style.display !== "inline" && style.overflowX !== "visible") say("cut", element);
  }
  return found.slice(0, 5);
}"""


def misfits(page: Page, widths: Sequence[int]) -> list[str]:
    """What is cut, or makes the page scroll sideways, in windows of these widths in CSS pixels."""
    found = []
    before = page.viewport_size or DESK
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        found += [f"{page.url} at {width} px: {each}" for each in page.evaluate(_MISFITS)]
    page.set_viewport_size(before)
    return found


# --- all pages -----------------------------------------------------------------------------------

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{6,}_\w+|(?<=/)\d+(?=/|$)")
#: Kinds of pages, in a walk.
MOST = 200
#: Not pages.
FILES = re.compile(r"\.json$|/health$|/metrics$|/static/")


def shape(url: str) -> str:
    """An address without what differs from row to row."""
    parts = urlsplit(url)
    query = sorted({name for name, _value in parse_qsl(parts.query)})
    return _ID.sub("*", parts.path) + ("?" + "&".join(query) if query else "")


def links(page: Page, root: str) -> list[str]:
    """The addresses below `root` that the page leads to."""
    hrefs: list[str] = page.eval_on_selector_all(
        "a[href]:not([download])", "links => links.map(link => link.getAttribute('href'))"
    )
    urls = (urljoin(page.url, href).partition("#")[0] for href in hrefs)
    return [url for url in urls if url.startswith(root) and not FILES.search(urlsplit(url).path)]


def walk(page: Page, root: str, *, queries: bool = True) -> Iterator[str]:
    """Visit one page of each kind that can be reached by links from `root`; yields its address.

    The caller may look at the page, and lead it elsewhere. Without `queries`, the orders, filters
    and further pages of a list are left out.
    """
    waiting, seen = [root], {shape(root)}
    while waiting:
        url = waiting.pop(0)
        assert len(seen) < MOST, f"no end of kinds of pages: {sorted(seen)}"
        answer = page.goto(url)
        assert answer is not None
        assert answer.ok, f"{url}: {answer.status}"
        for link in links(page, root):
            kind = shape(link if queries else link.partition("?")[0])
            # the other language has tests of its own
            if "lang=" not in link and kind not in seen:
                seen.add(kind)
                waiting.append(link)
        yield url
