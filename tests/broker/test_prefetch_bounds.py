"""What is fetched ahead stays within its bounds, overshot by one fetch response; and nobody waits for that."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from kafka_server import KafkaServer
from real_kafka import own_broker
from support import create_topic, read, reader, run_python

from kafka_async import Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

MIB = 2**20
LIMIT_S = 60
SIZE = 900_000
PREFETCH = 8 * MIB
RESPONSE = PREFETCH // 128  # on the wire
SLACK = 10 * MIB  # threads, buffers on their way, what the allocator keeps
LARGE_RESPONSES = {"fetch.max.bytes": 50 * MIB, "fetch.message.max.bytes": MIB}  # librdkafka's own defaults

# Reads one message and then nothing until no more is fetched; prints how much its memory grew at most.
SLEEPER = """
    import json, sys, time
    from kafka_async import Consumer

    def memory(name):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

    servers, topic, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    config = {"auto.offset.reset": "earliest", **options.pop("config", {})}
    before = memory("VmRSS")
    consumer = Consumer(servers, topic, config=config, **options)
    assert consumer.poll_message(30) is not None
    last, since, deadline = -1, time.monotonic(), time.monotonic() + 40
    while time.monotonic() < since + 1.0:
        assert time.monotonic() < deadline, "the memory does not settle"
        now = memory("VmHWM")
        if now > last + 2**20:
            last, since = now, time.monotonic()
        time.sleep(0.02)
    metrics = consumer.metrics()
    print(json.dumps([last - before, metrics.prefetched, metrics.prefetched_bytes]))
    consumer.stop()
"""


class Grown(NamedTuple):
    """What it had at the end of that."""

    memory: int
    messages: int
    size: int


def grown(servers: str, topic: str, **options: Any) -> Grown:
    done = run_python(SLEEPER, servers, topic, json.dumps({"prefetch_bytes": PREFETCH, **options}), limit=LIMIT_S)
    assert done.returncode == 0, done.stderr
    found = Grown(*json.loads(done.stdout))
    print(f"\n{options}: {found}")
    return found


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with own_broker() as server:
        yield server


@pytest.fixture(scope="module")
def servers(kafka: KafkaServer) -> str:
    return kafka.bootstrap_servers


def fill(kafka: KafkaServer, topic: str, value: bytes, codec: str, partitions: int, count: int) -> float:
    """Send count messages to each partition; returns how well they are compressed."""
    create_topic(kafka.bootstrap_servers, topic, partitions)
    config = {"compression.type": codec}
    with Producer(kafka.bootstrap_servers, topic, on_full="block", config=config) as producer:
        for number in range(count * partitions):
            producer.send(value, partition=number % partitions)
        producer.flush(LIMIT_S)
    stored = sum(path.stat().st_size for path in (kafka.home / "data").glob(f"{topic}-*/*.log"))
    return count * partitions * len(value) / stored


def test_application_that_sleeps_holds_no_more_than_its_bound(kafka: KafkaServer, servers: str, topic: str) -> None:
    fill(kafka, topic, os.urandom(SIZE), "none", partitions=4, count=20)
    found = grown(servers, topic)
    assert found.memory < PREFETCH + SLACK
    assert found.size <= PREFETCH // 2 + SIZE
    fewer = grown(servers, topic, prefetch_bytes=MIB)
    assert fewer.memory < MIB + SLACK
    assert fewer.size <= MIB // 2 + SIZE


@pytest.mark.parametrize(("codec", "period"), [("gzip", 9000), ("zstd", 9000), ("lz4", 900)])
def test_data_that_compress_well_take_no_more_than_the_bound_again(
    kafka: KafkaServer, servers: str, topic: str, codec: str, period: int
) -> None:
    ratio = fill(kafka, topic, os.urandom(period) * (SIZE // period), codec, partitions=4, count=60)
    assert 50 < ratio < 128
    assert grown(servers, topic).memory < 2 * PREFETCH + SLACK
    # The control: this is what it prevents.
    assert grown(servers, topic, config=LARGE_RESPONSES).memory > 3 * PREFETCH + SLACK


def test_zeros_take_no_more_than_one_response(kafka: KafkaServer, servers: str, topic: str) -> None:
    """They compress so well that a response is far more than the bound; that is the worst, and it is only one."""
    ratio = fill(kafka, topic, bytes(SIZE), "gzip", partitions=2, count=120)
    assert ratio > 500
    bound = int(PREFETCH + RESPONSE * ratio + SLACK)
    found = grown(servers, topic)
    assert found.memory < bound
    assert grown(servers, topic, config=LARGE_RESPONSES).memory > bound


def test_bound_of_messages_holds_for_small_ones(kafka: KafkaServer, servers: str, topic: str) -> None:
    """What librdkafka spends on each message is not in the bytes: their number bounds it."""
    fill(kafka, topic, b"x" * 10, "none", partitions=4, count=50_000)
    found = grown(servers, topic, prefetch_messages=10_000)
    assert found.messages <= 5_000
    everything = grown(servers, topic, prefetch_messages=1_000_000)
    assert everything.messages == 4 * 50_000 - 1
    assert found.memory < everything.memory / 2


def test_slow_application_meets_no_stall_when_it_reads_on(broker: str, topic: str) -> None:
    """librdkafka before 2.2 looks at a queue that was full again after a second."""
    create_topic(broker, topic, 2)
    with Producer(broker, topic, on_full="block", config={"linger.ms": 5}) as producer:
        for number in range(200_000):
            producer.send(b"x" * 100, partition=number % 2)
    gaps: list[float] = []
    with reader(broker, topic, prefetch_messages=4_000) as consumer:
        for _ in range(4):
            for _ in range(3):
                assert consumer.poll_message(20) is not None
                time.sleep(0.5)  # it handles a message
            last = time.monotonic()
            for _ in range(40_000):
                assert consumer.poll_message(20) is not None
                now = time.monotonic()
                gaps.append(now - last)
                last = now
    gaps.sort()
    print(f"\np99 {gaps[int(len(gaps) * 0.99)] * 1e3:.3f} ms, longest {gaps[-1] * 1e3:.1f} ms")
    assert gaps[int(len(gaps) * 0.99)] < 0.01
    assert gaps[-1] < 0.5


def test_message_larger_than_all_that_is_held(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1, **{"max.message.bytes": "4000000"})
    large = os.urandom(3_000_000)
    values = [b"first", large, b"small", large, large, b"last"]
    with Producer(broker, topic, config={"message.max.bytes": 4_000_000}) as producer:
        for value in values:
            producer.send(value)
            producer.flush(LIMIT_S)
    with reader(broker, topic, prefetch_bytes=2048, prefetch_messages=2) as consumer:
        assert [message.value for message in read(consumer, len(values), LIMIT_S)] == values
