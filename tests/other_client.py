"""A topic as a client of Kafka that nobody here wrote sees it."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

LIMIT_S = 30


class Row(NamedTuple):
    """A record as confluent-kafka reads it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int


def read_log(servers: str, topic: str, *, isolation: str = "read_uncommitted", limit: float = LIMIT_S) -> list[Row]:
    """All records of a topic up to the ends of its partitions: by partition, then by offset.

    A reader of committed records alone ends where a transaction is open.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "unused",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # the end is told by a fetch that found nothing
            "isolation.level": isolation,
        }
    )
    try:
        partitions = consumer.list_topics(topic, limit).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
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


def log_values(servers: str, topic: str, *, isolation: str = "read_uncommitted") -> list[bytes | None]:
    """The same, values alone."""
    return [row.value for row in read_log(servers, topic, isolation=isolation)]
