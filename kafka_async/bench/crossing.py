"""Samples of the whole way: from the moment at which a message is to be sent until another process has polled it.

The sender is a process of its own, so that a busy thread in this one is beside the poll alone. It counts from when each
send was due: whatever makes it late is in the latency.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from kafka_async.bench.clients import (
    LOW_LATENCY_CONSUMER,
    TIMEOUT_S,
    Broker,
    flush_confluent,
    opened_confluent_consumer,
    opened_confluent_producer,
    opened_consumer,
    opened_producer,
)
from kafka_async.bench.hops import hops
from kafka_async.bench.producing import SIZE
from kafka_async.bench.timing import Values, busy_thread, exact_timers, pace, percentiles

SETTLE_S = 0.3
STAMP_SIZE = 8

Poll: TypeAlias = Callable[[float], "bytes | None"]
Send: TypeAlias = Callable[[bytes], object]


class Client(NamedTuple):
    """Both sides of one client; the poller gives the hops of its messages, too, where it knows them."""

    name: str
    poller: Callable[[Broker], contextlib.AbstractContextManager[tuple[Poll, Callable[[], Values]]]]
    sender: Callable[[Broker], contextlib.AbstractContextManager[tuple[Send, Callable[[], Values]]]]


@contextlib.contextmanager
def _our_poller(broker: Broker) -> Iterator[tuple[Poll, Callable[[], Values]]]:
    with opened_consumer(broker, "end") as consumer:
        call = consumer.poll_message

        def poll(timeout: float) -> bytes | None:
            message = call(timeout)
            return None if message is None else message.value

        yield poll, lambda: hops("consumer", consumer.metrics().hops)


@contextlib.contextmanager
def _our_sender(broker: Broker) -> Iterator[tuple[Send, Callable[[], Values]]]:
    with opened_producer(broker) as producer:

        def finish() -> Values:
            producer.flush(TIMEOUT_S)
            return hops("producer", producer.metrics().hops)

        yield producer.send, finish


@contextlib.contextmanager
def _their_poller(broker: Broker) -> Iterator[tuple[Poll, Callable[[], Values]]]:
    with opened_confluent_consumer(broker, LOW_LATENCY_CONSUMER, "end") as consumer:
        call = consumer.poll

        def poll(timeout: float) -> bytes | None:
            message = call(timeout)
            if message is None:
                return None
            if message.error():
                raise RuntimeError(message.error())
            value: bytes = message.value()
            return value

        yield poll, dict


@contextlib.contextmanager
def _their_sender(broker: Broker) -> Iterator[tuple[Send, Callable[[], Values]]]:
    with opened_confluent_producer(broker) as producer:
        produce, serve, topic = producer.produce, producer.poll, broker.topic

        def send(value: bytes) -> None:
            produce(topic, value)
            serve(0)  # or reports pile up

        def finish() -> Values:
            flush_confluent(producer)
            return {}

        yield send, finish


OURS = Client("ours", _our_poller, _our_sender)
THEIRS = Client("theirs", _their_poller, _their_sender)


def time_crossing(client: Client, broker: Broker, rate: float, seconds: float) -> Values:
    """Poll what another process sends at a steady rate."""
    with client.poller(broker) as (poll, own_hops):
        _begin_reading(poll, broker)
        with _sending(client, broker, rate, seconds) as process:
            times = _poll_stamps(poll, int(rate * seconds))
            output, _ = process.communicate(timeout=TIMEOUT_S)
        if process.returncode:
            raise RuntimeError(f"the sender ended with {process.returncode}")
        return percentiles(times) | own_hops() | _parsed(output)


def time_crossing_busy(client: Client, broker: Broker, rate: float, seconds: float) -> Values:
    """Do that beside a thread that computes."""
    with busy_thread():
        return time_crossing(client, broker, rate, seconds)


def _begin_reading(poll: Poll, broker: Broker) -> None:
    """Nobody tells when a consumer has found the end of its partition; so messages go there until one comes."""
    with opened_producer(broker) as producer:
        while poll(0.1) is None:
            for partition in range(broker.partitions):
                producer.send(b"first", partition=partition)
    while poll(SETTLE_S) is not None:
        pass


def _poll_stamps(poll: Poll, count: int) -> list[int]:
    clock = time.monotonic_ns
    times: list[int] = []
    while len(times) < count:
        value = poll(TIMEOUT_S)
        now = clock()
        if value is None:
            raise RuntimeError(f"{len(times)} of {count} messages came")
        if len(value) == SIZE:
            times.append(now - int.from_bytes(value[:STAMP_SIZE], "little"))
    return times


@contextlib.contextmanager
def _sending(client: Client, broker: Broker, rate: float, seconds: float) -> Iterator[subprocess.Popen[str]]:
    code = f"from {__name__} import *; send_stamps({client.name!r}, {broker!r}, {rate!r}, {seconds!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def send_stamps(name: str, broker: Broker, rate: float, seconds: float) -> None:
    """Send, as the other process, and print the hops."""
    client = {each.name: each for each in (OURS, THEIRS)}[name]
    with client.sender(broker) as (send, finish):
        time.sleep(SETTLE_S)
        exact_timers()
        for due in pace(rate, seconds):
            send(due.to_bytes(STAMP_SIZE, "little").ljust(SIZE, b"x"))
        print("\n".join(f"{name} {value}" for name, value in finish().items()))


def _parsed(output: str) -> dict[str, Any]:
    return {name: float(value) for name, value in map(str.split, filter(None, output.splitlines()))}
