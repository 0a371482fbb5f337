"""What the embedded cluster can't do with offsets: times, open transactions, compacted or deleted beginnings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import create_topic, read, send_all, wait_for

from kafka_async import Consumer, ConsumerError, Producer, TopicPartition

pytestmark = pytest.mark.broker

COUNT = 100
BEGAN_MS = 1_700_000_000_000
CONFIG = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 10, "enable.auto.commit": False}


def at(partition: TopicPartition, offset: Any) -> TopicPartition:
    return partition._replace(offset=offset)


@pytest.fixture
def timed(broker: str, topic: str) -> TopicPartition:
    """A message each second."""
    create_topic(broker, topic, 3, **{"message.timestamp.type": "CreateTime", "retention.ms": "-1"})
    with Producer(broker, topic) as producer:
        for number in range(COUNT):
            producer.send(b"%d" % number, partition=1, timestamp_ms=BEGAN_MS + number * 1000)
    return TopicPartition(topic, 1)


@pytest.fixture(params=[2, 100_000])
def consumer(broker: str, timed: TopicPartition, request: pytest.FixtureRequest) -> Iterator[Consumer]:
    with Consumer(broker, group_id=timed.topic, config=CONFIG, prefetch_messages=request.param) as consumer:
        consumer.assign([at(timed, 0)])
        yield consumer


TIMES = [(0, 0), (BEGAN_MS, 0), (BEGAN_MS + 1, 1), (BEGAN_MS + 42_000, 42), (BEGAN_MS + 98_999, 99)]


def test_offsets_for_times(consumer: Consumer, timed: TopicPartition) -> None:
    for ms, offset in TIMES:
        assert consumer.offsets_for_times([at(timed, ms)]) == [at(timed, offset)]
    others = [timed._replace(partition=number, offset=BEGAN_MS) for number in (2, 0)]
    later = at(timed, BEGAN_MS + COUNT * 1000)
    assert consumer.offsets_for_times([others[0], later, others[1]]) == [
        at(item, None) for item in (others[0], later, others[1])
    ]
    assert consumer.offsets_for_times([]) == []
    assert [message.offset for message in read(consumer, COUNT)] == list(range(COUNT))


@pytest.mark.parametrize(("ms", "offset"), TIMES)
def test_seek_and_assign_to_a_time(consumer: Consumer, timed: TopicPartition, ms: int, offset: int) -> None:
    read(consumer, 5)
    consumer.seek(at(timed, ("timestamp", ms)))
    assert consumer.position([timed]) == [at(timed, offset)]
    assert read(consumer, 1)[0].offset == offset
    consumer.assign([at(timed, ("timestamp", ms)), timed._replace(partition=0)])
    assert [message.offset for message in read(consumer, COUNT - offset)] == list(range(offset, COUNT))


def test_time_after_the_last_message_is_the_end(broker: str, consumer: Consumer, timed: TopicPartition) -> None:
    read(consumer, 5)
    consumer.seek(at(timed, ("timestamp", BEGAN_MS + COUNT * 1000)))
    assert consumer.poll_message(0.3) is None
    send_all(broker, timed.topic, [b"new"], partition=1)
    assert read(consumer, 1)[0].offset == COUNT


def test_partition_that_is_not_there(consumer: Consumer, timed: TopicPartition) -> None:
    nowhere = timed._replace(partition=7)
    for call in (
        lambda: consumer.offsets_for_times([timed._replace(offset=5), at(nowhere, 5)], 3),
        lambda: consumer.watermarks(*nowhere[:2], 3),
        lambda: consumer.watermarks("no-such-topic-" + timed.topic, 0, 3),
    ):
        before = time.monotonic()
        with pytest.raises(ConsumerError):
            call()
        assert time.monotonic() - before < 4
    assert [message.offset for message in read(consumer, COUNT)] == list(range(COUNT))


def test_seek_to_what_is_committed_and_where_nothing_is(consumer: Consumer, timed: TopicPartition) -> None:
    read(consumer, 60)
    consumer.seek(at(timed, "stored"))
    assert read(consumer, 1)[0].offset == 0
    assert consumer.commit(offsets={timed: 33}) == [at(timed, 33)]
    consumer.seek(at(timed, "stored"))
    assert read(consumer, 1)[0].offset == 33
    other = timed._replace(partition=2)
    assert consumer.committed([other, timed]) == [other, at(timed, 33)]


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_lag_and_watermarks_beside_an_open_transaction(broker: str, topic: str, isolation: str) -> None:
    create_topic(broker, topic, 1)
    partition = TopicPartition(topic, 0)
    send_all(broker, topic, [b"%d" % number for number in range(20)])
    config = {**CONFIG, "isolation.level": isolation}
    with (
        Producer(broker, topic, config={"transactional.id": topic}) as producer,
        Consumer(broker, config=config) as consumer,
    ):
        producer.init_transactions(20)
        producer.begin_transaction()
        for _ in range(7):
            producer.send(b"open")
        producer.flush()
        consumer.assign([at(partition, 0)])
        read(consumer, 5)
        end = 20 if isolation == "read_committed" else 27
        assert consumer.watermarks(topic, 0) == (0, end)
        wait_for(lambda: consumer.lag() == {partition: end - 5})
        assert consumer.lag(10) == {partition: end - 5}
        producer.commit_transaction(20)
        wait_for(lambda: consumer.lag(10) == {partition: 28 - 5})  # and its mark
        assert len(read(consumer, 22)) == 22
        assert consumer.poll_message(0.2) is None


@pytest.mark.parametrize("name", ["seek", "assign"])
def test_offset_beyond_the_end_names_the_partition(broker: str, timed: TopicPartition, name: str) -> None:
    with Consumer(broker, config={**CONFIG, "auto.offset.reset": "error"}) as consumer:
        consumer.assign([at(timed, 0)])
        read(consumer, 5)
        beyond = at(timed, COUNT + 50)
        consumer.seek(beyond) if name == "seek" else consumer.assign([beyond])
        with pytest.raises(ConsumerError, match=f"partition 1 of topic '{timed.topic}'"):
            consumer.poll_message(10)
        consumer.seek(at(timed, 95))
        assert [message.offset for message in read(consumer, 5)] == list(range(95, COUNT))


def test_pause_and_seek_with_a_full_ring(broker: str, topic: str) -> None:
    """Nothing is skipped, nothing doubled, on a real broker too."""
    create_topic(broker, topic, 2)
    with Producer(broker, topic, on_full="block", config={"linger.ms": 5}) as producer:
        for number in range(20_000):
            producer.send(b"%d" % number, partition=number % 2)
    partitions = [TopicPartition(topic, number) for number in range(2)]
    with Consumer(broker, config=CONFIG, prefetch_messages=100) as consumer:
        consumer.assign([at(partition, 0) for partition in partitions])
        before = read(consumer, 150)
        consumer.pause(partitions[:1])
        rest = 10_000 - sum(message.partition == 1 for message in before)
        later = read(consumer, rest)
        assert {message.partition for message in later} == {1}
        consumer.resume(partitions[:1])
        later += read(consumer, 20_000 - 150 - rest)
        for number in range(2):
            assert [m.offset for m in before + later if m.partition == number] == list(range(10_000))
        consumer.seek(at(partitions[0], 9_000))
        assert [message.offset for message in read(consumer, 1000)] == list(range(9_000, 10_000))
