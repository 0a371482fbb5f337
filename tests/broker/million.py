"""One side of a stream of numbered messages, as a process of its own, so that its memory can be measured.

``produce`` sends b"0 xxx...", b"1 xxx..." and so on; ``consume`` reads them and counts how often each number comes;
``flood`` sends to a broker that is not there until all is said or refused. Each prints one line of JSON at its end,
``consume`` one before, when it is ready.
Its memory is measured from after the imports to the most that it ever was.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kafka_async import Consumer, FlushTimeout, Producer, QueueFull, TopicPartition

LIMIT_S = 100


def resident(which: str) -> int:
    """Bytes of this process in memory: VmRSS, now; VmHWM, the most that there ever were."""
    found = re.search(rf"^{which}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def payload(number: int, size: int) -> bytes:
    return (b"%d " % number).ljust(size, b"x")


def produce(servers: str, topic: str, count: int, size: int, options: dict[str, Any]) -> dict[str, Any]:
    with Producer(servers, topic, on_full="block", **options) as producer:
        began = time.time()
        for number in range(count):
            producer.send(payload(number, size))
        sent = time.time()
        producer.flush(LIMIT_S)
        delivered = producer.metrics().delivered
    return {"began": began, "sent": sent, "ended": time.time(), "delivered": delivered}


def flood(servers: str, topic: str, count: int, size: int, options: dict[str, Any]) -> dict[str, Any]:
    accepted = 0
    with contextlib.suppress(FlushTimeout), Producer(servers, topic, **options) as producer:
        for number in range(count):
            with contextlib.suppress(QueueFull):
                producer.send(payload(number, size))
                accepted += 1
        producer.stop(0)
    return {"accepted": accepted}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} within {LIMIT_S} s"
        time.sleep(0.002)


def consume(
    servers: str, topic: str, partitions: int, numbers: int, read: int, hold: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Read so many messages; ask for none before ``hold`` are prefetched, or every leader has answered.

    ``numbers`` is the end of their range.
    """
    times = bytearray(numbers)
    last = [-1] * partitions
    disordered = 0
    first = 0.0
    with Consumer(servers, **options) as consumer:
        consumer.assign([TopicPartition(topic, number, "beginning") for number in range(partitions)])
        if hold:
            wait_until(lambda: consumer.metrics().prefetched >= hold, f"no {hold} messages are prefetched")
        else:
            wait_until(lambda: len(consumer.lag()) == partitions, "no answer from every partition")
        print("reading", flush=True)
        for _ in range(read):
            message = consumer.poll_message(LIMIT_S)
            assert message is not None
            assert message.value is not None
            first = first or time.time()
            number = int(message.value.split(b" ", 1)[0])
            assert message.value == payload(number, len(message.value))
            times[number] += 1
            disordered += number <= last[message.partition]
            last[message.partition] = number
        ended = time.time()
        more = read == numbers and consumer.poll_message(0.5) is not None
    return {"first": first, "ended": ended, "once": times.count(1), "disordered": disordered, "more": more}


def main() -> None:
    role, arguments = sys.argv[1:]
    roles: dict[str, Callable[..., dict[str, Any]]] = {"produce": produce, "flood": flood, "consume": consume}
    before = resident("VmRSS")
    report = roles[role](**json.loads(arguments))
    report["grown"] = resident("VmHWM") - before
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
