"""Which partition a message goes to, how many there are, and being connected before the first message."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_client import read_log
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, wait_for

from kafka_async import ClosedError, DeliveryReport, FlushTimeout, KafkaError, Producer, QueueFull, _producer
from kafka_async.testing import MockCluster

CONNECTIONS = Path("/proc/self/net/tcp")


@pytest.fixture
def four(cluster: MockCluster, topic: str) -> str:
    """A topic of four partitions."""
    cluster.create_topic(topic, 4)
    return topic


# partitions()


@pytest.mark.parametrize("count", [1, 4, 100])
def test_partitions_tells_how_many_there_are(cluster: MockCluster, topic: str, count: int) -> None:
    cluster.create_topic(topic, count)
    with Producer(cluster.bootstrap_servers) as producer:
        assert producer.partitions(topic) == count
        assert producer.partitions(topic, timeout=None) == count
        assert producer.metrics().accepted == 0


@pytest.mark.parametrize("call", ["partitions", "warm_up"])
@pytest.mark.parametrize("timeout", [0, 0.3])
def test_asking_with_nobody_there_has_a_limit_and_is_retriable(topic: str, call: str, timeout: float) -> None:
    with Producer(NOBODY) as producer:
        began = time.monotonic()
        with pytest.raises(KafkaError, match="did not answer") as caught:
            getattr(producer, call)(topic, timeout=timeout)
        assert time.monotonic() - began < timeout + 1
        assert topic in str(caught.value)
        assert (caught.value.name, caught.value.retriable, caught.value.fatal) == ("_TIMED_OUT", True, False)


@pytest.mark.parametrize("call", ["partitions", "warm_up"])
@pytest.mark.parametrize("timeout", [None, 30])
def test_stop_ends_the_asking(topic: str, call: str, timeout: float | None) -> None:
    producer = Producer(NOBODY, topic)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            getattr(producer, call)(topic, timeout=timeout)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    began = time.monotonic()
    producer.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - began < 5
    assert len(errors) == 1
    with pytest.raises(ClosedError):
        getattr(producer, call)(topic)


def test_slow_cluster_answers_in_its_time(topic: str) -> None:
    with MockCluster(topics={topic: 3}) as cluster, Producer(cluster.bootstrap_servers) as producer:
        cluster.set_round_trip(1, 1.3)
        assert producer.partitions(topic, timeout=20) == 3
        cluster.set_round_trip(1, 0)


def test_asking_does_not_hold_up_sending(one_nobody: Producer) -> None:
    thread = threading.Thread(target=pytest.raises, args=(ClosedError, one_nobody.partitions, "t", None))
    thread.start()
    for _ in range(1000):
        one_nobody.send(b"v")
    assert one_nobody.metrics().accepted == 1000
    with pytest.raises(FlushTimeout):
        one_nobody.stop(0)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def one_nobody(topic: str) -> Producer:
    return Producer(NOBODY, topic)


@pytest.mark.parametrize("call", ["partitions", "warm_up"])
@pytest.mark.parametrize(
    ("kind", "topic", "timeout"),
    [
        (ValueError, "no spaces", 1),
        (ValueError, "", 1),
        (TypeError, b"bytes", 1),
        (ValueError, "t", -1),
        (TypeError, "t", "1"),
    ],
)
def test_asking_with_bad_arguments(call: str, kind: type[Exception], topic: Any, timeout: Any) -> None:
    with Producer(NOBODY) as producer, pytest.raises(kind):
        getattr(producer, call)(topic, timeout=timeout)


# warm_up()


def test_warm_up_without_any_topic_is_a_value_error() -> None:
    with Producer(NOBODY) as producer, pytest.raises(ValueError, match="no topic"):
        producer.warm_up()


def connected(servers: str) -> set[int]:
    """Ports of these servers that somebody in this network has a connection to."""
    ports = {int(server.rsplit(":", 1)[1]) for server in servers.split(",")}
    rows = [line.split() for line in CONNECTIONS.read_text().splitlines()[1:]]
    return ports & {int(remote.rsplit(":", 1)[1], 16) for _, _, remote, state, *_ in rows if state == "01"}


@pytest.mark.skipif(not CONNECTIONS.exists(), reason="needs Linux's list of connections")
@pytest.mark.parametrize("given", [True, False])
def test_warm_up_connects_to_every_leader(topic: str, given: bool) -> None:
    with MockCluster(brokers=3, topics={topic: 6}) as cluster:
        servers = cluster.bootstrap_servers
        first = servers.split(",")[0]
        with Producer(first, None if given else topic) as producer:
            assert len(connected(servers)) < 3
            producer.warm_up(*([topic] if given else []), timeout=20)
            assert len(connected(servers)) == 3
            assert producer.metrics().accepted == 0


def test_warm_up_takes_several_topics(cluster: MockCluster) -> None:
    with Producer(cluster.bootstrap_servers, partitioner=lambda *_: 0) as producer:
        producer.warm_up("warm-a", "warm-b", timeout=None)
        producer.send(b"v", topic="warm-a")
        producer.send(b"v", topic="warm-b")
    assert producer.metrics().delivered == 2


def test_message_after_warm_up_is_delivered(cluster: MockCluster, four: str) -> None:
    with Producer(cluster.bootstrap_servers, four) as producer:
        producer.warm_up()
        producer.warm_up()
        assert producer.submit(b"v", partition=3).result(20)[:3] == (four, 3, 0)


# partitioner=


def test_partitioner_is_called_by_send_in_its_thread(cluster: MockCluster, four: str) -> None:
    calls: list[tuple[Any, ...]] = []

    def choose(name: str, key: Any, value: Any, count: int) -> int:
        calls.append((name, key, value, count, threading.current_thread()))
        return len(calls) % count

    with Producer(cluster.bootstrap_servers, four, partitioner=choose) as producer:
        producer.send(b"plain")
        producer.send("text", "këy")
        buffer, view = bytearray(b"buffer"), memoryview(b"key")
        producer.send(buffer, view)
        producer.submit(None)
        me = threading.current_thread()
        assert calls == [
            (four, None, b"plain", 4, me),
            (four, "këy", "text", 4, me),
            (four, view, buffer, 4, me),
            (four, None, None, 4, me),
        ]
        assert calls[2][1] is view  # as they were given
        assert calls[2][2] is buffer
        other = threading.Thread(target=producer.send, args=(b"other",))
        other.start()
        other.join()
        assert calls[4] == (four, None, b"other", 4, other)
    log = read_log(cluster.bootstrap_servers, four)
    assert [(record.partition, record.value) for record in log] == [
        (0, None),
        (1, b"plain"),
        (1, b"other"),
        (2, b"text"),
        (3, b"buffer"),
    ]


def test_partition_that_is_given_bypasses_the_partitioner(cluster: MockCluster, four: str) -> None:
    def choose(*_: object) -> int:
        raise AssertionError("was asked")

    with Producer(cluster.bootstrap_servers, partitioner=choose) as producer:
        for partition in range(4):  # also while the number of partitions is not known
            assert producer.submit(b"v", topic=four, partition=partition).result(20).partition == partition


def test_partitioner_gets_the_topic_of_the_call(cluster: MockCluster, four: str, topic: str) -> None:
    cluster.create_topic(topic + "-7", 7)
    seen: list[tuple[str, int]] = []

    def choose(name: str, _key: object, _value: object, count: int) -> int:
        seen.append((name, count))
        return count - 1

    with Producer(cluster.bootstrap_servers, four, partitioner=choose) as producer:
        producer.warm_up(topic + "-7")
        assert producer.submit(b"v").result(20).partition == 3
        assert producer.submit(b"v", topic=topic + "-7").result(20).partition == 6
    assert seen == [(four, 4), (topic + "-7", 7)]


def test_partitioner_may_return_any_integer_type(cluster: MockCluster, four: str) -> None:
    with Producer(cluster.bootstrap_servers, four, partitioner=lambda *_: np.int64(2)) as producer:
        assert producer.submit(b"v").result(20).partition == 2


class Own(Exception):
    pass


@pytest.mark.parametrize(
    ("choice", "kind", "text"),
    [
        (-1, ValueError, "partitioner's choice"),
        (4, ValueError, r"partitioner's choice.*below 4"),
        (2**31, ValueError, "partitioner's choice"),
        (True, TypeError, "partitioner's choice"),
        ("1", TypeError, "partitioner's choice"),
        (1.0, TypeError, "partitioner's choice"),
        (None, TypeError, "partitioner's choice"),
        (Own("of the application"), Own, "of the application"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
    ids=repr,
)
def test_wrong_choice_raises_from_send_and_queues_nothing(
    cluster: MockCluster, four: str, choice: Any, kind: type[BaseException], text: str
) -> None:
    called: list[DeliveryReport] = []

    def choose(_topic: str, _key: object, value: object, _count: int) -> int:
        if value == b"good":
            return 1
        if isinstance(choice, BaseException):
            raise choice
        return choice  # type: ignore[no-any-return]

    with Producer(cluster.bootstrap_servers, four, partitioner=choose) as producer:
        calls: list[Callable[[], object]] = [
            lambda: producer.send(b"bad"),
            lambda: producer.send(b"bad", b"key", on_delivery=called.append),
            lambda: producer.submit(b"bad", on_delivery=called.append),
        ]
        for call in calls:
            with pytest.raises(kind, match=text):
                call()
            producer.send(b"good")  # is not affected
        assert producer.metrics().accepted == 3
    assert called == []
    log = read_log(cluster.bootstrap_servers, four)
    assert [(record.partition, record.value) for record in log] == [(1, b"good")] * 3


def test_partitioner_must_be_callable() -> None:
    with pytest.raises(TypeError, match="callable"):
        Producer(NOBODY, partitioner=3)  # type: ignore[arg-type]


def test_unknown_number_of_partitions_is_retriable_and_learnt(cluster: MockCluster, four: str) -> None:
    called: list[DeliveryReport] = []
    with Producer(cluster.bootstrap_servers, partitioner=lambda *_: 1) as producer:
        with pytest.raises(KafkaError, match=rf"warm_up\('{four}'\)") as caught:
            producer.send(b"v", topic=four, on_delivery=called.append)
        assert caught.value.retriable
        assert not caught.value.fatal
        assert not isinstance(caught.value, QueueFull)
        assert producer.metrics().accepted == 0

        def accepted() -> bool:
            try:
                producer.send(b"later", topic=four)
            except KafkaError as error:
                return not error.retriable
            return True

        wait_for(accepted)
    assert called == []
    assert [(r.partition, r.value) for r in read_log(cluster.bootstrap_servers, four)] == [(1, b"later")]


def test_warm_up_makes_the_number_of_partitions_known(cluster: MockCluster, four: str) -> None:
    for learn in (Producer.warm_up, Producer.partitions):
        with Producer(cluster.bootstrap_servers, partitioner=lambda *_: 1) as producer:
            learn(producer, four)
            producer.send(b"v", topic=four)
    assert len(read_log(cluster.bootstrap_servers, four)) == 2


def test_constructor_makes_its_own_topics_number_known(cluster: MockCluster, four: str) -> None:
    with Producer(cluster.bootstrap_servers, four, partitioner=lambda *_: 1) as producer:
        producer.send(b"v")
    assert producer.metrics().delivered == 1


def test_constructor_goes_on_without_a_cluster(
    topic: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_producer, "OPEN_LIMIT_S", 0.1)
    with caplog.at_level(logging.WARNING, "kafka_async"), Producer(NOBODY, topic, partitioner=lambda *_: 0) as producer:
        assert any("partitions" in record.message and topic in record.message for record in caplog.records)
        for _ in range(3):
            with pytest.raises(KafkaError, match="warm_up") as caught:
                producer.send(b"v")
            assert caught.value.retriable
        producer.send(b"v", partition=0)
        assert producer.metrics().accepted == 1
        producer.purge()


# librdkafka's own


def murmur2(data: bytes) -> int:
    """Kafka's hash of a key, as its Java client has it."""
    mask = 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * 0x5BD1E995 & mask
        k = (k ^ k >> 24) * 0x5BD1E995 & mask
        h = (h * 0x5BD1E995 & mask) ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * 0x5BD1E995 & mask
    h = (h ^ h >> 13) * 0x5BD1E995 & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


@pytest.mark.parametrize(("partitioner", "function"), [("murmur2_random", murmur2), ("consistent", zlib.crc32)])
def test_partitioner_of_the_configuration_places_keys_and_keeps_their_order(
    cluster: MockCluster, topic: str, partitioner: str, function: Callable[[bytes], int]
) -> None:
    cluster.create_topic(topic, 5)
    sent: dict[bytes, list[bytes]] = defaultdict(list)
    for half in range(2):  # two producers agree
        with Producer(cluster.bootstrap_servers, topic, config={"partitioner": partitioner}) as producer:
            for number in range(500):
                key, value = b"key-%d" % (number % 37), b"%d-%d" % (half, number)
                producer.send(value, key)
                sent[key].append(value)
    got: dict[bytes, list[bytes]] = defaultdict(list)
    for record in read_log(cluster.bootstrap_servers, topic):
        assert record.key is not None
        assert record.value is not None
        assert record.partition == function(record.key) % 5
        got[record.key].append(record.value)
    assert got == sent


def test_messages_without_a_key_are_spread(cluster: MockCluster, four: str) -> None:
    config: dict[str, str | int] = {"partitioner": "murmur2_random", "sticky.partitioning.linger.ms": 0}
    with Producer(cluster.bootstrap_servers, four, config=config) as producer:
        producer.warm_up()
        for _ in range(400):
            producer.send(b"v")
    assert {record.partition for record in read_log(cluster.bootstrap_servers, four)} == set(range(4))
