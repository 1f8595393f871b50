"""The lists of the pages: searched, filtered, sorted, and paged both ways, on both databases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import insert
from werkzeug.datastructures import MultiDict

from blueprints.equipment.models import Equipment
from blueprints.ui import listing
from blueprints.ui.kinds import KINDS
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.database import new_id

START = datetime(2026, 1, 1, tzinfo=UTC)
SORTS = ["created_at", "priority", "status", "planned_start_date"]
LINK = r'<a href="([^"]+)" rel="{}">'


@pytest.fixture
def orders(app: Flask) -> Iterator[list[str]]:
    """48 work orders, the oldest first: many with equal values, and some with none."""
    with app.app_context():
        pump = Equipment(name="Fire pump No.1", type="pump")
        db.session.add(pump)
        db.session.commit()
        rows: list[dict[str, Any]] = [
            {
                "id": new_id(),
                "version": 1,
                "wo_number": f"WO-{number}",
                "equipment_id": pump.id,
                "reason": f"Job {number:02}",
                "status": ("open", "in_progress", "completed")[number % 3],
                "priority": number % 5 + 1,
                # Some at the same time, as of one import.
                "created_at": START + timedelta(minutes=number // 3),
                "updated_at": START,
                "planned_start_date": START + timedelta(days=number % 4) if number % 3 else None,
            }
            for number in range(48)
        ]
        db.session.execute(insert(WorkOrder), rows)
        db.session.commit()
        yield [row["id"] for row in rows]


def view(**args: str) -> listing.View:
    return listing.View.of(KINDS["work-orders"], MultiDict(args))


@pytest.mark.slow
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("sort", SORTS)
def test_paging_forth_and_back_shows_each_row_once_whatever_the_order(
    orders: list[str], sort: str, descending: bool
) -> None:
    order = f"-{sort}" if descending else sort
    pages = [listing.read(view(sort=order), 7)]
    while pages[-1].next:
        pages.append(listing.read(view(sort=order, after=pages[-1].next), 7))
    shown = [row.id for page in pages for row in page.rows]
    assert sorted(shown) == sorted(orders)
    values = [getattr(row, sort) for page in pages for row in page.rows]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=descending)

    page = pages[-1]
    for earlier in reversed(pages[:-1]):
        page = listing.read(view(sort=order, before=page.previous), 7)
        assert [row.id for row in page.rows] == [row.id for row in earlier.rows]
    assert not page.previous


def test_rows_that_come_and_go_meanwhile_are_neither_skipped_nor_repeated(
    orders: list[str],
) -> None:
    first = listing.read(view(sort="-priority"), 7)
    for row in (first.rows[-1], first.rows[2]):
        db.session.delete(row)
    db.session.commit()
    rest = listing.read(view(sort="-priority", after=first.next), 100)
    assert {row.id for row in (*first.rows, *rest.rows)} == set(orders)


def page_of(client: FlaskClient, url: str, status: int = 200) -> str:
    answer = client.get(url, headers={"Accept": "text/html"})
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "text/html"
    return answer.text


def jobs(text: str) -> list[str]:
    return re.findall(r">(Job \d\d)<", text)


def test_the_address_keeps_search_filters_and_order_from_page_to_page(
    client: FlaskClient, orders: list[str]
) -> None:
    text = page_of(client, "/work-orders?status=unfinished&q=JOB&sort=priority")
    shown = jobs(text)
    (following,) = re.findall(LINK.format("next"), text)
    text = page_of(client, unescape(following))
    assert 'value="JOB"' in text
    assert '<option value="unfinished" selected>' in text
    shown += jobs(text)
    assert sorted(shown) == [f"Job {number:02}" for number in range(48) if number % 3 < 2]
    (before,) = re.findall(LINK.format("prev"), text)
    assert jobs(page_of(client, unescape(before))) == shown[: listing.PAGE_SIZE]


@pytest.mark.slow
def test_a_schedule_list_shows_what_is_not_finished_unless_asked_otherwise(
    client: FlaskClient, equipment_id: str
) -> None:
    for status in ("scheduled", "completed"):
        body = {
            "equipmentId": equipment_id,
            "scheduledDate": "2026-01-01T00:00:00Z",
            "maintenanceType": f"{status} job",
            "status": status,
        }
        assert client.post("/api/maintenance-schedules", json=body).status_code == 201
    plain = page_of(client, "/schedules")
    assert "scheduled job" in plain
    assert "completed job" not in plain
    assert "completed job" in page_of(client, "/schedules?status=")
    assert "scheduled job" in page_of(client, "/schedules?due=overdue")
    assert "completed job" in page_of(client, "/schedules?status=completed")


WRONG_QUERIES = [
    "sort=equipment_id",
    "sort=-",
    "status=half+done",
    "priority=urgent",
    "equipment=pump",
    "q=%00",
    "q=" + "x" * 201,
    "after=nonsense",
    "before=bnVsbA",
    "after=WyJ4IiwiMDAwMS0wMS0wMVQwMDowMDowMCsxNDowMCIsIngiXQ",
    "sort=priority&after=Wzk5OTk5OTk5OTk5LCIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwIiwiMDAwMDAwMDAtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAwIl0",
]


def test_an_address_that_asks_for_what_there_is_not_gets_a_page_that_says_so(
    client: FlaskClient,
) -> None:
    for query in WRONG_QUERIES:
        text = page_of(client, f"/work-orders?{query}", 422)
        assert "<h1>" in text


def test_rows_that_others_made_are_told_of_once(client: FlaskClient, orders: list[str]) -> None:
    (shown,) = re.findall(
        r'name="list" value="([^"]+)"', page_of(client, "/work-orders?status=open")
    )
    (seen,) = re.findall(r'name="seen" value="([^"]+)"', page_of(client, "/work-orders"))
    asked = {"list": unescape(shown), "news": "0", "seen": seen}

    def poll(**more: str) -> str:
        answer = client.post(
            "/ui/refresh", data={**asked, **more}, headers={"Origin": "http://localhost"}
        )
        assert answer.status_code in {200, 204}
        return answer.text

    assert "#news" not in poll()
    pump = db.session.query(Equipment.id).scalar()
    for status in ("open", "cancelled"):
        body = {"equipmentId": pump, "reason": "New", "status": status}
        assert client.post("/api/work-orders", json=body).status_code == 201
    said = poll()
    assert "1 new: show it" in said
    assert 'href="/work-orders?status=open"' in said
    assert "#news" not in poll(news="1")


@pytest.mark.slow
def test_the_dashboard_too_tells_of_what_others_made(
    client: FlaskClient, equipment_id: str
) -> None:
    headers = {"Origin": "http://localhost"}
    (shown,) = re.findall(r'name="list" value="([^"]+)"', page_of(client, "/"))
    asked = {"list": unescape(shown), "news": "0"}
    assert "#news" not in client.post("/ui/refresh", data=asked, headers=headers).text
    body = {"equipmentId": equipment_id, "reason": "New"}
    assert client.post("/api/work-orders", json=body).status_code == 201
    assert "1 new: show it" in client.post("/ui/refresh", data=asked, headers=headers).text


def test_an_open_page_is_told_once_of_what_others_do_to_its_row(
    client: FlaskClient, orders: list[str]
) -> None:
    def poll(**sent: str) -> str:
        answer = client.post("/ui/refresh", data=sent, headers={"Origin": "http://localhost"})
        assert answer.status_code in {200, 204}
        return answer.text

    row = f"work_orders:{orders[0]}:none"
    assert "#changed" not in poll(row=f"{row}:1:page")
    client.patch(f"/api/work-orders/{orders[0]}", json={"reason": "Otherwise"})
    assert "Show the current version" in poll(row=f"{row}:1:page")
    assert "Both versions are shown" in poll(row=f"{row}:1:form")
    assert "#changed" not in poll(row=f"{row}:1:page", told=f"{orders[0]}:2")
    assert "Otherwise" in poll(row=f"{row}:1:tr")
    client.delete(f"/api/work-orders/{orders[0]}")
    assert "Somebody else has deleted this." in poll(row=f"{row}:1:page", told=f"{orders[0]}:2")
    assert "Deleted by somebody else." in poll(row=f"{row}:2:li")


NONSENSE = [
    {"row": "work_orders"},
    {"row": "work_orders:x:y:1:li"},
    {"row": "alembic_version:00000000-0000-4000-8000-000000000000:x:1:li"},
    {"row": "work_orders:00000000-0000-4000-8000-000000000000:x:1:<b>"},
    {"list": "work-orders?status=none|2026"},
    {"list": "work-orders?|0001-01-01T00:00:00+14:00"},
    {"list": "work-orders?sort=x|yesterday"},
    {"list": "nowhere?|"},
    {"news": "many", "list": "crew?|"},
]


def test_a_poll_that_asks_nonsense_is_answered_calmly(client: FlaskClient) -> None:
    for asked in NONSENSE:
        answer = client.post("/ui/refresh", data=asked, headers={"Origin": "http://localhost"})
        assert answer.status_code in {200, 204}, asked
