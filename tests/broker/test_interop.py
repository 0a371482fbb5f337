"""Records written here are read equal by confluent-kafka, the reverse, and both in one process at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import confluent_kafka
import pytest
from support import create_topic, read, reader

import kafka_async

pytestmark = pytest.mark.broker

LIMIT_S = 30
STAMP = 1_700_000_000_000


class Sent(NamedTuple):
    """What both libraries are asked to send and expected to read."""

    value: bytes | None
    key: bytes | None = None
    timestamp_ms: int = STAMP
    headers: Sequence[tuple[str, bytes | None]] = ()


RECORDS = [
    Sent(b"value"),
    Sent(b""),
    Sent(b"", b""),
    Sent(None, b"a tombstone"),
    Sent(None),
    Sent(b"\x00\xff\n\x00", b"\x00\xfe\n"),
    Sent(b"v" * 100_000, b"k" * 10_000),
    Sent(b"times", b"one", 1),
    Sent(b"times", b"far", 4_102_444_800_123),
    Sent(b"headers", None, STAMP, [("name", b"value")]),
    Sent(b"headers", b"k", STAMP, [("none", None), ("empty", b""), ("none", b"not")]),
    Sent(b"headers", b"k", STAMP, [("twice", b"1"), ("other", b"2"), ("twice", b"3"), ("twice", b"3")]),
    Sent(None, b"k", STAMP, [("of a tombstone", b"\x00\xff"), ("grüße", b"x"), ("", b"no name")]),
    Sent(b"many", b"k", STAMP, [(f"h{number}", b"%d" % number) for number in range(200)]),
    Sent(b"large", b"k", STAMP, [("large", b"h" * 200_000)]),
]


@pytest.fixture
def narrow(broker: str, topic: str) -> str:
    """A topic of one partition, which keeps the order, and keeps records whatever time they say it is."""
    create_topic(broker, topic, 1, **{"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)})
    return topic


def read_by_confluent(servers: str, topic: str, count: int) -> list[confluent_kafka.Message]:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": "unused"})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    messages: list[confluent_kafka.Message] = []
    deadline = time.monotonic() + LIMIT_S
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} messages"
        for message in consumer.consume(count - len(messages), 0.1):
            assert message.error() is None
            messages.append(message)
    consumer.close()
    return messages


def send_by_confluent(servers: str, topic: str, records: Sequence[Sent], **config: Any) -> None:
    outcomes: list[confluent_kafka.KafkaError | None] = []
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, **config})
    for sent in records:
        headers: Any = list(sent.headers)
        producer.produce(
            topic,
            sent.value,
            sent.key,
            0,
            timestamp=sent.timestamp_ms,
            headers=headers,
            on_delivery=lambda error, _: outcomes.append(error),
        )
    producer.flush(LIMIT_S)
    assert outcomes == [None] * len(records)


def test_confluent_reads_what_was_sent_here(broker: str, narrow: str) -> None:
    with kafka_async.Producer(broker, narrow) as producer:
        for sent in RECORDS:
            producer.send(sent.value, sent.key, partition=0, timestamp_ms=sent.timestamp_ms, headers=sent.headers)
    for offset, (sent, message) in enumerate(
        zip(RECORDS, read_by_confluent(broker, narrow, len(RECORDS)), strict=True)
    ):
        assert (message.value(), message.key()) == (sent.value, sent.key)
        assert message.timestamp() == (confluent_kafka.TIMESTAMP_CREATE_TIME, sent.timestamp_ms)
        assert (message.headers() or []) == list(sent.headers)
        assert (message.topic(), message.partition(), message.offset()) == (narrow, 0, offset)


def test_what_confluent_sent_is_read_here(broker: str, narrow: str) -> None:
    send_by_confluent(broker, narrow, RECORDS)
    with reader(broker, narrow) as consumer:
        messages = read(consumer, len(RECORDS))
    for offset, (sent, message) in enumerate(zip(RECORDS, messages, strict=True)):
        assert (message.value, message.key) == (sent.value, sent.key)
        assert (message.timestamp_type, message.timestamp_ms) == ("create", sent.timestamp_ms)
        assert message.headers == list(sent.headers)
        assert (message.topic, message.partition, message.offset) == (narrow, 0, offset)


def test_broker_stamps_where_the_topic_says_so(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1, **{"message.timestamp.type": "LogAppendTime"})
    before = time.time() * 1000
    send_by_confluent(broker, topic, [Sent(b"theirs")])
    with kafka_async.Producer(broker, topic) as producer:
        producer.send(b"ours", timestamp_ms=STAMP)
    with reader(broker, topic) as consumer:
        ours = read(consumer, 2)
    theirs = read_by_confluent(broker, topic, 2)
    assert {message.timestamp_type for message in ours} == {"append"}
    assert all(before - 1 <= message.timestamp_ms <= time.time() * 1000 + 1 for message in ours)
    assert [message.timestamp() for message in theirs] == [
        (confluent_kafka.TIMESTAMP_LOG_APPEND_TIME, message.timestamp_ms) for message in ours
    ]


def test_time_that_librdkafka_would_change_is_refused(broker: str, narrow: str) -> None:
    """It takes 0 for "now"."""
    with kafka_async.Producer(broker, narrow) as producer, pytest.raises(ValueError, match="timestamp_ms"):
        producer.send(b"v", timestamp_ms=0)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_each_reads_the_others_compression(broker: str, narrow: str, codec: str) -> None:
    records = [Sent(b"%d " % number * 100, b"k") for number in range(1000)]
    config: dict[str, Any] = {"compression.type": codec, "linger.ms": 50}
    with kafka_async.Producer(broker, narrow, config=config) as producer:
        for sent in records:
            producer.send(sent.value, sent.key, partition=0)
    send_by_confluent(broker, narrow, records, **config)
    expected = [sent.value for sent in records] * 2
    with reader(broker, narrow) as consumer:
        assert [message.value for message in read(consumer, len(expected))] == expected
    assert [message.value() for message in read_by_confluent(broker, narrow, len(expected))] == expected


def test_two_librdkafkas_work_side_by_side_in_one_process(broker: str, topic: str) -> None:
    """Two topics at the same time: from here to confluent-kafka, and from there to here."""
    count = 50_000
    ours, theirs = f"{topic}-ours", f"{topic}-theirs"
    for name in (ours, theirs):
        create_topic(broker, name, 1)
    records = [Sent(b"%d" % number, b"k", STAMP, [("h", b"v")]) for number in range(count)]
    got: dict[str, list[bytes | None]] = {}

    def send_here() -> None:
        with kafka_async.Producer(broker, ours, on_full="block") as producer:
            for sent in records:
                producer.send(sent.value, sent.key, headers=sent.headers)

    def read_here() -> None:
        with reader(broker, theirs) as consumer:
            got["here"] = [message.value for message in read(consumer, count, LIMIT_S)]

    def read_there() -> None:
        got["there"] = [message.value() for message in read_by_confluent(broker, ours, count)]

    def send_there() -> None:
        send_by_confluent(broker, theirs, records)

    threads = [threading.Thread(target=job) for job in (read_here, read_there, send_here, send_there)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    expected = [sent.value for sent in records]
    assert got["here"] == expected
    assert got["there"] == expected
