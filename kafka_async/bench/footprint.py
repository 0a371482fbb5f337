"""Samples of what a client takes: the time of its import, and memory for what waits to be sent."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

from kafka_async.bench.clients import QUEUE_BYTES, QUEUE_MESSAGES, Broker
from kafka_async.bench.producing import SIZE
from kafka_async.bench.timing import Values

NOBODY = "127.0.0.1:1"  # what is sent stays in the queue
SETTLE_S = 0.5


def time_import(module: str, _broker: Broker) -> Values:
    """Import in a process of its own, whose files are in memory by then."""
    code = f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
        times.append(float(done.stdout))
    return {"import_ms": min(times) * 1000}


def _grown(call: Callable[[bytes], object], count: int) -> Values:
    """How much resident memory a message takes that is still queued."""
    values = [b"%0*d" % (SIZE, number) for number in range(1000)]
    for value in values:
        call(value)
    time.sleep(SETTLE_S)
    before = _resident()
    for value in itertools.islice(itertools.cycle(values), count):
        call(value)
    time.sleep(SETTLE_S)
    return {"bytes": (_resident() - before) / count}


def _resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def queue_ours(_broker: Broker, count: int) -> Values:
    """Send to a broker that is not there."""
    import kafka_async

    producer = kafka_async.Producer(NOBODY, "t", queue_messages=QUEUE_MESSAGES, queue_bytes=QUEUE_BYTES, log=False)
    return _grown(producer.send, count)


def queue_theirs(_broker: Broker, count: int) -> Values:
    """Do that with confluent-kafka."""
    import confluent_kafka

    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": NOBODY,
            "queue.buffering.max.messages": QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": QUEUE_BYTES // 1024,
            "log_level": 0,
        }
    )
    return _grown(lambda value: producer.produce("t", value), count)
