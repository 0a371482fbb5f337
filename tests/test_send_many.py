"""Batches: everything of every record arrives, by one native crossing, and nothing is dropped silently."""

from __future__ import annotations

import array
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from loops import run
from native_calls import record_producer
from other_client import log_values, read_log
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, end, no_memory, read, reader, wait_for

from kafka_async import (
    ClosedError,
    DeliveryReport,
    FlushTimeout,
    KafkaError,
    MessageTooLarge,
    Producer,
    QueueFull,
    Record,
    aio,
)
from kafka_async.testing import MockCluster

# What arrives


def array_of(numbers: list[Any]) -> Any:
    return np.array(numbers, dtype="u1")


def test_every_field_of_every_record_arrives(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 3)
    items: list[Any] = [
        b"plain",
        Record(b"all", b"key", 1, 1_700_000_000_123, [("a", b"1"), ("b", None), ("a", "ü")]),
        "text ü",
        Record("välue", "këy", partition=2),
        None,
        Record(None, b"tombstone's key", partition=0),
        Record(b"", b"", partition=1, headers={"m": "apping", "empty": b""}),
        bytearray(b"bytearray"),
        Record(memoryview(b"xviewx")[1:-1], memoryview(b"xkeyx")[1:-1], timestamp_ms=1),
        np.arange(3, dtype="<i2"),
        array.array("b", [1, 2]),
        Record(array_of([[1, 2], [3, 4]]), array_of([5]), 2, headers=[]),
    ]
    with Producer(cluster.bootstrap_servers, topic) as producer:
        assert producer.send_many(items) == len(items)
    with reader(cluster.bootstrap_servers, topic) as consumer:
        messages = read(consumer, len(items))
    got = {(m.value, m.key): m for m in messages}
    assert set(got) == {
        (b"plain", None),
        (b"all", b"key"),
        ("text ü".encode(), None),
        ("välue".encode(), "këy".encode()),
        (None, None),
        (None, b"tombstone's key"),
        (b"", b""),
        (b"bytearray", None),
        (b"view", b"key"),
        (b"\0\0\1\0\2\0", None),
        (b"\1\2", None),
        (b"\1\2\3\4", b"\5"),
    }
    assert len(messages) == len(items)
    full = got[b"all", b"key"]
    assert (full.partition, full.timestamp_ms) == (1, 1_700_000_000_123)
    assert full.headers == [("a", b"1"), ("b", None), ("a", "ü".encode())]
    assert got["välue".encode(), "këy".encode()].partition == 2
    assert got[None, b"tombstone's key"].partition == 0
    assert got[b"", b""].headers == [("m", b"apping"), ("empty", b"")]
    assert got[b"view", b"key"].timestamp_ms == 1
    assert got[b"\1\2\3\4", b"\5"].headers == []
    assert all(m.timestamp_ms > 1_700_000_000_123 for m in messages if m.value in (b"plain", b"bytearray"))


def test_order_is_kept_across_batches_and_sends(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        for first in range(0, 5000, 100):
            producer.send_many([b"%d" % number for number in range(first, first + 50)])
            producer.send_many([Record(b"%d" % number) for number in range(first + 50, first + 99)])
            producer.send(b"%d" % (first + 99))
    assert log_values(cluster.bootstrap_servers, one) == [b"%d" % number for number in range(5000)]


def test_items_are_copied_before_it_returns(cluster: MockCluster, one: str) -> None:
    items: list[Any] = [bytearray(b"before"), Record(bytearray(b"before"))]
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send_many(items)
        items[0][:] = items[1].value[:] = b"after!"
        items.clear()
    assert log_values(cluster.bootstrap_servers, one) == [b"before"] * 2


@pytest.mark.parametrize("change", [list.clear, lambda items: items.extend(items[:3])])
def test_list_that_changes_meanwhile_is_sent_as_it_was(
    cluster: MockCluster, one: str, change: Callable[[list[Any]], None]
) -> None:
    """By Python code that runs within the call, or by another thread while that runs."""
    items: list[Any] = []

    class Changing(dict[str, bytes]):
        def items(self) -> Any:
            change(items)
            return super().items()

    def choose(*_: object) -> int:
        change(items)
        return 0

    for partitioner in (choose, None):
        headers = Changing(name=b"value") if partitioner is None else None
        items[:] = [Record(b"%d" % number, headers=headers) for number in range(100)]
        with Producer(cluster.bootstrap_servers, one, partitioner=partitioner) as producer:
            assert producer.send_many(items) == 100
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert [message.value for message in read(consumer, 200)] == [b"%d" % number for number in range(100)] * 2


def test_topic_of_the_call_is_taken(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    with Producer(cluster.bootstrap_servers, "another") as producer:
        assert producer.send_many([b"v", Record(b"w")], topic=topic) == 2
    assert log_values(cluster.bootstrap_servers, topic) == [b"v", b"w"]
    with Producer(NOBODY) as producer, pytest.raises(ValueError, match="no topic"):
        producer.send_many([b"v"])


@pytest.mark.parametrize("make", [list, tuple, iter, lambda items: (item for item in items), dict.fromkeys])
def test_any_iterable_of_items_is_taken(cluster: MockCluster, one: str, make: Callable[[list[bytes]], Any]) -> None:
    items = [b"%d" % number for number in range(100)]
    with Producer(cluster.bootstrap_servers, one) as producer:
        assert producer.send_many(make(items)) == 100
    assert log_values(cluster.bootstrap_servers, one) == items


def test_rows_of_an_array_are_items(cluster: MockCluster, one: str) -> None:
    rows: Any = np.arange(12, dtype="<i4").reshape(3, 4)
    with Producer(cluster.bootstrap_servers, one) as producer:
        assert producer.send_many(rows) == 3
        assert producer.send_many([rows, Record(rows)]) == 2
    assert log_values(cluster.bootstrap_servers, one) == [
        *(row.tobytes() for row in rows),
        rows.tobytes(),
        rows.tobytes(),
    ]


@pytest.mark.parametrize("empty", [[], (), iter([])])
def test_empty_batch_is_nothing(one: str, empty: Any) -> None:
    with Producer(NOBODY, one) as producer:
        assert producer.send_many(empty) == 0
        assert producer.metrics().accepted == 0


def test_more_than_one_crossing_takes_arrive_in_order(cluster: MockCluster, one: str) -> None:
    count = 136_000
    with Producer(cluster.bootstrap_servers, one, queue_messages=count) as producer:
        assert producer.send_many([b"%d" % number for number in range(70_000)]) == 70_000
        assert producer.send_many([Record(b"%d" % number, b"k") for number in range(70_000, count)]) == count - 70_000
        producer.flush(30)
        assert producer.metrics().delivered == count
    log = read_log(cluster.bootstrap_servers, one)
    assert [record.value for record in log] == [b"%d" % number for number in range(count)]
    assert [record.key for record in log] == [None] * 70_000 + [b"k"] * (count - 70_000)


@pytest.mark.parametrize("records", [False, True])
def test_a_thousand_take_one_native_crossing(
    cluster: MockCluster, one: str, monkeypatch: pytest.MonkeyPatch, records: bool
) -> None:
    items = [Record(b"v", b"k", 0, 1, [("h", b"x")]) if records else b"v" for _ in range(1000)]
    with Producer(cluster.bootstrap_servers, one) as producer:
        called = record_producer(monkeypatch)
        assert producer.send_many(items) == 1000
        assert dict(called) == ({"ka_producer_send_batch": 1} if records else {})  # values go by the short cut
        monkeypatch.undo()
        assert producer.metrics().send_latency.count == 1
    assert producer.metrics().delivered == 1000


@pytest.mark.parametrize("kind", [list, tuple])
def test_values_of_every_size_come_in_order_whole(cluster: MockCluster, one: str, kind: type) -> None:
    random = Random(7)
    sizes = [*range(300), *(random.randrange(6000) for _ in range(700)), 200_000, 0, 70_000]
    values = kind(bytes([index % 256]) * size for index, size in enumerate(sizes))
    with Producer(cluster.bootstrap_servers, one) as producer:
        assert producer.send_many(values) == len(values)
        producer.flush(20)
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert [message.value for message in read(consumer, len(values))] == list(values)


def test_values_that_find_no_room_as_a_whole_are_accepted_as_far_as_there_is(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=1000)
    assert producer.send_many([b"v"] * 999) == 999
    with pytest.raises(QueueFull) as caught:
        producer.send_many([b"v"] * 3)
    assert (caught.value.accepted, [index for index, _ in caught.value.errors]) == (1, [1, 2])
    assert producer.metrics().accepted == 1000
    end(producer)


def test_more_values_than_a_call_takes_are_accepted(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=200_000)
    assert producer.send_many([b"v"] * 65_536) == 65_536
    assert producer.send_many([b"v"] * 65_537) == 65_537
    assert producer.metrics().accepted == 131_073
    end(producer)


# What is refused


def test_message_too_large_is_refused_alone(cluster: MockCluster, one: str) -> None:
    large = b"x" * 1_000_001
    with Producer(cluster.bootstrap_servers, one) as producer:
        with pytest.raises(MessageTooLarge, match="1000001 bytes") as caught:
            producer.send_many([b"0", large, b"2", Record(b"x" * 999_000, b"k" * 999_000), Record(b"4")])
        assert caught.value.accepted == 3
        assert [index for index, _ in caught.value.errors] == [1, 3]
        assert all(isinstance(error, MessageTooLarge) for _, error in caught.value.errors)
        assert "1998000 bytes" in str(caught.value.errors[1][1])
        assert caught.value.code == 10
        with pytest.raises(MessageTooLarge) as caught:
            producer.send_many([large])
        assert (caught.value.accepted, len(caught.value.errors)) == (0, 1)
    assert log_values(cluster.bootstrap_servers, one) == [b"0", b"2", b"4"]


def test_queue_full_tells_which_were_accepted(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=10, queue_bytes=1000)
    with pytest.raises(QueueFull) as caught:
        producer.send_many([b"v"] * 4 + [b"x" * 1001] + [b"v"] * 10)
    assert caught.value.accepted == 10
    assert [index for index, _ in caught.value.errors] == [4, *range(11, 15)]
    kinds = [type(error) for _, error in caught.value.errors]
    assert kinds == [MessageTooLarge] + [QueueFull] * 4
    assert caught.value.retriable
    assert producer.metrics().accepted == 10
    with pytest.raises(QueueFull) as caught:
        producer.send_many([Record(b"v"), b"w"])
    assert caught.value.accepted == 0
    assert [index for index, _ in caught.value.errors] == [0, 1]
    assert (producer.metrics().accepted, producer.metrics().dropped) == (10, 0)
    end(producer)


def test_queue_full_for_bytes_accepts_none_behind_it(one: str) -> None:
    """A smaller one further on would find room, and come before its time."""
    producer = Producer(NOBODY, one, queue_bytes=100)
    with pytest.raises(QueueFull) as caught:
        producer.send_many([b"x" * 60, b"x" * 60, b"x"])
    assert caught.value.accepted == 1
    assert [index for index, _ in caught.value.errors] == [1, 2]
    assert producer.metrics().outstanding_bytes == 60
    end(producer)


@pytest.mark.parametrize("records", [False, True])
def test_sending_the_rest_again_gives_the_exact_sequence(cluster: MockCluster, one: str, records: bool) -> None:
    values = [b"%d" % number for number in range(3000)]
    rest: list[Any] = [Record(value) for value in values] if records else values
    refusals = 0
    with Producer(cluster.bootstrap_servers, one, queue_messages=100) as producer:
        while rest:
            try:
                producer.send_many(rest)
                rest = []
            except QueueFull as error:
                assert [index for index, _ in error.errors] == list(range(error.accepted, len(rest)))  # noqa: PT017
                refusals += 1
                rest = rest[error.accepted :]
                wait_for(lambda: producer.metrics().outstanding < 100)
    assert refusals > 0
    assert log_values(cluster.bootstrap_servers, one) == values


@pytest.mark.parametrize(
    ("kind", "item", "text"),
    [
        (TypeError, 5, "value must be bytes"),
        (TypeError, Record(b"v", 1.5), "key must be bytes"),  # type: ignore[arg-type]
        (TypeError, (b"v", b"k"), "value must be bytes"),
        (TypeError, Record(b"v", partition="0"), "partition must be int"),  # type: ignore[arg-type]
        (TypeError, Record(b"v", partition=True), "partition must be int"),
        (ValueError, Record(b"v", partition=-1), "partition must be from 0"),
        (ValueError, Record(b"v", partition=2**31), "partition must be from 0"),
        (TypeError, Record(b"v", timestamp_ms=1.0), "timestamp_ms must be int"),  # type: ignore[arg-type]
        (ValueError, Record(b"v", timestamp_ms=0), "timestamp_ms must be from 1"),
        (ValueError, Record(b"v", timestamp_ms=-1), "timestamp_ms must be from 1"),
        (ValueError, Record(b"v", timestamp_ms=2**63), "timestamp_ms must be from 1"),
        (TypeError, Record(b"v", headers=[("a", 1)]), "header 'a'"),  # type: ignore[list-item]
        (TypeError, Record(b"v", headers=["ab"]), "pairs or a mapping"),  # type: ignore[list-item]
        (ValueError, Record(b"v", headers={"a\0": b"1"}), "NUL"),
        (ValueError, np.zeros((3, 4))[:, 1], "value is not contiguous"),
        (ValueError, Record(b"v", memoryview(b"abcdef")[::2]), "key is not contiguous"),
        (ValueError, "\ud800", "surrogates not allowed"),
        (ValueError, Record(b"v", "\ud800"), "surrogates not allowed"),
        (ValueError, Record(b"v", headers={"\ud800": b""}), "surrogates not allowed"),
    ],
)
def test_bad_item_is_named_and_nothing_queued(one: str, kind: type[Exception], item: Any, text: str) -> None:
    with Producer(NOBODY, one) as producer:
        with pytest.raises(kind, match=rf"item 2: .*{text}"):
            producer.send_many([b"good", Record(b"good"), item, b"good"])
        assert producer.metrics().accepted == 0


@pytest.mark.parametrize(
    "given",
    [b"one", "one", bytearray(b"one"), memoryview(b"one"), Record(b"one"), 5, None],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_iterable_of_items_is_a_type_error(one: str, given: Any) -> None:
    with Producer(NOBODY, one) as producer:
        with pytest.raises(TypeError):
            producer.send_many(given)
        assert producer.metrics().accepted == 0


def test_generator_that_fails_queues_nothing(one: str) -> None:
    def items() -> Iterator[bytes]:
        yield b"v"
        raise ZeroDivisionError

    with Producer(NOBODY, one) as producer:
        with pytest.raises(ZeroDivisionError):
            producer.send_many(items())
        assert producer.metrics().accepted == 0


def test_bad_topic_queues_nothing(one: str) -> None:
    with Producer(NOBODY, one) as producer:
        for kind, topic in ((ValueError, "no spaces"), (ValueError, ""), (TypeError, b"bytes")):
            with pytest.raises(kind):
                producer.send_many([b"v"], topic=topic)  # type: ignore[arg-type]
        assert producer.metrics().accepted == 0


# Policies


def test_drop_new_returns_how_many_were_accepted(cluster: MockCluster, one: str) -> None:
    with Producer(
        cluster.bootstrap_servers, one, queue_messages=10, on_full="drop_new", config={"linger.ms": 60_000}
    ) as producer:
        assert producer.send_many([b"%d" % number for number in range(25)]) == 10
        assert producer.send_many([b"v"]) == 0
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.dropped) == (10, 16)
    assert log_values(cluster.bootstrap_servers, one) == [b"%d" % number for number in range(10)]


def test_drop_new_looks_at_each_item(one: str) -> None:
    """One that finds no room does not keep others from theirs."""
    producer = Producer(NOBODY, one, queue_bytes=100, on_full="drop_new")
    with pytest.raises(MessageTooLarge) as caught:
        producer.send_many([b"x" * 60, b"x" * 60, b"x" * 101, b"x" * 40])
    assert caught.value.accepted == 2
    assert [index for index, _ in caught.value.errors] == [2]
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.dropped, metrics.outstanding_bytes) == (2, 1, 100)
    end(producer)


def test_drop_old_accepts_all_and_keeps_the_newest(cluster: MockCluster, one: str) -> None:
    with Producer(
        cluster.bootstrap_servers, one, queue_messages=8, on_full="drop_old", config={"linger.ms": 60_000}
    ) as producer:
        assert producer.send_many([b"%d" % number for number in range(1000)]) == 1000
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.dropped, metrics.purged, metrics.outstanding) == (1000, 992, 992, 8)
    got = [int(value or b"") for value in log_values(cluster.bootstrap_servers, one)]
    assert len(got) == 8
    assert got == sorted(got)
    assert got[-6:] == list(range(994, 1000))  # librdkafka may have held up to two others


@pytest.mark.parametrize("records", [False, True])
def test_block_sends_all_through_a_small_queue(cluster: MockCluster, one: str, records: bool) -> None:
    values = [b"%d" % number for number in range(2000)]
    bounds = []
    with Producer(cluster.bootstrap_servers, one, queue_messages=10, on_full="block") as producer:
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                bounds.append(producer.metrics().outstanding)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert producer.send_many([Record(value, b"k") for value in values] if records else values) == 2000
        finally:
            done.set()
            watcher.join()
    assert max(bounds) <= 10
    assert log_values(cluster.bootstrap_servers, one) == values


def test_block_gives_up_and_tells_how_far_it_came(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=3, on_full="block", block_timeout=0.05)
    with pytest.raises(QueueFull, match=r"block_timeout=0\.05") as caught:
        producer.send_many([b"%d" % number for number in range(5)])
    assert caught.value.accepted == 3
    assert [index for index, _ in caught.value.errors] == [3, 4]
    end(producer)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is cleaned up may say so
@pytest.mark.parametrize("queue_messages", [260, 1000])  # below and above what is sent
@pytest.mark.parametrize("item", [b"x", Record(b"x")], ids=["bytes", "record"])
@pytest.mark.parametrize("make", [Producer, aio.Producer], ids=["blocking", "asyncio"])
def test_no_memory_tells_how_many_were_accepted(
    one: str, make: type[Producer] | type[aio.Producer], item: bytes | Record, queue_messages: int
) -> None:
    items = [item] * 300  # Python allocates numbers above 256
    late = 0

    async def main() -> None:
        nonlocal late
        producer = make(NOBODY, one, queue_messages=queue_messages, log=False)  # its thread would allocate, too
        for start in itertools.count():
            before, told, failed = producer.metrics().accepted, 0, False
            try:
                with no_memory(start):
                    sent = producer.send_many(items)
                    told = sent if isinstance(sent, int) else await sent
            except (MemoryError, QueueFull) as error:
                failed = isinstance(error, MemoryError)
                # Python may lack the memory to note that an exception passes this line.
                told = getattr(error, "accepted", None) or getattr(error.__context__, "accepted", 0)
            assert producer.metrics().accepted - before == told
            if told and not failed:
                break
            late += failed and told > 0
            purged = producer.purge()
            assert (purged if isinstance(purged, int) else await purged) == told
        with pytest.raises(FlushTimeout):
            await stopped if (stopped := producer.stop(0)) else None

    run(main())
    at_once = isinstance(item, bytes) and queue_messages > len(items)  # after which nothing can fail
    assert late == 0 if at_once else late > 3


def test_batch_inside_a_callback_never_waits(cluster: MockCluster, one: str) -> None:
    ended: list[object] = []

    def call(_: DeliveryReport) -> None:
        try:
            ended.append(producer.send_many([b"v"] * 5000))
        except QueueFull as error:
            ended.append(error)

    with Producer(cluster.bootstrap_servers, one, queue_messages=10, on_full="block") as producer:
        producer.send(b"first", on_delivery=call)
        wait_for(lambda: ended)
    assert isinstance(ended[0], QueueFull)
    assert 0 < ended[0].accepted < 5000
    assert len(read_log(cluster.bootstrap_servers, one)) == 1 + ended[0].accepted


@pytest.mark.parametrize("blocked", [False, True])
def test_stop_of_another_thread_ends_it_and_nothing_accepted_is_lost(
    cluster: MockCluster, one: str, blocked: bool
) -> None:
    producer = Producer(cluster.bootstrap_servers, one, queue_messages=20, on_full="block" if blocked else "drop_new")
    values = [b"%d" % number for number in range(200_000)]
    errors: list[BaseException] = []
    accepted = 0

    def send() -> None:
        nonlocal accepted
        try:
            while True:
                accepted += producer.send_many(values)
        except ClosedError as error:
            accepted += error.accepted
            errors.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    wait_for(lambda: producer.metrics().delivered > 100)
    producer.stop(20)
    sender.join(20)
    assert not sender.is_alive()
    assert len(errors) == 1
    assert accepted == len(log_values(cluster.bootstrap_servers, one)) == producer.metrics().delivered
    with pytest.raises(ClosedError) as caught:
        producer.send_many([b"v"])
    assert caught.value.accepted == 0


# With a partitioner


def test_partitioner_is_asked_for_each_item_that_names_no_partition(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)
    calls: list[tuple[Any, ...]] = []

    def choose(name: str, key: Any, value: Any, count: int) -> int:
        calls.append((name, key, value, count, threading.current_thread()))
        return int(value) % count

    items: list[Any] = [b"0", Record(b"1", b"k"), Record(b"2", partition=0), bytearray(b"3"), "7"]
    with Producer(cluster.bootstrap_servers, topic, partitioner=choose) as producer:
        assert producer.send_many(items) == 5
    me = threading.current_thread()
    assert calls == [
        (topic, None, b"0", 4, me),
        (topic, b"k", b"1", 4, me),
        (topic, None, b"3", 4, me),
        (topic, None, "7", 4, me),
    ]
    log = read_log(cluster.bootstrap_servers, topic)
    assert [(record.partition, record.value) for record in log] == [
        (0, b"0"),
        (0, b"2"),
        (1, b"1"),
        (3, b"3"),
        (3, b"7"),
    ]


@pytest.mark.parametrize("choice", [-1, 4, True, "0", 1.0, None])
def test_wrong_choice_of_the_partitioner_is_named_and_nothing_queued(
    cluster: MockCluster, topic: str, choice: Any
) -> None:
    cluster.create_topic(topic, 4)
    with Producer(
        cluster.bootstrap_servers,
        topic,
        partitioner=lambda topic, key, value, count: choice if value == b"bad" else 0,  # noqa: ARG005
    ) as producer:
        with pytest.raises((TypeError, ValueError), match=r"item 1: .*partitioner"):
            producer.send_many([b"good", b"bad"])
        assert producer.metrics().accepted == 0


def parse(*_: object) -> int:
    return int(json.loads("{"))


class Odd(ValueError):
    """One that can't be made of a text alone."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fail(*_: object) -> int:
    raise Odd(1, 2)


def divide(*_: object) -> int:
    return 1 // 0


@pytest.mark.parametrize(
    ("partitioner", "kind"), [(parse, json.JSONDecodeError), (fail, Odd), (divide, ZeroDivisionError)]
)
def test_error_of_the_partitioner_is_raised_and_nothing_queued(
    cluster: MockCluster, topic: str, partitioner: Callable[..., int], kind: type[Exception]
) -> None:
    cluster.create_topic(topic, 4)
    with Producer(cluster.bootstrap_servers, topic, partitioner=partitioner) as producer:
        with pytest.raises(kind):
            producer.send_many([Record(b"good", partition=0), b"bad"])
        assert producer.metrics().accepted == 0


def test_unknown_number_of_partitions_is_retriable_and_queues_nothing(one: str) -> None:
    with Producer(NOBODY, partitioner=lambda *_: 0) as producer:
        with pytest.raises(KafkaError, match="warm_up") as caught:
            producer.send_many([Record(b"v", partition=0), b"v"], topic=one)
        assert caught.value.retriable
        assert producer.metrics().accepted == 0
