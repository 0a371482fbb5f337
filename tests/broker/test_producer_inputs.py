"""What a real broker makes of every input: it arrives as it was given, or fails alone with the documented error."""

from __future__ import annotations

import json

import pytest
from other_client import log_values, read_log
from real_kafka import kcat
from support import create_topic

from kafka_async import DeliveryError, DeliveryReport, MessageTooLarge, Producer, Record

pytestmark = [pytest.mark.broker, pytest.mark.timeout(90)]

LIMIT_S = 30
STAMP = 1_700_000_000_000
BROKER_LIMIT = 1_048_588  # Kafka's default of message.max.bytes


@pytest.fixture
def narrow(broker: str, topic: str) -> str:
    """A topic of one partition, which keeps the order."""
    create_topic(broker, topic, 1)
    return topic


def test_unknown_partition_fails_its_messages_alone(broker: str, topic: str) -> None:
    create_topic(broker, topic, 3)
    reports: list[DeliveryReport] = []
    with Producer(broker, topic) as producer:
        for number in range(30):
            producer.send(b"%d" % number, partition=number % 3)
            if number % 3 == 0:
                producer.send(b"lost", b"key", partition=3, headers=[("h", b"1")])
        producer.send(b"lost", partition=2**31 - 1, on_delivery=reports.append)
        delivery = producer.submit(b"lost", b"key", partition=1000)
        with pytest.raises(DeliveryError) as caught:
            producer.flush(LIMIT_S)
        assert (caught.value.failed, caught.value.name) == (10, "_UNKNOWN_PARTITION")
        failures = producer.failures()
        assert [(report.value, report.key, report.partition, report.headers) for report in failures] == [
            (b"lost", b"key", 3, [("h", b"1")])
        ] * 10
        assert {report.error.name for report in failures if report.error} == {"_UNKNOWN_PARTITION"}
        (report,) = reports
        assert report.error is not None
        assert (report.error.name, report.partition, report.offset) == ("_UNKNOWN_PARTITION", 2**31 - 1, None)
        error = delivery.exception(0)
        assert isinstance(error, DeliveryError)
        assert error.name == "_UNKNOWN_PARTITION"
        assert error.report is not None
        assert (error.report.key, error.report.partition) == (b"key", 1000)
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.delivered, metrics.failed) == (42, 30, 12)
    rows = read_log(broker, topic)
    assert [(row.partition, row.value) for row in rows] == [
        (part, b"%d" % number) for part in range(3) for number in range(part, 30, 3)
    ]


def test_record_too_large_for_the_broker_fails_alone(broker: str, narrow: str) -> None:
    with Producer(broker, narrow, config={"message.max.bytes": 4_000_000}) as producer:
        deliveries = [producer.submit(value) for value in (b"0", b"x" * (BROKER_LIMIT + 1), b"1")]
        producer.flush(LIMIT_S)
        assert [delivery.exception(0) is None for delivery in deliveries] == [True, False, True]
        error = deliveries[1].exception(0)
        assert isinstance(error, DeliveryError)
        assert (error.name, error.code, error.retriable) == ("MSG_SIZE_TOO_LARGE", 10, False)
        assert error.report is not None
        assert len(error.report.value or b"") == BROKER_LIMIT + 1
        assert producer.metrics().failed == 1
        producer.send(b"2")
    assert log_values(broker, narrow) == [b"0", b"1", b"2"]


def test_record_too_large_for_the_topic_fails_alone(broker: str, topic: str) -> None:
    """A topic's limit is one of whole batches: with batch.size below it no message shares the fate of another."""
    create_topic(broker, topic, 1, **{"max.message.bytes": "10000"})
    with Producer(broker, topic, config={"batch.size": 9000}) as producer:
        deliveries = [producer.submit(value) for value in (b"0", b"x" * 10_001, b"1")]
        producer.flush(LIMIT_S)
        error = deliveries[1].exception(0)
        assert isinstance(error, DeliveryError)
        assert (error.name, error.code) == ("MSG_SIZE_TOO_LARGE", 10)
        assert [delivery.result(0).offset for delivery in deliveries[::2]] == [0, 1]
    assert log_values(broker, topic) == [b"0", b"1"]


def test_largest_record_that_is_accepted_arrives(broker: str, narrow: str) -> None:
    """36 bytes less than message.max.bytes, as documented; a byte more is refused before acceptance."""
    with Producer(broker, narrow) as producer:
        with pytest.raises(MessageTooLarge):
            producer.send(b"x" * (1_000_000 - 35))
        producer.send(b"x" * (1_000_000 - 36))
        producer.send(b"y" * 900_000, b"k" * (100_000 - 36))
        producer.flush(LIMIT_S)
        assert producer.metrics().accepted == 2
    assert [(len(row.value or b""), len(row.key or b"")) for row in read_log(broker, narrow)] == [
        (999_964, 0),
        (900_000, 99_964),
    ]


def test_ten_thousand_headers_arrive(broker: str, narrow: str) -> None:
    headers = [(f"h{number % 5000}", b"%d" % number) for number in range(10_000)]
    with Producer(broker, narrow) as producer:
        producer.send(b"before")
        producer.send(b"many", headers=headers)
        assert producer.send_many([Record(b"many", headers=headers), Record(b"after")]) == 2
        producer.flush(LIMIT_S)
    rows = read_log(broker, narrow)
    assert [row.value for row in rows] == [b"before", b"many", b"many", b"after"]
    assert [row.headers for row in rows] == [[], headers, headers, []]


def test_empty_and_absent_parts_stay_apart(broker: str, narrow: str) -> None:
    parts = [(value, key) for value in (b"v", b"", None) for key in (b"k", b"", None)]
    headers = [("twice", b"1"), ("none", None), ("twice", b""), ("", b"no name"), ("twice", b"1")]
    with Producer(broker, narrow) as producer:
        for value, key in parts:
            producer.send(value, key, headers=headers)
        assert producer.send_many([Record(value, key, headers=headers) for value, key in parts]) == len(parts)
        for value, key in parts:
            producer.submit(value, key, headers=headers)
        producer.flush(LIMIT_S)
    rows = read_log(broker, narrow)
    assert [(row.value, row.key) for row in rows] == parts * 3
    assert all(row.headers == headers for row in rows)


def test_refused_arguments_affect_no_other_message(broker: str, narrow: str) -> None:
    with Producer(broker, narrow) as producer:
        for number, (options, kind, match) in enumerate(
            [
                ({"timestamp_ms": -1}, ValueError, "timestamp_ms"),
                ({"timestamp_ms": 0}, ValueError, "timestamp_ms"),
                ({"timestamp_ms": 2**63}, ValueError, "timestamp_ms"),
                ({"partition": -1}, ValueError, "partition"),
                ({"headers": [("name", 1)]}, TypeError, "name"),
                ({"headers": [(b"name", b"1")]}, TypeError, "header"),
                ({"topic": "no/topic"}, ValueError, "no/topic"),
                ({"on_delivery": 1}, TypeError, "on_delivery"),
            ]
        ):
            producer.send(b"%d" % number)
            with pytest.raises(kind, match=match):
                producer.send(b"refused", **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"item 1: timestamp_ms"):
            producer.send_many([Record(b"fine"), Record(b"refused", timestamp_ms=-1)])
        producer.flush(LIMIT_S)
        assert producer.metrics().accepted == 8
    assert log_values(broker, narrow) == [b"%d" % number for number in range(8)]


def test_kcat_reads_what_each_way_of_sending_sent(broker: str, topic: str) -> None:
    create_topic(broker, topic, 3)
    headers = [("a", b"1"), ("b", b"zwei"), ("a", b"3")]
    with Producer(broker, topic) as producer:
        producer.send(b"sent", b"k0", partition=0, timestamp_ms=STAMP, headers=headers)
        record = Record(b"sent", b"k1", partition=1, timestamp_ms=STAMP + 1, headers=headers)
        assert producer.send_many([record, record]) == 2
        delivery = producer.submit(b"sent", b"k2", partition=2, timestamp_ms=STAMP + 2, headers=headers)
        metadata = delivery.result(LIMIT_S)
    assert metadata == (topic, 2, 0, STAMP + 2)
    output = kcat("-C", "-q", "-e", "-J", "-o", "beginning", "-t", topic, "-b", broker)
    read = sorted((json.loads(line) for line in output.splitlines()), key=lambda row: (row["partition"], row["offset"]))
    assert [(row["partition"], row["offset"], row["key"], row["payload"], row["ts"]) for row in read] == [
        (0, 0, "k0", "sent", STAMP),
        (1, 0, "k1", "sent", STAMP + 1),
        (1, 1, "k1", "sent", STAMP + 1),
        (2, 0, "k2", "sent", STAMP + 2),
    ]
    assert [row["headers"] for row in read] == [["a", "1", "b", "zwei", "a", "3"]] * 4


@pytest.mark.parametrize("partitioner", ["consistent_random", "murmur2_random", "fnv1a_random"])
def test_keys_lie_where_confluent_puts_them(broker: str, topic: str, partitioner: str) -> None:
    import confluent_kafka

    create_topic(broker, topic, 7)
    keys = [b"key %d" % number for number in range(200)]
    with Producer(broker, topic, config={"partitioner": partitioner}) as producer:
        for key in keys:
            producer.send(b"ours", key)
    theirs = confluent_kafka.Producer({"bootstrap.servers": broker, "partitioner": partitioner})
    for key in keys:
        theirs.produce(topic, b"theirs", key)
    assert theirs.flush(LIMIT_S) == 0
    places: dict[bytes | None, set[int]] = {}
    rows = read_log(broker, topic)
    for row in rows:
        places.setdefault(row.key, set()).add(row.partition)
    assert len(rows) == 400
    assert all(len(partitions) == 1 for partitions in places.values())
    assert len(set.union(*places.values())) == 7
