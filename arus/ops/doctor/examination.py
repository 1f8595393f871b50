"""The examination: all checks, one after another."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError

from arus.outbox.status import SyncStatus, read_status
from arus.outbox.usage import DataBudget

from .broker import check_broker
from .clock import check_clock
from .database import check_database, check_integrity
from .disk import check_disk
from .files import check_files
from .finding import Finding, Verdict, one_line
from .followers import check_followers
from .link import check_link
from .log import check_log
from .owner import check_epoch, check_owner
from .qos import check_qos
from .settings import check_settings
from .shore import check_claims, check_links, is_follower
from .topics import check_scope, check_subscriptions, check_topics
from .vessel import Vessel


def examine(vessel: Vessel) -> Iterator[Finding]:
    """Run the checks, the slow ones last, and yield their findings."""
    yield from check_settings(vessel.settings, vessel.environment)
    yield from _safely("files", check_files(vessel))
    reachable = False
    for finding in _safely("database", check_database(vessel)):
        reachable = reachable or finding.verdict is Verdict.OK
        yield finding
    status = _status(vessel) if reachable else None
    if status is not None:
        yield from _examine_log(vessel, status)
    yield from _safely("disk", check_disk(vessel))
    if vessel.settings.local_mode or is_follower(vessel, reachable=reachable):
        yield from _safely("broker", check_broker(vessel.settings, status))
    if status is not None:
        yield from _safely("integrity", check_integrity(vessel))


def _examine_log(vessel: Vessel, status: SyncStatus) -> Iterator[Finding]:
    yield from _safely("clock", check_clock(vessel))
    yield from _safely("log", check_log(vessel, status))
    yield from check_owner(vessel.settings, status)
    if vessel.settings.local_mode:
        yield from check_epoch(status)
        yield from check_topics(vessel.settings, status)
        yield from _safely("topics", check_subscriptions(vessel.settings, vessel.engine, status))
        yield from _safely("link", check_link(vessel, status))
        yield from _safely("qos", check_qos(vessel))
    else:
        yield from _safely("topics", check_scope(vessel))
        yield from _safely("follower", check_links(vessel))
        yield from _safely("rows", check_claims(vessel))
    yield from _safely("followers", check_followers(vessel))


def _safely(name: str, found: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings of a check, and one more if the check itself fails."""
    try:
        yield from found
    except DBAPIError as error:
        says = f"the check failed: {one_line(error.orig)}"
        yield Finding(name, Verdict.FAIL, says, "see the findings for the database")
    except OSError as error:
        says = f"the check failed: {one_line(error)}"
        yield Finding(name, Verdict.FAIL, says, "run as the user that runs the server")


def _status(vessel: Vessel) -> SyncStatus | None:
    try:
        with vessel.engine.connect() as connection:
            return read_status(
                connection,
                enabled=vessel.settings.local_mode,
                owned=vessel.settings.local_mode and vessel.is_owned(connection),
                max_queue_size=vessel.settings.max_queue_size,
                budget=DataBudget(vessel.settings.data_budget, vessel.settings.zone),
            )
    except DBAPIError:
        return None  # the check of the database has reported why
