"""A million messages through a real Kafka: none lost, none twice, in order, in as much memory as the bounds say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import NOBODY, create_topic

pytestmark = pytest.mark.broker

PROGRAM = Path(__file__).with_name("million.py")
LIMIT_S = 150
MILLION = 1_000_000
SIZE = 100
PARTITIONS = 4
MIB = 2**20

# What a message takes besides its bytes: in our ring 64 to 112, the rest are librdkafka's structures.
PER_MESSAGE = 700
# Threads, librdkafka's and the allocator's own, socket buffers, Python's objects in flight.
CONSTANT = 16 * MIB
# Largest fetch response; librdkafka may go beyond its share of the bounds by one of them.
FETCH = {"auto.offset.reset": "earliest", "fetch.max.bytes": MIB, "max.partition.fetch.bytes": MIB // 4}


def producer_bound(queue_messages: int, queue_bytes: int) -> int:
    """Bytes that a producer may grow by: the ring, whose size is a power of two, and librdkafka's copy."""
    ring = 2 * (queue_bytes + 2 * MIB)
    return ring + queue_bytes + queue_messages * PER_MESSAGE + CONSTANT


def consumer_bound(prefetch_messages: int, prefetch_bytes: int) -> int:
    """Bytes that a consumer may grow by: the ring, a power of two too, librdkafka's half, a fetch response."""
    ring = 2 * (prefetch_bytes // 2 + 2 * MIB)
    response = MIB + MIB // SIZE * PER_MESSAGE
    return ring + prefetch_bytes // 2 + prefetch_messages * PER_MESSAGE + response + CONSTANT


def start(role: str, **arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), role, json.dumps(arguments)], stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 0
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    return report


@pytest.fixture
def wide(broker: str, topic: str) -> Iterator[str]:
    """A topic of several partitions that does not stay."""
    from confluent_kafka.admin import AdminClient

    create_topic(broker, topic, PARTITIONS)
    yield topic
    admin = AdminClient({"bootstrap.servers": broker})
    admin.delete_topics([topic])[topic].result(30)


def read_independently(servers: str, topic: str, count: int) -> list[list[bytes]]:
    """All values of each partition, by another library."""
    from confluent_kafka import Consumer, TopicPartition

    values: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "unused", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    ended = 0
    deadline = time.monotonic() + LIMIT_S
    while ended < PARTITIONS:
        assert time.monotonic() < deadline, f"{sum(map(len, values))} of {count} messages"
        for message in consumer.consume(10_000, 0.1):
            if message.error():
                ended += 1
            else:
                values[message.partition() or 0].append(message.value() or b"")
    consumer.close()
    return values


@pytest.mark.timeout(180)
def test_million_messages_arrive_once_in_order_in_bounded_memory(broker: str, wide: str) -> None:
    queue = {"queue_messages": 10_000, "queue_bytes": 2 * MIB}
    prefetch = {"prefetch_messages": 50_000, "prefetch_bytes": 8 * MIB}
    options = {**prefetch, "config": FETCH}
    consumer = start(
        "consume",
        servers=broker,
        topic=wide,
        partitions=PARTITIONS,
        numbers=MILLION,
        read=MILLION,
        hold=0,
        options=options,
    )
    try:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == "reading\n"
        # So small a queue makes small batches, but for a linger.
        options = {**queue, "config": {"linger.ms": 5}}
        sent = finish(start("produce", servers=broker, topic=wide, count=MILLION, size=SIZE, options=options))
        read = finish(consumer)
    finally:
        consumer.kill()
    print(
        f"\nproduced {MILLION / (sent['ended'] - sent['began']):,.0f}/s, +{sent['grown'] / MIB:.1f} MiB; "
        f"end to end {MILLION / (read['ended'] - sent['began']):,.0f}/s, +{read['grown'] / MIB:.1f} MiB"
    )
    assert sent["delivered"] == MILLION
    assert read["first"] < sent["sent"], "they ran one after the other"
    assert read["once"] == MILLION
    assert not read["more"]
    assert read["disordered"] == 0
    assert sent["grown"] < producer_bound(**queue)
    assert read["grown"] < consumer_bound(**prefetch)

    partitions = read_independently(broker, wide, MILLION)
    assert all(partitions)
    assert {len(value) for values in partitions for value in values} == {SIZE}
    numbers = [[int(value.split(b" ", 1)[0]) for value in values] for values in partitions]
    assert all(part == sorted(part) for part in numbers)
    assert sorted(number for part in numbers for number in part) == list(range(MILLION))


@pytest.mark.timeout(120)
def test_unread_messages_wait_at_the_broker(broker: str, wide: str) -> None:
    there = 300_000
    finish(start("produce", servers=broker, topic=wide, count=there, size=SIZE, options={"config": {"linger.ms": 5}}))

    def grown(read: int, hold: int, bounds: dict[str, int]) -> int:
        options = {**bounds, "config": FETCH}
        arguments = {"servers": broker, "topic": wide, "partitions": PARTITIONS, "numbers": there, "options": options}
        return int(finish(start("consume", read=read, hold=hold, **arguments))["grown"])

    tight = {"prefetch_messages": 10_000, "prefetch_bytes": 2 * MIB}
    bounded = grown(20_000, tight["prefetch_messages"] // 2, tight)
    unbounded = grown(1, there, {"prefetch_messages": 2_000_000, "prefetch_bytes": 2**30})
    print(f"\nbounded +{bounded / MIB:.1f} MiB, unbounded +{unbounded / MIB:.1f} MiB")
    assert bounded < consumer_bound(**tight) < unbounded


def test_undelivered_messages_are_bounded_too(topic: str) -> None:
    def flood(bounds: dict[str, int]) -> dict[str, Any]:
        return finish(start("flood", servers=NOBODY, topic=topic, count=300_000, size=SIZE, options=bounds))

    tight = {"queue_messages": 10_000, "queue_bytes": 2 * MIB}
    bounded, unbounded = flood(tight), flood({"queue_messages": 1_000_000, "queue_bytes": 2**30})
    print(f"\nbounded +{bounded['grown'] / MIB:.1f} MiB, unbounded +{unbounded['grown'] / MIB:.1f} MiB")
    assert bounded["accepted"] == 10_000
    assert unbounded["accepted"] == 300_000
    assert bounded["grown"] < producer_bound(**tight) < unbounded["grown"]
