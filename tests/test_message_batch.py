from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import numpy as np
import pytest
from support import reader, send_all, wait_for

from kafka_async import Consumer, Message, MessageBatch, PartitionEnd, Producer, TopicPartition
from kafka_async.testing import MockCluster

SOON = 20.0


@pytest.fixture
def mixed(cluster: MockCluster, topic: str) -> str:
    """100 messages on each of three partitions: with and without key, headers, value."""
    cluster.create_topic(topic, 3)
    with Producer(cluster.bootstrap_servers, topic) as producer:
        for number in range(300):
            producer.send(
                None if number % 10 == 9 else b"v%d" % number,
                b"k%d" % number if number % 2 else None,
                partition=number % 3,
                headers=[("h", b"%d" % number), ("none", None)] if number % 5 == 0 else None,
                timestamp_ms=1_000_000 + number,
            )
    return topic


def prefetched(servers: str, topic: str, count: int, **options: object) -> Consumer:
    consumer = reader(servers, topic, **options)
    wait_for(lambda: consumer.metrics().received == count, SOON)
    return consumer


def batches(consumer: Consumer, count: int, size: int) -> Iterator[MessageBatch]:
    deadline = time.monotonic() + SOON
    while count > 0:
        assert time.monotonic() < deadline
        batch = consumer.poll_batch(size, 0.1)
        count -= len(batch)
        yield batch


def test_columns_say_the_same_as_the_messages(cluster: MockCluster, mixed: str) -> None:
    with prefetched(cluster.bootstrap_servers, mixed, 300) as consumer:
        seen: list[Message] = []
        for batch in batches(consumer, 300, 77):
            messages = list(batch)
            assert len(batch) == len(messages) <= 77
            assert batch.values() == [m.value for m in messages]
            assert batch.keys() == [m.key for m in messages]
            assert batch.topics() == [m.topic for m in messages]
            assert batch.offsets.tolist() == [m.offset for m in messages]
            assert batch.partitions.tolist() == [m.partition for m in messages]
            assert batch.timestamps_ms.tolist() == [m.timestamp_ms for m in messages]
            assert [batch[i] for i in range(len(batch))] == messages
            assert batch[-1:] == messages[-1:]
            assert [m.headers for m in batch] == [m.headers for m in messages]
            seen += messages
    for partition in range(3):
        mine = [m for m in seen if m.partition == partition]
        assert [m.offset for m in mine] == list(range(100))
        for message in mine:
            number = message.timestamp_ms - 1_000_000
            assert message.value == (None if number % 10 == 9 else b"v%d" % number)
            assert message.key == (b"k%d" % number if number % 2 else None)
            assert message.headers == ([("h", b"%d" % number), ("none", None)] if number % 5 == 0 else [])


def test_it_is_a_sequence(cluster: MockCluster, mixed: str) -> None:
    with prefetched(cluster.bootstrap_servers, mixed, 300) as consumer:
        batch = consumer.poll_batch(10)
    assert len(batch) == 10
    assert bool(batch)
    assert batch[3] in batch
    assert batch.index(batch[3]) == 3
    assert list(reversed(batch)) == list(batch)[::-1]
    assert batch[2:8:3] == [batch[2], batch[5]]
    for index in (10, -11):
        with pytest.raises(IndexError):
            batch[index]
    assert "10 messages" in repr(batch)


def test_an_empty_one(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    with reader(cluster.bootstrap_servers, topic) as consumer:
        batch = consumer.poll_batch(timeout=0)
        assert len(batch) == 0
        assert not batch
        assert list(batch) == batch.values() == batch.keys() == batch.topics() == batch[:] == []
        assert batch.offsets.tolist() == []
        assert np.asarray(batch.offsets).shape == (0,)
        began = time.monotonic()
        assert not consumer.poll_batch(5, timeout=0.2)
        assert time.monotonic() - began >= 0.2


def test_numpy_reads_columns_without_a_copy(cluster: MockCluster, mixed: str) -> None:
    with prefetched(cluster.bootstrap_servers, mixed, 300) as consumer:
        batch = consumer.poll_batch(300)
        for column in (batch.offsets, batch.partitions, batch.timestamps_ms):
            array = np.asarray(column)
            assert array.dtype == np.int64
            assert np.shares_memory(array, np.frombuffer(column, np.int64))
            assert column.readonly
            assert not array.flags.writeable
            assert array.tolist() == column.tolist()


def test_its_memory_is_its_own(cluster: MockCluster, mixed: str) -> None:
    consumer = prefetched(cluster.bootstrap_servers, mixed, 300)
    first = consumer.poll_batch(100)
    expected = list(first), first.offsets.tolist()
    array, offsets = np.asarray(first.offsets), first.offsets
    second = consumer.poll_batch(200)
    consumer.stop()
    del consumer
    gc.collect()
    assert (list(first), first.offsets.tolist()) == expected
    iterator = iter(first)
    del first, second
    gc.collect()
    assert list(iterator) == expected[0]
    assert array.tolist() == offsets.tolist() == expected[1]


def test_it_returns_as_soon_as_there_is_something(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    with reader(cluster.bootstrap_servers, topic) as consumer, Producer(cluster.bootstrap_servers, topic) as producer:
        producer.send(b"first")
        assert consumer.poll_batch(500, SOON).values() == [b"first"]
        producer.send(b"one")
        began = time.monotonic()
        assert consumer.poll_batch(500, SOON).values() == [b"one"]
        assert time.monotonic() - began < SOON / 2


def test_batches_and_single_messages_share_one_order(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    send_all(cluster.bootstrap_servers, topic, [b"%d" % n for n in range(1000)])
    with prefetched(cluster.bootstrap_servers, topic, 1000) as consumer:
        values: list[bytes | None] = []
        for size in range(1, 46):  # 990 of them
            message = consumer.poll_message(0)
            assert message is not None
            values.append(message.value)
            values += consumer.poll_batch(size - 1, 0).values() if size > 1 else []
            assert consumer.position([TopicPartition(topic, 0)])[0].offset == len(values)
        metrics = consumer.metrics()
        assert (metrics.handed_out, metrics.purged) == (len(values), 0)
        assert metrics.prefetched == 1000 - len(values)
    assert values == [b"%d" % n for n in range(len(values))]


def test_seek_and_pause_hold_for_batches(cluster: MockCluster, mixed: str) -> None:
    with prefetched(cluster.bootstrap_servers, mixed, 300) as consumer:
        consumer.poll_batch(10)
        consumer.pause([TopicPartition(mixed, 0), TopicPartition(mixed, 1)])
        consumer.seek(TopicPartition(mixed, 2, 40))
        offsets = [n for batch in batches(consumer, 60, 500) for n in batch.offsets if set(batch.partitions) == {2}]
        assert offsets == list(range(40, 100))
        assert not consumer.poll_batch(500, 0.2)


def test_a_large_message_ends_a_batch_and_is_whole(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    sizes = [10, 900_000, 2_500_000, 20, 300_000]
    with Producer(cluster.bootstrap_servers, topic, config={"message.max.bytes": 3_000_000}) as producer:
        for size in sizes:
            producer.send(b"x" * size)
    with prefetched(cluster.bootstrap_servers, topic, 5) as consumer:
        lengths = [[len(value or b"") for value in batch.values()] for batch in batches(consumer, 5, 500)]
    assert lengths == [[10, 900_000, 2_500_000], [20, 300_000]]


def test_the_end_of_a_partition_comes_between_batches(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    send_all(cluster.bootstrap_servers, topic, [b"1", b"2"])
    with reader(cluster.bootstrap_servers, topic, config={"enable.partition.eof": True}) as consumer:
        values: list[bytes | None] = []
        with pytest.raises(PartitionEnd) as caught:
            while True:
                values += consumer.poll_batch(500, SOON).values()
        assert values == [b"1", b"2"]
        assert caught.value.partition == TopicPartition(topic, 0, 2)
        send_all(cluster.bootstrap_servers, topic, [b"3"])
        assert consumer.poll_batch(500, SOON).values() == [b"3"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_batch_counts_as_processed_when_the_next_is_asked_for(cluster: MockCluster, topic: str, fails: bool) -> None:
    cluster.create_topic(topic, 1)
    send_all(cluster.bootstrap_servers, topic, [b"%d" % n for n in range(100)])
    options = {"group_id": topic, "config": {"auto.offset.reset": "earliest", "session.timeout.ms": 6000}}

    def work() -> None:
        with Consumer(cluster.bootstrap_servers, topic, **options) as consumer:  # type: ignore[arg-type]
            wait_for(lambda: consumer.metrics().received == 100, SOON)
            assert consumer.poll_batch(40).offsets.tolist() == list(range(40))
            assert consumer.poll_batch(40).offsets.tolist() == list(range(40, 80))
            if fails:
                raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError):
            work()
    else:
        work()
    with Consumer(cluster.bootstrap_servers, group_id=topic) as consumer:  # which does not join
        (found,) = consumer.committed([TopicPartition(topic, 0)])
    assert found.offset == (40 if fails else 80)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0,), ValueError),
        ((-1,), ValueError),
        ((1_000_001,), ValueError),
        ((1.5,), TypeError),
        ((True,), TypeError),
        ((1, -1), ValueError),
        ((1, "x"), TypeError),
    ],
)
def test_bad_arguments(cluster: MockCluster, mixed: str, arguments: tuple[object, ...], error: type[Exception]) -> None:
    with reader(cluster.bootstrap_servers, mixed) as consumer:
        with pytest.raises(error):
            consumer.poll_batch(*arguments)  # type: ignore[arg-type]
        assert len(consumer.poll_batch(1, SOON)) == 1
