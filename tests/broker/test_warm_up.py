"""What `warm_up` and `partitions` do before the first message, and what the broker's settings make of offsets."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from other_client import log_values, read_log
from support import create_topic, wait_for

from kafka_async import Producer

pytestmark = pytest.mark.broker

LIMIT_S = 30
ROUNDS = 5


def connections(broker: str) -> int:
    """How many established connections this process has to the broker."""
    port = f":{int(broker.rpartition(':')[2]):04X}"
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, _, remote, state, *rest = line.split()
            if state == "01" and remote.endswith(port):
                inodes.add(f"socket:[{rest[5]}]")
    own = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            own.add(str(descriptor.readlink()))
        except OSError:  # closed meanwhile
            continue
    return len(inodes & own)


def test_connections_are_counted(broker: str) -> None:
    host, _, port = broker.rpartition(":")
    before = connections(broker)
    with socket.create_connection((host, int(port))):
        assert connections(broker) == before + 1


def seconds(producer: Producer) -> float:
    began = time.monotonic()
    producer.submit(b"x").result(LIMIT_S)
    return time.monotonic() - began


def test_first_message_needs_nothing_that_the_thousandth_does_not(broker: str, topic: str) -> None:
    """Latencies are printed; on a machine that is busy they prove nothing, so what is held is their cause."""
    create_topic(broker, topic, 3)
    cold, warm, thousandth, warming = [], [], [], []
    for _ in range(ROUNDS):
        with Producer(broker, topic) as producer:
            cold.append(seconds(producer))
        with Producer(broker, topic) as producer:
            began = time.monotonic()
            producer.warm_up()
            warming.append(time.monotonic() - began)
            connected = connections(broker)
            warm.append(seconds(producer))
            assert connections(broker) == connected
            for _ in range(998):
                producer.send(b"x")
            producer.flush(LIMIT_S)
            thousandth.append(seconds(producer))
    print(
        f"\nmilliseconds, best and worst of {ROUNDS}: first message {min(cold) * 1e3:.1f}-{max(cold) * 1e3:.1f}, "
        f"after warm_up {min(warm) * 1e3:.1f}-{max(warm) * 1e3:.1f}, the thousandth {min(thousandth) * 1e3:.1f}-"
        f"{max(thousandth) * 1e3:.1f}; warm_up itself {min(warming) * 1e3:.1f}-{max(warming) * 1e3:.1f}"
    )


def test_leader_is_connected_before_the_first_message(broker: str, topic: str) -> None:
    create_topic(broker, topic, 3)
    before = connections(broker)
    with Producer(broker) as producer:
        producer.warm_up(topic)
        warm = connections(broker)
        assert warm > before
        for number in range(30):
            producer.send(b"%d" % number, topic=topic, partition=number % 3)
        producer.flush(LIMIT_S)
        assert connections(broker) == warm, "a message opened a connection of its own"


def test_partitions_counts(broker: str, topic: str) -> None:
    create_topic(broker, topic, 7)
    create_topic(broker, f"{topic}-1", 1)
    with Producer(broker, topic) as producer:
        assert producer.partitions(topic) == 7
        assert producer.partitions(f"{topic}-1") == 1
        producer.warm_up(topic, f"{topic}-1")


def test_warm_up_creates_a_topic_where_the_cluster_does(broker: str, topic: str) -> None:
    with Producer(broker, topic) as producer:
        producer.warm_up()
        assert producer.partitions(topic) >= 1
        assert producer.submit(b"first").result(LIMIT_S).offset == 0


def test_growing_topic_is_noticed_by_the_partitioner(broker: str, topic: str) -> None:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewPartitions

    create_topic(broker, topic, 2)
    counts: list[int] = []

    def last(_topic: str, _key: object, _value: object, count: int) -> int:
        counts.append(count)
        return count - 1

    config = {"topic.metadata.refresh.interval.ms": 1000}
    with Producer(broker, topic, partitioner=last, config=config) as producer:
        assert producer.submit(b"before").result(LIMIT_S).partition == 1
        admin = AdminClient({"bootstrap.servers": broker})
        admin.create_partitions([NewPartitions(topic, 5)])[topic].result(LIMIT_S)
        began = time.monotonic()

        def grown() -> bool:
            producer.send(b"meanwhile")
            time.sleep(0.02)
            return counts[-1] == 5

        wait_for(grown, 10, "noticing")
        print(f"\nnoticed after {time.monotonic() - began:.2f} s")
        assert producer.submit(b"after").result(LIMIT_S).partition == 4
        producer.flush(LIMIT_S)
        metrics = producer.metrics()
    assert set(counts) == {2, 5}
    assert (metrics.delivered, metrics.failed) == (len(counts), 0)
    rows = read_log(broker, topic)
    assert [sum(row.partition == number for row in rows) for number in range(5)] == [
        0,
        counts.count(2),
        0,
        0,
        counts.count(5),
    ]


def test_without_acknowledgements_there_is_no_offset(broker: str, topic: str) -> None:
    create_topic(broker, topic, 1)
    reports = []
    with Producer(broker, topic, config={"acks": 0}) as producer:
        metadata = producer.submit(b"0").result(LIMIT_S)
        producer.send(b"1", on_delivery=reports.append)
        producer.flush(LIMIT_S)
        assert producer.metrics().delivered == 2
    assert (metadata.topic, metadata.partition, metadata.offset) == (topic, 0, None)
    (report,) = reports
    assert (report.partition, report.offset, report.error) == (0, None, None)
    wait_for(lambda: log_values(broker, topic) == [b"0", b"1"], LIMIT_S)
