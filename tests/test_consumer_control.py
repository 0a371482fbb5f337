"""Seek, pause, resume, incremental assignment decide what the very next poll returns, whatever was prefetched."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_cluster import shared_cluster as shared_cluster
from support import read, send_all, wait_for

from kafka_async import Consumer, ConsumerError, Message, Producer, TopicPartition
from kafka_async.testing import MockCluster

COUNT = 300  # messages of a partition
PREFETCHES = [2, 100_000]  # messages: full at once, all of them
CONFIG = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 10}


def fill(cluster: MockCluster, topic: str, partitions: int, count: int = COUNT) -> list[TopicPartition]:
    """Give each partition messages that are their offsets."""
    cluster.create_topic(topic, partitions)
    with Producer(cluster.bootstrap_servers, topic, on_full="block", config={"linger.ms": 5}) as producer:
        for number in range(count):
            for partition in range(partitions):
                producer.send(b"%d" % number, partition=partition)
    return [TopicPartition(topic, number) for number in range(partitions)]


@pytest.fixture
def three(cluster: MockCluster, topic: str) -> list[TopicPartition]:
    return fill(cluster, topic, 3)


@pytest.fixture
def one(cluster: MockCluster, topic: str) -> TopicPartition:
    return fill(cluster, topic, 1)[0]


class Reader(Consumer):
    """A consumer that knows how many messages its ring holds."""

    def __init__(
        self, cluster: MockCluster, prefetch_messages: int = PREFETCHES[-1], *, group_id: str | None = None
    ) -> None:
        super().__init__(
            cluster.bootstrap_servers, group_id=group_id, config=CONFIG, prefetch_messages=prefetch_messages
        )
        self.ring = prefetch_messages - prefetch_messages // 2  # librdkafka holds the other half


@pytest.fixture(params=PREFETCHES)
def consumer(cluster: MockCluster, request: pytest.FixtureRequest) -> Iterator[Reader]:
    with Reader(cluster, request.param) as consumer:
        yield consumer


def at(partition: TopicPartition, offset: Any) -> TopicPartition:
    return partition._replace(offset=offset)


def begin(consumer: Reader, partitions: list[TopicPartition], *, count: int = COUNT, full: bool = True) -> None:
    """Read from the beginning; full: until the ring holds all that it may of each partition's `count` messages."""
    consumer.assign([at(partition, 0) for partition in partitions])
    if full:
        wanted = min(consumer.ring, count * len(partitions))
        wait_for(lambda: consumer.metrics().prefetched >= wanted, what="a full ring")


def next_message(consumer: Consumer, limit: float = 20.0) -> Message:
    message = consumer.poll_message(limit)
    assert message is not None
    return message


def where(message: Message) -> tuple[int, int]:
    assert message.value == b"%d" % message.offset
    return message.partition, message.offset


def offsets(messages: Iterable[Message], partition: int = 0) -> list[int]:
    return [offset for number, offset in map(where, messages) if number == partition]


# ---------------------------------------------------------------- seek


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, 0), (7, 7), (COUNT - 1, COUNT - 1), ("beginning", 0), (("tail", 5), COUNT - 5), (("tail", COUNT), 0)],
)
def test_next_message_comes_from_where_it_was_sought_to(
    consumer: Reader, one: TopicPartition, offset: Any, expected: int, full: bool
) -> None:
    begin(consumer, [one], full=full)
    consumer.seek(at(one, offset))
    assert next_message(consumer).offset == expected
    consumer.seek(at(one, offset))
    assert offsets(read(consumer, COUNT - expected)) == list(range(expected, COUNT))


def test_seek_to_the_end_waits_for_what_is_new(cluster: MockCluster, consumer: Reader, one: TopicPartition) -> None:
    begin(consumer, [one])
    consumer.seek(at(one, "end"))
    assert consumer.poll_message(0.2) is None
    send_all(cluster.bootstrap_servers, one.topic, [b"%d" % COUNT])
    assert next_message(consumer).offset == COUNT


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("how", ["seek", "assign", "incremental"])
@pytest.mark.parametrize(
    ("offset", "first"), [("end", COUNT), (("tail", 3), COUNT - 3), (("tail", 2**61), 0), (("timestamp", 2**45), COUNT)]
)
def test_place_in_the_log_is_the_one_of_the_call_whatever_is_written_later(
    cluster: MockCluster, consumer: Reader, one: TopicPartition, offset: Any, first: int, how: str, pause: bool
) -> None:
    if how == "seek":
        begin(consumer, [one])
        consumer.seek(at(one, offset))
    elif how == "assign":
        consumer.assign([at(one, offset)])
    else:
        consumer.incremental_assign([at(one, offset)])
    if pause:
        consumer.pause([one])
    send_all(cluster.bootstrap_servers, one.topic, [b"%d" % COUNT], partition=0)
    if pause:
        consumer.resume([one])
    assert next_message(consumer).value == b"%d" % first


@pytest.mark.parametrize("read_before", [0, 1, 50, COUNT])
def test_seek_forwards_and_backwards(consumer: Reader, one: TopicPartition, read_before: int) -> None:
    begin(consumer, [one])
    read(consumer, read_before)
    for offset in (200, 10, 9, 11, 250, 0):
        consumer.seek(at(one, offset))
        assert offsets(read(consumer, 3)) == [offset, offset + 1, offset + 2]


def test_seek_in_the_midst_of_what_is_prefetched(consumer: Reader, one: TopicPartition) -> None:
    """Also to where it is, and to the next message but one, which are in the ring."""
    begin(consumer, [one])
    assert next_message(consumer).offset == 0
    for offset in (1, 2, 2, 4, 3):
        consumer.seek(at(one, offset))
        assert next_message(consumer).offset == offset


def test_seek_concerns_one_partition_only(consumer: Reader, three: list[TopicPartition]) -> None:
    begin(consumer, three)
    messages = read(consumer, 100)
    consumer.seek(at(three[1], 250))
    later = read(consumer, 2 * COUNT + 50 - sum(len(offsets(messages, number)) for number in (0, 2)))
    for number in (0, 2):
        assert offsets(messages + later, number) == list(range(COUNT))
    assert offsets(later, 1) == list(range(250, COUNT))
    assert consumer.poll_message(0.05) is None


def test_many_seeks_in_quick_succession(consumer: Reader, one: TopicPartition) -> None:
    begin(consumer, [one], full=False)
    for number in range(500):
        consumer.seek(at(one, number * 7 % COUNT))
    assert offsets(read(consumer, 3)) == [x + 499 * 7 % COUNT for x in range(3)]
    for number in range(50):
        consumer.seek(at(one, number * 7 % COUNT))
        assert next_message(consumer).offset == number * 7 % COUNT


def test_seek_before_anything_arrived(consumer: Reader, three: list[TopicPartition]) -> None:
    for start in (299, 0, 150):
        consumer.assign(three)
        for partition in three:
            consumer.seek(at(partition, start))
        first = dict(map(where, reversed(read(consumer, 3 * (COUNT - start)))))
        assert first == dict.fromkeys(range(3), start)


def test_seek_of_a_paused_partition_counts_when_it_is_resumed(consumer: Reader, one: TopicPartition) -> None:
    begin(consumer, [one])
    read(consumer, 10)
    consumer.pause([one])
    consumer.seek(at(one, 200))
    assert consumer.position([one]) == [at(one, 200)]
    assert consumer.poll_message(0.05) is None
    consumer.seek(at(one, 100))
    consumer.resume([one])
    assert offsets(read(consumer, COUNT - 100)) == list(range(100, COUNT))


def test_pause_right_after_a_seek_keeps_the_place(consumer: Reader, one: TopicPartition) -> None:
    begin(consumer, [one])
    read(consumer, 60)
    for start in (10, 200, 11):
        consumer.seek(at(one, start))
        consumer.pause([one])
        consumer.resume([one])
        assert offsets(read(consumer, 5)) == list(range(start, start + 5))


def test_empty_poll_beside_stale_messages_does_not_hang(consumer: Reader, three: list[TopicPartition]) -> None:
    """The ring is full of what is stale, so that nothing more came in until a poll has thrown it away."""
    begin(consumer, three)
    for partition in three:
        consumer.seek(at(partition, "end"))
    assert consumer.poll_message(0) is None
    begin(consumer, three)
    for partition in three:
        consumer.seek(at(partition, 290))
    message = consumer.poll_message(None)
    assert message is not None
    assert message.offset == 290
    consumer.pause(three)
    assert consumer.poll_message(0) is None


def test_seek_from_another_thread_while_polling(consumer: Reader, three: list[TopicPartition]) -> None:
    """A jump appears once for each seek, after it, and leads to where that went; the others go on."""
    begin(consumer, three, full=False)
    sought: list[int] = []
    done = threading.Event()

    def run() -> None:
        try:
            for number in range(150):
                sought.append(number * 11 % (COUNT - 1))
                consumer.seek(at(three[1], sought[-1]))
                if number % 3 == 0:
                    time.sleep(0.002)  # a rate
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    messages: list[Message] = []
    while not done.is_set():
        if (message := consumer.poll_message(0.01)) is not None:
            messages.append(message)
    thread.join()
    while [item.offset for item in consumer.position(three)] != [COUNT] * 3:
        messages.append(next_message(consumer))
    assert consumer.poll_message(0.05) is None
    for number in (0, 2):
        assert offsets(messages, number) == list(range(COUNT))
    mine = offsets(messages, 1)
    jumps = [offset for before, offset in itertools.pairwise(mine) if offset != before + 1]
    places = iter(sought)
    assert all(offset in places for offset in jumps), "jumps to where no seek led, or in another order"
    assert mine[-1] == COUNT - 1
    assert mine[-(COUNT - sought[-1]) :] == list(range(sought[-1], COUNT))


# ---------------------------------------------------------------- pause


def test_pause_hides_what_is_prefetched_at_once(consumer: Reader, three: list[TopicPartition]) -> None:
    begin(consumer, three)
    before = read(consumer, 10)
    consumer.pause(three[:2])
    rest = COUNT - len(offsets(before, 2))
    later = read(consumer, rest)
    assert {message.partition for message in later} == {2}
    assert consumer.poll_message(0.05) is None
    consumer.resume(three[:2])
    later += read(consumer, 3 * COUNT - 10 - rest)
    for number in range(3):
        assert offsets(before + later, number) == list(range(COUNT))
    assert consumer.poll_message(0.05) is None


def test_pause_for_longer_than_the_ring_lasts(cluster: MockCluster, consumer: Reader, topic: str) -> None:
    """The others go on through many times what the ring holds."""
    partitions = fill(cluster, topic, 2, 2000)
    begin(consumer, partitions, count=2000)
    before = read(consumer, 25)
    consumer.pause(partitions[:1])
    later = read(consumer, 2000 - len(offsets(before, 1)))
    assert {message.partition for message in later} == {1}
    consumer.resume(partitions[:1])
    later += read(consumer, 2000 - len(offsets(before, 0)))
    for number in range(2):
        assert offsets(before + later, number) == list(range(2000))


def test_pause_before_anything_arrived(consumer: Reader, three: list[TopicPartition]) -> None:
    consumer.assign([at(partition, 100) for partition in three])
    consumer.pause(three)
    assert consumer.poll_message(0.1) is None
    assert consumer.position(three) == three
    consumer.resume(three)
    messages = read(consumer, 3 * (COUNT - 100))
    for number in range(3):
        assert offsets(messages, number) == list(range(100, COUNT))


def test_paused_twice_resumed_once_and_resumed_unpaused(consumer: Reader, one: TopicPartition) -> None:
    begin(consumer, [one])
    seen = read(consumer, 5)
    consumer.resume([one])
    seen += read(consumer, 5)
    consumer.pause([one])
    consumer.pause([one])
    assert consumer.poll_message(0.02) is None
    consumer.resume([one])
    consumer.resume([one])
    consumer.pause([])
    consumer.resume([])
    seen += read(consumer, COUNT - 10)
    assert offsets(seen) == list(range(COUNT))


def test_many_pauses_and_resumes(consumer: Reader, three: list[TopicPartition]) -> None:
    begin(consumer, three)
    messages = []
    for number in range(100):
        consumer.pause([three[number % 3]])
        messages += read(consumer, 1)
        assert messages[-1].partition != number % 3
        consumer.resume([three[number % 3]])
        messages += read(consumer, number % 4)
    messages += read(consumer, 3 * COUNT - len(messages))
    for number in range(3):
        assert offsets(messages, number) == list(range(COUNT))


@pytest.mark.parametrize("how", ["assign", "incremental"])
def test_assigned_anew_is_not_paused_any_more(consumer: Reader, one: TopicPartition, how: str) -> None:
    begin(consumer, [one])
    read(consumer, 5)
    consumer.pause([one])
    assert consumer.poll_message(0.02) is None
    if how == "assign":
        consumer.assign([at(one, 50)])
    else:
        consumer.incremental_unassign([one])
        consumer.incremental_assign([at(one, 50)])
    assert offsets(read(consumer, COUNT - 50)) == list(range(50, COUNT))


def test_paused_partition_keeps_its_position(consumer: Reader, one: TopicPartition) -> None:
    begin(consumer, [one])
    read(consumer, 31)
    consumer.pause([one])
    assert consumer.position([one]) == consumer.assignment() == [at(one, 31)]


@pytest.mark.parametrize("number", [10**6, 2**31 - 1])
def test_any_partition_number_may_be_assigned(consumer: Reader, three: list[TopicPartition], number: int) -> None:
    """Also one that no topic has: memory goes by how many there are, and the others are read."""
    far = TopicPartition(three[0].topic, number, 0)
    consumer.assign([far, at(three[2], COUNT - 3), at(three[0], COUNT - 1)])
    assert [(item.topic, item.partition) for item in consumer.assignment()] == [
        item[:2] for item in (three[0], three[2], far)
    ]
    assert sorted((m.partition, m.offset) for m in read(consumer, 4)) == [(0, COUNT - 1)] + [
        (2, COUNT - i) for i in (3, 2, 1)
    ]


# ---------------------------------------------------------------- incremental assignment


def test_incremental_assignment(consumer: Reader, three: list[TopicPartition]) -> None:
    consumer.incremental_assign([at(three[0], 290)])
    assert offsets(read(consumer, 10)) == list(range(290, COUNT))
    consumer.incremental_assign([at(three[1], ("tail", 5)), at(three[2], None)])
    assert consumer.assignment() == [at(three[0], COUNT), three[1], three[2]]
    messages = read(consumer, 5 + COUNT)
    assert offsets(messages, 1) == list(range(295, COUNT))
    assert offsets(messages, 2) == list(range(COUNT))
    consumer.incremental_unassign([three[0], three[2]])
    assert consumer.assignment() == [at(three[1], COUNT)]
    consumer.incremental_assign([])
    consumer.incremental_unassign([])
    consumer.incremental_unassign([three[1]])
    assert consumer.assignment() == []
    assert consumer.poll_message(0.05) is None


def test_incremental_unassign_discards_and_the_others_go_on(consumer: Reader, three: list[TopicPartition]) -> None:
    begin(consumer, three)
    before = read(consumer, 20)
    consumer.incremental_unassign(three[1:2])
    later = read(consumer, 2 * COUNT - len(offsets(before, 0)) - len(offsets(before, 2)))
    assert not offsets(later, 1)
    for number in (0, 2):
        assert offsets(before + later, number) == list(range(COUNT))
    consumer.incremental_assign([at(three[1], 3)])
    assert offsets(read(consumer, COUNT - 3), 1) == list(range(3, COUNT))


def test_incremental_errors_name_the_partition_and_change_nothing(
    consumer: Reader, three: list[TopicPartition]
) -> None:
    begin(consumer, three[:2])
    seen = read(consumer, 10)
    for call, items, name, culprit in (
        (consumer.incremental_assign, [three[2], three[1]], "_CONFLICT", three[1]),
        (consumer.incremental_unassign, [three[0], three[2]], "_STATE", three[2]),
        (consumer.pause, [three[0], three[2]], "_STATE", three[2]),
        (consumer.resume, [three[2]], "_STATE", three[2]),
        (consumer.seek, at(three[2], 5), "_STATE", three[2]),
    ):
        with pytest.raises(ConsumerError, match=f"partition {culprit.partition} of topic '{culprit.topic}'") as caught:
            call(items)  # type: ignore[operator]
        assert caught.value.name == name
        assert caught.value.partition is not None
        assert caught.value.partition[:2] == culprit[:2]
    assert {item.partition for item in consumer.assignment()} == {0, 1}
    seen += read(consumer, 2 * COUNT - 10)
    for number in range(2):
        assert offsets(seen, number) == list(range(COUNT))


def test_partition_given_up_before_it_was_begun_takes_nothing_of_others_with_it(
    cluster: MockCluster, one: TopicPartition, topic: str
) -> None:
    """librdkafka empties the queue of such a partition when it frees it, wherever that is forwarded to."""
    other = TopicPartition(topic + "-unknown", 0)  # at the group's offset, which is asked for first
    with Reader(cluster, 2, group_id=topic) as consumer:
        begin(consumer, [one])
        consumer.committed([one], timeout=20.0)  # the coordinator is there
        cluster.set_round_trip(1, 0.3)
        consumer.incremental_assign([other])
        consumer.incremental_unassign([other])
        cluster.set_round_trip(1, 0)
        consumer.committed([one], timeout=20.0)  # answered after the other one's
        assert offsets(read(consumer, COUNT)) == list(range(COUNT))


@pytest.mark.parametrize("group", [None, "g"])
def test_incremental_assignment_beside_a_subscription_is_refused(
    cluster: MockCluster, one: TopicPartition, group: str | None
) -> None:
    with Consumer(cluster.bootstrap_servers, one.topic, group_id=group, config=CONFIG) as consumer:
        for call in (consumer.incremental_assign, consumer.incremental_unassign):
            with pytest.raises(ConsumerError, match="subscribed"):
                call([one])
        assert offsets(read(consumer, COUNT)) == list(range(COUNT))


# ---------------------------------------------------------------- at the worst moment


class Held:
    """The words shared with the core; a call is made, as if by another thread, beside a store of `handed`."""

    def __init__(self, words: Any, number: int, before: Callable[[], object], after: Callable[[], object]) -> None:
        self.words, self.number, self.before, self.after = words, number, before, after

    def __getitem__(self, index: int) -> int:
        return int(self.words[index])

    def __setitem__(self, index: int, value: int) -> None:
        number, self.number = (self.number, -1) if (index, value) == (0, self.number) else (-1, self.number)
        if number > 0:
            self.before()
        self.words[index] = value
        if number > 0:
            self.after()


def nothing() -> None:
    pass


def disturb(consumer: Consumer, number: int, before: Callable[[], object], after: Callable[[], object]) -> Held:
    """Have calls made when the block's message of that number is about to be handed out."""
    held = Held(consumer._shared, number, before, after)
    consumer._shorten(None, None, None)
    consumer._shared = held  # type: ignore[assignment]
    return held


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("side", ["before", "after"])
def test_pause_between_two_steps_of_a_poll(cluster: MockCluster, one: TopicPartition, side: str, number: int) -> None:
    with Reader(cluster) as consumer:
        begin(consumer, [one])
        pause = lambda: consumer.pause([one])  # noqa: E731
        held = disturb(consumer, number, *((pause, nothing) if side == "before" else (nothing, pause)))
        seen = []
        while (message := consumer.poll_message(0)) is not None:
            seen.append(message)
        assert held.number == -1
        assert len(seen) in (number - 1, number)
        assert consumer.position([one]) == [at(one, len(seen) or None)]
        assert consumer.metrics().handed_out == len(seen)
        consumer.resume([one])
        assert offsets(seen + read(consumer, COUNT - len(seen))) == list(range(COUNT))


@pytest.mark.parametrize("side", ["before", "after"])
def test_seek_between_two_steps_of_a_poll(cluster: MockCluster, one: TopicPartition, side: str) -> None:
    with Reader(cluster) as consumer:
        begin(consumer, [one])
        seek = lambda: consumer.seek(at(one, 5))  # noqa: E731
        disturb(consumer, 5, *((seek, nothing) if side == "before" else (nothing, seek)))
        seen = offsets(read(consumer, 10))
        assert seen in ([0, 1, 2, 3, 5, 6, 7, 8, 9, 10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        assert consumer.position([one]) == [at(one, seen[-1] + 1)]


@pytest.mark.parametrize("side", ["before", "after"])
def test_change_of_another_partition_between_two_steps_of_a_poll(
    cluster: MockCluster, three: list[TopicPartition], side: str
) -> None:
    """Also when the core is asked for positions before the poll has seen that something changed."""
    with Reader(cluster) as consumer:
        begin(consumer, three)
        first = read(consumer, 1)[0].partition
        other = next(partition for partition in three if partition.partition != first)

        def change() -> None:
            consumer.pause([other])
            consumer.assignment()

        disturb(consumer, 5, *((change, nothing) if side == "before" else (nothing, change)))
        seen = read(consumer, 2 * COUNT - 1)
        consumer.resume([other])
        seen += read(consumer, COUNT)
        for number in range(3):
            assert offsets(seen, number) == list(range(first == number, COUNT))


# ---------------------------------------------------------------- any sequence of them

PARTITIONS, LENGTH = 3, 40
which = st.integers(0, PARTITIONS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("poll"), st.integers(1, 30)),
        st.tuples(st.just("seek"), which, st.integers(0, LENGTH)),
        st.tuples(st.sampled_from(["pause", "resume"]), st.sets(which)),
    ),
    max_size=20,
)


class Model:
    """What a consumer without prefetch would do."""

    def __init__(self) -> None:
        self.next = dict.fromkeys(range(PARTITIONS), 0)
        self.position: dict[int, int | None] = dict.fromkeys(range(PARTITIONS))
        self.paused: set[int] = set()

    def seek(self, number: int, offset: int) -> None:
        self.next[number] = self.position[number] = offset

    def take(self, number: int, offset: int) -> None:
        assert number not in self.paused
        assert offset == self.next[number]
        self.next[number] = offset + 1
        self.position[number] = offset + 1

    def left(self) -> int:
        return sum(LENGTH - offset for number, offset in self.next.items() if number not in self.paused)


def poll(consumer: Consumer, model: Model, count: int) -> None:
    for _ in range(count):
        if not model.left():
            assert consumer.poll_message(0) is None
            return
        model.take(*where(next_message(consumer)))


@pytest.fixture(scope="module")
def few(cluster: MockCluster) -> list[TopicPartition]:
    return fill(cluster, "few", PARTITIONS, LENGTH)


@pytest.fixture(scope="module", params=PREFETCHES)
def lasting(cluster: MockCluster, request: pytest.FixtureRequest) -> Iterator[Consumer]:
    with Consumer(cluster.bootstrap_servers, config=CONFIG, prefetch_messages=request.param) as consumer:
        yield consumer


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_any_sequence(lasting: Consumer, few: list[TopicPartition], steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    lasting.assign([at(partition, 0) for partition in few])
    for step in steps:
        match step:
            case ("poll", count):
                poll(lasting, model, count)
            case ("seek", number, offset):
                lasting.seek(at(few[number], offset))
                model.seek(number, offset)
            case ("pause", numbers):
                lasting.pause([few[number] for number in numbers])
                model.paused |= numbers
            case ("resume", numbers):
                lasting.resume([few[number] for number in numbers])
                model.paused -= numbers
        assert [item.offset for item in lasting.position(few)] == list(model.position.values())
    lasting.resume(few)
    model.paused.clear()
    poll(lasting, model, PARTITIONS * LENGTH + 1)
    assert not model.left()
