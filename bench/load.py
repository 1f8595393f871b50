"""A load generator with minimal overhead: one connection for each request, written and read as bytes.

`python -m bench.load PORT PATH COUNT CLIENTS < BODY` prints JSON: seconds, each request's
milliseconds, and the CPU time of the generator itself.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time


def ask(port: int, request: bytes) -> bytes:
    """Send one request and return the first line of the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        answer = connection.recv(65_536)
        while connection.recv(65_536):
            pass
    return answer[: answer.index(b"\r\n")]


def run(port: int, path: str, count: int, clients: int, body: bytes) -> dict[str, object]:
    """POST `body` `count` times with `clients` concurrent clients, each without a pause after a response."""
    request = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    numbers = iter(range(count))
    lock = threading.Lock()
    times: list[float] = []
    wrong: list[bytes] = []

    def client() -> None:
        while True:
            with lock:
                if next(numbers, None) is None or wrong:
                    return
            began = time.perf_counter()
            answer = ask(port, request)
            times.append((time.perf_counter() - began) * 1000)
            if b" 201 " not in answer:
                wrong.append(answer)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if wrong or len(times) != count:
        raise SystemExit(f"{len(times)} of {count} requests answered; {wrong[:1]}")
    return {"seconds": seconds, "cpu": time.process_time() - cpu, "ms": times}


if __name__ == "__main__":
    _, port_, path_, count_, clients_ = sys.argv
    print(json.dumps(run(int(port_), path_, int(count_), int(clients_), sys.stdin.buffer.read())))
