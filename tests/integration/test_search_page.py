"""The search in the header: over all kinds of rows, by number, name, serial number, text, and the equipment's name."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient


@pytest.fixture
def rows(client: FlaskClient) -> dict[str, str]:
    """Rows of several kinds, by a name for the test."""
    pump = client.post(
        "/api/equipment", json={"name": "Ørsted pump", "type": "pump", "serialNumber": "SN-4711"}
    ).get_json()
    order = client.post(
        "/api/work-orders", json={"equipmentId": pump["id"], "reason": "Leaking seal"}
    ).get_json()
    member = client.post("/api/crew", json={"name": "Ada Berg", "notes": "leak expert"}).get_json()
    ids = {"pump": pump["id"], "order": order["id"], "member": member["id"]}
    return {**ids, "number": order["woNumber"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("sn-4711", {"pump", "order"}),
        ("LEAK", {"order", "member"}),
        ("ørsted", {"pump", "order"}),
        ("ØRSTED PUMP", {"pump", "order"}),
        ("berg", {"member"}),
        ("nothing", set()),
    ],
)
def test_a_text_is_found_in_all_kinds_of_rows(
    client: FlaskClient, rows: dict[str, str], q: str, found: set[str]
) -> None:
    page = client.get("/search", query_string={"q": q}).text
    assert {name for name in ("pump", "order", "member") if rows[name] in page} == found
    assert ("No matches." in page) is (not found)


def test_a_work_order_is_found_by_its_number(client: FlaskClient, rows: dict[str, str]) -> None:
    assert rows["order"] in client.get("/search", query_string={"q": rows["number"]}).text


def test_more_than_five_of_a_kind_lead_to_the_list(client: FlaskClient) -> None:
    for number in range(6):
        client.post("/api/crew", json={"name": f"Sailor {number}"})
    page = client.get("/search?q=sailor").text
    assert page.count("Sailor ") == 5
    assert 'href="/crew?q=sailor"' in page


def test_the_header_of_each_page_searches(client: FlaskClient) -> None:
    assert 'action="/search"' in client.get("/crew").text
    assert 'value="a &lt;b&gt;"' in client.get("/search?q=a+<b>").text
    assert client.get("/search").status_code == 200
