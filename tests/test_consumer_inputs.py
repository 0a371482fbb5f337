"""Bad input to a consumer: the documented error each time, and a consumer that goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shared_cluster import shared_cluster as shared_cluster
from support import read, send_all

from kafka_async import Consumer, ConsumerError, Message, TopicPartition
from kafka_async.testing import MockCluster

COUNT = 100
CONFIG = {"fetch.wait.max.ms": 10, "auto.offset.reset": "earliest", "enable.auto.commit": False}


@pytest.fixture(scope="module")
def hundred(cluster: MockCluster) -> TopicPartition:
    cluster.create_topic("hundred", 1)
    send_all(cluster.bootstrap_servers, "hundred", [b"%d" % number for number in range(COUNT)])
    return TopicPartition("hundred", 0)


@pytest.fixture(scope="module", params=[None, "g"], ids=["alone", "group"])
def consumer(cluster: MockCluster, request: pytest.FixtureRequest) -> Iterator[Consumer]:
    with Consumer(cluster.bootstrap_servers, group_id=request.param, config=CONFIG) as consumer:
        yield consumer


@pytest.fixture
def reading(consumer: Consumer, hundred: TopicPartition) -> Iterator[Consumer]:
    """In the midst of its messages; the test must leave it so."""
    consumer.assign([hundred._replace(offset=0)])
    first = read(consumer, 10)
    yield consumer
    rest = read(consumer, COUNT - 10)
    assert [message.offset for message in first + rest] == list(range(COUNT))
    assert consumer.position([hundred]) == [hundred._replace(offset=COUNT)]


ELSEWHERE = TopicPartition("elsewhere", 0, 5)
LISTS: dict[str, Callable[[Consumer], Callable[[Any], object]]] = {
    "assign": lambda c: c.assign,
    "incremental_assign": lambda c: c.incremental_assign,
    "incremental_unassign": lambda c: c.incremental_unassign,
    "pause": lambda c: c.pause,
    "resume": lambda c: c.resume,
    "committed": lambda c: c.committed,
    "position": lambda c: c.position,
    "offsets_for_times": lambda c: c.offsets_for_times,
    "commit": lambda c: lambda offsets: c.commit(offsets=offsets),
}


def refused(consumer: Consumer, name: str, kinds: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """Without a group there is nothing to commit, whatever it is."""
    return (ConsumerError,) if consumer._group_id is None and name.startswith(("commit", "store")) else kinds


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("kind", "partitions"),
    [
        (TypeError, "t"),
        (TypeError, b"t"),
        (TypeError, 5),
        (TypeError, ELSEWHERE),
        (TypeError, [None]),
        (TypeError, ["t"]),
        (TypeError, [TopicPartition(5, 0, 5)]),  # type: ignore[arg-type]
        (TypeError, [TopicPartition("t", "0", 5)]),  # type: ignore[arg-type]
        (TypeError, [TopicPartition("t", True, 5)]),
        (ValueError, [TopicPartition("t", -1, 5)]),
        (ValueError, [TopicPartition("t", 2**31, 5)]),
        (ValueError, [TopicPartition("", 0, 5)]),
        (ValueError, [TopicPartition("a\0b", 0, 5)]),
        (ValueError, [ELSEWHERE, ELSEWHERE]),
        (ValueError, [ELSEWHERE, ELSEWHERE._replace(offset=7)]),
    ],
)
def test_lists_that_name_no_partitions(reading: Consumer, name: str, kind: type[Exception], partitions: object) -> None:
    with pytest.raises(refused(reading, name, (kind,))):
        LISTS[name](reading)(partitions)


@pytest.mark.parametrize("name", ["assign", "incremental_assign", "seek", "commit", "offsets_for_times"])
@pytest.mark.parametrize(
    "offset",
    [
        *(-1, -1001, 2**63, 1.5, "5", "middle", True, ("head", 5), ("tail",), ("tail", -1), ("tail", 2**62)),
        *(("tail", 1, 2), ("timestamp",), ("timestamp", -1), ("timestamp", 2**63), ("timestamp", "now")),
        *(("timestamp", 1, 2), ()),
    ],
    ids=repr,
)
def test_offsets_that_are_none(reading: Consumer, hundred: TopicPartition, name: str, offset: Any) -> None:
    item = hundred._replace(offset=offset)
    with pytest.raises(refused(reading, name, (TypeError, ValueError))) as caught:
        reading.seek(item) if name == "seek" else LISTS[name](reading)([item])
    assert "positional argument" not in str(caught.value)


@pytest.mark.parametrize("name", ["seek", "commit", "offsets_for_times"])
def test_offset_is_missing(reading: Consumer, hundred: TopicPartition, name: str) -> None:
    with pytest.raises(refused(reading, name, (ValueError,))):
        reading.seek(hundred) if name == "seek" else LISTS[name](reading)([hundred])


@pytest.mark.parametrize("offset", ["beginning", "end", "stored", ("tail", 1), ("timestamp", 5), None])
@pytest.mark.parametrize("name", ["commit", "offsets_for_times"])
def test_only_numbers_are_committed_or_times(
    reading: Consumer, hundred: TopicPartition, name: str, offset: Any
) -> None:
    with pytest.raises(refused(reading, name, (ValueError,))):
        LISTS[name](reading)([hundred._replace(offset=offset)])
    if name == "commit":
        with pytest.raises(refused(reading, name, (ValueError,))):
            reading.commit(offsets={hundred: offset})


@pytest.mark.parametrize("timeout", [-0.001, -1, float("nan"), "1", object()])
def test_timeouts(reading: Consumer, hundred: TopicPartition, timeout: Any) -> None:
    number = hundred._replace(offset=5)
    for name, call in {
        "poll": lambda: reading.poll_message(timeout),
        "seek": lambda: reading.seek(number, timeout),
        "seek stored": lambda: reading.seek(number._replace(offset=("timestamp", 5)), timeout),
        "commit": lambda: reading.commit(timeout=timeout),
        "commit asynchronously": lambda: reading.commit(timeout=timeout, asynchronous=True),
        "committed": lambda: reading.committed([hundred], timeout),
        "watermarks": lambda: reading.watermarks("hundred", 0, timeout),
        "times": lambda: reading.offsets_for_times([number], timeout),
        "lag": lambda: reading.lag(timeout),
        "stop": lambda: reading.stop(timeout),
    }.items():
        if name == "poll":
            reading.pause([hundred])  # a message that is there needs no timeout
        with pytest.raises(refused(reading, name, (TypeError, ValueError))):
            call()
    reading.resume([hundred])


def test_messages_that_are_none(reading: Consumer) -> None:
    for wrong in (5, "m", b"m", ("t", 0, 5), TopicPartition("t", 0, 5)):
        with pytest.raises(refused(reading, "store", (TypeError,))):
            reading.store(wrong)  # type: ignore[arg-type]
        with pytest.raises(refused(reading, "commit", (TypeError,))):
            reading.commit(wrong)  # type: ignore[arg-type]
    message = Message(b"v", None, "hundred", 0, 5, 0, "none", b"")  # type: ignore[call-arg,arg-type]
    with pytest.raises(refused(reading, "commit", (ValueError,))):
        reading.commit(message, offsets=[])


@pytest.mark.parametrize("topic", [5, None, b"t", "", "a\0b"])
@pytest.mark.parametrize("partition", [0, -1, "0"])
def test_watermarks_of_what_is_no_partition(reading: Consumer, topic: Any, partition: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        reading.watermarks(topic, partition)


@pytest.mark.parametrize("name", ["seek", "pause", "resume", "store"])
def test_partition_that_is_not_assigned(reading: Consumer, hundred: TopicPartition, name: str) -> None:
    for item in (ELSEWHERE, hundred._replace(partition=1, offset=5)):
        message = Message(b"v", None, item.topic, item.partition, 5, 0, "none", b"")  # type: ignore[call-arg,arg-type]
        call: Any = getattr(reading, name)
        with pytest.raises(ConsumerError) as caught:
            call({"seek": item, "store": message}.get(name, [item]))
        if name != "store" or reading._group_id is not None:
            assert caught.value.name == "_STATE"
            assert f"partition {item.partition} of topic {item.topic!r}" in str(caught.value)


def test_without_a_group_nothing_is_committed(cluster: MockCluster, hundred: TopicPartition) -> None:
    with Consumer(cluster.bootstrap_servers, "hundred", config=CONFIG) as consumer:
        message = read(consumer, 1)[0]
        for call in (
            lambda: consumer.commit(),
            lambda: consumer.commit(message),
            lambda: consumer.commit(offsets={hundred: 5}),
            lambda: consumer.commit(asynchronous=True),
            lambda: consumer.store(message),
            lambda: consumer.committed([hundred]),
            lambda: consumer.seek(hundred._replace(offset="stored")),
            lambda: consumer.subscribe("^hun"),
        ):
            with pytest.raises(ConsumerError, match="group"):
                call()
        assert read(consumer, 99)[-1].offset == 99


@pytest.mark.parametrize("name", ["on_assign", "on_revoke", "on_lost"])
@pytest.mark.parametrize("wrong", [5, "f", [print]])
def test_callbacks_that_are_not_callable(cluster: MockCluster, name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=name):
        Consumer(cluster.bootstrap_servers, **{name: wrong})


@pytest.mark.parametrize("offset", [COUNT + 50, 2**62])
def test_offset_beyond_the_end_names_the_partition(cluster: MockCluster, hundred: TopicPartition, offset: int) -> None:
    config = {**CONFIG, "auto.offset.reset": "error"}
    with Consumer(cluster.bootstrap_servers, config=config) as consumer:
        for go in (
            lambda: consumer.assign([hundred._replace(offset=offset)]),
            lambda: consumer.seek(hundred._replace(offset=offset)),
        ):
            go()
            with pytest.raises(ConsumerError) as caught:
                consumer.poll_message(10)
            assert caught.value.partition is not None
            assert caught.value.partition[:2] == hundred[:2]
            assert "partition 0 of topic 'hundred'" in str(caught.value)
            assert consumer.poll_message(0.05) is None
            consumer.seek(hundred._replace(offset=3))
            assert read(consumer, 2)[-1].offset == 4


@pytest.mark.parametrize(("reset", "expected"), [("earliest", 0), ("latest", None)])
def test_offset_beyond_the_end_is_reset(
    cluster: MockCluster, hundred: TopicPartition, reset: str, expected: int | None
) -> None:
    with Consumer(cluster.bootstrap_servers, config={**CONFIG, "auto.offset.reset": reset}) as consumer:
        consumer.assign([hundred._replace(offset=0)])
        read(consumer, 5)
        consumer.seek(hundred._replace(offset=COUNT + 50))
        message = consumer.poll_message(0.5 if expected is None else 10)
        assert (message and message.offset) == expected
        if expected is not None:
            assert consumer.position([hundred]) == [hundred._replace(offset=1)]


def test_unknown_partition_is_told_by_whoever_asks(reading: Consumer) -> None:
    for call in (
        lambda: reading.watermarks("hundred", 7, 3),
        lambda: reading.offsets_for_times([TopicPartition("hundred", 7, 5)], 3),
    ):
        with pytest.raises(ConsumerError) as caught:
            call()
        assert "UNKNOWN" in caught.value.name
        assert "partition 7 of topic 'hundred'" in str(caught.value)
