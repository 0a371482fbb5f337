"""Samples of the reading side: the whole path from the broker, and the calls alone with all prefetched.

Every loop reads two fields of each message, value and offset, since some clients make them late.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import kafka_async
from kafka_async.bench.clients import (
    LOW_LATENCY_CONSUMER,
    TIMEOUT_S,
    Broker,
    Properties,
    opened_confluent_consumer,
    opened_consumer,
)
from kafka_async.bench.producing import SIZE
from kafka_async.bench.timing import Values, with_cores

BATCH = 500
SETTLE_S = 30.0  # the longest wait for everything to be prefetched

Read: TypeAlias = Callable[[Any, int], None]
Open: TypeAlias = Callable[[], "contextlib.AbstractContextManager[Any]"]


def fill(broker: Broker, messages: int) -> None:
    """Bring messages to the topic, evenly to its partitions."""
    with kafka_async.Producer(broker.servers, broker.topic, config=dict(broker.config), on_full="block") as producer:
        for number in range(messages):
            producer.send(b"x" * SIZE, partition=number % broker.partitions)
        producer.flush(TIMEOUT_S)


# How to read -----------------------------------------------------------------------------------


def poll_message(consumer: kafka_async.Consumer, messages: int) -> None:
    """Ours, one at a time."""
    poll = consumer.poll_message
    while messages:
        message = poll()
        if message is not None:
            _ = message.value, message.offset
            messages -= 1


def iterate(consumer: kafka_async.Consumer, messages: int) -> None:
    """Ours, by its iterator."""
    for message in itertools.islice(consumer, messages):
        _ = message.value, message.offset


def poll_batch(consumer: kafka_async.Consumer, messages: int) -> None:
    """Ours, up to 500 at a time, each looked at."""
    poll = consumer.poll_batch
    while messages > 0:
        for message in poll(min(BATCH, messages), 0.1):
            _ = message.value, message.offset
            messages -= 1


def columns(consumer: kafka_async.Consumer, messages: int) -> None:
    """Ours, up to 500 at a time, values and offsets as columns."""
    poll = consumer.poll_batch
    while messages > 0:
        batch = poll(min(BATCH, messages), 0.1)
        _ = batch.values(), batch.offsets.tolist()
        messages -= len(batch)


def poll(consumer: Any, messages: int) -> None:
    """confluent-kafka's, one at a time."""
    call = consumer.poll
    while messages:
        message = call(0.1)
        if message is not None:
            if message.error():
                raise RuntimeError(message.error())
            _ = message.value(), message.offset()
            messages -= 1


def consume(consumer: Any, messages: int) -> None:
    """confluent-kafka's, up to 500 at a time."""
    call = consumer.consume
    while messages > 0:
        for message in call(min(BATCH, messages), 0.1):
            if message.error():
                raise RuntimeError(message.error())
            _ = message.value(), message.offset()
            messages -= 1


# What is measured ------------------------------------------------------------------------------


def read_ours(read: Read, broker: Broker, messages: int) -> Values:
    """Read a filled topic."""
    return _whole(lambda: opened_consumer(broker), read, messages)


def read_theirs(read: Read, broker: Broker, messages: int, *, tuned: bool = True) -> Values:
    """Read it with confluent-kafka; tuned: with the property that kafka_async sets by default."""
    config = LOW_LATENCY_CONSUMER if tuned else {}
    return _whole(lambda: opened_confluent_consumer(broker, config), read, messages)


def _whole(opened: Open, read: Read, messages: int) -> Values:
    begin = time.perf_counter()
    with opened() as consumer:
        read(consumer, 1)
        first = time.perf_counter()

        def rest() -> Values:
            read(consumer, messages - 1)
            return {"messages_s": (messages - 1) / (time.perf_counter() - first)}

        return {"first_ms": (first - begin) * 1000, **with_cores(rest)}


def call_ours(read: Read, broker: Broker, messages: int) -> Values:
    """Read what is prefetched."""
    with opened_consumer(broker, prefetch_messages=4 * messages, prefetch_bytes=2**31) as consumer:
        deadline = time.monotonic() + SETTLE_S
        while consumer.metrics().prefetched < messages:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not prefetched within {SETTLE_S:g} s: {consumer.metrics()}")
            time.sleep(0.05)
        return _time_read(read, consumer, messages)


def call_theirs(read: Read, broker: Broker, messages: int) -> Values:
    """Read what confluent-kafka has prefetched.

    It does not tell what it has. Time to wait for it shows in CPU time that is much shorter than the time that passed;
    then it is done again with more patience.
    """
    for settle_s in (1.0, 4.0, SETTLE_S):
        with _prefetching(broker, messages, settle_s) as consumer:
            values = _time_read(read, consumer, messages)
        if values["wall_ns"] < 1.5 * values["cpu_ns"]:
            break
    return values


@contextlib.contextmanager
def _prefetching(broker: Broker, messages: int, settle_s: float) -> Iterator[Any]:
    room: Properties = {"queued.min.messages": 4 * messages, "queued.max.messages.kbytes": 2**20}
    with opened_confluent_consumer(broker, {**LOW_LATENCY_CONSUMER, **room}) as consumer:
        time.sleep(settle_s)
        yield consumer


def _time_read(read: Read, consumer: Any, messages: int) -> Values:
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    read(consumer, messages)
    cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
    return {"wall_ns": wall / messages, "cpu_ns": cpu / messages}
