"""What a drill has found, and what to set: for a terminal, for programs, and as a page that prints on A4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from arus.ops.printable import Table, printable
from arus.ops.record_file import length
from arus.outbox.usage import DataBudget, in_units

from .link import SeaLink
from .rehearsal import Outcome, Plan

#: A queue is proposed that holds so much more than the drill needed.
_MARGIN = 1.2


class Findings(Struct, frozen=True):
    """The outcomes of one drill, the present settings first."""

    plan: Plan
    link: SeaLink
    outcomes: Sequence[Outcome]
    #: What compression leaves of the bytes; None if that is not known.
    compressed: float | None
    budget: DataBudget
    #: Seconds that the drill took.
    took: float

    @property
    def present(self) -> Outcome:
        """With the present settings."""
        return self.outcomes[0]

    def drain(self, outcome: Outcome, share: float = 1.0) -> float:
        """Return the seconds that the link needs.

        :param share: what compression leaves of the bytes.
        """
        size = round(outcome.sent * share)
        return self.link.duration(size, outcome.messages, outcome.handshakes)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table: a line for each outcome, without and with compression."""
        found = []
        for outcome in self.outcomes:
            name = outcome.settings or "the present settings"
            found.append(self._row(name, outcome, 1.0))
            if self.compressed is not None:
                found.append(self._row(f"{name}, MQTT_COMPRESSION=zstd", outcome, self.compressed))
        return found

    def _row(self, name: str, outcome: Outcome, share: float) -> tuple[str, ...]:
        full = (
            "never" if outcome.full_after is None else f"after {length(outcome.full_after * 3600)}"
        )
        return (
            name,
            f"{outcome.deepest:,} of {outcome.bound:,}",
            full,
            f"{outcome.superseded:,}",
            f"{outcome.dropped:,}",
            in_units(outcome.grown),
            in_units(outcome.sent * share),
            length(self.drain(outcome, share)),
        )

    def sentences(self) -> list[str]:
        """Return what to know and what to set, the most important first."""
        return [*self._about_the_queue(), *self._about_the_link(), *self._about_the_budget()]

    def _about_the_queue(self) -> list[str]:
        present = self.present
        if not present.dropped and present.full_after is None:
            return [
                f"The queue holds the outage: {present.deepest:,} of {present.bound:,} changes waited. Nothing has to be set."
            ]
        size = math.ceil(self.plan.changes * _MARGIN / 1000) * 1000
        found = [
            (
                f"The queue was full after {length((present.full_after or self.plan.hours) * 3600)};"
                f" {present.superseded:,} changes were replaced by newer ones of their rows, and {present.dropped:,} dropped."
                " Each row's last state was sent all the same, but not its history."
            ),
            (
                f"To keep all changes, set MQTT_MAX_QUEUE_SIZE={size}; the log then needs about"
                f" {in_units(present.grown * _MARGIN)} of disk for such an outage."
            ),
        ]
        always = next((one for one in self.outcomes[1:] if one.settings), None)
        if always is not None and always.sent < present.sent:
            found.append(
                f"To send less, set {always.settings}: {in_units(always.sent)} instead of {in_units(present.sent)},"
                " each changed row once."
            )
        return found

    def _about_the_link(self) -> list[str]:
        seconds = self.drain(self.present)
        found = [
            (
                f"After the outage the link needs {length(seconds)} for {in_units(self.present.sent)}"
                f" in {self.present.messages:,} messages."
            )
        ]
        if self.present.drained_in is not None:
            found.append(
                f"The given broker took it in {length(self.present.drained_in)}, on the link to it as it is now."
            )
        if self.compressed is not None:
            less = self.drain(self.present, self.compressed)
            if less < seconds * 0.8:
                found.append(
                    f"With MQTT_COMPRESSION=zstd it needs {length(less)}: messages shrink to {self.compressed:.0%}."
                )
        return found

    def _about_the_budget(self) -> list[str]:
        if self.budget.limit is None:
            return []
        days = self.present.sent / max(1, self.budget.ordinary)
        return [
            (
                f"With MQTT_DATA_BUDGET ({in_units(self.budget.limit)} a day) the backlog alone takes {days:.1f} days,"
                " alerts first."
            )
        ]

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "hours": self.plan.hours,
            "changesPerHour": round(self.plan.rate, 3),
            "changes": self.plan.changes,
            "linkBitsPerSecond": self.link.speed,
            "roundTripSeconds": self.link.round_trip,
            "compressedTo": self.compressed,
            "findings": self.sentences(),
            "outcomes": [
                {
                    "settings": one.settings,
                    "deepest": one.deepest,
                    "maxQueueSize": one.bound,
                    "fullAfterHours": one.full_after,
                    "superseded": one.superseded,
                    "dropped": one.dropped,
                    "databaseGrowth": one.grown,
                    "messages": one.messages,
                    "bytesSent": one.sent,
                    "drainSeconds": round(self.drain(one), 1),
                    "measuredDrainSeconds": None
                    if one.drained_in is None
                    else round(one.drained_in, 1),
                }
                for one in self.outcomes
            ],
        }


HEADINGS = (
    "settings",
    "most waiting",
    "queue full",
    "superseded",
    "dropped",
    "log grew by",
    "sent",
    "time on the link",
)


def title(findings: Findings) -> str:
    """Return what was rehearsed."""
    plan, link = findings.plan, findings.link
    return (
        f"{length(plan.hours * 3600)} without a link, {plan.changes:,} changes ({plan.rate:,.1f} an hour);"
        f" then a link of {link.speed / 1000:,.0f} kbit/s with a round trip of {link.round_trip * 1000:,.0f} ms"
    )


def as_text(findings: Findings) -> str:
    """Return the findings for a terminal."""
    table = [HEADINGS, *findings.rows()]
    widths = [max(len(row[at]) for row in table) for at in range(len(HEADINGS))]
    lines = [title(findings), ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines += ["", *(f"- {sentence}" for sentence in findings.sentences()), "", _how(findings)]
    return "\n".join(lines)


def _how(findings: Findings) -> str:
    return (
        f"Rehearsed in {length(findings.took)} with the real relay on a copy of the database. Bytes were counted;"
        " times on the link and sizes with compression are computed from them."
    )


def as_html(findings: Findings) -> str:
    """Return the findings as a page."""
    return printable(
        "Outage drill",
        [title(findings), *findings.sentences(), _how(findings)],
        Table("Settings", HEADINGS, findings.rows()),
    )
