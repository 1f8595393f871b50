"""A ship's record: outages, what was delivered and delayed on each day, what was sent; in a terminal, as a file, as a page."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from arus.ops.record import read_record
from arus.ops.record_file import as_html, sentences
from arus.outbox.usage import DataBudget
from arus.protocol.times import now_ms
from extensions import db
from tests.support.mosquitto import Mosquitto
from tests.support.vessel import StartVessel
from tests.support.waiting import eventually

DAY = 86_400_000
#: Noon of a day long ago.
NOON = round(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp() * 1000)
UTC_DAYS = DataBudget(zone="UTC")


def note_link(at: int, connected: bool, reason: str | None = None) -> None:
    db.session.execute(
        text(
            "INSERT INTO arus_link_event (at, connected, reason, generation) VALUES (:at, :up, :why, 1)"
        ),
        {"at": at, "up": connected, "why": reason},
    )


def note_day(day: str, **counters: int) -> None:
    """What counters stood at when a day ended."""
    for name, value in counters.items():
        db.session.execute(
            text("INSERT INTO arus_day_count VALUES (:day, :name, :value)"),
            {"day": day, "name": name, "value": value},
        )


@pytest.fixture
def voyage(app: Flask) -> Flask:
    """Some days, with two outages; the first day is not counted."""
    with app.app_context():
        note_link(NOON - 3 * DAY, connected=True)
        note_link(NOON - 2 * DAY, connected=False, reason="no route")
        note_link(NOON - 2 * DAY + 3_600_000, connected=True)
        note_link(NOON - 60_000, connected=False, reason="<b>cut</b>")
        note_day("", messages_published=5, messages_queued=1)
        note_day("2026-03-07", messages_published=10, messages_queued=1)
        note_day("2026-03-08", messages_published=110, messages_queued=41)
        note_day("2026-03-10", messages_published=115, messages_queued=42, messages_dropped=3)
        db.session.execute(text("INSERT INTO arus_usage VALUES ('2026-03-08', 'changes', 2000)"))
        db.session.execute(text("INSERT INTO arus_usage VALUES ('2026-03-08', 'statuses', 500)"))
        db.session.commit()
    return app


def record_of(app: Flask, begin: int, end: int = NOON) -> Any:
    with app.app_context(), db.engine.connect() as connection:
        return read_record(connection, UTC_DAYS, begin, end)


def test_outages_are_cut_to_the_time_and_the_last_one_may_last(voyage: Flask) -> None:
    record = record_of(voyage, NOON - 3 * DAY)
    assert [(one.begin, one.end, one.reason) for one in record.outages] == [
        (NOON - 2 * DAY, NOON - 2 * DAY + 3_600_000, "no route"),
        (NOON - 60_000, None, "<b>cut</b>"),
    ]
    assert record.without_link == 3660
    assert record_of(voyage, NOON - 2 * DAY + 1_800_000).without_link == 1800 + 60
    assert record_of(voyage, NOON - 5 * DAY, NOON - 4 * DAY).link_known_from == NOON - 4 * DAY


def test_each_day_has_what_the_counters_grew_by(voyage: Flask) -> None:
    record = record_of(voyage, NOON - 3 * DAY)
    found = [(day.day, day.delivered, day.delayed, day.dropped, day.bytes) for day in record.days]
    assert found == [
        ("2026-03-07", 5, 0, 0, 0),
        ("2026-03-08", 100, 40, 0, 2500),
        ("2026-03-09", 0, 0, 0, 0),
        ("2026-03-10", 5, 1, 3, 0),
    ]
    assert (record.total("delivered"), record.counted_from) == (110, "2026-03-07")
    assert [day.delivered for day in record_of(voyage, NOON - DAY).days] == [0, 5]


def test_the_sentences_say_what_a_person_wants_to_know(voyage: Flask) -> None:
    said = list(sentences(record_of(voyage, NOON - 4 * DAY)))
    assert said[0].startswith("2 outages, the longest 1 h; without a link for 1 h 1 min, ")
    assert said[1].startswith("110 changes delivered; 41 were made without a link; 3 dropped,")
    assert said[2] == "2.5 kB sent."
    assert said[-1].startswith("Changes are counted since 2026-03-07")


def test_a_page_needs_no_other_file_and_shows_reasons_as_texts(voyage: Flask) -> None:
    html = as_html(record_of(voyage, NOON - 3 * DAY), UTC_DAYS.local)
    assert "&lt;b&gt;cut&lt;/b&gt;" in html
    assert not any(word in html for word in ("<b>", "src=", "href=", "url(", "<script"))


def test_the_page_and_its_file_show_the_same(voyage: Flask) -> None:
    client = voyage.test_client()
    page = client.get("/sync/report?days=90")
    assert page.status_code == 200
    assert "record" in page.text
    answer = client.get("/sync/report.csv?days=7")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="record.csv"'
    assert len(list(csv.DictReader(io.StringIO(answer.text)))) == 8


@pytest.mark.slow
def test_the_owner_notes_each_day_and_outage(
    mosquitto: Mosquitto, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arus.outbox.history._CLOSE_INTERVAL", 0.0)
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(3)
    vessel.wait_drained()
    mosquitto.stop()
    eventually(lambda: not vessel.status().connected, message="the link is down")
    vessel.commit(2)
    mosquitto.start()
    vessel.wait_connected(30)
    vessel.wait_drained(30)
    now = now_ms()
    with vessel.engine.connect() as connection:
        record = read_record(connection, DataBudget(), now - DAY, now)
    assert (record.total("delivered"), record.total("delayed"), record.waiting) == (5, 2, 0)
    assert record.outage_count == 1
    assert record.outages[0].end is not None
    noted = "SELECT day, value FROM arus_day_count WHERE name = 'messages_published'"
    eventually(lambda: vessel.query(noted) == [(record.days[-1].day, 5)], message="it is noted")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "soon"), "--since: 'soon' is neither a time"),
        (("--since", "1d", "--until", "2d"), "--since must be before --until"),
    ],
)
def test_a_wrong_time_is_one_line(app: Flask, arguments: tuple[str, ...], said: str) -> None:
    result = app.test_cli_runner().invoke(args=["sync", "report", *arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_a_report_is_written_to_a_file(voyage: Flask, tmp_path: Path) -> None:
    target = tmp_path / "march.html"
    arguments = ["--since", "2026-03-07", "--until", "2026-03-10T12:00:00Z", "--format", "html"]
    result = voyage.test_cli_runner().invoke(
        args=["sync", "report", *arguments, "--output", str(target)]
    )
    assert result.exit_code == 0, result.output
    assert target.read_text().startswith("<!doctype html>")
