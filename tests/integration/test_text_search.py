"""Search, filters and sort orders compare texts as people do, alike on both databases, whoever has written the rows."""

# ruff: noqa: RUF001  # the texts are in these scripts on purpose

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, insert, select, text, update

from blueprints.equipment.models import Equipment
from extensions import db
from extensions.database import new_id, utcnow
from extensions.text_keys import SearchedRow, keys_of

NAMES = [
    "ØRSTED pumpe",
    "Насос главный",
    "apple cooler",
    "Zebra crane",
    "Åre motor",
    "Cafe\N{COMBINING ACUTE ACCENT} fridge",
    "Pump 10",
    "Pump 2",
    "ΑΝΤΛΊΑ νερού",
]
#: As they are sorted: letters with marks come with their base letter, numbers in order, other scripts last.
SORTED = [
    "apple cooler",
    "Åre motor",
    "Cafe\N{COMBINING ACUTE ACCENT} fridge",
    "ØRSTED pumpe",
    "Pump 2",
    "Pump 10",
    "Zebra crane",
    "ΑΝΤΛΊΑ νερού",
    "Насос главный",
]


@pytest.fixture
def machines(client: FlaskClient) -> None:
    for name in NAMES:
        answer = client.post("/api/equipment", json={"name": name, "type": "pump"})
        assert answer.status_code == 201


def found(client: FlaskClient, query: str) -> list[str]:
    answer = client.get(f"/api/equipment?{query}")
    assert answer.status_code == 200, answer.text
    return sorted(row["name"] for row in answer.get_json()["items"])


def page(client: FlaskClient, url: str) -> str:
    answer = client.get(url, headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return answer.text


def listed(client: FlaskClient, url: str) -> list[str]:
    return re.findall(r'id="name-[^"]+">([^<]+)</a>', page(client, url))


@pytest.mark.usefixtures("machines")
def test_a_search_ignores_case_accents_and_form(client: FlaskClient) -> None:
    for q, name in {
        "ørsted": NAMES[0],
        "НАСОС": NAMES[1],
        "åre": NAMES[4],
        "Café": NAMES[5],
        "CAFÉ": NAMES[5],
        "αντλια νερου": NAMES[8],
        "pump  10": NAMES[6],
        "cafe": NAMES[5],
        "Orsted": NAMES[0],
        "are mo": NAMES[4],
        "äpple": NAMES[2],
        "насос": NAMES[1],
    }.items():
        assert found(client, f"q={quote(q)}") == [name]
        assert listed(client, f"/equipment?q={quote(q)}") == [name]
    for q in ("100%", "_", "\\", "a%b"):
        assert found(client, f"q={quote(q)}") == []


@pytest.mark.slow
@pytest.mark.usefixtures("machines")
def test_a_list_is_sorted_as_people_sort_and_paged_without_gaps(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listed(client, "/equipment?sort=name") == SORTED
    assert listed(client, "/equipment?sort=-name") == SORTED[::-1]
    monkeypatch.setattr("blueprints.ui.listing.read.__defaults__", (4,))
    text, shown = page(client, "/equipment"), []
    for _ in range(3):
        shown += re.findall(r'id="name-[^"]+">([^<]+)</a>', text)
        following = re.findall(r'<a href="([^"]+)" rel="next">', text)
        text = page(client, following[0].replace("&amp;", "&")) if following else ""
    assert shown == SORTED


def test_a_filter_has_one_choice_for_what_is_one_value(client: FlaskClient) -> None:
    for kind in ("PUMP", "Pump", "pump", "pump", "Winch", "Deck 1\nFrame 20"):
        client.post("/api/equipment", json={"name": f"a {kind}", "type": kind})
    text = page(client, "/equipment?type=PUMP")
    (options,) = re.findall(r'<select[^>]*name="type"[^>]*>(.*?)</select>', text, re.DOTALL)
    values = re.findall(r'value="([^"]*)"( selected)?>', options)
    assert values == [("", ""), ("Deck 1\nFrame 20", ""), ("pump", " selected"), ("Winch", "")]
    assert len(listed(client, "/equipment?type=PUMP")) == 4
    assert len(found(client, "type=pUmP")) == 4
    assert listed(client, "/equipment?type=Deck%201%0D%0AFrame%2020") == ["a Deck 1\nFrame 20"]


def test_a_filter_of_any_text_ignores_case_and_form_but_is_whole(client: FlaskClient) -> None:
    body = {"name": "Crane", "type": "crane", "serialNumber": "Æ-117", "model": "æ-117 b"}
    assert client.post("/api/equipment", json=body).status_code == 201
    assert found(client, f"serialNumber={quote('æ-117')}") == ["Crane"]
    assert found(client, f"model={quote('Æ-117')}") == []
    assert found(client, "serialNumber=") == []
    assert found(client, "manufacturer=") == ["Crane"]


def test_rows_that_others_have_written_are_found_too(
    app: Flask, client: FlaskClient, equipment_id: str
) -> None:
    now = utcnow()
    row = {"id": new_id(), "version": 1, "created_at": now, "updated_at": now}
    with app.app_context():
        db.session.execute(insert(Equipment), [{**row, "name": "ÆGIR winch", "type": "winch"}])
        db.session.commit()
        assert found(client, f"q={quote('ægir')}") == ["ÆGIR winch"]
        with db.engine.begin() as connection:
            values = {"name": "НАСОС 2", "id": equipment_id}
            connection.execute(text("UPDATE equipment SET name = :name WHERE id = :id"), values)
        assert found(client, f"q={quote('насос')}") == ["НАСОС 2"]
        assert found(client, "q=fire") == []
        db.session.execute(
            update(Equipment).where(Equipment.id == equipment_id).values(name="Ørn", type="Øks")
        )
        db.session.commit()
        assert found(client, f"q={quote('ØRN')}") == ["Ørn"]
        assert found(client, f"type={quote('øKS')}") == ["Ørn"]


def test_keys_are_no_part_of_a_row(app: Flask, client: FlaskClient, equipment_id: str) -> None:
    before = client.get(f"/api/equipment/{equipment_id}").get_json()
    with app.app_context():
        logged = db.session.execute(text("SELECT count(*) FROM arus_change")).scalar()
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE equipment SET search_key = NULL"))
        assert found(client, "q=FIRE") == ["Fire pump No.1"]
        assert client.get(f"/api/equipment/{equipment_id}").get_json() == before
        changes = db.session.execute(text("SELECT data FROM arus_change")).scalars().all()
        assert len(changes) == logged
        assert not any(b"key" in bytes(data).lower() for data in changes)


def test_each_table_tells_when_a_text_changes_past_the_application(app: Flask) -> None:
    # A later migration that makes a table anew has to create its trigger again.
    with app.app_context():
        for model in SearchedRow.__subclasses__():
            table: Any = model.__table__
            values = row_of(model)
            with db.engine.begin() as connection:
                connection.execute(insert(table).values(values | keys_of(model, values)))
                own = table.c.id == values["id"]
                key = select(table.c.search_key).where(own)
                for name in model.searched:
                    assert connection.scalar(key) is not None
                    connection.execute(update(table).where(own).values({name: f"other {name}"}))
                    assert connection.scalar(key) is None, (model, name)
                    connection.execute(update(table).where(own).values(search_key="k"))


def row_of(model: type[Any]) -> dict[str, Any]:
    """The columns of a row that must have a value."""
    table = model.__table__
    values: dict[str, Any] = {}
    for column in table.columns:
        if column.foreign_keys and not column.nullable:
            values[column.name] = made(Equipment)
        elif not column.nullable:
            values[column.name] = {str: "x", datetime: utcnow()}.get(column.type.python_type, 1)
    return values | {"id": new_id()}


def made(model: type[Any]) -> str:
    row = model(name="Pump", type="pump")
    db.session.add(row)
    db.session.commit()
    return str(row.id)


def test_a_search_reads_the_table_once_and_writes_nothing(
    app: Flask, client: FlaskClient, equipment_id: str
) -> None:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        statements.append(sql)

    with app.app_context():
        assert found(client, "q=fire")
        event.listen(db.engine, "before_cursor_execute", note)
        assert found(client, "q=fire")
        event.remove(db.engine, "before_cursor_execute", note)
    assert len([each for each in statements if "FROM equipment" in each]) == 2
    assert not [each for each in statements if each.startswith("UPDATE equipment")]


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_list_is_shown_although_its_keys_cannot_be_written(
    make_app: Any, migrated_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(migrated_database_url, DATABASE_BUSY_TIMEOUT="0.1", LOCAL_MODE="false")
    client = app.test_client()
    client.post("/api/equipment", json={"name": "Crane", "type": "crane"})
    with app.app_context(), db.engine.connect() as other:
        other.execute(text("UPDATE equipment SET search_key = NULL"))  # and the lock is held
        other.commit()
        other.execute(text("UPDATE crew SET search_key = NULL"))
        assert listed(client, "/equipment") == ["Crane"]
        assert found(client, "q=crane") == []
        assert "the search keys of 1 rows can't be written: database is locked" in caplog.text
        other.rollback()
        assert found(client, "q=crane") == ["Crane"]
