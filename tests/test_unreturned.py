"""What an exception keeps from being returned by a poll comes again: without memory, or by a signal's handler."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from shared_cluster import shared_cluster  # noqa: F401
from support import no_memory, reader, send_all, wait_for

from kafka_async import Consumer, MessageBatch, Producer, TopicPartition, aio
from kafka_async.testing import MockCluster

# What is cleaned up without memory may say so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

COUNT = 600
VALUES = [b"%06d" % number for number in range(COUNT)]
FIRST = 12  # allocations of Python that fail in turn


@pytest.fixture
def filled(cluster: MockCluster, one: str) -> str:
    send_all(cluster.bootstrap_servers, one, VALUES, headers={"h": b"v"}, key=b"k")
    return one


def prefetched(cluster: MockCluster, topic: str) -> Consumer:
    consumer = reader(cluster.bootstrap_servers, topic)
    wait_for(lambda: consumer.metrics().prefetched == COUNT)
    return consumer


def check_books(consumer: Consumer) -> None:
    metrics = consumer.metrics()
    assert metrics.handed_out == COUNT
    assert metrics.received == metrics.handed_out + metrics.purged
    assert consumer.poll_message(0.1) is None
    assert consumer.metrics().age.count == consumer.metrics().hops.ring.count == COUNT


def test_no_memory_for_a_message_leaves_it_and_all_others_as_they_are(cluster: MockCluster, filled: str) -> None:
    failed = 0
    with prefetched(cluster, filled) as consumer:
        read: list[Any] = []
        for start in itertools.cycle(range(FIRST)):
            read.append(consumer.poll_message(5))  # a block takes more allocations than may fail here
            message = None
            try:
                with no_memory(start):
                    message = consumer.poll_message(0)
            except MemoryError:
                failed += 1
            if message is not None:
                read.append(message)
            if len(read) >= COUNT:
                break
        check_books(consumer)
    assert [message.value for message in read] == VALUES
    assert [message.offset for message in read] == list(range(COUNT))
    assert failed > 50


def test_no_memory_for_a_batch_has_it_come_again(cluster: MockCluster, filled: str) -> None:
    failed = 0
    with prefetched(cluster, filled) as consumer:
        batches: list[MessageBatch] = []
        for start in itertools.cycle(range(60)):
            batch = MessageBatch()
            try:
                with no_memory(start):
                    batch = consumer.poll_batch(50, 5)
            except MemoryError:
                failed += 1
                assert (consumer.position([TopicPartition(filled, 0)])[0].offset or 0) == sum(map(len, batches))
            if batch:
                batches.append(batch)
            if sum(map(len, batches)) == COUNT:
                break
        assert consumer.metrics().handed_out == COUNT
    assert [value for batch in batches for value in batch.values()] == VALUES
    assert failed > 5


def test_no_memory_for_the_owner_of_a_batch_leaks_none(cluster: MockCluster, one: str) -> None:
    """The batch is large, so that it shows in the process's memory."""
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("AddressSanitizer keeps what is freed")
    size, rounds = 900_000, 15

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(bytes(size))
    with reader(cluster.bootstrap_servers, one, config={"fetch.wait.max.ms": 10}) as consumer:

        def poll(start: int) -> MessageBatch | None:
            wait_for(lambda: consumer.metrics().prefetched)
            with contextlib.suppress(MemoryError), no_memory(start):
                return consumer.poll_batch(1, 0)
            return None

        put_back = 0
        for start in itertools.count():
            wait_for(lambda: consumer.metrics().prefetched)
            purged, before = consumer.metrics().purged, resident()
            batch = poll(start)
            if consumer.metrics().purged > purged:  # it had been taken
                put_back += 1
                if resident() - before > size / 2:  # maybe by chance
                    for _ in range(rounds):
                        assert poll(start) is None
                    assert resident() - before < rounds * size / 2, f"allocation {start}"
            if batch:
                break
        assert put_back > 3


def test_a_signal_that_raises_has_a_batch_come_again(cluster: MockCluster, filled: str) -> None:
    class Stop(Exception):
        pass

    def strike(*_: object) -> None:
        raise Stop

    read: list[bytes | None] = []
    struck = 0
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with reader(cluster.bootstrap_servers, filled) as consumer:
            delay = 0
            while len(read) < COUNT:
                delay = delay % 40 + 1
                batch = None
                try:
                    signal.setitimer(signal.ITIMER_REAL, delay * 10e-6)
                    batch = consumer.poll_batch(7, 1)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Stop:
                    struck += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                if batch is not None:
                    read += batch.values()
            assert consumer.poll_message(0.1) is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert read == VALUES
    assert struck


def test_no_memory_on_an_event_loop(cluster: MockCluster, filled: str) -> None:
    async def main() -> list[bytes | None]:
        read: list[bytes | None] = []
        async with aio.Consumer(
            cluster.bootstrap_servers, filled, config={"auto.offset.reset": "earliest"}
        ) as consumer:
            while len(read) < COUNT:
                message = await consumer.poll_message(5)  # what the failure leaves of the block
                assert message is not None
                read.append(message.value)
                for start in range(FIRST):
                    message = None
                    try:
                        with no_memory(start):
                            message = super(aio.Consumer, consumer).poll_message(0)
                    except MemoryError:
                        continue
                    if message is not None:
                        read.append(message.value)
        return read

    assert asyncio.run(main())[:COUNT] == VALUES


def test_an_embedded_cluster_lives_beside_signals(one: str) -> None:
    """Its thread would end at the first one that the kernel gives to it."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        with MockCluster(topics={one: 1}) as cluster:
            send_all(cluster.bootstrap_servers, one, VALUES * 20)
            with reader(cluster.bootstrap_servers, one) as consumer:
                for _ in range(COUNT * 20):
                    assert consumer.poll_message(10) is not None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
