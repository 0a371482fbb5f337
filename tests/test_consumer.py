from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterable

import pytest
from support import NOBODY, read, reader, send_all, wait_for

from kafka_async import (
    ClosedError,
    ConfigError,
    Consumer,
    ConsumerError,
    Message,
    PartitionEnd,
    Producer,
    TopicPartition,
)
from kafka_async.testing import MockCluster

GROUP_JOIN_S = 20.0  # the embedded cluster's first join takes 3 s


def numbers(messages: Iterable[Message]) -> list[int]:
    return [int(message.value or b"-1") for message in messages]


@pytest.fixture
def hundred(cluster: MockCluster, topic: str) -> str:
    """A topic of one partition that holds b"0" to b"99"."""
    cluster.create_topic(topic, 1)
    send_all(cluster.bootstrap_servers, topic, [b"%d" % number for number in range(100)])
    return topic


def test_no_group_reads_every_partition_from_the_beginning(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 5)
    with Producer(cluster.bootstrap_servers, topic) as producer:
        for number in range(1000):
            producer.send(b"%d" % number, partition=number % 5)
    with reader(cluster.bootstrap_servers, topic) as consumer:
        messages = read(consumer, 1000)
        assert {tp.partition: tp.offset for tp in consumer.assignment()} == dict.fromkeys(range(5), 200)
    assert sorted(numbers(messages)) == list(range(1000))
    for partition in range(5):
        mine = [m for m in messages if m.partition == partition]
        assert [m.offset for m in mine] == list(range(200))


def test_no_group_begins_at_the_end_by_default(cluster: MockCluster, hundred: str) -> None:
    with Consumer(cluster.bootstrap_servers, hundred) as consumer, Producer(cluster.bootstrap_servers, hundred) as p:
        wait_for(lambda: len(consumer.assignment()) == 1)

        first = None
        deadline = time.monotonic() + 20
        while first is None and time.monotonic() < deadline:
            p.send(b"new")
            first = consumer.poll_message(0.05)
        assert first is not None
        assert first.value == b"new"
        assert first.offset >= 100


def test_several_topics(cluster: MockCluster) -> None:
    for name in ("one", "two"):
        cluster.create_topic(name, 2)
        send_all(cluster.bootstrap_servers, name, [name.encode()] * 10)
    with Consumer(cluster.bootstrap_servers, ["one", "two"], config={"auto.offset.reset": "earliest"}) as consumer:
        messages = read(consumer, 20)
    assert {(m.topic, m.value) for m in messages} == {("one", b"one"), ("two", b"two")}


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, 0), (42, 42), ("beginning", 0), (("tail", 5), 95), (None, 0)],
)
def test_assign_begins_where_it_is_told(cluster: MockCluster, hundred: str, offset: object, expected: int) -> None:
    with Consumer(cluster.bootstrap_servers, config={"auto.offset.reset": "earliest"}) as consumer:
        consumer.assign([TopicPartition(hundred, 0, offset)])  # type: ignore[arg-type]
        assert consumer.assignment() == [TopicPartition(hundred, 0)]
        assert numbers(read(consumer, 100 - expected)) == list(range(expected, 100))
        assert consumer.assignment() == [TopicPartition(hundred, 0, 100)]


def test_assign_replaces_what_was_read(cluster: MockCluster, hundred: str) -> None:
    with reader(cluster.bootstrap_servers, hundred) as consumer:
        assert numbers(read(consumer, 10)) == list(range(10))
        for start in (50, 3, 97, 0):
            consumer.assign([TopicPartition(hundred, 0, start)])
            assert numbers(read(consumer, 3)) == list(range(start, start + 3))
        consumer.assign([])
        assert consumer.assignment() == []
        assert consumer.poll_message(0.3) is None
        consumer.subscribe(hundred)
        assert numbers(read(consumer, 100)) == list(range(100))


def test_assignments_in_quick_succession(cluster: MockCluster, hundred: str) -> None:
    """librdkafka aborts the process when one comes while it still stops a partition of the last."""
    with reader(cluster.bootstrap_servers, hundred) as consumer:
        for number in range(1000):
            consumer.assign([TopicPartition(hundred, 0, number % 100)])
        assert numbers(read(consumer, 1)) == [99]


def test_refused_assignment_leaves_reading_as_it_was(cluster: MockCluster, hundred: str) -> None:
    with reader(cluster.bootstrap_servers, hundred) as consumer:
        assert numbers(read(consumer, 10)) == list(range(10))
        with pytest.raises(ValueError, match="twice"):
            consumer.assign([TopicPartition(hundred, 0), TopicPartition(hundred, 0, 5)])
        assert numbers(read(consumer, 90)) == list(range(10, 100))


def test_subscribe_and_unsubscribe_without_a_group(cluster: MockCluster, hundred: str) -> None:
    with Consumer(cluster.bootstrap_servers, config={"auto.offset.reset": "earliest"}) as consumer:
        assert consumer.subscription() == []
        consumer.subscribe([hundred])
        assert consumer.subscription() == [hundred]
        read(consumer, 100)
        consumer.unsubscribe()
        assert consumer.subscription() == []
        assert consumer.assignment() == []
        assert consumer.poll_message(0.2) is None


def test_every_field_of_a_message(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 2)
    with Producer(cluster.bootstrap_servers, topic) as producer:
        producer.send(b"v", b"k", partition=1, timestamp_ms=1234, headers=[("x", b"y"), ("x", None)])
        producer.send(None, partition=1, timestamp_ms=1235)
    with reader(cluster.bootstrap_servers, topic) as consumer:
        first, second = read(consumer, 2)
    assert (first.value, first.key, first.topic, first.partition, first.offset) == (b"v", b"k", topic, 1, 0)
    assert (first.timestamp_ms, first.timestamp_type) == (1234, "create")
    assert first.headers == [("x", b"y"), ("x", None)]
    assert (second.value, second.key, second.offset, second.headers) == (None, None, 1, [])
    assert repr(first) == (
        f"Message(value=b'v', key=b'k', topic='{topic}', partition=1, offset=0, timestamp_ms=1234, "
        "timestamp_type='create', headers=[('x', b'y'), ('x', None)])"
    )


def test_message_larger_than_any_inline_entry(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    big = bytes(range(256)) * 5_000  # 1.3 MB
    config = {"message.max.bytes": 4_000_000}
    with Producer(cluster.bootstrap_servers, topic, config=config) as producer:
        for number in range(3):
            producer.send(b"small-%d" % number)
            producer.send(big, b"key", headers={"h": b"big"})
    with reader(cluster.bootstrap_servers, topic, prefetch_bytes=2048, prefetch_messages=2) as consumer:
        messages = read(consumer, 6)
    assert [m.value for m in messages[::2]] == [b"small-0", b"small-1", b"small-2"]
    assert all(m.value == big and m.key == b"key" and m.headers == [("h", b"big")] for m in messages[1::2])


def test_messages_larger_than_those_before_fit_a_small_prefetch(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 8)
    values = [b"%d" % number for number in range(10)] + [bytes([number]) * 900_000 for number in range(4)]
    for partition in range(8):
        send_all(cluster.bootstrap_servers, topic, values, partition=partition)
    with reader(cluster.bootstrap_servers, topic, prefetch_bytes=64 * 1024, prefetch_messages=200) as consumer:
        messages = read(consumer, 8 * len(values))
    for partition in range(8):
        assert [message.value for message in messages if message.partition == partition] == values


def test_small_prefetch_skips_nothing(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    send_all(cluster.bootstrap_servers, topic, [b"%d" % number for number in range(2000)])
    with reader(cluster.bootstrap_servers, topic, prefetch_messages=50, prefetch_bytes=4096) as consumer:
        got = []
        while len(got) < 2000:
            got += numbers(read(consumer, 1))
            metrics = consumer.metrics()
            assert metrics.prefetched <= 25
            assert metrics.received == metrics.handed_out + metrics.purged + metrics.prefetched
    assert got == list(range(2000))
    assert consumer.metrics().handed_out == 2000


def test_poll_times_out_in_time(cluster: MockCluster, hundred: str) -> None:
    with Consumer(cluster.bootstrap_servers, hundred) as consumer:
        for timeout in (0, 0.05, 0.3):
            before = time.monotonic()
            assert consumer.poll_message(timeout) is None
            assert timeout <= time.monotonic() - before < timeout + 1


def test_iteration_ends_when_stopped_by_another_thread(cluster: MockCluster, hundred: str) -> None:
    consumer = reader(cluster.bootstrap_servers, hundred)
    seen: list[Message] = []

    def run() -> None:
        seen.extend(consumer)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: consumer.metrics().handed_out == 100)
    consumer.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert numbers(seen) == list(range(100))


def test_stop_ends_a_poll_of_another_thread_at_once(cluster: MockCluster, hundred: str) -> None:
    consumer = Consumer(cluster.bootstrap_servers, hundred)
    ended: list[tuple[BaseException, float]] = []
    polling = threading.Event()

    def run() -> None:
        try:
            polling.set()
            consumer.poll_message(None)
        except ClosedError as error:
            ended.append((error, time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    polling.wait(5)
    before = time.monotonic()
    consumer.stop()
    thread.join(5)
    assert ended
    assert ended[0][1] - before < 1


def test_second_polling_thread_gets_a_runtime_error(cluster: MockCluster, hundred: str) -> None:
    consumer = Consumer(cluster.bootstrap_servers, hundred)

    def run() -> None:
        with pytest.raises(ClosedError):
            consumer.poll_message(None)

    thread = threading.Thread(target=run)
    thread.start()

    def refused() -> bool:
        try:
            consumer.poll_message(0)
        except RuntimeError as error:
            return "one thread at a time" in str(error)
        return False

    wait_for(refused)
    consumer.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_use_after_stop(cluster: MockCluster, hundred: str) -> None:
    consumer = reader(cluster.bootstrap_servers, hundred)
    read(consumer, 5)
    consumer.stop()
    consumer.stop()
    with pytest.raises(ClosedError):
        consumer.poll_message()
    with pytest.raises(ClosedError):
        consumer.subscribe("x")
    with pytest.raises(ClosedError):
        consumer.assign([TopicPartition("x", 0)])
    assert list(consumer) == []
    metrics = consumer.metrics()
    assert metrics.handed_out == 5
    assert metrics.prefetched == metrics.prefetched_bytes == 0
    assert metrics.received == metrics.handed_out + metrics.purged


def test_unreachable_broker_is_survived() -> None:
    with Consumer(NOBODY, "t") as consumer:
        assert consumer.poll_message(0.3) is None
    with Consumer(NOBODY, "t", group_id="g") as consumer:
        assert consumer.poll_message(0.3) is None


def test_partition_end_is_raised_in_its_place_and_iteration_goes_on(cluster: MockCluster, hundred: str) -> None:
    with reader(cluster.bootstrap_servers, hundred, config={"enable.partition.eof": True}) as consumer:
        seen = []
        with pytest.raises(PartitionEnd) as caught:
            for message in consumer:
                seen.append(message)
        assert numbers(seen) == list(range(100))
        assert caught.value.partition == TopicPartition(hundred, 0, 100)
        assert isinstance(caught.value, ConsumerError)
        send_all(cluster.bootstrap_servers, hundred, [b"100"])
        assert numbers([next(consumer)]) == [100]


def test_slow_reader_in_the_middle_of_a_block_is_committed(cluster: MockCluster, hundred: str) -> None:
    """Auto-commit sees what was processed although no native call told so."""
    config = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": 100}
    consumer = Consumer(cluster.bootstrap_servers, hundred, group_id="g", config=config)
    read(consumer, 41, GROUP_JOIN_S)

    def committed() -> int:
        with Consumer(cluster.bootstrap_servers, group_id="g", config=config) as other:
            other.assign([TopicPartition(hundred, 0, "stored")])
            return int(read(other, 1)[0].value or b"-1")

    wait_for(lambda: committed() == 40)
    consumer.stop()


def test_forgotten_consumer_is_closed(cluster: MockCluster, hundred: str) -> None:
    consumer = reader(cluster.bootstrap_servers, hundred)
    read(consumer, 5)
    before = time.monotonic()
    del consumer
    gc.collect()
    assert time.monotonic() - before < 1


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (ValueError, {"prefetch_messages": 1}),
        (ValueError, {"prefetch_bytes": 2047}),
        (TypeError, {"prefetch_messages": 10.0}),
        (ValueError, {"group_id": ""}),
        (ValueError, {"topics": []}),
        (ValueError, {"topics": [""]}),
        (TypeError, {"topics": [1]}),
        (ConsumerError, {"topics": "^regex"}),
        (ConsumerError, {"topics": "^[", "group_id": "g"}),
        (ValueError, {"topics": "a b", "group_id": "g"}),
        (ValueError, {"topics": "^a\0", "group_id": "g"}),
        (ConfigError, {"config": {"enable.auto.commit": True}}),
    ],
)
def test_bad_constructor_argument(kind: type[Exception], kwargs: dict[str, object]) -> None:
    with pytest.raises(kind):
        Consumer(NOBODY, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "partitions"),
    [
        (TypeError, ["t"]),
        (TypeError, [TopicPartition(b"t", 0)]),  # type: ignore[arg-type]
        (TypeError, [TopicPartition("t", "0")]),  # type: ignore[arg-type]
        (TypeError, [TopicPartition("t", 0, 1.5)]),  # type: ignore[arg-type]
        (ValueError, [TopicPartition("t", -1)]),
        (ValueError, [TopicPartition("", 0)]),
        (ValueError, [TopicPartition("t", 0, -5)]),
        (ValueError, [TopicPartition("t", 0, "middle")]),
        (ValueError, [TopicPartition("t", 0, ("head", 5))]),
        (ValueError, [TopicPartition("t", 0, ("tail", -5))]),
    ],
)
def test_bad_assignment_leaves_the_consumer_usable(
    cluster: MockCluster, hundred: str, kind: type[Exception], partitions: list[TopicPartition]
) -> None:
    with reader(cluster.bootstrap_servers, hundred) as consumer:
        with pytest.raises(kind):
            consumer.assign(partitions)
        assert numbers(read(consumer, 100)) == list(range(100))


@pytest.mark.parametrize("timeout", [-0.1, float("nan"), "1"])
def test_bad_timeout(cluster: MockCluster, hundred: str, timeout: object) -> None:
    with Consumer(cluster.bootstrap_servers, hundred) as consumer, pytest.raises((ValueError, TypeError)):
        consumer.poll_message(timeout)  # type: ignore[arg-type]
