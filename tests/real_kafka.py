"""A Kafka of a test's own, to be frozen and killed, and what clients that nobody here wrote read from a log."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kafka_server import KafkaServer
from support import wait_for

LIMIT_S = 30


@contextlib.contextmanager
def own_broker(**properties: str) -> Iterator[KafkaServer]:
    """Run a broker that may be killed; skip the test where the one in use does not run from jars."""
    if "KAFKA_ASYNC_KAFKA_LIBS" not in os.environ:
        pytest.skip("the broker in use does not run from jars")
    settings = {
        "auto.create.topics.enable": "false",
        # After a kill the controller waits for the old broker's session to end.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
        # One partition is opened sooner than fifty, at each start.
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
    }
    with KafkaServer(properties={**settings, **properties}) as server:
        yield server


def running(server: KafkaServer) -> KafkaServer:
    """Start it again after a test that ended with a dead one."""
    with contextlib.suppress(RuntimeError):  # it runs already
        server.start()
    return server


def is_stopped(pid: int) -> bool:
    """Whether every thread is; they stop one after the other, and one that still runs may answer a message."""
    try:
        states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except FileNotFoundError:  # one has just ended
        return False
    return set(states) == {"T"}


@contextlib.contextmanager
def frozen(server: KafkaServer) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(server.pid))
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


class Row(NamedTuple):
    """A record as confluent-kafka reads it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int


def read_log(servers: str, topic: str, *, isolation: str = "read_uncommitted", limit: float = LIMIT_S) -> list[Row]:
    """All records of a topic up to the ends of its partitions, by confluent-kafka: by partition, then by offset.

    A reader of committed records alone ends where a transaction is open.
    """
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    config = {"group.id": "unused", "enable.partition.eof": True, "isolation.level": isolation}
    consumer = Consumer({"bootstrap.servers": servers, **config})
    try:
        partitions = consumer.list_topics(topic, limit).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        rows: dict[int, list[Row]] = defaultdict(list)
        open_ones = set(partitions)
        deadline = time.monotonic() + limit
        while open_ones:
            assert time.monotonic() < deadline, f"no end of {topic}{sorted(open_ones)} within {limit} s"
            for message in consumer.consume(10_000, 0.1):
                number = message.partition()
                assert number is not None
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    open_ones.discard(number)
                else:
                    rows[number].append(_row(message))
    finally:
        consumer.close()
    return [row for number in sorted(rows) for row in rows[number]]


def _row(message: Any) -> Row:
    headers = list(message.headers() or [])
    return Row(message.partition(), message.offset(), message.key(), message.value(), headers, message.timestamp()[1])


def values(servers: str, topic: str, *, isolation: str = "read_uncommitted") -> list[bytes | None]:
    """The same, values alone."""
    return [row.value for row in read_log(servers, topic, isolation=isolation)]


def kcat(*arguments: str, limit: float = LIMIT_S) -> bytes:
    """What kcat prints."""
    program = shutil.which("kcat") or shutil.which("kafkacat")
    if program is None:
        if os.environ.get("KAFKA_ASYNC_REQUIRE_KCAT") == "1":
            pytest.fail("kcat is required: install the package kcat")
        pytest.skip("needs kcat: install the package kcat")
    done = subprocess.run([program, *arguments], capture_output=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
