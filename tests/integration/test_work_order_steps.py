"""The steps of a work order: part of the row, ticked off one at a time, merged when two people edit them."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient

from .test_ui_forms import browser, inputs, open_form

__all__ = ["browser"]

ORDERS = "/api/work-orders"


def steps(text: str) -> list[dict[str, Any]]:
    """`a B c`: three steps, the second of them done."""
    return [{"text": word.lower(), "done": word.isupper()} for word in text.split()]


@pytest.fixture
def order(client: FlaskClient, equipment_id: str) -> dict[str, Any]:
    """A work order with three steps, one done."""
    body = {"equipmentId": equipment_id, "reason": "Leak", "steps": steps("drain OPEN inspect")}
    answer = client.post(ORDERS, json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.get_json()
    return made


def now(client: FlaskClient, order: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{ORDERS}/{order['id']}").get_json()
    return found


def tick(browser: FlaskClient, order: dict[str, Any], text: str, done: bool = True) -> Any:
    return browser.post(
        f"/work-orders/{order['id']}/steps",
        data={"text": text, "number": "0", "done": str(done).lower()},
        follow_redirects=True,
    )


def test_steps_are_part_of_the_row(client: FlaskClient, order: dict[str, Any]) -> None:
    assert order["steps"] == steps("drain OPEN inspect")
    url = f"{ORDERS}/{order['id']}"
    changed = client.patch(url, json={"steps": [{"text": "  two \n lines "}]}).get_json()
    assert changed["steps"] == [{"text": "two lines", "done": False}]
    emptied = client.patch(url, json={"steps": None}).get_json()
    assert (emptied["steps"], emptied["version"]) == (None, 3)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ("text", "steps"),
        ([{"done": True}], "steps.0.text"),
        ([{"text": " "}], "steps.0.text"),
        ([{"text": "x" * 201}], "steps.0.text"),
        ([{"text": "a", "done": "perhaps"}], "steps.0.done"),
        ([{"text": "a", "more": 1}], "steps.0.more"),
        ([{"text": "a\0"}], "steps.0.text"),
        ([{"text": "a"}] * 101, "steps"),
    ],
)
def test_steps_that_are_not_valid_are_refused(
    client: FlaskClient, order: dict[str, Any], wrong: Any, field: str
) -> None:
    answer = client.patch(f"{ORDERS}/{order['id']}", json={"steps": wrong})
    assert answer.status_code == 422
    assert list(answer.get_json()["errors"]) == [field]
    assert now(client, order)["version"] == 1


def test_a_tick_changes_one_step_of_the_newest_version(
    client: FlaskClient, browser: FlaskClient, order: dict[str, Any]
) -> None:
    client.patch(f"{ORDERS}/{order['id']}", json={"steps": steps("first drain OPEN inspect")})
    assert tick(browser, order, "drain").status_code == 200
    assert now(client, order)["steps"] == steps("first DRAIN OPEN inspect")
    tick(browser, order, "open", done=False)
    assert now(client, order)["steps"] == steps("first DRAIN open inspect")
    version = now(client, order)["version"]
    tick(browser, order, "open", done=False)
    assert now(client, order)["version"] == version, "ticked already"


def test_a_tick_of_a_step_that_is_gone_says_so(
    client: FlaskClient, browser: FlaskClient, order: dict[str, Any]
) -> None:
    client.patch(f"{ORDERS}/{order['id']}", json={"steps": steps("other")})
    assert "changed in the meantime" in tick(browser, order, "drain").text
    assert now(client, order)["steps"] == steps("other")


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "one", ""])
def test_a_tick_of_a_number_that_is_none_is_no_failure(
    browser: FlaskClient, order: dict[str, Any], number: str
) -> None:
    form = {"text": "drain", "number": number, "done": "true"}
    assert browser.post(f"/work-orders/{order['id']}/steps", data=form).status_code == 303


def test_edits_of_two_people_are_merged_step_by_step(
    client: FlaskClient, browser: FlaskClient, order: dict[str, Any]
) -> None:
    url = f"/work-orders/{order['id']}/edit"
    mine, theirs = open_form(browser, url), open_form(browser, url)
    tick(browser, order, "inspect")
    answer = browser.post(url, data=theirs | {"steps": "drain\r\nopen\r\ninspect\r\nclose"})
    assert answer.status_code == 303, answer.text
    answer = browser.post(url, data=mine | {"steps": "vent\r\ndrain\r\nopen\r\ninspect"})
    assert answer.status_code == 303, answer.text
    assert now(client, order)["steps"] == steps("vent drain OPEN INSPECT close")


def test_a_form_that_does_not_say_what_it_showed_is_merged_too(
    client: FlaskClient, browser: FlaskClient, order: dict[str, Any]
) -> None:
    url = f"/work-orders/{order['id']}/edit"
    form = {key: text for key, text in open_form(browser, url).items() if "was." not in key}
    tick(browser, order, "drain")
    answer = browser.post(url, data=form | {"steps": "drain\r\nopen\r\nclose"})
    assert answer.status_code == 303, answer.text
    assert now(client, order)["steps"] == steps("DRAIN OPEN close")


def test_a_tick_meanwhile_does_not_disturb_an_edit_of_other_fields(
    client: FlaskClient, browser: FlaskClient, order: dict[str, Any]
) -> None:
    url = f"/work-orders/{order['id']}/edit"
    form = open_form(browser, url)
    tick(browser, order, "drain")
    assert browser.post(url, data=form | {"reason": "Leak at the seal"}).status_code == 303
    saved = now(client, order)
    assert (saved["reason"], saved["steps"]) == ("Leak at the seal", steps("DRAIN OPEN inspect"))


def test_a_conflict_in_another_field_keeps_the_merged_steps(
    client: FlaskClient, browser: FlaskClient, order: dict[str, Any]
) -> None:
    url = f"/work-orders/{order['id']}/edit"
    form = open_form(browser, url)
    client.patch(f"{ORDERS}/{order['id']}", json={"reason": "R2", "steps": steps("drain OPEN x")})
    mine = {"reason": "R3", "steps": "drain\r\nopen\r\ninspect\r\nmine"}
    answer = browser.post(url, data=form | mine)
    assert answer.status_code == 409
    choices = inputs(answer.text)
    assert choices["steps"] == "drain\nopen\nx\nmine"
    answer = browser.post(url, data=choices | {"decide": "mine"})
    assert answer.status_code == 303, answer.text
    saved = now(client, order)
    assert (saved["reason"], saved["steps"]) == ("R3", steps("drain OPEN x mine"))


def test_the_history_tells_which_step_was_ticked(
    browser: FlaskClient, order: dict[str, Any]
) -> None:
    tick(browser, order, "drain")
    page = unescape(browser.get(f"/work-orders/{order['id']}").text)
    assert "from ☐ drain to ☑ drain" in page
    assert "2 of 3 done" in page


def test_htmx_is_answered_with_the_page_so_that_nothing_moves(
    browser: FlaskClient, order: dict[str, Any]
) -> None:
    answer = browser.post(
        f"/work-orders/{order['id']}/steps",
        data={"text": "drain", "number": "0", "done": "true"},
        headers={"HX-Request": "true"},
    )
    assert answer.status_code == 200
    assert "2 of 3 done" in answer.text
    assert "<html" not in answer.text
