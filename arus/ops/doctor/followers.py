"""The check of the followers: what they have applied, and whether their copies are equal."""

from __future__ import annotations

from collections.abc import Iterator

from arus.outbox.followers import read_followers

from .finding import Finding, Verdict
from .vessel import Vessel


def check_followers(vessel: Vessel) -> Iterator[Finding]:
    """Report each follower's progress, and copies that differ."""
    with vessel.engine.connect() as connection:
        followers = read_followers(connection)
    unequal = [follower for follower in followers if follower.audit_equal is False]
    for follower in unequal:
        yield Finding(
            "followers",
            Verdict.WARN,
            f"the copy of {follower.name} differed from the vessel at seq {follower.audit_seq}",
            "it repairs itself; check with: flask sync audit",
        )
    if followers and not unequal:
        lags = ", ".join(f"{follower.name} {follower.lag} behind" for follower in followers)
        yield Finding("followers", Verdict.OK, lags)
