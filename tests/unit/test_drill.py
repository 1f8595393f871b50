"""What a drill makes of what it has counted: time on a link, and what to set."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from arus.drill.findings import Findings, as_html, as_text
from arus.drill.link import SeaLink, parse_link
from arus.drill.rehearsal import Outcome, Plan
from arus.errors import DrillError
from arus.outbox.usage import DataBudget

LINK = SeaLink(64_000, 0.6)
FITS = Outcome("", 7_200, 7_200, 10_000, None, 0, 0, 5_000_000, 7_200, 100, 4_000_000)
FULL = replace(FITS, deepest=10_000, full_after=13.9, dropped=41_840, sent=45_000_000)


def found(*outcomes: Outcome, limit: int | None = None) -> Findings:
    return Findings(Plan(72, 100), LINK, outcomes, 0.2, DataBudget(limit), 12.0)


@pytest.mark.parametrize(
    ("speed", "round_trip", "link"),
    [
        ("64kbit", "600ms", SeaLink(64_000, 0.6)),
        ("2 Mbit/s", "1.2s", SeaLink(2_000_000, 1.2)),
        ("9600bit", "0ms", SeaLink(9600, 0)),
    ],
)
def test_a_link_is_entered_as_people_write_it(speed: str, round_trip: str, link: SeaLink) -> None:
    assert parse_link(speed, round_trip) == link


@pytest.mark.parametrize(
    ("speed", "round_trip"), [("64", "600ms"), ("0kbit", "1s"), ("64kbit", "soon")]
)
def test_what_is_no_link_is_refused(speed: str, round_trip: str) -> None:
    with pytest.raises(DrillError, match="is no"):
        parse_link(speed, round_trip)


def test_the_larger_limit_decides_how_long_a_link_needs() -> None:
    # a thousand messages of 740 bytes, and 60 bytes of overhead each: bandwidth
    assert LINK.duration(740_000, 1000, 0) == pytest.approx(100)
    # a hundred alerts, 20 at a time with two round trips: 6 s
    assert SeaLink(1e9, 0.6).duration(70_000, 100, 100) == pytest.approx(6)


def test_an_outage_that_fits_needs_no_setting() -> None:
    first, *rest = found(FITS).sentences()
    assert first.startswith("The queue holds the outage: 7,200 of 10,000 changes waited.")
    assert "After the outage the link needs 9 min 14 s for 4 MB in 7,200 messages." in rest
    assert any("messages shrink to 20%" in sentence for sentence in rest)


def test_an_outage_that_does_not_fit_says_what_to_set() -> None:
    always = replace(FULL, settings="MQTT_SUPERSEDE=always", sent=1_000_000)
    said = " ".join(found(FULL, always, limit=20_000_000).sentences())
    assert "41,840 dropped" in said
    assert "set MQTT_MAX_QUEUE_SIZE=9000" in said
    assert "set MQTT_SUPERSEDE=always: 1 MB instead of 45 MB" in said
    assert "MQTT_DATA_BUDGET (20 MB a day) the backlog alone takes 2.5 days" in said


def test_the_findings_are_the_same_in_all_forms() -> None:
    findings = found(FULL)
    text, page, document = as_text(findings), as_html(findings), findings.document()
    for sentence in findings.sentences():
        assert sentence in text
        assert sentence in document["findings"]
    assert "41,840" in page
    assert not any(word in page for word in ("src=", "href=", "<script"))
    assert document["outcomes"][0]["dropped"] == 41_840
