from __future__ import annotations

import array
import ctypes
import gc
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
from other_client import log_values, read_log
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, end, read, reader, wait_for

from kafka_async import (
    ClosedError,
    DeliveryError,
    DeliveryReport,
    FlushTimeout,
    KafkaError,
    MessageTooLarge,
    Producer,
    QueueFull,
    _exit,
)
from kafka_async.testing import MockCluster


def test_every_part_of_a_record_arrives(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 3)
    headers = [("a", b"1"), ("b", None), ("a", "ü"), ("empty", b"")]
    with Producer(cluster.bootstrap_servers, topic) as producer:
        producer.send(b"value", b"key", partition=2, timestamp_ms=1_700_000_000_123, headers=headers)
    with reader(cluster.bootstrap_servers, topic) as consumer:
        (message,) = read(consumer, 1)
    assert message.value == b"value"
    assert message.key == b"key"
    assert message.topic == topic
    assert message.partition == 2
    assert message.offset == 0
    assert message.timestamp_ms == 1_700_000_000_123
    assert message.timestamp_type == "create"
    assert message.headers == [("a", b"1"), ("b", None), ("a", "ü".encode()), ("empty", b"")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"bytes", b"bytes"),
        (b"", b""),
        ("text ü", "text ü".encode()),
        ("", b""),
        (None, None),
        (bytearray(b"bytearray"), b"bytearray"),
        (bytearray(), b""),
        (memoryview(b"xmemoryviewx")[1:-1], b"memoryview"),
        (array.array("i", [1, 2, 3]), array.array("i", [1, 2, 3]).tobytes()),
        (array.array("i"), b""),
        (np.arange(6, dtype=np.int16).reshape(2, 3), np.arange(6, dtype=np.int16).tobytes()),
        (np.zeros(0), b""),
        (np.zeros((0, 3)), b""),
        (np.array(258, dtype="<i4"), b"\2\1\0\0"),
        (np.frombuffer(b"read-only", dtype="u1"), b"read-only"),
        (memoryview(array.array("i", [1, 2, 3]))[1:], array.array("i", [2, 3]).tobytes()),
        (memoryview(b"abcd").cast("B", (2, 2)), b"abcd"),
        ((ctypes.c_uint16 * 2).from_buffer_copy(b"abcd"), b"abcd"),
        (type("Bytes", (bytes,), {})(b"subclass"), b"subclass"),
        (type("Str", (str,), {})("subclass"), b"subclass"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_value_and_key_take_any_contiguous_buffer(
    cluster: MockCluster, one: str, given: object, expected: bytes | None
) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(given)  # type: ignore[arg-type]
        producer.send(b"v", given)  # type: ignore[arg-type]
    with reader(cluster.bootstrap_servers, one) as consumer:
        first, second = read(consumer, 2)
    assert (first.value, first.key) == (expected, None)
    assert (second.value, second.key) == (b"v", expected)


@pytest.mark.parametrize(
    "part",
    [memoryview(b"abcdef")[::2], np.zeros((3, 4))[:, 1], np.asfortranarray(np.zeros((2, 3))), np.arange(9)[::-1]],
    ids=["memoryview", "column", "fortran", "reversed"],
)
def test_memory_that_is_not_contiguous_is_refused_clearly(one: str, part: Any) -> None:
    with Producer(NOBODY, one) as producer:
        with pytest.raises(ValueError, match=r"value is not contiguous in memory: copy it first"):
            producer.send(part)
        with pytest.raises(ValueError, match=r"key is not contiguous in memory: copy it first"):
            producer.submit(b"v", part)
        assert producer.metrics().accepted == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("a", b"1"), ("b", "ü"), ("c", None), ("a", b""), ("a", b"1")], None),
        ((["a", b"list"], ("b", b"tuple")), [("a", b"list"), ("b", b"tuple")]),
        ({"z": b"1", "a": "2", "m": None}, None),
        (MappingProxyType({"a": b"1"}), None),
        (((name, b"v") for name in "ab"), [("a", b"v"), ("b", b"v")]),
        ([("ünïcode", b"v"), ("", b"no name")], None),
        ([("a", bytearray(b"1")), ("b", memoryview(b"x23")[1:])], [("a", b"1"), ("b", b"23")]),
        ([("a", b"\0" * 1000)], None),
        ([], []),
        ({}, []),
        (None, []),
    ],
    ids=lambda given: type(given).__name__,
)
def test_headers_arrive_in_order(cluster: MockCluster, one: str, given: Any, expected: Any) -> None:
    if expected is None:
        pairs = given.items() if isinstance(given, Mapping) else given
        expected = [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(b"v", headers=given)
    (record,) = read_log(cluster.bootstrap_servers, one)
    assert record.headers == expected


def test_ten_thousand_headers_arrive(cluster: MockCluster, one: str) -> None:
    headers = [(f"name-{number % 100}", None if number % 7 == 0 else b"%d" % number) for number in range(10_000)]
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(b"before")
        report = producer.submit(b"many", b"key", headers=headers)
        producer.send(b"after")
        assert report.result(20).offset == 1
    log = read_log(cluster.bootstrap_servers, one)
    assert [record.value for record in log] == [b"before", b"many", b"after"]
    assert [len(record.headers) for record in log] == [0, 10_000, 0]
    assert log[1].headers == headers


def test_headers_count_for_the_largest_message(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        with pytest.raises(MessageTooLarge, match="headers are"):
            producer.send(b"v", headers=[("h", b"x" * 1_000_000)])
        with pytest.raises(MessageTooLarge):
            producer.send(b"v", headers=[(f"name-{number}", b"x" * 100) for number in range(10_000)])
        producer.send(b"fits", headers=[("h", b"x" * 900_000)])
    assert log_values(cluster.bootstrap_servers, one) == [b"fits"]


@pytest.mark.parametrize("stamp", [1, 2**31, 2**53 + 1, 2**62, 2**63 - 1])
def test_any_positive_timestamp_arrives(cluster: MockCluster, one: str, stamp: int) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.submit(b"v", timestamp_ms=stamp).result(20)
        producer.submit(b"w", timestamp_ms=cast("int", np.int64(stamp))).result(20)
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert [(m.value, m.timestamp_ms) for m in read(consumer, 2)] == [(b"v", stamp), (b"w", stamp)]


def test_bad_input_among_good_affects_no_other_message(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 2)
    bad: list[tuple[type[Exception], dict[str, Any]]] = [
        (ValueError, {"topic": "no spaces"}),
        (TypeError, {"headers": [("name", 5)]}),
        (TypeError, {"headers": 5}),
        (ValueError, {"timestamp_ms": -1}),
        (ValueError, {"timestamp_ms": 0}),
        (ValueError, {"timestamp_ms": 2**63}),
        (ValueError, {"partition": -1}),
        (MessageTooLarge, {"key": b"k" * 1_000_000}),
        (ValueError, {"key": "\ud800"}),
        (TypeError, {"on_delivery": "no function"}),
        (TypeError, {"unknown": 1}),
    ]
    told: list[DeliveryReport] = []
    with Producer(cluster.bootstrap_servers, topic) as producer:
        producer.warm_up()
        for number, (kind, options) in enumerate(bad):
            producer.send(b"%d" % number, partition=0)
            with pytest.raises(kind):
                producer.send(b"bad", **{"on_delivery": told.append, **options})
            with pytest.raises(kind):
                producer.submit(b"bad", **{"partition": 0, **options})
        unknown = producer.submit(b"bad", partition=2, on_delivery=told.append)
        producer.send(b"last", partition=0)
        assert producer.metrics().accepted == len(bad) + 2
        error = unknown.exception(20)
        assert isinstance(error, DeliveryError)
        assert error.name == "_UNKNOWN_PARTITION"
        producer.flush()
        assert [(report.value, report.partition) for report in told] == [(b"bad", 2)]
        metrics = producer.metrics()
        assert (metrics.delivered, metrics.failed) == (len(bad) + 1, 1)
    log = read_log(cluster.bootstrap_servers, topic)
    assert [record.value for record in log] == [*(b"%d" % number for number in range(len(bad))), b"last"]


def test_unknown_argument_is_told_by_the_name_of_what_was_called(cluster: MockCluster, topic: str) -> None:
    text = r"^send\(\) got an unexpected keyword argument 'unknown'"
    with Producer(cluster.bootstrap_servers, topic) as producer, pytest.raises(TypeError, match=text):
        producer.send(b"v", unknown=1)  # type: ignore[call-arg]


def test_payload_is_copied_before_send_returns(cluster: MockCluster, one: str) -> None:
    payload = bytearray(b"before")
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(payload)
        payload[:] = b"after!"
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert read(consumer, 1)[0].value == b"before"


def test_timestamp_is_the_time_of_send(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, config={"linger.ms": 300}) as producer:
        before = time.time()
        producer.send(b"v")
        after = time.time()
    with reader(cluster.bootstrap_servers, one) as consumer:
        stamp = read(consumer, 1)[0].timestamp_ms
    assert int(before * 1000) - 1 <= stamp <= int(after * 1000) + 1


def test_order_is_kept_per_partition(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)
    with Producer(cluster.bootstrap_servers, topic) as producer:
        for number in range(20_000):
            producer.send(b"%d" % number, partition=number % 4)
    with reader(cluster.bootstrap_servers, topic) as consumer:
        messages = read(consumer, 20_000)
    for partition in range(4):
        got = [int(m.value or b"") for m in messages if m.partition == partition]
        assert got == list(range(partition, 20_000, 4))


def test_same_key_goes_to_one_partition(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)
    with Producer(cluster.bootstrap_servers, topic) as producer:
        for number in range(400):
            producer.send(b"v", b"key-%d" % (number % 20))
    with reader(cluster.bootstrap_servers, topic) as consumer:
        messages = read(consumer, 400)
    placed = {(m.key, m.partition) for m in messages}
    assert len(placed) == 20
    assert len({partition for _, partition in placed}) > 1


def test_topic_may_be_given_to_each_send(cluster: MockCluster) -> None:
    names = [f"multi-{number}" for number in range(150)]
    with Producer(cluster.bootstrap_servers) as producer:
        for name in names:
            producer.send(name, topic=name)
    with reader(cluster.bootstrap_servers, names[77]) as consumer:
        assert read(consumer, 1)[0].value == names[77].encode()
    assert producer.metrics().delivered == 150


def test_flush_waits_for_every_outcome(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        for _ in range(5):
            for _ in range(1000):
                producer.send(b"v")
            sent = producer.metrics().accepted
            producer.flush()
            assert producer.metrics().delivered == sent


def test_flush_with_nothing_to_do_returns_at_once(one: str) -> None:
    with Producer(NOBODY, one) as producer:
        producer.flush(0)


def test_flush_overrides_linger(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, config={"linger.ms": 30_000}) as producer:
        producer.send(b"v")
        producer.flush(10)
        producer.send(b"w")  # and so does stop
    assert producer.metrics().delivered == 2


def test_flush_waits_only_for_what_was_accepted_before(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        done = threading.Event()

        def go_on_sending() -> None:
            while not done.is_set():
                try:
                    producer.send(b"more")
                except QueueFull:
                    time.sleep(0.001)

        thread = threading.Thread(target=go_on_sending)
        thread.start()
        try:
            for _ in range(20):
                accepted = producer.metrics().accepted
                producer.flush(10)
                metrics = producer.metrics()
                assert metrics.delivered >= accepted
        finally:
            done.set()
            thread.join()
        producer.flush(30)


def test_flush_timeout_leaves_messages_queued(one: str) -> None:
    producer = Producer(NOBODY, one)
    for _ in range(10):
        producer.send(b"v")
    for timeout in (0, 0.2):
        before = time.monotonic()
        with pytest.raises(FlushTimeout) as caught:
            producer.flush(timeout)
        assert caught.value.outstanding == 10
        assert caught.value.retriable
        assert time.monotonic() - before < timeout + 2
    assert producer.metrics().outstanding == 10
    with pytest.raises(FlushTimeout) as caught:
        producer.stop(0.1)
    assert caught.value.outstanding == 10
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.purged, metrics.outstanding) == (10, 10, 0)
    assert metrics.outstanding_bytes == 0


def test_many_flushes_against_a_dead_broker_all_end(one: str) -> None:
    producer = Producer(NOBODY, one)
    for _ in range(2000):
        producer.send(b"v")
        with pytest.raises(FlushTimeout):
            producer.flush(0)
    with pytest.raises(FlushTimeout) as caught:
        producer.stop(0)
    assert caught.value.outstanding == 2000


def test_stop_delivers_everything_and_is_idempotent(cluster: MockCluster, one: str) -> None:
    producer = Producer(cluster.bootstrap_servers, one)
    for _ in range(5000):
        producer.send(b"v")
    producer.stop()
    producer.stop()
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.delivered) == (5000, 5000)
    with pytest.raises(ClosedError):
        producer.send(b"v")
    with pytest.raises(ClosedError):
        producer.send(b"v", b"key", topic="another")
    with pytest.raises(ClosedError):
        producer.flush()


def test_stop_ends_a_flush_and_a_blocked_send_of_other_threads(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=1, on_full="block")
    producer.send(b"v")
    ended: dict[str, BaseException] = {}

    def run(name: str, call: object) -> None:
        try:
            call()  # type: ignore[operator]
        except BaseException as error:
            ended[name] = error

    threads = [
        threading.Thread(target=run, args=("flush", lambda: producer.flush(None))),
        threading.Thread(target=run, args=("send", lambda: producer.send(b"w"))),
    ]
    for thread in threads:
        thread.start()
    with pytest.raises(FlushTimeout):
        producer.stop(0.1)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert isinstance(ended["flush"], ClosedError)
    assert isinstance(ended["send"], ClosedError)


def test_with_block_never_hides_its_exception(one: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(_exit, "lose", told.append)  # at exit
    with pytest.raises(ZeroDivisionError), Producer(NOBODY, one) as producer:
        producer.send(b"v")
        raise ZeroDivisionError
    assert producer.metrics().purged == 1
    assert told == [1]


def test_message_bound_is_exact(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=1000)
    for _ in range(1000):
        producer.send(b"v" * 100)
    with pytest.raises(QueueFull) as caught:
        producer.send(b"v")
    assert caught.value.accepted == 0
    assert caught.value.retriable
    with pytest.raises(BufferError):
        producer.send(b"v", headers={"a": "b"})
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.outstanding, metrics.outstanding_bytes) == (1000, 1000, 100_000)
    end(producer)


def test_byte_bound_is_exact_and_counts_key_value_headers(one: str) -> None:
    producer = Producer(NOBODY, one, queue_bytes=1000)
    producer.send(b"v" * 400, b"k" * 92, headers=[("h", b"1234567")])  # 400 + 92 + 8 + 1 + 7
    assert producer.metrics().outstanding_bytes == 508
    with pytest.raises(QueueFull):
        producer.send(b"v" * 493)
    producer.send(b"v" * 492)
    assert producer.metrics().outstanding_bytes == 1000
    with pytest.raises(MessageTooLarge):
        producer.send(b"v" * 1001)
    end(producer)


def test_blocked_send_goes_on_when_there_is_room(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, queue_messages=10, on_full="block") as producer:
        for number in range(5000):
            producer.send(b"%d" % number)
            assert producer.metrics().outstanding <= 10
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert [int(m.value or b"") for m in read(consumer, 5000)] == list(range(5000))


def test_blocked_send_gives_up_after_block_timeout(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=1, on_full="block", block_timeout=0.3)
    producer.send(b"v")
    before = time.monotonic()
    with pytest.raises(QueueFull):
        producer.send(b"w")
    assert 0.3 <= time.monotonic() - before < 3
    end(producer)


def test_block_timeout_is_message_timeout_by_default(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=1, on_full="block", config={"message.timeout.ms": 60_000})
    assert producer._limits.block_timeout == 60
    producer.stop()


def test_failures_are_counted_raised_once_and_handed_over(one: str) -> None:
    producer = Producer(NOBODY, one, config={"message.timeout.ms": 300})
    producer.send(b"value", b"key", headers=[("h", None), ("i", b"x")])
    producer.send(None)
    with pytest.raises(DeliveryError) as caught:
        producer.flush(10)
    assert caught.value.failed == 2
    assert caught.value.name == "_MSG_TIMED_OUT"
    report = caught.value.report
    assert report is not None
    assert (report.topic, report.key, report.value) == (one, b"key", b"value")
    assert report.headers == [("h", None), ("i", b"x")]
    assert (report.partition, report.offset) == (None, None)
    assert report.error is not None
    assert report.error.retriable
    assert 0.2 < report.latency_s < 5
    producer.flush()  # told once
    assert [r.value for r in producer.failures()] == [b"value", None]
    assert producer.failures() == []
    metrics = producer.metrics()
    assert (metrics.failed, metrics.outstanding) == (2, 0)
    producer.stop()


def test_failures_fetched_are_not_raised(one: str) -> None:
    with Producer(NOBODY, one, config={"message.timeout.ms": 200}) as producer:
        producer.send(b"v")
        wait_for(lambda: producer.metrics().failed == 1)
        assert len(producer.failures()) == 1


def test_stop_raises_failures(one: str) -> None:
    producer = Producer(NOBODY, one, config={"message.timeout.ms": 200})
    producer.send(b"v")
    with pytest.raises(DeliveryError):
        producer.stop()
    producer.stop()


def test_kept_failures_are_bounded_and_the_rest_is_still_raised(one: str) -> None:
    with Producer(NOBODY, one, config={"message.timeout.ms": 200}) as producer:
        for _ in range(3000):
            producer.send(b"v")
        wait_for(lambda: producer.metrics().failed == 3000)
        assert len(producer.failures()) == 1000
        with pytest.raises(DeliveryError) as caught:
            producer.flush()
        assert caught.value.failed == 2000
        assert caught.value.report is None
        producer.flush()


def test_failures_that_flush_raised_can_still_be_fetched(one: str) -> None:
    with Producer(NOBODY, one, config={"message.timeout.ms": 200}) as producer:
        for _ in range(10):
            producer.send(b"v")
        with pytest.raises(DeliveryError):
            producer.flush()
        assert len(producer.failures()) == 10


def test_flush_does_not_take_a_purge_for_success(one: str) -> None:
    for _ in range(20):
        producer = Producer(NOBODY, one)
        producer.send(b"v")
        results: list[object] = []

        def flush(producer: Producer = producer, results: list[object] = results) -> None:
            try:
                results.append(producer.flush(None))
            except ClosedError as error:
                results.append(error)

        thread = threading.Thread(target=flush)
        thread.start()
        with pytest.raises(FlushTimeout):
            producer.stop(0)
        thread.join(5)
        assert [type(result) for result in results] == [ClosedError]


def test_second_stop_waits_for_the_first_and_only_one_tells(one: str) -> None:
    producer = Producer(NOBODY, one)
    for _ in range(5):
        producer.send(b"v")
    told: list[object] = []

    def stop() -> None:
        try:
            told.append(producer.stop(0.3))
        except FlushTimeout as error:
            told.append(error.outstanding)
        assert producer.metrics().outstanding == 0

    threads = [threading.Thread(target=stop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(told, key=str) == [5, None, None]


def test_one_bad_message_fails_alone(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    producer = Producer(cluster.bootstrap_servers, topic)
    producer.send(b"warm")
    producer.flush()
    producer.send(b"before")
    producer.send(b"bad", partition=7)
    producer.send(b"after")
    with pytest.raises(DeliveryError) as caught:
        producer.flush()
    assert caught.value.failed == 1
    assert caught.value.name == "_UNKNOWN_PARTITION"
    report = caught.value.report
    assert report is not None
    assert (report.value, report.partition) == (b"bad", 7)
    assert producer.metrics().delivered == 3
    producer.stop()


def test_largest_message_goes_through(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        with pytest.raises(MessageTooLarge):
            producer.send(b"x" * 1_000_001)
        with pytest.raises(MessageTooLarge):
            producer.send(b"x" * 999_999, b"kk")
        producer.send(b"x" * 999_000, b"k" * 900)
    assert producer.metrics().delivered == 1


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (TypeError, {"value": 5}),
        (TypeError, {"value": [b"x"]}),
        (TypeError, {"value": b"x", "key": 1.5}),
        (ValueError, {"value": memoryview(b"abcdef")[::2]}),
        (ValueError, {"value": np.zeros((3, 4))[:, 1]}),
        (TypeError, {"value": b"x", "topic": b"bytes"}),
        (ValueError, {"value": b"x", "topic": ""}),
        (ValueError, {"value": b"x", "topic": "no spaces"}),
        (ValueError, {"value": b"x", "topic": "x" * 250}),
        (ValueError, {"value": b"x", "topic": ".."}),
        (TypeError, {"value": b"x", "partition": "0"}),
        (TypeError, {"value": b"x", "partition": True}),
        (ValueError, {"value": b"x", "partition": -1}),
        (ValueError, {"value": b"x", "partition": 2**31}),
        (TypeError, {"value": b"x", "timestamp_ms": 1.0}),
        (ValueError, {"value": b"x", "timestamp_ms": -1}),
        (ValueError, {"value": b"x", "timestamp_ms": 0}),
        (TypeError, {"value": b"x", "headers": [("a", 1)]}),
        (TypeError, {"value": b"x", "headers": [(b"a", b"1")]}),
        (TypeError, {"value": b"x", "headers": ["ab"]}),
        (TypeError, {"value": b"x", "headers": "ab"}),
        (TypeError, {"value": b"x", "headers": 5}),
        (TypeError, {"value": b"x", "headers": [("a",)]}),
        (TypeError, {"value": b"x", "headers": [("a", b"b", b"c")]}),
        (TypeError, {"value": b"x", "headers": [("a", 1.5)]}),
        (TypeError, {"value": b"x", "headers": [("a", ["b"])]}),
        (TypeError, {"value": b"x", "headers": [(None, b"b")]}),
        (TypeError, {"value": b"x", "headers": {"a": 1}}),
        (TypeError, {"value": b"x", "headers": {b"a": b"1"}}),
        (ValueError, {"value": b"x", "headers": {"\ud800": b"1"}}),
        (ValueError, {"value": b"x", "headers": {"a": "\ud800"}}),
        (ValueError, {"value": "\ud800"}),
        (TypeError, {"value": b"x", "timestamp_ms": True}),
        (TypeError, {"value": b"x", "timestamp_ms": "1"}),
        (ValueError, {"value": b"x", "timestamp_ms": 2**63}),
        (TypeError, {"value": b"x", "on_delivery": 5}),
        (TypeError, {"value": {"a": "b"}}),
        (TypeError, {"value": object()}),
        (ValueError, {"value": b"x", "headers": [("a\0b", b"1")]}),
    ],
)
def test_bad_argument_raises_and_queues_nothing(one: str, kind: type[Exception], kwargs: dict[str, object]) -> None:
    with Producer(NOBODY, one) as producer:
        with pytest.raises(kind):
            producer.send(**kwargs)  # type: ignore[arg-type]
        assert producer.metrics().accepted == 0


def test_no_topic_anywhere_is_a_value_error() -> None:
    with Producer(NOBODY) as producer:
        with pytest.raises(ValueError, match="no topic"):
            producer.send(b"x")
        with pytest.raises(ValueError, match="no topic"):
            producer.send(b"x", b"k")


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (ValueError, {"queue_messages": 0}),
        (ValueError, {"queue_messages": 10_000_001}),
        (TypeError, {"queue_messages": 1.5}),
        (ValueError, {"queue_bytes": 0}),
        (ValueError, {"queue_bytes": 2**38}),
        (ValueError, {"on_full": "ignore"}),
        (ValueError, {"block_timeout": -1}),
        (TypeError, {"block_timeout": "1"}),
        (ValueError, {"topic": "a b"}),
        (TypeError, {"topic": 5}),
    ],
)
def test_bad_constructor_argument(kind: type[Exception], kwargs: dict[str, object]) -> None:
    with pytest.raises(kind):
        Producer(NOBODY, **kwargs)  # type: ignore[arg-type]


def test_bad_servers() -> None:
    with pytest.raises(TypeError):
        Producer(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bootstrap_servers"):
        Producer("")


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1"])
def test_bad_timeout_leaves_the_producer_usable(cluster: MockCluster, one: str, timeout: object) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        with pytest.raises((ValueError, TypeError)):
            producer.flush(timeout)  # type: ignore[arg-type]
        with pytest.raises((ValueError, TypeError)):
            producer.stop(timeout)  # type: ignore[arg-type]
        producer.send(b"still usable")
    assert producer.metrics().delivered == 1


def test_no_broker_fails_the_message_in_time() -> None:
    config = {"message.timeout.ms": 1000}
    producer = Producer(NOBODY, "nowhere", config=config)
    producer.send(b"v")
    before = time.monotonic()
    with pytest.raises(DeliveryError):
        producer.flush(10)
    assert time.monotonic() - before < 3.5
    producer.stop()


def test_accounting_holds_in_every_snapshot(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)
    limit, size = 500, 20
    accepted = [0] * 3
    done = threading.Event()

    with Producer(cluster.bootstrap_servers, topic, queue_messages=limit) as producer:

        def send(number: int) -> None:
            for _ in range(20_000):
                try:
                    producer.send(b"v" * size)
                except QueueFull:
                    time.sleep(0)
                else:
                    accepted[number] += 1

        threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        last = producer.metrics()
        while any(thread.is_alive() for thread in threads):
            metrics = producer.metrics()
            assert metrics.accepted == metrics.delivered + metrics.failed + metrics.purged + metrics.outstanding
            assert 0 <= metrics.outstanding <= limit
            assert metrics.outstanding_bytes == metrics.outstanding * size
            assert metrics.accepted >= last.accepted
            assert metrics.delivered >= last.delivered
            last = metrics
        done.set()
        for thread in threads:
            thread.join()
    metrics = producer.metrics()
    assert metrics.accepted == sum(accepted) == metrics.delivered
    assert metrics.ack_latency.count == metrics.delivered
    assert 0 < metrics.send_latency.count <= metrics.accepted
    assert 0 < metrics.ack_latency.p50 <= metrics.ack_latency.p999 <= metrics.ack_latency.max


def test_calls_are_timed_unless_they_follow_each_other_closely(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        for number in range(1, 51):
            producer.send(b"v")
            assert producer.metrics().send_latency.count == number
            begin = time.monotonic()
            wait_for(lambda begin=begin: time.monotonic() > begin + 10e-6)  # type: ignore[misc]
        begin = time.monotonic()
        for _ in range(10_000):
            producer.send(b"v")
        closely = producer.metrics().send_latency.count - 50
        assert 0 < closely <= 1 + (time.monotonic() - begin) / 10e-6


def test_forgotten_producer_still_delivers(cluster: MockCluster, one: str) -> None:
    producer = Producer(cluster.bootstrap_servers, one)
    for number in range(1000):
        producer.send(b"%d" % number)
    before = time.monotonic()
    del producer
    gc.collect()
    assert time.monotonic() - before < 2
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert len(read(consumer, 1000)) == 1000


def test_errors_have_code_name_and_flags(one: str) -> None:
    producer = Producer(NOBODY, one, config={"message.timeout.ms": 100})
    producer.send(b"x")
    with pytest.raises(KafkaError) as caught:
        producer.flush()
    assert (caught.value.code, caught.value.name) == (-192, "_MSG_TIMED_OUT")
    assert not caught.value.fatal
    producer.stop()


def test_of_several_stops_the_earliest_end_counts(one: str) -> None:
    producer = Producer(NOBODY, one, log=False)
    producer.send(b"v")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(producer.stop, 60)
        wait_for(long.running)
        began = time.monotonic()
        results = []
        for stop in (lambda: producer.stop(0.1), lambda: long.result(10)):
            try:
                stop()
            except FlushTimeout as error:
                results.append(error.outstanding)
    assert results == [1]  # one of them tells
    assert time.monotonic() - began < 5
    assert producer.metrics().purged == 1
