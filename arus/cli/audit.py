"""`flask sync audit`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import orjson
from flask import current_app

from arus.follower import Follower
from arus.followers import FollowerStatus
from arus.message import iso, now_ms

from .common import candidate, one_line, state, sync_commands

if TYPE_CHECKING:
    from arus.extension import AppState

#: Seconds between two looks for verdicts.
LOOK_EVERY = 0.2


@sync_commands.command("audit")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="On a vessel: seconds that followers have for their verdicts.",
)
@click.option("--name", default="shore", show_default=True, help="Ashore: the follower's name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def audit_command(timeout: float, name: str, as_json: bool) -> None:
    """Prove that vessel and followers have the same rows, or name those that differ.

    On a vessel: its tables are digested as they are at one number of the log, and each follower compares
    its copy with that. What differs is repaired by the follower, which then compares again.

    Ashore (LOCAL_MODE=false): the copy's tables are compared with what was received, which finds rows that
    somebody has changed, and the last comparison with each vessel is shown.

    Ends with exit code 1 where something differs, or a follower does not answer.

    \b
    Examples:
      flask --app wsgi sync audit
      flask --app wsgi sync audit --timeout 300 --json
      flask --app wsgi sync audit --name shore
    """  # noqa: D301  # a backspace tells click to keep the lines
    sync = state()
    with one_line():
        good = (
            _ask_followers(sync, timeout, as_json=as_json)
            if sync.settings.local_mode
            else _verify_copy(name, as_json=as_json)
        )
    if not good:
        raise click.exceptions.Exit(1)


# -- on a vessel --------------------------------------------------------------------------------------


def _ask_followers(sync: AppState, timeout: float, *, as_json: bool) -> bool:
    before = {follower.name: follower for follower in sync.followers()}
    if not before:
        raise click.ClickException(
            "no follower has told of itself yet: there is nobody to compare with"
        )
    head = sync.status().head_seq
    began = now_ms()
    sync.request_catchup({"mode": "digest"}, "cli")
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
                        click.echo(_said(follower, repaired=len(verdicts) > 1))
            time.sleep(LOOK_EVERY)
    silent = [name for name, verdicts in seen.items() if not verdicts]
    if as_json:
        click.echo(orjson.dumps(_document(seen), option=orjson.OPT_INDENT_2))
    else:
        for name in silent:
            click.echo(f"{name}: no answer within {timeout:g} s; {_where(sync, name)}")
    return not silent and all(
        verdict.audit_equal for verdicts in seen.values() for verdict in verdicts
    )


def _is_new(follower: FollowerStatus, last: FollowerStatus | None, head: int, began: int) -> bool:
    """Whether a follower's verdict is about our digest, or a later one, and was not seen yet."""
    if follower.audit is None or follower.audit.seq < head or follower.received_at < began:
        return False
    return last is None or follower.audit != last.audit


def _is_final(verdicts: list[FollowerStatus]) -> bool:
    return bool(verdicts) and bool(verdicts[-1].audit_equal)


def _said(follower: FollowerStatus, *, repaired: bool) -> str:
    audit = follower.audit
    assert audit is not None
    if audit.equal:
        return f"{follower.name}: {'repaired, ' if repaired else ''}equal at seq {audit.seq}"
    parts = [
        f"{entity} differs: {_rows(told)}"
        for entity, told in audit.entities.items()
        if not told["equal"]
    ]
    return f"{follower.name}: at seq {audit.seq} {'; '.join(parts)}"


def _rows(told: Mapping[str, Any]) -> str:
    rows = told["rows"]
    if not rows:
        return f"in {len(told['buckets'])} of 64 parts, which rows is not known yet"
    held_by = told.get("heldBy", {})
    named = [f"{row} (held by {held_by[row]})" if row in held_by else row for row in rows]
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {', '.join(named)}"


def _where(sync: AppState, name: str) -> str:
    found = next((one for one in sync.followers() if one.name == name), None)
    if found is None:
        return "it is gone"
    if not found.current:
        return "it follows an older epoch"
    return f"it has applied up to {found.seq}, and was last heard {iso(found.received_at)}"


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
        raise click.ClickException("no vessel has been heard of yet: there is nothing to compare")
    if as_json:
        document = [
            {"vesselId": one.vessel_id, "changed": found[one.vessel_id], "audit": one.audit}
            for one in vessels
        ]
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    good = True
    for vessel in vessels:
        changed = {entity: ids for entity, ids in found[vessel.vessel_id].items() if ids}
        good = good and not changed and bool(vessel.audit and vessel.audit["equal"])
        if as_json:
            continue
        for entity, ids in changed.items():
            more = f" and {len(ids) - 20} more" if len(ids) > 20 else ""
            click.echo(
                f"{vessel.vessel_id}: {entity}: {len(ids)} not as received: {', '.join(ids[:20])}{more}"
            )
        if not changed:
            click.echo(f"{vessel.vessel_id}: all rows are as they were received")
        audit = vessel.audit
        said = "not compared with the vessel yet"
        if audit:
            word = "equal" if audit["equal"] else "differed"
            said = f"{word} at seq {audit['seq']}, compared {audit['timestamp']}"
        click.echo(f"{vessel.vessel_id}: {said}")
    return good
