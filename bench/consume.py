"""Measures the reading side: the whole path from the broker, and the calls alone with all prefetched.

Every loop reads two fields of each message, value and offset, since some libraries make them late.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from clients import (
    LOW_LATENCY_CONSUMER,
    TIMEOUT_S,
    Broker,
    Properties,
    opened_confluent_consumer,
    opened_consumer,
    opened_producer,
)
from produce import PAYLOAD
from table import Case, Values

import kafka_async

BATCH = 500
SETTLE_S = 30.0  # the longest wait for everything to be prefetched


def fill(broker: Broker, messages: int) -> None:
    """Bring messages to the topic."""
    with opened_producer(broker, {"linger.ms": 5}) as producer:
        for _ in range(messages):
            producer.send(PAYLOAD)
        producer.flush(TIMEOUT_S)


def consumer_cases(broker: Broker, messages: int) -> list[Case]:
    """List what measures the whole path: how soon the first message is there, how fast the rest follows."""
    tuned = LOW_LATENCY_CONSUMER
    plain: Properties = {}

    def measure(opened: contextlib.AbstractContextManager[Any], read: Read) -> Values:
        begin = time.perf_counter()
        with opened as consumer:
            read(consumer, 1)
            first = time.perf_counter()
            read(consumer, messages - 1)
            end = time.perf_counter()
        return {"first_ms": (first - begin) * 1000, "messages_s": (messages - 1) / (end - first)}

    def ours(read: Read) -> Values:
        return measure(opened_consumer(broker), read)

    def theirs(read: Read, config: Properties) -> Values:
        return measure(opened_confluent_consumer(broker, config), read)

    return [
        Case("consumer", "kafka_async poll_message", lambda: ours(_poll_message)),
        Case("consumer", "kafka_async iteration", lambda: ours(_iterate)),
        Case("consumer", "confluent poll", lambda: theirs(_poll, plain)),
        Case("consumer", "confluent poll, tuned", lambda: theirs(_poll, tuned)),
        Case("consumer", f"confluent consume({BATCH}), tuned", lambda: theirs(_consume, tuned)),
    ]


def prefetched_cases(broker: Broker, messages: int) -> list[Case]:
    """List what measures the calls alone."""
    room: Properties = {"queued.min.messages": 4 * messages, "queued.max.messages.kbytes": 2**20}

    @contextlib.contextmanager
    def ours() -> Iterator[kafka_async.Consumer]:
        with opened_consumer(broker, prefetch_messages=4 * messages, prefetch_bytes=2**31) as consumer:
            deadline = time.monotonic() + SETTLE_S
            while consumer.metrics().prefetched < messages and time.monotonic() < deadline:
                time.sleep(0.01)
            yield consumer

    @contextlib.contextmanager
    def theirs(settle_s: float) -> Iterator[Any]:
        with opened_confluent_consumer(broker, {**LOW_LATENCY_CONSUMER, **room}) as consumer:
            time.sleep(settle_s)
            yield consumer

    def time_ours(read: Read) -> Values:
        with ours() as consumer:
            return _time_read(read, consumer, messages)

    def time_theirs(read: Read) -> Values:
        # It does not tell what it has prefetched. Time to wait for it shows in CPU time that is
        # much shorter than the time that passed; then it is done again with more patience.
        for settle_s in (1.0, 4.0, SETTLE_S):
            with theirs(settle_s) as consumer:
                values = _time_read(read, consumer, messages)
            if values["wall_ns"] < 2 * values["cpu_ns"]:
                break
        return values

    return [
        Case("prefetched", "kafka_async poll_message", lambda: time_ours(_poll_message)),
        Case("prefetched", "kafka_async iteration", lambda: time_ours(_iterate)),
        Case("prefetched", "confluent poll", lambda: time_theirs(_poll)),
        Case("prefetched", f"confluent consume({BATCH})", lambda: time_theirs(_consume)),
    ]


Read = Callable[[Any, int], None]


def _time_read(read: Read, consumer: Any, messages: int) -> Values:
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    read(consumer, messages)
    cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
    return {"wall_ns": wall / messages, "cpu_ns": cpu / messages}


def _poll_message(consumer: kafka_async.Consumer, messages: int) -> None:
    poll = consumer.poll_message
    while messages:
        message = poll()
        if message is not None:
            _ = message.value, message.offset
            messages -= 1


def _iterate(consumer: kafka_async.Consumer, messages: int) -> None:
    for message in itertools.islice(consumer, messages):
        _ = message.value, message.offset


def _poll(consumer: Any, messages: int) -> None:
    poll = consumer.poll
    while messages:
        message = poll(0.1)
        if message is not None:
            if message.error():
                raise RuntimeError(message.error())
            _ = message.value(), message.offset()
            messages -= 1


def _consume(consumer: Any, messages: int) -> None:
    consume = consumer.consume
    while messages > 0:
        for message in consume(min(BATCH, messages), 0.1):
            if message.error():
                raise RuntimeError(message.error())
            _ = message.value(), message.offset()
            messages -= 1
