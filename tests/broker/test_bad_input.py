"""What a real broker refuses, and a broker that dies, hangs or never comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka_server import KafkaServer
from other_client import log_values
from real_kafka import frozen, own_broker, running
from support import create_topic, read, reader, wait_for

from kafka_async import Consumer, DeliveryError, FlushTimeout, KafkaError, Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(90)]

LIMIT_S = 30
BROKER_LIMIT = 1_048_588  # Kafka's default of message.max.bytes


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with own_broker() as server:
        yield server


@pytest.fixture
def kafka(server: KafkaServer) -> KafkaServer:
    return running(server)


@pytest.fixture
def narrow(kafka: KafkaServer, topic: str) -> str:
    """A topic of one partition, which keeps the order."""
    create_topic(kafka.bootstrap_servers, topic, 1)
    return topic


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def test_unknown_topic_fails_its_messages_alone(kafka: KafkaServer, narrow: str) -> None:
    config = {"topic.metadata.propagation.max.ms": 500, "message.timeout.ms": 20_000}
    with Producer(kafka.bootstrap_servers, narrow, config=config) as producer:
        began = time.monotonic()
        for number in range(10):
            producer.send(b"%d" % number)
            producer.send(b"lost", b"key", topic="no-such-topic")
        with pytest.raises(DeliveryError) as caught:
            producer.flush(LIMIT_S)
        assert time.monotonic() - began < 10
        assert caught.value.failed == 10
        assert caught.value.name == "UNKNOWN_TOPIC_OR_PART"
        reports = producer.failures()
        assert [(report.topic, report.value, report.key) for report in reports] == [
            ("no-such-topic", b"lost", b"key")
        ] * 10
        assert producer.metrics().delivered == 10
        producer.send(b"10")
    assert log_values(kafka.bootstrap_servers, narrow) == numbered(11)


def test_warm_up_of_an_unknown_topic_tells(kafka: KafkaServer, topic: str) -> None:
    with Producer(kafka.bootstrap_servers, topic) as producer:
        for call in (producer.warm_up, lambda: producer.partitions(topic)):
            began = time.monotonic()
            with pytest.raises(KafkaError, match=topic) as caught:
                call()
            assert caught.value.name == "UNKNOWN_TOPIC_OR_PART"
            assert time.monotonic() - began < 5.5


def test_unknown_topic_is_told_long_before_the_time_is_over(kafka: KafkaServer, topic: str) -> None:
    with Producer(kafka.bootstrap_servers) as producer:
        began = time.monotonic()
        with pytest.raises(KafkaError) as caught:
            producer.partitions(topic, timeout=LIMIT_S)
        assert caught.value.name == "UNKNOWN_TOPIC_OR_PART"
        assert time.monotonic() - began < 10  # a second is for a topic that is being created


def test_unknown_topic_is_used_when_it_appears(kafka: KafkaServer, topic: str) -> None:
    with Producer(kafka.bootstrap_servers, topic) as producer:
        for value in numbered(10):
            producer.send(value)
        with pytest.raises(FlushTimeout) as caught:
            producer.flush(0.5)
        assert caught.value.outstanding == 10
        create_topic(kafka.bootstrap_servers, topic, 1)
        producer.flush(LIMIT_S)
    assert log_values(kafka.bootstrap_servers, topic) == numbered(10)


def test_message_too_large_for_the_broker_fails_alone(kafka: KafkaServer, narrow: str) -> None:
    with Producer(kafka.bootstrap_servers, narrow, config={"message.max.bytes": 4_000_000}) as producer:
        producer.send(b"0")
        producer.send(b"x" * (BROKER_LIMIT + 1))
        producer.send(b"1")
        with pytest.raises(DeliveryError) as caught:
            producer.flush(LIMIT_S)
        assert caught.value.failed == 1
        assert (caught.value.name, caught.value.code) == ("MSG_SIZE_TOO_LARGE", 10)
        assert not caught.value.retriable
        report = caught.value.report
        assert report is not None
        assert len(report.value or b"") == BROKER_LIMIT + 1
        assert producer.metrics().delivered == 2
        producer.send(b"2")
    assert log_values(kafka.bootstrap_servers, narrow) == numbered(3)


def test_flush_ends_on_time_while_the_broker_hangs(kafka: KafkaServer, narrow: str) -> None:
    with Producer(kafka.bootstrap_servers, narrow) as producer:
        producer.send(b"0")
        producer.flush(LIMIT_S)
        with frozen(kafka):
            for value in numbered(99, 1):
                producer.send(value)
            began = time.monotonic()
            with pytest.raises(FlushTimeout) as caught:
                producer.flush(1.0)
            assert 1.0 <= time.monotonic() - began < 1.5
            assert caught.value.outstanding == 99
            assert producer.metrics().delivered == 1
        producer.flush(LIMIT_S)
    assert log_values(kafka.bootstrap_servers, narrow) == numbered(100)


def test_stop_ends_on_time_while_the_broker_hangs(kafka: KafkaServer, narrow: str) -> None:
    producer = Producer(kafka.bootstrap_servers, narrow)
    producer.send(b"0")
    producer.flush(LIMIT_S)
    with frozen(kafka):
        for value in numbered(99, 1):
            producer.send(value)
        began = time.monotonic()
        with pytest.raises(FlushTimeout) as caught:
            producer.stop(1.0)
        assert 1.0 <= time.monotonic() - began < 2.5
        assert caught.value.outstanding == 99
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.delivered, metrics.purged, metrics.outstanding) == (100, 1, 99, 0)


def test_clients_survive_a_kill_without_loss_or_repetition(kafka: KafkaServer, narrow: str) -> None:
    servers = kafka.bootstrap_servers
    count = 60_000
    killed, started = threading.Event(), threading.Event()

    def send() -> None:
        for number, value in enumerate(numbered(count)):
            if number == count // 2:
                assert killed.wait(LIMIT_S)
            if number == count // 2 + 5000:
                assert started.wait(LIMIT_S)
            producer.send(value)

    # Small batches, fetched one by one, so that some are on their way at any time.
    batches = {"enable.idempotence": True, "batch.num.messages": 200}
    fetches: dict[str, str | int] = {"auto.offset.reset": "earliest", "max.partition.fetch.bytes": 5000}
    with (
        Producer(servers, narrow, config=batches, on_full="block", queue_messages=10_000) as producer,
        reader(servers, narrow, config=fetches) as alone,
        Consumer(servers, narrow, group_id=narrow, config=fetches) as member,
        ThreadPoolExecutor() as threads,
    ):
        jobs = [threads.submit(read, consumer, count, 2 * LIMIT_S) for consumer in (alone, member)]
        sending = threads.submit(send)
        for consumer in (alone, member):
            wait_for(lambda consumer=consumer: consumer.metrics().handed_out >= 1000, LIMIT_S, "reading")  # type: ignore[misc]
        kafka.kill()
        killed.set()
        assert producer.metrics().delivered < count
        kafka.start()
        started.set()
        sending.result(LIMIT_S)
        producer.flush(LIMIT_S)
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.delivered, metrics.failed) == (count, count, 0)
        for job in jobs:
            assert [message.value for message in job.result(LIMIT_S)] == numbered(count)
        for consumer in (alone, member):
            assert consumer.poll_message(0.5) is None
    assert log_values(servers, narrow) == numbered(count)


def test_messages_fail_on_time_when_the_broker_is_gone(kafka: KafkaServer, narrow: str) -> None:
    config = {"message.timeout.ms": 2000}
    with Producer(kafka.bootstrap_servers, narrow, config=config) as producer:
        producer.send(b"0")
        producer.flush(LIMIT_S)
        kafka.kill()
        for value in numbered(500, 1):
            producer.send(value)
        with pytest.raises(DeliveryError) as caught:
            producer.flush(LIMIT_S)
        assert caught.value.failed == 500
        reports = producer.failures()
        assert [report.value for report in reports] == numbered(500, 1)
        assert {report.error.name for report in reports if report.error} == {"_MSG_TIMED_OUT"}
        assert min(report.latency_s for report in reports) >= 2.0
        assert max(report.latency_s for report in reports) <= 4.0
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.delivered, metrics.failed, metrics.outstanding) == (501, 1, 500, 0)
