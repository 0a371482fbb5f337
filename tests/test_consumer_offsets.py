"""Positions, commits, stored offsets, and what is asked of the cluster; another client looks at the outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import confluent_kafka
import pytest
from shared_cluster import shared_cluster as shared_cluster
from support import read, send_all, wait_for

from kafka_async import ClosedError, Consumer, ConsumerError, Message, Producer, TopicPartition
from kafka_async.testing import MockCluster

COUNT = 100
MANUAL = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 10, "enable.auto.commit": False}
AUTO = {**MANUAL, "enable.auto.commit": True, "auto.commit.interval.ms": 50}
PROMPT_S = 0.05 + 0.25  # and time to get the GIL on a loaded machine


def at(partition: TopicPartition, offset: Any) -> TopicPartition:
    return partition._replace(offset=offset)


def committed(servers: str, group: str, partition: TopicPartition) -> int | None:
    """What confluent-kafka says that a group has committed."""
    other = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": group})
    try:
        (found,) = other.committed([confluent_kafka.TopicPartition(partition.topic, partition.partition)], 10)
    finally:
        other.close()
    return found.offset if found.offset >= 0 else None


@pytest.fixture
def two(cluster: MockCluster, topic: str) -> list[TopicPartition]:
    """Partitions of so many messages, which are their offsets."""
    cluster.create_topic(topic, 2)
    with Producer(cluster.bootstrap_servers, topic) as producer:
        for number in range(COUNT):
            for partition in range(2):
                producer.send(b"%d" % number, partition=partition)
    return [TopicPartition(topic, 0), TopicPartition(topic, 1)]


@pytest.fixture
def consumer(cluster: MockCluster, two: list[TopicPartition]) -> Iterator[Consumer]:
    """Commits by hand; its group is named as the topic."""
    with Consumer(cluster.bootstrap_servers, group_id=two[0].topic, config=MANUAL) as consumer:
        consumer.assign([at(partition, 0) for partition in two])
        yield consumer


def handed(messages: list[Message]) -> dict[int, int]:
    """The position of each partition after these."""
    return {message.partition: message.offset + 1 for message in messages}


def read_one(consumer: Consumer, partition: TopicPartition, count: int) -> list[Message]:
    """Messages of one partition, the other one being held back."""
    others = [item for item in consumer.assignment() if item[:2] != partition[:2]]
    consumer.pause(others)
    messages = read(consumer, count)
    consumer.resume(others)
    return messages


# ---------------------------------------------------------------- positions


def test_position_is_what_was_handed_out(consumer: Consumer, two: list[TopicPartition]) -> None:
    elsewhere = TopicPartition("elsewhere", 3)
    assert consumer.position(two) == two
    wait_for(lambda: consumer.metrics().prefetched == 2 * COUNT)
    assert consumer.position(two) == two
    for count in range(1, 6):
        read_one(consumer, two[1], 1)
        assert consumer.position([two[1], elsewhere, two[0]]) == [at(two[1], count), elsewhere, two[0]]
    consumer.seek(at(two[1], 70))
    consumer.seek(at(two[0], 0))
    assert consumer.position(two) == [at(two[0], 0), at(two[1], 70)]
    consumer.seek(at(two[0], "end"))
    assert consumer.position(two) == [at(two[0], COUNT), at(two[1], 70)]
    assert read(consumer, 1)[0].offset == 70
    assert consumer.position([at(two[1], 5)]) == [at(two[1], 71)]


# ---------------------------------------------------------------- commits


def test_commit_covers_everything_handed_out(
    cluster: MockCluster, consumer: Consumer, two: list[TopicPartition]
) -> None:
    assert consumer.commit() == []
    assert consumer.committed(two) == two
    read_one(consumer, two[1], 7)
    assert consumer.commit() == [at(two[1], 7)]
    assert consumer.committed([two[1], two[0]]) == [at(two[1], 7), two[0]]
    read_one(consumer, two[0], 60)
    assert sorted(consumer.commit()) == consumer.committed(two) == [at(two[0], 60), at(two[1], 7)]
    assert committed(cluster.bootstrap_servers, two[0].topic, two[0]) == 60


def test_commit_of_a_message_and_of_offsets(consumer: Consumer, two: list[TopicPartition]) -> None:
    messages = read_one(consumer, two[0], 20)
    assert consumer.commit(messages[4]) == [at(two[0], 5)]
    assert consumer.committed(two) == [at(two[0], 5), two[1]]
    assert consumer.commit(offsets=[at(two[1], 33), at(two[0], 11)]) == [at(two[1], 33), at(two[0], 11)]
    assert consumer.committed(two) == [at(two[0], 11), at(two[1], 33)]
    assert consumer.commit(offsets={two[1]: 0, at(two[0], 99): 12}) == [at(two[1], 0), at(two[0], 12)]
    assert consumer.committed(two) == [at(two[0], 12), at(two[1], 0)]
    assert consumer.commit(offsets=[]) == consumer.commit(offsets={}) == []
    assert consumer.commit() == [at(two[0], 20)]


def test_asynchronous_commit(consumer: Consumer, two: list[TopicPartition]) -> None:
    messages = read_one(consumer, two[0], 20)
    futures = [consumer.commit(message, asynchronous=True) for message in messages]
    assert [future.result(10) for future in futures] == [[at(two[0], number)] for number in range(1, 21)]
    last = consumer.commit(offsets={two[1]: 5}, asynchronous=True)
    assert isinstance(last, Future)
    assert last.result(10) == [at(two[1], 5)]
    assert consumer.commit(offsets=[], asynchronous=True).result(10) == []
    assert consumer.committed(two) == [at(two[0], 20), at(two[1], 5)]


def test_commit_follows_a_seek(consumer: Consumer, two: list[TopicPartition]) -> None:
    read_one(consumer, two[0], 20)
    consumer.seek(at(two[0], 4))
    assert consumer.commit() == [at(two[0], 4)]
    consumer.seek(at(two[0], "beginning"))
    assert consumer.commit() == []
    assert consumer.committed(two) == [at(two[0], 4), two[1]]


def test_commit_covers_what_was_stored_where_something_was(consumer: Consumer, two: list[TopicPartition]) -> None:
    messages = read_one(consumer, two[0], 20)
    read_one(consumer, two[1], 9)
    for index, expected in ((9, 10), (14, 15), (2, 3)):  # in any order: the last word counts
        consumer.store(messages[index])
        assert sorted(consumer.commit()) == [at(two[0], expected), at(two[1], 9)]
    read_one(consumer, two[0], 5)
    assert sorted(consumer.commit()) == [at(two[0], 3), at(two[1], 9)]
    consumer.seek(at(two[0], 50))
    assert sorted(consumer.commit()) == [at(two[0], 50), at(two[1], 9)]


def test_seek_to_what_is_committed(consumer: Consumer, two: list[TopicPartition]) -> None:
    consumer.commit(offsets={two[0]: 42})
    wait_for(lambda: consumer.metrics().prefetched == 2 * COUNT)
    consumer.seek(at(two[0], "stored"))
    assert read_one(consumer, two[0], 1)[0].offset == 42
    consumer.seek(at(two[1], "stored"))  # nothing: auto.offset.reset
    assert read_one(consumer, two[1], 1)[0].offset == 0
    consumer.assign([at(two[0], "stored"), two[1]])
    assert read_one(consumer, two[0], 1)[0].offset == 42


def test_nothing_is_committed_by_itself_without_auto_commit(cluster: MockCluster, two: list[TopicPartition]) -> None:
    group = two[0].topic
    config = {**MANUAL, "auto.commit.interval.ms": 10}
    with Consumer(cluster.bootstrap_servers, group_id=group, config=config) as consumer:
        consumer.assign([at(partition, 0) for partition in two])
        messages = read(consumer, 2 * COUNT)
        consumer.store(messages[0])
        consumer.poll_message(0.3)
    assert [committed(cluster.bootstrap_servers, group, partition) for partition in two] == [None, None]


def test_auto_commit_leaves_the_message_in_hand(cluster: MockCluster, two: list[TopicPartition]) -> None:
    group = two[0].topic
    with Consumer(cluster.bootstrap_servers, group_id=group, config=AUTO) as consumer:
        consumer.assign([at(two[0], 0)])
        for count in (1, 30, 1):
            done = (consumer.position(two)[0].offset or 0) + count - 1
            read(consumer, count)
            if done:
                wait_for(lambda done=done: committed(cluster.bootstrap_servers, group, two[0]) == done)
        assert committed(cluster.bootstrap_servers, group, two[0]) == 31  # 0 to 30 are processed, 31 is in hand
    assert committed(cluster.bootstrap_servers, group, two[0]) == 32


def on_another_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result(20)


@pytest.mark.parametrize(
    ("in_hand", "how", "done"),
    [("own", "poll", 12), ("own", "batch", 12), ("other's", "poll", 11), ("other's", "batch", 11)],
)
def test_what_a_stop_commits_depends_on_who_has_the_message_in_hand(
    cluster: MockCluster, two: list[TopicPartition], in_hand: str, how: str, done: int
) -> None:
    """Not on who took the block that it came with."""
    with Consumer(cluster.bootstrap_servers, group_id=two[0].topic, config=AUTO) as consumer:
        consumer.assign([at(two[0], 0)])
        wait_for(lambda: consumer.metrics().prefetched == COUNT)
        runs = [on_another_thread, lambda call: call()]
        first, last = reversed(runs) if in_hand == "other's" else runs
        assert len(first(lambda: read(consumer, 11))) == 11
        assert last(lambda: consumer.poll_message(0) if how == "poll" else [*consumer.poll_batch(1)])
        consumer.stop()
    assert committed(cluster.bootstrap_servers, two[0].topic, two[0]) == done


def test_auto_commit_follows_seek_and_pause(cluster: MockCluster, two: list[TopicPartition]) -> None:
    group = two[0].topic
    servers = cluster.bootstrap_servers
    with Consumer(servers, group_id=group, config=AUTO) as consumer:
        consumer.assign([at(partition, 0) for partition in two])
        read_one(consumer, two[0], 20)
        consumer.pause([two[0]])
        wait_for(lambda: committed(servers, group, two[0]) == 19)  # the last one is in hand still
        read(consumer, 1)
        wait_for(lambda: committed(servers, group, two[0]) == 20)
        consumer.seek(at(two[0], 50))
        read(consumer, 1)
        wait_for(lambda: committed(servers, group, two[0]) == 50)
    assert committed(servers, group, two[1]) == 2


def test_stored_message_is_committed_soon(cluster: MockCluster, two: list[TopicPartition]) -> None:
    with Consumer(cluster.bootstrap_servers, group_id=two[0].topic, config=AUTO) as consumer:
        consumer.assign([at(two[0], 0)])
        message = read(consumer, 10)[-1]
        consumer.store(message)  # without it this one is in hand
        wait_for(lambda: committed(cluster.bootstrap_servers, two[0].topic, two[0]) == 10)


# ---------------------------------------------------------------- what the cluster says


def test_watermarks(cluster: MockCluster, consumer: Consumer, two: list[TopicPartition]) -> None:
    assert consumer.watermarks(*two[1][:2]) == (0, COUNT)
    send_all(cluster.bootstrap_servers, two[1].topic, [b"x"] * 3, partition=1)
    assert consumer.watermarks(two[1].topic, 1, timeout=10) == (0, COUNT + 3)
    assert consumer.watermarks(two[0].topic, 0, timeout=None) == (0, COUNT)


def test_lag(cluster: MockCluster, consumer: Consumer, two: list[TopicPartition]) -> None:
    send_all(cluster.bootstrap_servers, two[1].topic, [b"x"] * 5, partition=1)
    positions = {0: 0, 1: 0} | handed(read(consumer, 30))
    expected = {two[0]: COUNT - positions[0], two[1]: COUNT + 5 - positions[1]}
    assert consumer.lag(10) == expected
    wait_for(lambda: consumer.lag() == expected)  # it has fetched both to their end
    consumer.pause(two)
    assert consumer.lag() == consumer.lag(10) == expected
    consumer.seek(at(two[0], 98))
    consumer.seek(at(two[1], 200))
    assert consumer.lag() == consumer.lag(10) == {two[0]: 2, two[1]: 0}
    send_all(cluster.bootstrap_servers, two[0].topic, [b"x"] * 4, partition=0)
    assert consumer.lag(10)[two[0]] == 6
    consumer.incremental_unassign([two[0]])
    assert consumer.lag() == consumer.lag(10) == {two[1]: 0}
    consumer.assign([])
    assert consumer.lag() == consumer.lag(10) == {}


def test_lag_leaves_out_what_is_not_known(cluster: MockCluster, two: list[TopicPartition]) -> None:
    config = {**MANUAL, "isolation.level": "read_uncommitted"}
    with Consumer(cluster.bootstrap_servers, config=config) as consumer:
        consumer.assign([at(two[1], 3)])
        wait_for(lambda: two[1] in consumer.lag())
        cluster.set_round_trip(1, 1.0)  # until that is over nobody knows where it begins
        consumer.incremental_assign([at(two[0], "beginning")])
        assert consumer.lag() == {two[1]: COUNT - 3}
        cluster.set_round_trip(1, 0)
        wait_for(lambda: consumer.lag() == {two[0]: COUNT, two[1]: COUNT - 3})


# ---------------------------------------------------------------- trouble


def own(topic: str) -> tuple[MockCluster, TopicPartition, Consumer]:
    """A cluster that may break, and a consumer with a message in hand."""
    cluster = MockCluster(topics={topic: 1})
    send_all(cluster.bootstrap_servers, topic, [b"%d" % number for number in range(COUNT)])
    consumer = Consumer(cluster.bootstrap_servers, group_id="g", config=MANUAL, log=False)
    consumer.assign([TopicPartition(topic, 0, 0)])
    read(consumer, 1)
    consumer.commit()
    return cluster, TopicPartition(topic, 0), consumer


def calls(consumer: Consumer, partition: TopicPartition) -> dict[str, Callable[[float | None], object]]:
    """Everything that waits for an answer of the cluster."""
    return {
        "commit": lambda timeout: consumer.commit(timeout=timeout),
        "commit offsets": lambda timeout: consumer.commit(offsets={partition: 5}, timeout=timeout),
        "asynchronous": lambda timeout: consumer.commit(asynchronous=True, timeout=timeout).result(20),
        "committed": lambda timeout: consumer.committed([partition], timeout),
        "watermarks": lambda timeout: consumer.watermarks(*partition[:2], timeout),
        "times": lambda timeout: consumer.offsets_for_times([at(partition, 5)], timeout),
        "lag": lambda timeout: consumer.lag(20 if timeout is None else timeout),
        "seek": lambda timeout: consumer.seek(at(partition, "stored"), timeout),
    }


CALLS = list(calls(None, TopicPartition("t", 0)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CALLS)
def test_without_an_answer_the_time_is_kept_and_later_all_is_well(topic: str, name: str) -> None:
    cluster, partition, consumer = own(topic)
    with cluster, consumer:
        cluster.set_round_trip(1, 2.0)
        for timeout in (0.0, 0.3):
            before = time.monotonic()
            with pytest.raises(ConsumerError) as caught:
                calls(consumer, partition)[name](timeout)
            assert caught.value.name == "_TIMED_OUT"
            assert caught.value.retriable
            assert timeout <= time.monotonic() - before < timeout + 1
        cluster.set_round_trip(1, 0)
        calls(consumer, partition)[name](20)
        assert read(consumer, 2)[-1].value == b"2"
        assert consumer.commit(timeout=20) == [at(partition, 3)]


@pytest.mark.parametrize("name", ["commit", "committed", "lag"])
def test_broker_that_is_gone(topic: str, name: str) -> None:
    cluster, partition, consumer = own(topic)
    with cluster, consumer:
        cluster.broker_down(1)
        before = time.monotonic()
        with pytest.raises(ConsumerError) as caught:
            calls(consumer, partition)[name](0.5)
        assert caught.value.name in ("_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_WAIT_COORD")
        assert time.monotonic() - before < 1.5
        cluster.broker_up(1)
        wait_for(lambda: answers(calls(consumer, partition)[name]))
        assert read(consumer, 2)[-1].value == b"2"


def answers(call: Callable[[float | None], object]) -> bool:
    try:
        call(5)
    except ConsumerError:
        return False
    return True


@pytest.mark.parametrize("timeout", [None, 20.0])
@pytest.mark.parametrize("name", [name for name in CALLS if name != "asynchronous"])
def test_stop_ends_whoever_waits_for_an_answer(topic: str, name: str, timeout: float | None) -> None:
    cluster, partition, consumer = own(topic)
    ended: list[tuple[Exception, float]] = []

    def run() -> None:
        try:
            calls(consumer, partition)[name](timeout)
        except Exception as error:
            ended.append((error, time.monotonic()))

    with cluster:
        cluster.set_round_trip(1, 3.0)
        thread = threading.Thread(target=run)
        thread.start()
        with pytest.raises(ConsumerError):  # by the same way as the thread's question, behind it
            consumer.commit(timeout=0.1)
        before = time.monotonic()
        consumer.stop(0)
        thread.join(5)
        cluster.set_round_trip(1, 0)
        consumer.stop()
        ((error, when),) = ended
        assert isinstance(error, ClosedError)
        assert when - before < PROMPT_S


@pytest.mark.parametrize("name", [name for name in CALLS if name != "asynchronous"])
def test_slow_cluster_answers_in_its_time(topic: str, name: str) -> None:
    cluster, partition, consumer = own(topic)
    with cluster, consumer:
        cluster.set_round_trip(1, 1.3)
        calls(consumer, partition)[name](20.0)
        cluster.set_round_trip(1, 0)


def test_stop_completes_the_future_of_a_commit(topic: str) -> None:
    """It is waited for: the offset is there, or the application is told that it is not known."""
    cluster, partition, consumer = own(topic)
    with cluster:
        cluster.set_round_trip(1, 0.2)
        future = consumer.commit(offsets={partition: 7}, asynchronous=True, timeout=20)
        consumer.stop(20)
        assert future.result(0.5) == [at(partition, 7)]
        assert committed(cluster.bootstrap_servers, "g", partition) == 7


def test_time_of_each_asynchronous_commit_begins_with_its_call(topic: str) -> None:
    cluster, partition, consumer = own(topic)
    with cluster, consumer:
        cluster.set_round_trip(1, 5.0)
        before = time.monotonic()
        futures = [consumer.commit(offsets={partition: 7}, asynchronous=True, timeout=0.5) for _ in range(6)]
        for future in futures:
            with pytest.raises(ConsumerError, match="no answer within"):
                future.result(10)
        assert time.monotonic() - before < 1.5
        cluster.set_round_trip(1, 0)
