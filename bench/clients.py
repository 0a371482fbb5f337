"""Both libraries, opened with settings that are the same where they can be the same.

What differs is here and nowhere else, so that a reader can judge whether it is fair.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import kafka_async

Properties = dict[str, str | int | float | bool]

TIMEOUT_S = 120.0

# Nothing is refused or stalled by a bound in any measurement: they hold all that is sent, or prefetched.
QUEUE_MESSAGES = 2_000_000
QUEUE_BYTES = 2**30

# kafka_async sets these by default; confluent-kafka is given them.
LOW_LATENCY_PRODUCER: Properties = {"socket.nagle.disable": True}
LOW_LATENCY_CONSUMER: Properties = {"socket.nagle.disable": True, "fetch.queue.backoff.ms": 2}


@dataclass(frozen=True)
class Broker:
    """Where to measure: a topic of one's own on a real broker."""

    servers: str
    topic: str
    partitions: int


@contextlib.contextmanager
def temporary_topic(servers: str, partitions: int) -> Iterator[Broker]:
    """Make a topic that nobody else uses, and delete it at the end."""
    admin = AdminClient({"bootstrap.servers": servers})
    name = f"kafka-async-bench-{uuid.uuid4().hex[:12]}"
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(TIMEOUT_S)
    try:
        yield Broker(servers, name, partitions)
    finally:
        admin.delete_topics([name])[name].result(TIMEOUT_S)


@contextlib.contextmanager
def opened_producer(broker: Broker, config: Properties) -> Iterator[kafka_async.Producer]:
    """Open ours, connected: one message is through."""
    with kafka_async.Producer(
        broker.servers, broker.topic, config=config, queue_messages=QUEUE_MESSAGES, queue_bytes=QUEUE_BYTES
    ) as producer:
        producer.send(b"first")
        producer.flush(TIMEOUT_S)
        yield producer


@contextlib.contextmanager
def opened_confluent_producer(broker: Broker, config: Properties) -> Iterator[Any]:
    """Open theirs, connected: one message is through."""
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": broker.servers,
            "queue.buffering.max.messages": QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": QUEUE_BYTES // 1024,
            **LOW_LATENCY_PRODUCER,
            **config,
        }
    )
    producer.produce(broker.topic, b"first")
    producer.flush(TIMEOUT_S)
    yield producer
    producer.flush(TIMEOUT_S)


@contextlib.contextmanager
def opened_consumer(broker: Broker, **arguments: Any) -> Iterator[kafka_async.Consumer]:
    """Open ours at the topic's beginning, without a group."""
    with kafka_async.Consumer(broker.servers, **arguments) as consumer:
        consumer.assign(
            [kafka_async.TopicPartition(broker.topic, number, "beginning") for number in range(broker.partitions)]
        )
        yield consumer


@contextlib.contextmanager
def opened_confluent_consumer(broker: Broker, config: Properties) -> Iterator[Any]:
    """Open theirs at the topic's beginning, committing nothing."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": broker.servers, "group.id": "unused", "enable.auto.commit": False, **config}
    )
    consumer.assign(
        [
            confluent_kafka.TopicPartition(broker.topic, number, confluent_kafka.OFFSET_BEGINNING)
            for number in range(broker.partitions)
        ]
    )
    try:
        yield consumer
    finally:
        consumer.close()
