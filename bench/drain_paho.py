"""One drain with stock paho-mqtt, from memory, in a separate process.

`python -m bench.drain_paho PORT TOPIC QOS WINDOW PAYLOADS` publishes each line of a file and prints
JSON: seconds from the first publish on an open connection to the last acknowledgement.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion

#: It has 65,535 packet ids, and silently loses messages queued beyond them.
MOST_QUEUED = 10_000


def run(port: int, topic: str, qos: int, window: int, payloads: list[bytes]) -> dict[str, Any]:
    """Publish all messages as fast as paho accepts them; it pipelines up to its window."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"paho-{uuid.uuid4().hex}",
        protocol=MQTTProtocolVersion.MQTTv5,
    )
    client.max_inflight_messages_set(window)
    client.max_queued_messages_set(0)
    connected, finished = threading.Event(), threading.Event()
    room = threading.Semaphore(MOST_QUEUED)
    acknowledged = 0

    def on_publish(*_arguments: object) -> None:
        nonlocal acknowledged
        acknowledged += 1
        room.release()
        if acknowledged == len(payloads):
            finished.set()

    client.on_connect = lambda *_arguments: connected.set()
    client.on_publish = on_publish
    client.connect("127.0.0.1", port)
    client.loop_start()
    if not connected.wait(10):
        raise SystemExit("not connected")
    began, cpu = time.perf_counter(), time.process_time()
    for payload in payloads:
        room.acquire()
        client.publish(topic, payload, qos=qos, retain=True)
    if not finished.wait(300):
        raise SystemExit(f"{acknowledged} of {len(payloads)} acknowledged within 300 s")
    result = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    client.disconnect()
    client.loop_stop()
    return result


if __name__ == "__main__":
    _, port_, topic_, qos_, window_, path_ = sys.argv
    lines = Path(path_).read_bytes().splitlines()
    print(json.dumps(run(int(port_), topic_, int(qos_), int(window_), lines)))
