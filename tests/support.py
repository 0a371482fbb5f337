"""What several tests need."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kafka_async import Consumer, FlushTimeout, Message, Producer, TransactionError

CONTRACT = Path(__file__).parents[1] / "csrc" / "ka_api.h"
NOBODY = "127.0.0.1:1"  # nothing listens there


def wait_for(condition: Callable[[], object], limit: float = 10.0, what: str = "the condition") -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} was not met within {limit} s"
        time.sleep(0.002)


def persist(call: Callable[[], None], limit: float) -> None:
    """Make a call of a transaction again as long as its error says so."""
    deadline = time.monotonic() + limit
    while True:
        try:
            return call()
        except TransactionError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise


def read(consumer: Consumer, count: int, limit: float = 20.0) -> list[Message]:
    """Poll until there are so many messages."""
    messages: list[Message] = []
    deadline = time.monotonic() + limit
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} messages within {limit} s"
        if (message := consumer.poll_message(0.1)) is not None:
            messages.append(message)
    return messages


def reader(servers: str, topic: str, **options: Any) -> Consumer:
    """A consumer of a whole topic from its beginning, without a group."""
    config = {"auto.offset.reset": "earliest", **options.pop("config", {})}
    return Consumer(servers, topic, config=config, **options)


def create_topic(servers: str, topic: str, partitions: int, replicas: int = 1, **config: str) -> None:
    """Create a topic on a real cluster, and wait until it is there."""
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, partitions, replicas, config=config)])[topic].result(20)
    wait_for(
        lambda: (
            topic in (topics := admin.list_topics(timeout=10).topics) and len(topics[topic].partitions) == partitions
        )
    )


def send_all(servers: str, topic: str, values: list[bytes], **options: Any) -> None:
    with Producer(servers, topic, on_full="block") as producer:
        for value in values:
            producer.send(value, **options)


def end(producer: Producer) -> None:
    """Stop a producer that has messages and nobody to send them to."""
    with pytest.raises(FlushTimeout):
        producer.stop(0)


@contextmanager
def no_memory(start: int) -> Iterator[None]:
    """Let one allocation of Python's fail, that after so many."""
    _testcapi = pytest.importorskip("_testcapi")  # not every Python has it
    _testcapi.set_nomemory(start, start + 1)
    try:
        yield
    finally:
        _testcapi.remove_mem_hooks()


def run_python(
    code: str, *args: str, limit: float = 30.0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, for what can't happen in the test's process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        env={**os.environ, **(env or {})},
        cwd=tempfile.gettempdir(),  # the sources must not hide an installed copy
    )
