"""Objects made, used and stopped again and again, in a process of its own: what remains of them.

``cycles.py SERVERS TOPIC COUNT LEAK`` prints, as JSON, how many more threads and descriptors there are than before, and
by how many bytes a cycle the process grew. LEAK bytes a cycle are kept on purpose, to show that they would be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import NOBODY, wait_for

from kafka_async import Consumer, FlushTimeout, Producer, TopicPartition, aio

SERVERS, TOPIC = sys.argv[1:3]
PAGE = 4096
FROM_START = {"auto.offset.reset": "earliest"}
leaked: list[bytes] = []


def delivering() -> None:
    told: list[object] = []
    with Producer(SERVERS, TOPIC) as producer:
        producer.send(b"v", on_delivery=told.append)
        assert producer.submit(b"v").result(20).topic == TOPIC
        producer.flush(20)
    assert len(told) == 1


def losing() -> None:
    producer = Producer(NOBODY, TOPIC, on_full="drop_old")
    future = producer.submit(b"v", headers={"h": b"v"})
    with contextlib.suppress(FlushTimeout):
        producer.stop(0)
    assert future.exception(20) is not None


def forgotten() -> None:
    Producer(SERVERS, TOPIC, log=False).send(b"v")


def unused() -> None:
    Producer(NOBODY, log=False, config={"transactional.id": "t"}).stop()


def reading() -> None:
    with Consumer(SERVERS, TOPIC, config=FROM_START) as consumer:
        assert consumer.poll_message(20) is not None


def committing() -> None:
    with Consumer(SERVERS, group_id="g", config={"enable.auto.commit": False}) as consumer:
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        consumer.commit(offsets=[TopicPartition(TOPIC, 0, 1)], asynchronous=True).result(20)
        assert consumer.watermarks(TOPIC, 0, 20)[0] == 0


async def both() -> None:
    async with aio.Producer(SERVERS, TOPIC) as producer, aio.Consumer(SERVERS, TOPIC, config=FROM_START) as consumer:
        await asyncio.gather(*(producer.send(b"v") for _ in range(3)))
        assert await consumer.poll_message(20) is not None


def on_a_loop() -> None:
    asyncio.run(both())


CYCLES: list[Callable[[], None]] = [delivering, losing, forgotten, unused, delivering, reading, committing, on_a_loop]


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def memory() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def run(count: int, leak: int) -> None:
    """Several at once, since most of their time they wait."""

    def cycle(call: Callable[[], None]) -> None:
        call()
        if leak:
            leaked.append(b"l" * leak)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(cycle, itertools.islice(itertools.cycle(CYCLES), count)):
            pass


def main() -> None:
    count, leak = int(sys.argv[3]), int(sys.argv[4])
    unused()
    losing()  # the log thread, which stays, has begun
    wait_for(lambda: threads() == 2, 20, "the end of all threads but two")
    before = threads(), descriptors()
    run(count * 2 // 5, leak)  # until malloc has all the arenas that it will ever have
    start = memory()
    run(count * 3 // 5, leak)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: (threads(), descriptors()) <= before, 20)
    grown = memory() - start
    result = {"threads": threads() - before[0], "descriptors": descriptors() - before[1]}
    print(json.dumps(result | {"bytes": grown / (count * 3 // 5)}))


if __name__ == "__main__":
    main()
