"""A follower that applies what waits for it at the broker, in a separate process.

`python -m bench.follow_arus DATABASE BROKER_URL TOTAL` prints JSON: seconds and CPU seconds from CONNECT to the last
commit. With TOTAL 0 it only subscribes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from typing import Any

from app import create_app
from arus.follower import Follower
from arus.follower.loop import Loop
from bench.backlog import SIGNED_WITH

NAME = "bench"


def run(database: str, broker_url: str, total: int, profile: str | None) -> dict[str, Any]:
    """Apply all messages and measure it.

    :param profile: the file to write a profile to; the figures are then distorted.
    """
    app = create_app(
        {
            "SECRET_KEY": SIGNED_WITH,
            "LOCAL_MODE": "false",
            "DATABASE_URL": database,
            "MQTT_BROKER_URL": broker_url,
        }
    )
    follower = Follower(app, NAME)
    began: tuple[float, float] | None = None
    ended: tuple[float, float] | None = None

    def enough(loop: Loop) -> bool:
        nonlocal began, ended
        if began is None:
            began = (time.perf_counter(), time.process_time())
            return False
        vessels = loop._applier.vessels.values()
        if total == 0:
            return loop._subscriptions.answered
        if sum(vessel.seq for vessel in vessels) < total:
            return False
        ended = (time.perf_counter(), time.process_time())
        return True

    profiler = cProfile.Profile() if profile else None
    arguments = (enough, lambda _seconds: False)
    if profiler is not None and profile is not None:
        profiler.runcall(follower._follow, *arguments)
        with open(profile, "w") as file:
            pstats.Stats(profiler, stream=file).strip_dirs().sort_stats("tottime").print_stats(40)
    else:
        follower._follow(*arguments)
    if began is None or ended is None:
        return {}
    return {"seconds": ended[0] - began[0], "cpu": ended[1] - began[1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.follow_arus")
    parser.add_argument("database")
    parser.add_argument("broker_url")
    parser.add_argument("total", type=int)
    parser.add_argument("--profile")
    print(json.dumps(run(**vars(parser.parse_args()))))
