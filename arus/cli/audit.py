"""`flask sync audit`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
import orjson
from flask import current_app

from arus.follower import Follower
from arus.outbox.followers import FollowerStatus
from arus.protocol.times import iso, now_ms
from arus.runtime import Runtime, current

from .common import TIMEOUT, candidate, one_line, sync_commands
from .output import echo, echo_json

#: What the fields of a table are said to be that one side lacks.
_FIELDS = {
    "missingHere": "there without",
    "missingAboard": "there also with",
    "needed": "can't be written there without",
}
#: Seconds between two checks for new verdicts.
LOOK_EVERY = 0.2


@sync_commands.command("audit")
@click.option(
    "--timeout",
    type=TIMEOUT,
    default=60.0,
    show_default=True,
    help="On a vessel: seconds to wait for the followers' verdicts.",
)
@click.option("--name", default="shore", show_default=True, help="Ashore: the follower's name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def audit_command(timeout: float, name: str, as_json: bool) -> None:
    """Prove that vessel and followers have the same rows, or name those that differ.

    On a vessel: the vessel sends a digest of its tables at one number of the log, and each follower compares
    its copy with it. A follower repairs the rows that differ, and compares again.

    Ashore (LOCAL_MODE=false): compares the copy's rows with what was received, which finds rows that
    somebody has changed, and shows the last comparison with each vessel.

    Exits with code 1 if something differs, or if a follower does not answer.

    \b
    Examples:
      flask sync audit
      flask sync audit --timeout 300 --json
      flask sync audit --name shore
    """  # noqa: D301  # a backspace tells click to keep the lines
    sync = current()
    with one_line():
        good = (
            _ask_followers(sync, timeout, as_json=as_json)
            if sync.settings.local_mode
            else _verify_copy(name, as_json=as_json)
        )
    if not good:
        raise click.exceptions.Exit(1)


# -- on a vessel --------------------------------------------------------------------------------------


def _ask_followers(sync: Runtime, timeout: float, *, as_json: bool) -> bool:
    before = {follower.name: follower for follower in sync.followers()}
    if not before:
        raise click.ClickException("no follower is known yet: there is nothing to compare with")
    head = sync.status().head_seq
    began = now_ms()
    sync.catchups.request({"mode": "digest"}, origin="cli")
    seen: dict[str, list[FollowerStatus]] = {name: [] for name in before}
    deadline = time.monotonic() + timeout
    with candidate():
        while time.monotonic() < deadline and not all(map(_is_final, seen.values())):
            for follower in sync.followers():
                verdicts = seen.setdefault(follower.name, [])
                last = verdicts[-1] if verdicts else before.get(follower.name)
                if _is_new(follower, last, head, began):
                    verdicts.append(follower)
                    if not as_json:
                        echo(_said(follower, repaired=len(verdicts) > 1))
            time.sleep(LOOK_EVERY)
    silent = [name for name, verdicts in seen.items() if not verdicts]
    if as_json:
        echo_json(orjson.dumps(_document(seen), option=orjson.OPT_INDENT_2))
    else:
        for name in silent:
            echo(f"{name}: no answer within {timeout:g} s; {_where(sync, name)}")
    return not silent and all(
        verdict.audit_equal for verdicts in seen.values() for verdict in verdicts
    )


def _is_new(follower: FollowerStatus, last: FollowerStatus | None, head: int, began: int) -> bool:
    """Return whether a follower's verdict is about our digest or a later one, and is new."""
    if follower.audit is None or follower.audit.seq < head or follower.received_at < began:
        return False
    return last is None or follower.audit != last.audit


def _is_final(verdicts: list[FollowerStatus]) -> bool:
    return bool(verdicts) and bool(verdicts[-1].audit_equal)


def _said(follower: FollowerStatus, *, repaired: bool) -> str:
    audit = follower.audit
    assert audit is not None
    notes = [note for entity, told in audit.entities.items() for note in _notes(entity, told)]
    remarks = f" ({'; '.join(notes)})" if notes else ""
    if audit.equal:
        word = f"{'repaired, ' if repaired else ''}equal"
        return f"{follower.name}: {word} at seq {audit.seq}{remarks}"
    parts = [
        f"{entity} differs: {_rows(told)}"
        for entity, told in audit.entities.items()
        if not told["equal"]
    ]
    return f"{follower.name}: at seq {audit.seq} {'; '.join(parts)}{remarks}"


def _rows(told: Mapping[str, Any]) -> str:
    if told.get("absent") == "here":
        return "the follower does not copy this entity"
    if told.get("absent") == "aboard":
        return "rows there, but the vessel has no such entity"
    rows = told["rows"]
    refused = told.get("refused", {})
    if not rows:
        if "" in refused:
            return str(refused[""])
        return f"in {len(told['buckets'])} of 64 buckets; the rows are not known yet"
    why = {row: f"held by {owner}" for row, owner in told.get("heldBy", {}).items()}
    why |= told.get("unapplied", {})
    why |= {row: f"refused: {reason}" for row, reason in refused.items()}
    named = [f"{row} ({why[row]})" if row in why else row for row in rows]
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {', '.join(named)}"


def _notes(entity: str, told: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is worth knowing of an entity whether or not it is equal."""
    fields = told.get("fields") or {}
    for key, what in _FIELDS.items():
        if fields.get(key):
            yield f"{entity} {what} {', '.join(fields[key])}"
    claimed_by = told.get("claimedBy")
    if claimed_by:
        named = ", ".join(f"{row} by {vessel}" for row, vessel in claimed_by.items())
        yield f"{entity} also sent by another vessel: {named}"


def _where(sync: Runtime, name: str) -> str:
    found = next((one for one in sync.followers() if one.name == name), None)
    if found is None:
        return "it is no longer known"
    if not found.current:
        return "it follows an older epoch"
    return f"it has applied up to {found.seq}; its last report was at {iso(found.received_at)}"


def _document(seen: Mapping[str, list[FollowerStatus]]) -> dict[str, Any]:
    return {
        name: {
            "equal": bool(verdicts) and all(bool(verdict.audit_equal) for verdict in verdicts),
            "repaired": len(verdicts) > 1 and bool(verdicts[-1].audit_equal),
            "verdicts": [verdict.audit.document() for verdict in verdicts if verdict.audit],
        }
        for name, verdicts in seen.items()
    }


# -- ashore -------------------------------------------------------------------------------------------


def _verify_copy(name: str, *, as_json: bool) -> bool:
    follower = Follower(current_app._get_current_object(), name)  # type: ignore[attr-defined]
    found = follower.verify()
    vessels = follower.status().vessels
    if not vessels:
        raise click.ClickException("no vessel is known yet: there is nothing to compare")
    if as_json:
        document = [
            {"vesselId": one.vessel_id, "changed": found[one.vessel_id], "audit": one.audit}
            for one in vessels
        ]
        echo_json(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    good = True
    for vessel in vessels:
        changed = {entity: ids for entity, ids in found[vessel.vessel_id].items() if ids}
        good = good and not changed and bool(vessel.audit and vessel.audit["equal"])
        if as_json:
            continue
        for entity, ids in changed.items():
            more = f" and {len(ids) - 20} more" if len(ids) > 20 else ""
            echo(
                f"{vessel.vessel_id}: {entity}: {len(ids)} not as received: {', '.join(ids[:20])}{more}"
            )
        if not changed:
            echo(f"{vessel.vessel_id}: all rows are as they were received")
        audit = vessel.audit
        said = "not compared with the vessel yet"
        if audit:
            word = "equal" if audit["equal"] else "differed"
            said = f"{word} at seq {audit['seq']}, compared {audit['timestamp']}"
        echo(f"{vessel.vessel_id}: {said}")
    return good
