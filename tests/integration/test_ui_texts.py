"""A form never changes a text that nobody has edited, whatever the API accepts in it."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from blueprints.common.fields import Text
from blueprints.ui.kinds import KINDS
from extensions import db

from .test_ui_forms import API, browser, filled, inputs, open_form, row

__all__ = ["browser"]

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

LINES = {
    "LF": "one\ntwo",
    "CRLF": "one\r\ntwo",
    "CR": "one\rtwo",
    "mixed": "one\r\n\ntwo\rthree\n\rfour",
    "tabs": "one\t\ttwo  three",
    "Unicode": "one\u2028two\u2029three\x85four\ufefffive",
    "HTML": "</textarea><b a='1' c=\"2\">&amp;\n&#13;",
}
DOCUMENT = {
    "lines\r\nof a name": "one\r\ntwo\rthree\nfour",
    " spaces ": "  x\t",
    "number": 1e300,
    "text": "1",
    "none": None,
    "deep": {"a": [1, "\r"]},
}


def texts_of(slug: str, value: str) -> dict[str, str]:
    """A text for each field that accepts any."""
    schema = KINDS[slug].resource.schema()
    return {
        field.data_key or name: value
        for name, field in schema.fields.items()
        if type(field) is Text and not field.dump_only and not field.validators
    }


def api_made(browser: FlaskClient, slug: str, equipment_id: str, body: dict[str, Any]) -> str:
    start = filled(slug, equipment_id) | {"scheduledDate": "2026-12-01T08:00:30.250Z"}
    start = {k: v for k, v in start.items() if slug == "schedules" or k != "scheduledDate"}
    if slug == "alerts":
        start |= {"value": "93.123456789012345", "threshold": "1e-7", "acknowledged": "true"}
    start.pop("specifications", None)
    answer = browser.post(f"/api/{API[slug]}", json={**start, **body})
    assert answer.status_code == 201, answer.text
    return f"/{slug}/{answer.get_json()['id']}"


@pytest.mark.parametrize("slug", KINDS)
def test_a_text_that_nobody_has_edited_stays_as_it_is(
    browser: FlaskClient, equipment_id: str, slug: str
) -> None:
    for name, value in LINES.items():
        extra = {"specifications": DOCUMENT} if slug == "equipment" else {}
        url = api_made(browser, slug, equipment_id, texts_of(slug, value) | extra)
        before = row(browser, url)
        form = open_form(browser, f"{url}/edit")
        assert browser.post(f"{url}/edit", data=form).status_code == 303
        assert row(browser, url) == before, (name, "saved without an edit")

        # Somebody else changes it meanwhile: who has edited nothing is not asked.
        other = {"priority": 1} if "priority" in before else {}
        if other:
            assert browser.patch(f"/api/{API[slug]}/{url[-36:]}", json=other).status_code == 200
            assert browser.post(f"{url}/edit", data=form).status_code == 303
            assert row(browser, url)["version"] == 2

        edited = KINDS[slug].inputs[-2 if slug == "equipment" else -1]
        typed = {"flag": "true", "number": "7", "pairs": "a: 1"}.get(edited.control, "edited")
        form = open_form(browser, f"{url}/edit") | {edited.key: typed}
        assert browser.post(f"{url}/edit", data=form).status_code == 303
        after = row(browser, url)
        assert after[edited.key] != before[edited.key]
        kept = set(before) - {edited.key, "version", "updatedAt", *other}
        assert {key: after[key] for key in kept} == {key: before[key] for key in kept}, name


def test_an_edited_text_keeps_the_kind_of_its_line_ends(
    browser: FlaskClient, equipment_id: str
) -> None:
    body = {"reason": "hot\r\nstop", "description": "a\rb"}
    url = api_made(browser, "work-orders", equipment_id, body)
    form = open_form(browser, f"{url}/edit")
    assert form["reason"] == "hot\r\nstop", "shown as the lines that it has"
    form |= {"reason": "hot\r\nstop\r\ncheck", "description": "a\r\nb\r\nc"}
    assert browser.post(f"{url}/edit", data=form).status_code == 303
    after = row(browser, url)
    assert (after["reason"], after["description"]) == ("hot\r\nstop\r\ncheck", "a\rb\rc")


def test_a_choice_that_the_list_does_not_have_stays(
    browser: FlaskClient, equipment_id: str
) -> None:
    path = f"/equipment/{equipment_id}"
    browser.patch(f"/api{path}", json={"criticalityLevel": None})
    before = row(browser, path)
    assert browser.post(f"{path}/edit", data=open_form(browser, f"{path}/edit")).status_code == 303
    assert row(browser, path) == before
    with browser.application.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE equipment SET criticality_level = 'vital'"))
    form = open_form(browser, f"{path}/edit")
    assert form["criticalityLevel"] == "vital"
    assert browser.post(f"{path}/edit", data=form | {"model": "X"}).status_code == 303
    assert row(browser, path)["criticalityLevel"] == "vital"


def test_a_conflict_about_another_field_changes_no_text(
    browser: FlaskClient, equipment_id: str
) -> None:
    body = {"reason": "hot\rstop", "description": "a\r\nb"}
    url = api_made(browser, "work-orders", equipment_id, body)
    form = open_form(browser, f"{url}/edit") | {"maintenanceType": "mine"}
    browser.patch(f"/api{url}", json={"maintenanceType": "theirs"})
    asked = browser.post(f"{url}/edit", data=form)
    assert asked.status_code == 409
    assert asked.text.count("<legend>") == 1
    chosen = inputs(asked.text) | {"use.maintenanceType": "mine"}
    assert browser.post(f"{url}/edit", data=chosen).status_code == 303
    after = row(browser, url)
    assert (after["maintenanceType"], after["reason"]) == ("mine", body["reason"])
    assert after["description"] == body["description"]
