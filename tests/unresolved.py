"""A producer whose broker's name is never resolved, as a process of its own: prints how long each call took, as JSON.

``unresolved.py WHAT FILE`` waits for FILE, which appears once name resolution hangs. WHAT becomes of the producer:
it is "stopped", "left open" at the end, or "collected" as garbage before. With ``LISTEN=1`` in the environment the
program runs in a network of its own and is the name server too, one that never answers.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked

from kafka_async import KafkaError, Producer
from kafka_async.testing import MockCluster

LIMIT_S = 20
SERVERS = "kafka.unresolved.example:9092"
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP, IFF_RUNNING = 0x8914, 0x8916, 0x1, 0x40
left_open: list[Producer] = []


def bring_loopback_up(addresses: int = 0) -> None:
    """Make a new network usable, with so many addresses more than 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP | IFF_RUNNING))
        for n in range(addresses):
            address = struct.pack("16sHxx4s8x", b"lo:%d" % n, socket.AF_INET, bytes([10, 0, n >> 8, n & 0xFF]))
            fcntl.ioctl(any_socket, SIOCSIFADDR, address)


def swallow_queries(hanging: Path) -> None:
    """Be a name server on loopback that answers nothing."""
    bring_loopback_up()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def serve() -> None:
        while True:
            server.recv(4096)
            hanging.touch()

    threading.Thread(target=serve, daemon=True).start()


def timed(call: Callable[[], object]) -> tuple[float, str, Any]:
    """How long a call took, and what it returned or raised."""
    began = time.monotonic()
    try:
        result = call()
    except KafkaError as error:
        return time.monotonic() - began, type(error).__name__, [error.name, getattr(error, "outstanding", None)]
    return time.monotonic() - began, "", result if isinstance(result, int) else None


def fork() -> int:
    """Fork a child that delivers a message to a broker of its own; returns the child."""
    if child := os.fork():
        return child
    with MockCluster(topics={"t": 1}) as cluster:
        servers = cluster.bootstrap_servers
        if os.environ.get("LISTEN"):  # the C library knows this name by itself
            servers = servers.replace("127.0.0.1", "localhost")
        with Producer(servers, "t") as own:
            own.send(b"0")
            own.flush(LIMIT_S / 2)
    os._exit(0)


def main() -> None:
    what, hanging = sys.argv[1], Path(sys.argv[2])
    if os.environ.get("LISTEN"):
        swallow_queries(hanging)
    producer = Producer(SERVERS, "t", log=False)
    producer.send(b"0")
    deadline = time.monotonic() + LIMIT_S
    while not hanging.exists():
        assert time.monotonic() < deadline, "nothing was resolved"
        time.sleep(0.005)
    if what != "stopped":
        if what == "left open":
            left_open.append(producer)
        print(json.dumps({}), flush=True)
        return
    transactional = Producer(SERVERS, "t", log=False, config={"transactional.id": "t"})

    def send_hundred() -> None:
        for _ in range(100):
            producer.send(b"x")

    forking = timed(fork)
    forked.wait(forking[2], LIMIT_S)
    took = {
        "fork": forking,
        "send": timed(send_hundred),
        "metrics": timed(lambda: producer.metrics().outstanding),
        "flush": timed(lambda: producer.flush(0.5)),
        "partitions": timed(lambda: producer.partitions("t", 0.5)),
        "warm_up": timed(lambda: producer.warm_up(timeout=0.5)),
        "init_transactions": timed(lambda: transactional.init_transactions(0.5)),
        "purge": timed(producer.purge),
        "send again": timed(send_hundred),
        "stop": timed(lambda: producer.stop(0.5)),
        "stop of the other": timed(lambda: transactional.stop(0.5)),
        "metrics at the end": timed(lambda: producer.metrics().outstanding),
    }
    metrics = producer.metrics()
    took["accepted and purged"] = (0, "", [metrics.accepted, metrics.purged])
    print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
