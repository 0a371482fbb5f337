"""Several threads and one consumer; ends of many partitions."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from shared_cluster import shared_cluster as shared_cluster
from support import read, send_all, wait_for

from kafka_async import Consumer, Message, PartitionEnd, Producer, TopicPartition
from kafka_async.testing import MockCluster

CONFIG = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 10, "enable.auto.commit": False}
ENDS = {**CONFIG, "enable.partition.eof": True}
MANY = 120


@pytest.fixture
def switching() -> Iterator[None]:
    """Python changes threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def fill(cluster: MockCluster, topic: str, partitions: int, count: int) -> list[TopicPartition]:
    """Give each partition messages that are their offsets."""
    cluster.create_topic(topic, partitions)
    with Producer(cluster.bootstrap_servers, topic, on_full="block", config={"linger.ms": 5}) as producer:
        for number in range(count):
            for partition in range(partitions):
                producer.send(b"%d" % number, partition=partition)
    return [TopicPartition(topic, number, 0) for number in range(partitions)]


# ---------------------------------------------------------------- polling


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("prefetch", [10, 100_000])
def test_of_two_polling_threads_each_message_reaches_one(cluster: MockCluster, topic: str, prefetch: int) -> None:
    """Whoever is refused has taken nothing away, also where nobody has to wait."""
    count = 30_000
    partitions = fill(cluster, topic, 1, count)
    got: list[list[int]] = [[], []]
    refusals = [0, 0]
    with Consumer(cluster.bootstrap_servers, config=CONFIG, prefetch_messages=prefetch) as consumer:
        consumer.assign(partitions)

        def run(number: int) -> None:
            mine = got[number]
            while len(got[0]) + len(got[1]) < count:
                try:
                    message = consumer.poll_message(0.01)
                except RuntimeError:
                    refusals[number] += 1
                else:
                    if message is not None:
                        mine.append(message.offset)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
            assert not thread.is_alive()
        assert consumer.metrics().handed_out == count
    assert sum(refusals) > 0
    assert sorted(got[0] + got[1]) == list(range(count))
    assert all(mine == sorted(mine) for mine in got)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("prefetch", [20, 100_000])
def test_everything_else_is_safe_beside_a_poll(cluster: MockCluster, topic: str, prefetch: int) -> None:
    """What others do to partition 0 moves no other; what they ask for never stops it."""
    count = 5_000
    partitions = fill(cluster, topic, 3, count)
    done = threading.Event()
    troubles: list[BaseException] = []
    calls: Counter[str] = Counter()
    config = {**CONFIG, "auto.commit.interval.ms": 20}
    with Consumer(cluster.bootstrap_servers, group_id=topic, config=config, prefetch_messages=prefetch) as consumer:
        consumer.assign(partitions)
        bare = [partition._replace(offset=None) for partition in partitions]

        def again(call: Callable[[], object]) -> None:
            try:
                while not done.is_set():
                    call()
                    calls[call.__name__] += 1
            except BaseException as error:
                troubles.append(error)

        def pause() -> None:
            consumer.pause(bare[:1])
            consumer.resume(bare[:1])

        def pause_another() -> None:
            consumer.pause(bare[1:2])
            consumer.resume(bare[1:2])
            time.sleep(0.01)  # a rate, so that it comes on

        def seek() -> None:
            consumer.seek(partitions[0]._replace(offset=17))

        def commit() -> None:
            for item in consumer.commit(timeout=20):
                assert isinstance(item.offset, int)

        def commit_asynchronously() -> None:
            consumer.commit(offsets={bare[2]: 5}, asynchronous=True, timeout=20).result(20)

        def lag() -> None:
            assert all(number >= 0 for number in consumer.lag().values())
            consumer.lag(20)

        def look() -> None:
            metrics = consumer.metrics()
            assert metrics.received >= metrics.handed_out + metrics.purged
            assert [item.partition for item in consumer.position(bare)] == [0, 1, 2]

        def ask() -> None:
            assert consumer.watermarks(topic, 1, 20) == (0, count)
            assert len(consumer.committed(bare, 20)) == 3

        work = (pause, pause_another, seek, commit, commit_asynchronously, lag, look, ask)
        threads = [threading.Thread(target=again, args=(call,)) for call in work]
        for thread in threads:
            thread.start()
        messages: list[Message] = []
        deadline = time.monotonic() + 60
        ended = time.monotonic() + 3
        last = {1: 0, 2: 0}
        try:
            while (min(last.values()) < count or time.monotonic() < ended) and not troubles:
                assert time.monotonic() < deadline, (last, calls)
                if (message := consumer.poll_message(0.1)) is not None and message.partition:
                    messages.append(message)
                    last[message.partition] = message.offset + 1
        finally:
            done.set()
            for thread in threads:
                thread.join(20)
        assert not troubles
        assert set(calls) == {call.__name__ for call in work}
        for number in (1, 2):
            assert [message.offset for message in messages if message.partition == number] == list(range(count))
        consumer.seek(partitions[0]._replace(offset=count - 3))
        assert [message.offset for message in read(consumer, 3)] == [count - 3, count - 2, count - 1]


# ---------------------------------------------------------------- ends of partitions


def to_the_ends(consumer: Consumer, ends: int) -> list[Message | TopicPartition]:
    """Messages and ends as they come, until there were so many ends and a moment after."""
    seen: list[Message | TopicPartition] = []
    told = 0
    deadline = time.monotonic() + 30
    while True:
        assert time.monotonic() < deadline, f"{told} of {ends} ends"
        try:
            message = consumer.poll_message(0.3 if told >= ends else 1)
        except PartitionEnd as end:
            seen.append(end.partition or TopicPartition("", -1))
            told += 1
            continue
        if message is not None:
            seen.append(message)
        elif told >= ends:
            return seen


def check_ends(seen: list[Message | TopicPartition], first: int, last: int) -> None:
    """Each of the many has its messages in order, then its end, once."""
    per_partition: dict[int, list[tuple[bool, object]]] = {}
    for item in seen:
        per_partition.setdefault(item.partition, []).append((isinstance(item, Message), item.offset))
    expected = [*((True, offset) for offset in range(first, last)), (False, last)]
    assert per_partition == dict.fromkeys(range(MANY), expected)


@pytest.mark.parametrize("prefetch", [10, 100_000])
def test_each_of_many_partitions_tells_its_end_once(cluster: MockCluster, topic: str, prefetch: int) -> None:
    partitions = fill(cluster, topic, MANY, 5)
    with Consumer(cluster.bootstrap_servers, config=ENDS, prefetch_messages=prefetch) as consumer:
        consumer.assign(partitions)
        check_ends(to_the_ends(consumer, MANY), 0, 5)
        assert consumer.position(partitions) == [partition._replace(offset=5) for partition in partitions]
        for partition in partitions:
            send_all(cluster.bootstrap_servers, topic, [b"5"], partition=partition.partition)
            if partition.partition == 3:
                break
        seen = to_the_ends(consumer, 4)
        assert {(item.partition, item.offset) for item in seen} == {(n, x) for n in range(4) for x in (5, 6)}
        assert len(seen) == 8


def test_end_is_told_again_after_a_seek_back(cluster: MockCluster, topic: str) -> None:
    partitions = fill(cluster, topic, 1, 5)
    with Consumer(cluster.bootstrap_servers, config=ENDS) as consumer:
        consumer.assign(partitions)
        assert [item.offset for item in to_the_ends(consumer, 1)] == [0, 1, 2, 3, 4, 5]
        for start in (3, 0, 5):
            consumer.seek(partitions[0]._replace(offset=start))
            assert [item.offset for item in to_the_ends(consumer, 1)] == list(range(start, 6))
        assert consumer.position(partitions) == [partitions[0]._replace(offset=5)]


def test_end_that_a_pause_hid_comes_when_it_is_resumed(cluster: MockCluster, topic: str) -> None:
    partitions = fill(cluster, topic, 1, 5)
    with Consumer(cluster.bootstrap_servers, config=ENDS) as consumer:
        consumer.assign(partitions)
        wait_for(lambda: consumer.metrics().prefetched == 5)
        assert [message.offset for message in read(consumer, 5)] == [0, 1, 2, 3, 4]
        consumer.pause(partitions)
        assert consumer.poll_message(0.1) is None
        consumer.resume(partitions)
        assert [item.offset for item in to_the_ends(consumer, 1)] == [5]
        assert consumer.position(partitions) == [partitions[0]._replace(offset=5)]


def test_end_of_an_empty_partition(cluster: MockCluster, topic: str) -> None:
    partitions = fill(cluster, topic, 1, 0)
    with Consumer(cluster.bootstrap_servers, config=ENDS) as consumer:
        consumer.assign(partitions)
        assert to_the_ends(consumer, 1) == [partitions[0]]
        assert consumer.position(partitions) == [partitions[0]._replace(offset=None)]
        send_all(cluster.bootstrap_servers, topic, [b"0"])
        assert [item.offset for item in to_the_ends(consumer, 1)] == [0, 1]
