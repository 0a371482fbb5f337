"""Data that was corrupted on the broker's disk: told by topic, partition and offset, once, and the rest goes on."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka_server import KafkaServer
from real_kafka import own_broker
from support import create_topic, read, reader, send_all

from kafka_async import Consumer, ConsumerError, Producer, TopicPartition

pytestmark = pytest.mark.broker

LIMIT_S = 15
QUIET_S = 1.2
MOST_CPU = 0.25  # of a core, while there is nothing to do
BATCHES = 8
HEADER = 61  # bytes of a batch before its records
EARLIEST = {"auto.offset.reset": "earliest"}


class Batch(NamedTuple):
    """A record batch in a segment."""

    base: int  # its first offset
    at: int  # in the file
    size: int


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with own_broker() as server:
        yield server


@pytest.fixture
def servers(kafka: KafkaServer) -> str:
    return kafka.bootstrap_servers


def fill(servers: str, topic: str, codec: str) -> None:
    """Partition 0 gets several batches of b"offset ...", partition 1 five messages."""
    create_topic(servers, topic, 2)
    with Producer(servers, topic, config={"compression.type": codec, "linger.ms": 20}) as producer:
        for number in range(BATCHES * 10):
            producer.send(b"%d " % number * 10, partition=0)
            if number % 10 == 9:
                producer.flush(LIMIT_S)
    send_all(servers, topic, [b"fine"] * 5, partition=1)


def segment(kafka: KafkaServer, topic: str) -> Path:
    (path,) = (kafka.home / "data" / f"{topic}-0").glob("*.log")
    return path


def batches(path: Path) -> list[Batch]:
    data = path.read_bytes()
    found: list[Batch] = []
    at = 0
    while at < len(data):
        base, length = struct.unpack_from(">qi", data, at)
        found.append(Batch(base, at, 12 + length))
        at += 12 + length
    return found


def flip(path: Path, at: int) -> None:
    """Change a byte; the broker, which sends right out of the file, does not look at it."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x55]))


def corrupted(kafka: KafkaServer, topic: str) -> tuple[Path, Batch, int]:
    """Fill a topic; its file, the batch in it that is corrupt, and the first offset behind that."""
    fill(kafka.bootstrap_servers, topic, "none")
    path = segment(kafka, topic)
    found = batches(path)
    flip(path, found[3].at + HEADER)
    return path, found[3], found[4].base


class Seen:
    """What polling came upon."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.others = 0
        self.errors: list[ConsumerError] = []

    def poll(self, consumer: Consumer) -> None:
        try:
            message = consumer.poll_message(0.05)
        except ConsumerError as error:
            self.errors.append(error)
            return
        if message is None:
            return
        if message.partition:
            self.others += 1
        else:
            self.offsets.append(message.offset)

    def until_error(self, consumer: Consumer) -> ConsumerError:
        deadline = time.monotonic() + LIMIT_S
        while not self.errors:
            assert time.monotonic() < deadline, f"no error within {LIMIT_S} s, {len(self.offsets)} messages"
            self.poll(consumer)
        return self.errors[0]


@pytest.mark.parametrize(
    ("which", "group"), [(0, False), (BATCHES // 2, True), (-1, False)], ids=["first", "middle, in a group", "last"]
)
@pytest.mark.parametrize(
    ("codec", "options", "name"),
    [("none", {}, "_BAD_MSG"), ("gzip", {}, "_BAD_MSG"), ("zstd", {"check.crcs": False}, "_BAD_COMPRESSION")],
    ids=["plain", "gzip", "zstd unchecked"],
)
def test_corrupt_batch_is_told_once_and_nothing_behind_it_read(
    kafka: KafkaServer, topic: str, codec: str, options: dict[str, bool], name: str, which: int, group: bool
) -> None:
    servers = kafka.bootstrap_servers
    fill(servers, topic, codec)
    path = segment(kafka, topic)
    found = batches(path)
    bad = found[which]
    flip(path, bad.at + HEADER)
    config = {**EARLIEST, **options}
    with Consumer(servers, topic, group_id=topic if group else None, config=config) as consumer:
        seen = Seen()
        error = seen.until_error(consumer)
        assert (error.name, error.partition) == (name, TopicPartition(topic, 0, bad.base))
        assert not error.retriable
        # From then on it is quiet, and the other partition goes on.
        send_all(servers, topic, [b"fine"] * 5, partition=1)
        before, until = time.process_time(), time.monotonic() + QUIET_S
        while time.monotonic() < until:
            seen.poll(consumer)
        assert time.process_time() - before < QUIET_S * MOST_CPU
        assert seen.offsets == list(range(bad.base))
        assert seen.others == 10
        assert seen.errors == [error]
    if group:  # what was handled before it is committed, and not more
        with Consumer(servers, topic, group_id=topic, config=config) as consumer:
            seen = Seen()
            assert seen.until_error(consumer).partition == TopicPartition(topic, 0, bad.base)
            assert seen.offsets == []


def test_reading_goes_on_where_the_application_says(kafka: KafkaServer, topic: str) -> None:
    servers = kafka.bootstrap_servers
    path, bad, behind = corrupted(kafka, topic)
    with reader(servers, topic) as consumer:
        Seen().until_error(consumer)
        consumer.assign([TopicPartition(topic, 0, behind)])
        count = BATCHES * 10 - behind
        assert [message.offset for message in read(consumer, count)] == list(range(behind, BATCHES * 10))
        consumer.assign([TopicPartition(topic, 0, 0)])
        seen = Seen()
        assert seen.until_error(consumer).partition == TopicPartition(topic, 0, bad.base)
        assert seen.offsets == list(range(bad.base))
        flip(path, bad.at + HEADER)  # mended
        consumer.assign([TopicPartition(topic, 0, 0)])
        assert [message.offset for message in read(consumer, BATCHES * 10)] == list(range(BATCHES * 10))


def test_a_seek_goes_past_it_and_a_resume_does_not(kafka: KafkaServer, topic: str) -> None:
    servers = kafka.bootstrap_servers
    _, bad, behind = corrupted(kafka, topic)
    with reader(servers, topic) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        Seen().until_error(consumer)
        consumer.pause(consumer.assignment())
        consumer.resume(consumer.assignment())
        assert consumer.poll_message(0.5) is None
        for start in (behind, behind + 5):
            consumer.seek(TopicPartition(topic, 0, start))
            count = BATCHES * 10 - start
            assert [message.offset for message in read(consumer, count)] == list(range(start, BATCHES * 10))
        consumer.seek(TopicPartition(topic, 0, bad.base))
        assert Seen().until_error(consumer).partition == TopicPartition(topic, 0, bad.base)
