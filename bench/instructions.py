"""Counts the instructions that the calling thread executes for one message, by valgrind's callgrind. See README.md.

Clocks tell more of the machine than of a call of 300 ns; instructions are nearly the same in every run. Each case runs
for few messages and for many, in processes of its own: the difference is theirs. Other threads are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import kafka_async
from kafka_async.bench.clients import (
    QUEUE_MESSAGES,
    Broker,
    opened_confluent_consumer,
    opened_consumer,
    temporary_topic,
)
from kafka_async.bench.consuming import BATCH, fill
from kafka_async.bench.consuming import consume as _consume
from kafka_async.bench.consuming import poll as _poll

PAYLOAD = b"x" * 100
NOBODY = "127.0.0.1:1"  # what is sent stays in the queue
FEW, MANY = 5_000, 55_000
LOOK_S = 1.0
PATIENCE_S = 120.0


class Counter:
    """The least that an application does with reports."""

    def __init__(self) -> None:
        self.delivered = 0

    def take(self, error: object, _message: object) -> None:
        """Take one."""
        self.delivered += error is None


Run = Callable[[Broker, int], None]


def send(_broker: Broker, count: int) -> None:
    """Ours: the outcome is counted."""
    call = kafka_async.Producer(NOBODY, "t", queue_messages=QUEUE_MESSAGES).send
    for _ in itertools.repeat(None, count):
        call(PAYLOAD)


def send_many(_broker: Broker, count: int) -> None:
    """Ours, a thousand at a time."""
    call = kafka_async.Producer(NOBODY, "t", queue_messages=QUEUE_MESSAGES).send_many
    values = [PAYLOAD] * 1000
    for _ in itertools.repeat(None, count // 1000):
        call(values)


def produce(_broker: Broker, count: int) -> None:
    """confluent-kafka: the outcome is never learnt."""
    import confluent_kafka

    call = confluent_kafka.Producer({"bootstrap.servers": NOBODY}).produce
    for _ in itertools.repeat(None, count):
        call("t", PAYLOAD)


def produce_and_poll(_broker: Broker, count: int) -> None:
    """confluent-kafka: what it takes to learn of outcomes."""
    import confluent_kafka

    producer, told = confluent_kafka.Producer({"bootstrap.servers": NOBODY}), Counter()
    call, poll = producer.produce, producer.poll
    for _ in itertools.repeat(None, count):
        call("t", PAYLOAD, on_delivery=told.take)
        poll(0)


def poll_message(broker: Broker, count: int) -> None:
    """Ours, one at a time."""
    with _prefetched(broker) as consumer:
        poll = consumer.poll_message
        for _ in itertools.repeat(None, count):
            message = poll()
            if message is not None:
                _ = message.value, message.offset
        os._exit(0)  # closing has a cost of its own


def poll_batch(broker: Broker, count: int) -> None:
    """Ours, five hundred at a time, each looked at."""
    with _prefetched(broker) as consumer:
        for _ in range(count // BATCH):
            for message in consumer.poll_batch(BATCH):
                _ = message.value, message.offset
        os._exit(0)


def columns(broker: Broker, count: int) -> None:
    """Ours, five hundred at a time, offsets and payloads as columns."""
    with _prefetched(broker) as consumer:
        for _ in range(count // BATCH):
            batch = consumer.poll_batch(BATCH)
            _ = batch.values(), batch.offsets.tolist()
        os._exit(0)


def poll(broker: Broker, count: int) -> None:
    """confluent-kafka, one at a time; it waits, which costs little, where nothing is there yet."""
    with opened_confluent_consumer(broker) as consumer:
        _poll(consumer, count)
        os._exit(0)


def consume(broker: Broker, count: int) -> None:
    """confluent-kafka, five hundred at a time."""
    with opened_confluent_consumer(broker) as consumer:
        _consume(consumer, count)
        os._exit(0)


@contextlib.contextmanager
def _prefetched(broker: Broker) -> Iterator[kafka_async.Consumer]:
    deadline = time.monotonic() + PATIENCE_S
    with opened_consumer(broker, prefetch_messages=2 * MANY, prefetch_bytes=2**30) as consumer:
        while consumer.metrics().prefetched < MANY:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not prefetched within {PATIENCE_S:g} s")
            time.sleep(LOOK_S)  # each look costs instructions, too
        yield consumer


CASES: dict[str, Run] = {
    "kafka_async send": send,
    "kafka_async send_many(1000)": send_many,
    "confluent produce": produce,
    "confluent produce(on_delivery) + poll(0)": produce_and_poll,
    "kafka_async poll_message": poll_message,
    f"kafka_async poll_batch({BATCH}), iterated": poll_batch,
    f"kafka_async poll_batch({BATCH}), columns": columns,
    "confluent poll": poll,
    f"confluent consume({BATCH})": consume,
}


def main() -> None:
    """Count what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="default: %(default)s")
    parser.add_argument("--only", choices=CASES, nargs="+", metavar="CASE", default=list(CASES), help="by name")
    parser.add_argument("--run", nargs=3, metavar=("CASE", "TOPIC", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        case, topic, count = arguments.run
        CASES[case](Broker(arguments.bootstrap_servers, topic, 1), int(count))
        os._exit(0)  # what is queued stays unsent
    print("| the calling thread, for one message of 100 bytes | instructions |\n|---|---|")
    with temporary_topic(arguments.bootstrap_servers, 1) as broker:
        fill(broker, MANY + BATCH)
        for name in arguments.only:
            # The first run is not counted: it may compile modules that the others find compiled.
            counts = [_count(name, broker, count) for count in (FEW, FEW, MANY)][1:]
            print(f"| {name} | {(counts[1] - counts[0]) / (MANY - FEW):,.0f} |", flush=True)


def _count(name: str, broker: Broker, count: int) -> int:
    """Give what the main thread of a run of its own executed."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, __file__, "--bootstrap-servers", broker.servers]
        command += ["--run", name, broker.topic, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        if done.returncode:
            raise RuntimeError(done.stderr)
        totals = re.search(r"^totals: (\d+)", pathlib.Path(folder, "out-01").read_text(), re.MULTILINE)
    if totals is None:
        raise RuntimeError("callgrind wrote no total of the main thread")
    return int(totals[1])


if __name__ == "__main__":
    main()
