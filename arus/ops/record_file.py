"""A ship's record as sentences, as CSV, and as a page of HTML that needs no other file and prints on A4."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from datetime import datetime

from arus.outbox.usage import in_units as in_bytes

from .forecast import in_units
from .printable import Table, printable
from .record import DayRecord, Record

#: Gives a time in milliseconds since the epoch in the ship's zone.
Local = Callable[[int], datetime]

ORIGINS = {
    "repair": "by itself after dropped changes",
    "mqtt": "asked for by followers",
    "http": "asked for over HTTP",
    "cli": "asked for by a command",
}
COLUMNS = ("delivered", "delayed", "dropped", "superseded", "quarantined", "bytes")


def length(seconds: float) -> str:
    """Return a duration in the two largest units: `6 h 12 min`."""
    return " ".join(f"{count} {unit}" for count, unit in in_units(seconds)) or "0 s"


def sentences(record: Record) -> Iterator[str]:
    """Yield what a person wants to know first."""
    yield _about_outages(record)
    delivered, dropped = record.total("delivered"), record.total("dropped")
    lost = "none dropped" if not dropped else f"{dropped:,} dropped, their rows' last state sent"
    yield (
        f"{_counted(delivered, 'change')} delivered; {record.total('delayed'):,} were made without a link;"
        f" {lost}; {record.total('quarantined'):,} could not be sent; {record.waiting:,} wait now."
    )
    yield f"{in_bytes(record.total('bytes'))} sent."
    for repair in record.repairs:
        yield (
            f"{_counted(repair.catchups, 'catch-up')} with {repair.rows:,} rows, {ORIGINS.get(repair.origin, repair.origin)}."
        )
    for follower in record.followers:
        yield f"Follower {follower.name}: applied up to {follower.seq}; {_audit(follower.audit_equal, follower.audit_seq)}."
    if record.counted_from is not None and record.days and record.counted_from > record.days[0].day:
        yield f"Changes are counted since {record.counted_from}; what was before is not in these figures."


def _about_outages(record: Record) -> str:
    if record.link_known_from >= record.end:
        return "Nothing is known of the link in this time."
    if not record.outage_count:
        return "No outage."
    longest = max((one.end or record.end) - one.begin for one in record.outages) / 1000
    share = record.without_link * 100_000 / max(1, record.end - record.link_known_from)
    return (
        f"{_counted(record.outage_count, 'outage')}, the longest {length(longest)};"
        f" without a link for {length(record.without_link)}, {share:.1f} % of the time."
    )


def _audit(equal: bool | None, seq: int | None) -> str:
    if equal is None:
        return "no audit yet"
    return f"{'equal' if equal else 'differed'} at {seq}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def as_text(record: Record, local: Local) -> str:
    """Return the record for a terminal."""
    lines = [_title(record, local), "", *sentences(record)]
    if record.outages:
        lines += ["", "outages"]
        lines += [f"  {_outage(record, one, local)}" for one in record.outages]
    lines += ["", f"{'day':<12}" + "".join(f"{name:>13}" for name in COLUMNS)]
    for day in record.days:
        if any(getattr(day, name) for name in COLUMNS):
            lines.append(f"{day.day:<12}" + "".join(f"{_cell(day, name):>13}" for name in COLUMNS))
    return "\n".join(lines)


def _title(record: Record, local: Local) -> str:
    begin, end = local(record.begin), local(record.end)
    return f"{record.vessel_id or 'this ship'}, {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} ({end:%Z})"


def _outage(record: Record, one: object, local: Local) -> str:
    begin, end, reason = (getattr(one, name) for name in ("begin", "end", "reason"))
    until = f"to {local(end):%Y-%m-%d %H:%M}" if end else "and lasts"
    took = length(((end or record.end) - begin) / 1000)
    return f"{local(begin):%Y-%m-%d %H:%M} {until}, {took}{f': {reason}' if reason else ''}"


def _cell(day: DayRecord, name: str) -> str:
    value = getattr(day, name)
    return in_bytes(value) if name == "bytes" else f"{value:,}"


def as_csv(record: Record) -> str:
    """Return the days as CSV (RFC 4180)."""
    kinds = sorted({kind for day in record.days for kind in day.sent or {}})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["day", *COLUMNS, *(f"bytes {kind}" for kind in kinds)])
    for day in record.days:
        sent = day.sent or {}
        writer.writerow(
            [
                day.day,
                *(getattr(day, name) for name in COLUMNS),
                *(sent.get(kind, 0) for kind in kinds),
            ]
        )
    return text.getvalue()


def as_html(record: Record, local: Local) -> str:
    """Return the record as a page."""
    listed = [(_outage(record, one, local),) for one in record.outages]
    more = record.outage_count - len(record.outages)
    told = [*sentences(record), *([f"{more:,} shorter outages are not listed."] if more else [])]
    days = [(day.day, *(_cell(day, name) for name in COLUMNS)) for day in record.days]
    return printable(
        _title(record, local),
        told,
        *([Table("Outages", (), listed)] if listed else []),
        Table("Days", ("day", *COLUMNS), days),
    )
