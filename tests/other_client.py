"""A topic as another client of Kafka sees it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition


class Logged(NamedTuple):
    """One record of a partition's log."""

    partition: int
    offset: int
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes | None]]


def read_log(servers: str, topic: str, limit: float = 20.0) -> list[Logged]:
    """Read all that is in a topic now, each partition in its order."""
    deadline = time.monotonic() + limit
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "another", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=limit).topics[topic].partitions
        parts = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions]
        missing = sum(high - low for low, high in (consumer.get_watermark_offsets(part, limit) for part in parts))
        consumer.assign(parts)
        logged: list[Logged] = []
        while len(logged) < missing:
            assert time.monotonic() < deadline, f"{len(logged)} of {missing} records within {limit} s"
            for message in consumer.consume(1000, 0.05):
                assert message.error() is None, message.error()
                where: tuple[Any, Any] = message.partition(), message.offset()
                headers: Any = message.headers() or []
                logged.append(Logged(*where, message.value(), message.key(), headers))
        return sorted(logged, key=lambda record: record[:2])
    finally:
        consumer.close()
