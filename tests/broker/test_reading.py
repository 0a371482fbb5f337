"""Whatever a log holds and whoever wrote it, it is read whole and in order."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from kafka_server import KafkaServer
from other_client import read_log
from real_kafka import java, kcat, own_broker
from support import create_topic, read, reader, send_all, wait_for

from kafka_async import Consumer, Message, PartitionEnd, Producer, TopicPartition

pytestmark = pytest.mark.broker

LIMIT_S = 30
LARGE = 150_000  # a value that is beyond the topic's limit where it is not compressed
LIMITED = {"max.message.bytes": "100000"}
REFRESH = {"topic.metadata.refresh.interval.ms": 100}
# librdkafka 2.0.2 begins a join anew, a second later, when a refresh comes in its midst.
GROUP_REFRESH = {"topic.metadata.refresh.interval.ms": 300}


class Pair(NamedTuple):
    key: bytes
    value: bytes


def pairs() -> list[Pair]:
    """Lines that compress well, one of them large."""
    values = [b"%d " % number * 50 for number in range(3000)]
    values.insert(1000, b"large " * (LARGE // 6))
    return [Pair(b"key-%d" % number, value) for number, value in enumerate(values)]


def write_here(servers: str, topic: str, records: Sequence[Pair], codec: str) -> None:
    config = {"compression.type": codec, "linger.ms": 20}
    with Producer(servers, topic, on_full="block", config=config) as producer:
        for key, value in records:
            producer.send(value, key)
        producer.flush(LIMIT_S)


def write_by_confluent(servers: str, topic: str, records: Sequence[Pair], codec: str) -> None:
    outcomes: list[object] = []
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "compression.type": codec, "linger.ms": 20})
    for key, value in records:
        producer.produce(topic, value, key, on_delivery=lambda error, _: outcomes.append(error))
    producer.flush(LIMIT_S)
    assert outcomes == [None] * len(records)


def write_by_java(servers: str, topic: str, records: Sequence[Pair], codec: str) -> None:
    arguments = ("--bootstrap-server", servers, "--topic", topic, "--compression-codec", codec)
    keyed = ("--property", "parse.key=true", "--property", "key.separator=|")
    lines = b"".join(b"%s|%s\n" % pair for pair in records)
    java("org.apache.kafka.tools.ConsoleProducer", *arguments, *keyed, stdin=lines)


@pytest.mark.parametrize("write", [write_here, write_by_confluent, write_by_java])
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_of_every_writer(
    broker: str, topic: str, codec: str, write: Callable[[str, str, Sequence[Pair], str], None]
) -> None:
    # The limit is the proof that the writer compressed.
    create_topic(broker, topic, 1, **({} if codec == "none" else LIMITED))
    written = pairs()
    write(broker, topic, written, codec)
    with reader(broker, topic) as consumer:
        messages = read(consumer, len(written))
        assert consumer.poll_message(0.05) is None
    assert [(message.key, message.value) for message in messages] == written
    assert [message.offset for message in messages] == list(range(len(written)))


def test_limit_of_the_topic_refuses_what_is_not_compressed(broker: str, topic: str) -> None:
    """The control of the one above."""
    create_topic(broker, topic, 1, **LIMITED)
    with Producer(broker, topic, config={"compression.type": "none"}) as producer:
        refused = producer.submit(b"large " * (LARGE // 6))
        error = refused.exception(LIMIT_S)
    assert "MSG_SIZE_TOO_LARGE" in repr(error)


def test_all_codecs_in_one_partition_by_turns(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1)
    written: list[Pair] = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd") * 2:
        part = [Pair(codec.encode(), b"%d" % number) for number in range(len(written), len(written) + 100)]
        (write_here if len(written) % 200 else write_by_confluent)(broker, topic, part, codec)
        written += part
    with reader(broker, topic) as consumer:
        messages = read(consumer, len(written))
    assert [(message.key, message.value) for message in messages] == written


def test_what_kcat_wrote(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1)
    arguments = ("-P", "-b", broker, "-t", topic, "-p", "0", "-K", "|", "-Z")
    kcat(*arguments, "-z", "lz4", "-H", "h=v", "-H", "empty=", "-H", "none", stdin=b"k|one\nk|two\n")
    kcat(*arguments, stdin=b"|no key\ntombstone|\nk|with | in it\n")
    with reader(broker, topic) as consumer:
        messages = read(consumer, 5)
    assert [(message.key, message.value) for message in messages] == [
        (b"k", b"one"),
        (b"k", b"two"),
        (None, b"no key"),
        (b"tombstone", None),
        (b"k", b"with | in it"),
    ]
    headers = [("h", b"v"), ("empty", b""), ("none", None)]
    assert [message.headers for message in messages] == [headers, headers, [], [], []]


# Compaction ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    """A broker that compacts soon."""
    with own_broker(**{"log.cleaner.backoff.ms": "50"}) as server:
        yield server


COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "min.compaction.lag.ms": "0",
    "delete.retention.ms": "600000",
}


class Kept(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


def write_rounds(servers: str, topic: str, rounds: int, keys: int) -> list[Kept]:
    """Write every key once a round, but each round leaves out more of them; tombstones among them.

    Returns
    -------
    list
        What compaction leaves.
    """
    latest: dict[bytes, Kept] = {}
    offset = 0
    config = {"compression.type": "lz4", "linger.ms": 20}
    with Producer(servers, topic, config=config) as producer:
        for turn in range(rounds):
            for number in range(turn * turn, keys):
                key = b"key %d" % number
                value = None if number % 10 == 7 else b"%d in turn %d " % (number, turn) * 5
                producer.send(value, key)
                latest[key] = Kept(offset, key, value)
                offset += 1
            producer.flush(LIMIT_S)
            time.sleep(0.15)  # the segment's time: the next round begins another
        producer.send(b"the last", b"the last")
        latest[b"the last"] = Kept(offset, b"the last", b"the last")
    return sorted(latest.values())


def kept(messages: Sequence[Message]) -> list[Kept]:
    return [Kept(message.offset, message.key, message.value) for message in messages]


def test_compacted_topic(kafka: KafkaServer, topic: str) -> None:
    servers = kafka.bootstrap_servers
    create_topic(servers, topic, 1, **COMPACTED)
    left = write_rounds(servers, topic, rounds=6, keys=500)
    wait_for(
        lambda: [Kept(row.offset, row.key, row.value) for row in read_log(servers, topic)] == left,
        LIMIT_S,
        "the compaction",
    )
    gaps = [after.offset - before.offset for before, after in itertools.pairwise(left)]
    assert max(gaps) > 400
    assert len(left) == 501
    with reader(servers, topic, config={"enable.partition.eof": True}) as consumer:
        assert kept(read(consumer, len(left))) == left
        assert consumer.assignment() == [TopicPartition(topic, 0, left[-1].offset + 1)]
        with pytest.raises(PartitionEnd) as caught:
            consumer.poll_message(LIMIT_S)
        assert caught.value.partition == TopicPartition(topic, 0, left[-1].offset + 1)
        # From within a gap: what is kept behind it.
        number = gaps.index(max(gaps))
        for offset in (left[number].offset + 1, left[number + 1].offset - 1, left[number + 1].offset):
            consumer.assign([TopicPartition(topic, 0, offset)])
            assert kept(read(consumer, len(left) - number - 1)) == left[number + 1 :]


# Transactions ----------------------------------------------------------------------------------


@contextlib.contextmanager
def transactional(servers: str, topic: str, name: str) -> Iterator[Producer]:
    with Producer(servers, topic, config={"transactional.id": f"{topic}-{name}"}) as producer:
        producer.init_transactions(LIMIT_S)
        yield producer


def isolated(servers: str, topic: str, level: str) -> Consumer:
    return reader(servers, topic, config={"isolation.level": level, "enable.partition.eof": True})


def read_to_end(consumer: Consumer) -> tuple[list[bytes | None], Any]:
    """Values up to the end of the only partition, and where that is."""
    found: list[bytes | None] = []
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            if (message := consumer.poll_message(0.1)) is not None:
                found.append(message.value)
        except PartitionEnd as end:
            return found, end.partition.offset
    raise AssertionError(f"no end within {LIMIT_S} s, {len(found)} messages")


def test_aborted_messages_are_hidden_from_readers_of_committed_ones(broker: str, topic: str) -> None:
    """Several producers by turns within one partition: one transaction's end is not another's."""
    create_topic(broker, topic, 1)
    everything: list[bytes] = []
    committed: list[bytes] = []
    with (
        transactional(broker, topic, "a") as one,
        transactional(broker, topic, "b") as other,
        Producer(broker, topic) as plain,
    ):

        def send(producer: Producer, name: str, number: int, into: list[bytes]) -> None:
            for part in range(20):
                value = b"%s %d %d" % (name.encode(), number, part)
                producer.send(value)
                everything.append(value)
                into.append(value)
            producer.flush(LIMIT_S)

        for number in range(10):
            one.begin_transaction()
            other.begin_transaction()
            one_aborts = number % 2 == 0
            one_fate, other_fate = ([], committed) if one_aborts else (committed, [])
            send(one, "one", number, one_fate)
            send(other, "other", number, other_fate)
            send(plain, "plain", number, committed)
            send(one, "one again", number, one_fate)
            (one.abort_transaction if one_aborts else one.commit_transaction)(LIMIT_S)
            send(other, "other again", number, other_fate)
            (other.commit_transaction if one_aborts else other.abort_transaction)(LIMIT_S)
    with isolated(broker, topic, "read_uncommitted") as consumer:
        assert read_to_end(consumer)[0] == everything
    with isolated(broker, topic, "read_committed") as consumer:
        assert read_to_end(consumer)[0] == committed


def test_open_transaction_holds_up_readers_of_committed_messages(broker: str, topic: str) -> None:
    """What lies behind its first message is read when it has ended, not before."""
    create_topic(broker, topic, 1)
    send_all(broker, topic, [b"before"])
    with (
        transactional(broker, topic, "open") as producer,
        isolated(broker, topic, "read_committed") as committed,
        isolated(broker, topic, "read_uncommitted") as uncommitted,
    ):
        producer.begin_transaction()
        producer.send(b"within")
        producer.flush(LIMIT_S)
        send_all(broker, topic, [b"behind"])
        assert read_to_end(uncommitted) == ([b"before", b"within", b"behind"], 3)
        assert read_to_end(committed) == ([b"before"], 1)  # the last stable offset
        assert committed.poll_message(0.3) is None
        producer.commit_transaction(LIMIT_S)
        assert read_to_end(committed) == ([b"within", b"behind"], 4)
        producer.begin_transaction()
        producer.send(b"aborted")
        producer.flush(LIMIT_S)
        send_all(broker, topic, [b"last"])
        assert committed.poll_message(0.3) is None
        producer.abort_transaction(LIMIT_S)
        assert read_to_end(committed) == ([b"last"], 7)


def test_topic_of_nothing_but_aborted_messages_ends(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1)
    with transactional(broker, topic, "aborts") as producer:
        for number in range(5):
            producer.begin_transaction()
            for part in range(50):
                producer.send(b"%d %d" % (number, part))
            producer.flush(LIMIT_S)
            producer.abort_transaction(LIMIT_S)
    with isolated(broker, topic, "read_committed") as consumer:
        assert read_to_end(consumer) == ([], 255)
        send_all(broker, topic, [b"after"])
        assert read_to_end(consumer) == ([b"after"], 256)


# Topics that grow ------------------------------------------------------------------------------


def grow(servers: str, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(LIMIT_S)


def send_to(servers: str, topic: str, partition: int, count: int, pause: float = 0) -> None:
    """Send b"partition number", by a client that does not know the partition yet."""
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, **REFRESH})
    outcomes: list[Any] = []
    for number in range(count):
        producer.produce(
            topic,
            b"%d %d" % (partition, number),
            partition=partition,
            on_delivery=lambda error, _: outcomes.append(error),
        )
        if pause and number % 10 == 0:
            producer.poll(pause)
    producer.flush(LIMIT_S)
    assert outcomes == [None] * count


def by_partition(messages: Sequence[Message]) -> dict[int, list[bytes | None]]:
    found: dict[int, list[bytes | None]] = {}
    for message in messages:
        found.setdefault(message.partition, []).append(message.value)
    return found


def expected(partition: int, count: int) -> list[bytes]:
    return [b"%d %d" % (partition, number) for number in range(count)]


def test_new_partitions_are_read_from_their_beginning_without_a_group(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1)
    send_to(broker, topic, 0, 10)
    with Consumer(broker, topic, config={"auto.offset.reset": "latest", **REFRESH}) as consumer:
        # It is at the end when it reads what comes now.
        first: list[Message] = []

        def at_end() -> bool:
            send_all(broker, topic, [b"probe"], partition=0)
            first.extend(filter(None, [consumer.poll_message(0.1)]))
            return bool(first)

        wait_for(at_end)
        assert first[0].value == b"probe"
        for added in ([1], [2, 3, 4]):
            grow(broker, topic, added[-1] + 1)
            for number in added:
                send_to(broker, topic, number, 100)
            found = by_partition(read_new(consumer, 100 * len(added)))
            assert found == {number: expected(number, 100) for number in added}
        assert sorted(tp.partition for tp in consumer.assignment()) == [0, 1, 2, 3, 4]


def read_new(consumer: Consumer, count: int) -> list[Message]:
    """So many messages that are no probes."""
    found: list[Message] = []
    deadline = time.monotonic() + LIMIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} messages"
        message = consumer.poll_message(0.1)
        if message is not None and message.value != b"probe":
            found.append(message)
    return found


def test_new_partitions_are_read_from_their_beginning_in_a_group(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1)
    send_to(broker, topic, 0, 100)
    config = {"auto.offset.reset": "earliest", **GROUP_REFRESH}
    with Consumer(broker, topic, group_id=topic, config=config) as consumer:
        assert by_partition(read(consumer, 100)) == {0: expected(0, 100)}
        grow(broker, topic, 3)
        for number in (1, 2):
            send_to(broker, topic, number, 100)
        assert by_partition(read(consumer, 200)) == {number: expected(number, 100) for number in (1, 2)}
        assert sorted(tp.partition for tp in consumer.assignment()) == [0, 1, 2]


@pytest.mark.parametrize("group", [False, True], ids=["no group", "group"])
def test_nothing_is_missed_while_a_topic_grows_under_load(broker: str, topic: str, group: bool) -> None:
    create_topic(broker, topic, 1)
    partitions, count = 4, 3000

    def write(threads: ThreadPoolExecutor) -> list[Future[None]]:
        jobs = [threads.submit(send_to, broker, topic, 0, count, 0.003)]
        for number in range(1, partitions):
            wait_for(lambda number=number: len(seen[number - 1]) > count // 10, LIMIT_S, "the flow")
            grow(broker, topic, number + 1)
            jobs.append(threads.submit(send_to, broker, topic, number, count, 0.003))
        return jobs

    seen: list[dict[int, bytes | None]] = [{} for _ in range(partitions)]
    doubled = 0
    config = {
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "cooperative-sticky",
        **GROUP_REFRESH,
    }
    with (
        ThreadPoolExecutor() as threads,
        Consumer(broker, topic, group_id=topic if group else None, config=config) as consumer,
    ):
        writing = threads.submit(write, threads)
        deadline = time.monotonic() + LIMIT_S
        while sum(map(len, seen)) < partitions * count:
            assert time.monotonic() < deadline, [len(one) for one in seen]
            if (message := consumer.poll_message(0.1)) is not None:
                doubled += message.offset in seen[message.partition]
                seen[message.partition][message.offset] = message.value
        for job in writing.result(LIMIT_S):
            job.result(LIMIT_S)
    for number, found in enumerate(seen):
        assert list(found) == list(range(count))
        assert list(found.values()) == expected(number, count)
    assert doubled == 0
