"""Logging in, in a browser: the first administrator, a session that ends while a form is open, pages, and tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Traffic, choose, faults
from tests.support.gunicorn_app import GunicornApp, flask

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

NAME, PASSWORD, NEW_PASSWORD = "Ada Lovelace", "a long password", "another long password"
SECRET = {"SECRET_KEY": "for-tests-only-and-long-enough"}


@pytest.fixture
def settings(migrated_database_url: str) -> dict[str, str]:
    """Of the commands beside the server."""
    settings = {"DATABASE_URL": migrated_database_url, **SECRET}
    flask("user", "add", NAME, "--role", "administrator", "--password", PASSWORD, settings=settings)
    return settings


@pytest.fixture
def app(start_app: Callable[..., GunicornApp], settings: dict[str, str]) -> GunicornApp:
    return start_app({"ACCESS": "login"}, workers=1)


def log_in(page: Page, password: str = PASSWORD) -> None:
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def end_sessions(settings: dict[str, str]) -> None:
    """End all sessions, as a new password does."""
    flask("user", "password", NAME, "--password", NEW_PASSWORD, settings=settings)


def equip(page: Page, app: GunicornApp, name: str) -> None:
    page.goto(f"{app.url}/equipment/new")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Type", exact=True).fill("pump")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_what_was_typed_is_sent_after_logging_in_again(
    app: GunicornApp, settings: dict[str, str], page: Page
) -> None:
    page.goto(f"{app.url}/equipment/new")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    log_in(page, "a wrong password")
    expect(page.get_by_role("alert")).to_contain_text("do not match")
    log_in(page)
    expect(page).to_have_url(f"{app.url}/equipment/new")
    equip(page, app, "Bilge pump")

    page.goto(f"{app.url}/equipment/new")
    page.get_by_label("Name", exact=True).fill("Fire pump <No. 1>")
    page.get_by_label("Type", exact=True).fill("pump & motor")
    end_sessions(settings)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="What you typed is kept")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    found = faults(page)
    log_in(page, PASSWORD)
    expect(page.get_by_role("alert")).to_contain_text("do not match")
    log_in(page, NEW_PASSWORD)
    expect(page.get_by_role("heading", level=1)).to_have_text("Send what you typed")
    found += faults(page)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Fire pump <No. 1>")
    expect(page.locator("main")).to_contain_text("pump & motor")
    page.goto(f"{app.url}/equipment")
    expect(page.locator("main")).to_contain_text("Fire pump <No. 1>")
    assert not found, "\n".join(found)


def test_a_quick_form_is_kept_too_and_the_page_does_not_ask_again_by_itself(
    app: GunicornApp, settings: dict[str, str], page: Page
) -> None:
    page.goto(app.url)
    log_in(page)
    equip(page, app, "Main engine")
    page.goto(app.url)
    form = page.locator("#work-order-form")
    form.get_by_text("New work order").click()
    choose(form, "Equipment", "Main engine")
    form.get_by_label("Reason").fill("Fuel leak")
    end_sessions(settings)
    form.get_by_role("button", name="Create").click()
    expect(page.get_by_role("status").filter(has_text="What you typed is kept")).to_be_visible()
    log_in(page, NEW_PASSWORD)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("main")).to_contain_text("Fuel leak")


def test_axe_finds_nothing_on_the_pages_of_access(
    app: GunicornApp, settings: dict[str, str], page: Page
) -> None:
    page.goto(f"{app.url}/login")
    found = faults(page)
    log_in(page, "a wrong password")
    expect(page.get_by_role("alert")).to_be_visible()
    found += faults(page)
    log_in(page)
    page.goto(f"{app.url}/account")
    found += faults(page)
    page.goto(f"{app.url}/users")
    found += faults(page)
    page.goto(f"{app.url}/tokens")
    found += faults(page)
    page.get_by_label("Name").fill("report")
    page.get_by_label("read").check()
    page.get_by_role("button", name="Add").click()
    expect(page.locator("code.token")).to_be_visible()
    found += faults(page)
    assert not found, "\n".join(found)


def operation(page: Page, path: str) -> Locator:
    shown = page.locator(".opblock-get")
    return shown.filter(has=page.locator(f'.opblock-summary-path[data-path="{path}"]'))


def test_the_api_reference_sends_a_token_that_was_entered(
    app: GunicornApp, settings: dict[str, str], page: Page
) -> None:
    text = flask("token", "add", "reader", "--scope", "read", settings=settings).split()[-1]
    page.goto(f"{app.url}/api/docs")
    log_in(page)
    expect(page).to_have_url(f"{app.url}/api/docs")
    traffic = Traffic.of(page.context)
    page.reload()
    page.get_by_role("button", name="Authorize", exact=True).first.click()
    dialog = page.locator(".dialog-ux")
    bearer = dialog.locator(".auth-container").filter(has_text="http, Bearer")
    bearer.locator("input").fill(text)
    bearer.get_by_role("button", name="Apply").click()
    dialog.get_by_role("button", name="Close").last.click()

    # By the token alone: the session is over.
    page.context.clear_cookies()
    shown = operation(page, "/api/crew")
    shown.locator(".opblock-summary-control").click()
    with page.expect_request("**/api/crew*") as sent:
        shown.get_by_role("button", name="Execute").click()
    assert sent.value.headers["authorization"] == f"Bearer {text}"
    answer = shown.locator(".live-responses-table .response .response-col_status").first
    expect(answer).to_contain_text("200")
    assert traffic.outside(f"{app.url}/") == []
