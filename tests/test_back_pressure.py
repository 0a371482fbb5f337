"""What a producer does when its bounds are reached, and that its books are right whatever happens.

Counts are compared with the test's own, with what callbacks and futures told, and with the log as another
client reads it; never with the producer's own numbers alone.
"""
# ruff: noqa: PT017 - which exception comes is not known beforehand; what it tells is checked when it does

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from native_calls import record_producer
from other_client import log_values, read_log
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, end, wait_for

from kafka_async import (
    ClosedError,
    ConfigError,
    Delivery,
    DeliveryError,
    DeliveryReport,
    FlushTimeout,
    KafkaError,
    MessageTooLarge,
    Producer,
    ProducerMetrics,
    QueueFull,
    Record,
)
from kafka_async.testing import MockCluster

Policy = Literal["raise", "block", "drop_new", "drop_old"]
POLICIES: list[Policy] = ["raise", "block", "drop_new", "drop_old"]
DROPPING: list[Policy] = ["drop_new", "drop_old"]
KEPT = {"linger.ms": 60_000}  # librdkafka keeps what it holds, until a flush
STABLE = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def settle(producer: Producer, topic: str) -> None:
    """Wait until the worker has looked at everything that was sent, and has given away what it may."""
    for _ in range(3):  # an answer comes from the worker, which looks at the queue between two of them
        producer.partitions(topic, 20)


def is_full(delivery: Delivery) -> bool:
    """Whether a message was dropped before it was accepted, which its future tells at once."""
    return delivery.done() and isinstance(delivery.exception(0), QueueFull)


def name_of(error: KafkaError | None) -> str | None:
    return error.name if error else None


# drop_new


def test_drop_new_refuses_past_the_bound_on_messages(one: str) -> None:
    called: list[DeliveryReport] = []
    producer = Producer(NOBODY, one, queue_messages=10, on_full="drop_new")
    for number in range(9):
        producer.send(b"%d" % number)
    last = producer.submit(b"9", on_delivery=called.append)
    producer.send(b"dropped")
    producer.send(b"dropped", b"key")
    producer.send(b"dropped", on_delivery=called.append)
    dropped = producer.submit(b"dropped", on_delivery=called.append)
    assert producer.send_many([b"dropped", Record(b"dropped", b"key")]) == 0
    with pytest.raises(QueueFull, match="drop"):
        dropped.result(0)
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.dropped, metrics.purged, metrics.outstanding) == (10, 6, 0, 10)
    assert not last.done()
    assert called == []
    end(producer)
    assert last.done()
    assert [report.value for report in called] == [b"9"]
    assert producer.metrics().dropped == 6


def test_drop_new_refuses_past_the_bound_on_bytes(one: str) -> None:
    producer = Producer(NOBODY, one, queue_bytes=100, on_full="drop_new")
    producer.send(b"v" * 30, b"k" * 10)
    producer.send(b"v" * 40)
    assert is_full(producer.submit(b"v" * 21))
    assert not is_full(producer.submit(b"v" * 20))
    assert is_full(producer.submit(b"v"))
    assert not is_full(producer.submit(b""))  # takes no byte
    with pytest.raises(MessageTooLarge):
        producer.send(b"v" * 101)
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.dropped, metrics.outstanding_bytes) == (4, 2, 100)
    end(producer)


def test_drop_new_has_room_again_after_an_outcome(cluster: MockCluster, one: str) -> None:
    """And not earlier: what librdkafka holds still counts."""
    with Producer(
        cluster.bootstrap_servers, one, queue_messages=10, on_full="drop_new", config={"linger.ms": 60_000}
    ) as producer:
        for number in range(15):
            producer.send(b"a%d" % number)
        settle(producer, one)
        assert is_full(producer.submit(b"still full"))
        producer.flush(20)
        for number in range(15):
            producer.send(b"b%d" % number)
    assert log_values(cluster.bootstrap_servers, one) == [
        b"%c%d" % (letter, number) for letter in b"ab" for number in range(10)
    ]
    assert producer.metrics().dropped == 11


# drop_old


def test_drop_old_evicts_the_oldest_and_tells(one: str) -> None:
    reports: list[DeliveryReport] = []
    producer = Producer(NOBODY, one, queue_messages=8, on_full="drop_old")
    futures = [producer.submit(b"%d" % number, b"key", on_delivery=reports.append) for number in range(100)]
    wait_for(lambda: len(reports) == 92)  # nothing else need happen
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.purged, metrics.dropped, metrics.outstanding) == (100, 92, 92, 8)
    evicted = [int(report.value or b"") for report in reports]
    left = [number for number in range(100) if number not in evicted]
    assert evicted == sorted(evicted)
    assert left[-6:] == list(range(94, 100))  # librdkafka may hold up to two others
    assert {name_of(report.error) for report in reports} == {"_PURGE_QUEUE"}
    assert {(report.topic, report.key, report.partition, report.offset) for report in reports} == {
        (one, b"key", None, None)
    }
    for number, future in enumerate(futures):
        assert future.done() == (number in evicted)
    error = futures[evicted[0]].exception(0)
    assert isinstance(error, DeliveryError)
    assert error.report == reports[0]
    end(producer)
    assert sorted(int(report.value or b"") for report in reports) == list(range(100))
    assert producer.metrics().dropped == 92
    assert producer.failures() == []


def test_drop_old_keeps_the_newest_and_what_librdkafka_holds(cluster: MockCluster, one: str) -> None:
    producer = Producer(cluster.bootstrap_servers, one, queue_messages=8, on_full="drop_old", config=KEPT)
    for number in range(2):  # a quarter
        producer.send(b"%d" % number)
    settle(producer, one)
    for number in range(2, 100):
        producer.send(b"%d" % number)
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.purged, metrics.dropped, metrics.outstanding) == (100, 92, 92, 8)
    producer.stop(20)
    assert log_values(cluster.bootstrap_servers, one) == [b"%d" % number for number in (0, 1, *range(94, 100))]
    assert producer.metrics().delivered == 8


def test_drop_old_evicts_for_bytes_no_more_than_it_must(cluster: MockCluster, one: str) -> None:
    producer = Producer(cluster.bootstrap_servers, one, queue_bytes=1000, on_full="drop_old", config=KEPT)
    held = b"h" * 250  # a quarter
    producer.send(held)
    settle(producer, one)
    queued: list[bytes] = []
    for number, size in enumerate([100] * 7 + [50, 150, 1, 300, 20, 750, 10, 100]):
        value = b"%02d" % number + b"v" * (size - 2)
        size = len(value)
        producer.send(value)
        while queued and 250 + sum(map(len, queued)) + size > 1000:
            del queued[0]
        queued.append(value)
        assert producer.metrics().outstanding_bytes == 250 + sum(map(len, queued))
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.dropped) == (16, 16 - 1 - len(queued))
    producer.stop(20)
    assert log_values(cluster.bootstrap_servers, one) == [held, *queued]


def test_message_that_finds_no_room_all_the_same_evicts_nothing(cluster: MockCluster, one: str) -> None:
    called: list[DeliveryReport] = []
    producer = Producer(cluster.bootstrap_servers, one, queue_bytes=1000, on_full="drop_old", config=KEPT)
    producer.send(b"h" * 600)  # with librdkafka, which takes one however large
    settle(producer, one)
    producer.send(b"q" * 300)
    assert is_full(producer.submit(b"x" * 401, on_delivery=called.append))
    producer.send(b"x" * 500, on_delivery=called.append)
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.purged, metrics.dropped, metrics.outstanding) == (2, 0, 2, 2)
    assert not is_full(producer.submit(b"x" * 400))
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.purged, metrics.dropped, metrics.outstanding_bytes) == (3, 1, 3, 1000)
    producer.stop(20)
    assert log_values(cluster.bootstrap_servers, one) == [b"h" * 600, b"x" * 400]
    assert called == []


def test_drop_old_with_all_of_it_held_drops_the_new_one(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, queue_messages=1, on_full="drop_old", config=KEPT) as producer:
        producer.send(b"held")
        settle(producer, one)
        assert is_full(producer.submit(b"dropped"))
        producer.send(b"dropped")
        assert producer.send_many([b"dropped"]) == 0
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.purged, metrics.dropped) == (1, 0, 3)
    assert log_values(cluster.bootstrap_servers, one) == [b"held"]


def test_flush_waits_for_what_was_evicted_to_be_told(cluster: MockCluster, one: str) -> None:
    reports: list[DeliveryReport] = []
    with Producer(cluster.bootstrap_servers, one, queue_messages=8, on_full="drop_old") as producer:
        sent = 0
        for _ in range(30):
            for _ in range(50):
                sent += not is_full(producer.submit(b"v", on_delivery=reports.append))
            producer.flush(20)
            assert len(reports) == sent
    told = Counter(name_of(report.error) for report in reports)
    assert told[None] == len(log_values(cluster.bootstrap_servers, one)) == producer.metrics().delivered
    assert told["_PURGE_QUEUE"] == producer.metrics().purged


def test_purge_takes_what_waits_behind_librdkafkas_share(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=100, on_full="drop_old")
    futures = [producer.submit(b"v") for _ in range(60)]
    assert producer.purge() == 60
    producer.flush(20)
    assert all(future.done() for future in futures)
    metrics = producer.metrics()
    assert (metrics.purged, metrics.dropped, metrics.outstanding) == (60, 0, 0)
    producer.stop()


def test_message_timeout_counts_for_what_waits_behind_librdkafkas_share(one: str) -> None:
    reports: list[DeliveryReport] = []
    timeout = 0.3
    with Producer(
        NOBODY, one, queue_messages=40, on_full="drop_old", config={"message.timeout.ms": int(timeout * 1000)}
    ) as producer:
        for number in range(40):
            producer.send(b"%d" % number, on_delivery=reports.append)
        wait_for(lambda: len(reports) == 40, timeout + 10)
    assert {name_of(report.error) for report in reports} == {"_MSG_TIMED_OUT"}
    assert min(report.latency_s for report in reports) >= timeout - 0.001
    assert max(report.latency_s for report in reports) <= timeout + 2
    assert producer.metrics().failed == 40


def test_message_timeout_counts_from_acceptance_through_ring_and_librdkafka(one: str) -> None:
    """Messages that waited for librdkafka's share do not get all of the time once more."""
    reports: list[DeliveryReport] = []
    timeout = 3.5
    producer = Producer(
        NOBODY, one, queue_messages=400, on_full="drop_old", config={"message.timeout.ms": int(timeout * 1000)}
    )
    for _ in range(100):  # librdkafka's share
        producer.send(b"early", on_delivery=reports.append)
    sent = 100
    while not reports:  # others are accepted at every moment until room is made for them
        producer.send(b"late", on_delivery=reports.append)
        sent += 1
        began = time.monotonic()
        wait_for(lambda began=began: reports or time.monotonic() > began + 0.02)  # type: ignore[misc]
    wait_for(lambda: len(reports) == sent, 30)
    producer.stop()
    failed = [report for report in reports if name_of(report.error) == "_MSG_TIMED_OUT"]
    assert len(failed) > 100
    assert min(report.latency_s for report in failed) >= timeout - 0.001
    assert max(report.latency_s for report in failed) <= timeout + 2


# Both


@pytest.mark.parametrize("policy", DROPPING)
def test_dropping_send_never_waits_nor_raises(one: str, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Producer(NOBODY, one, queue_messages=5, queue_bytes=50, on_full=policy)
    producer.submit(b"starts the thread")
    called = record_producer(monkeypatch)
    for number in range(2000):
        producer.send(b"v" * (number % 20))
        producer.send(b"v", b"key", headers={"a": "b"})
        producer.submit(b"future")
        producer.send_many([b"many"] * 3)
    calls = {name for name in called if name.startswith("ka_wait")}
    assert calls <= {"ka_wait_producer_results"}  # the delivery thread's
    assert called["ka_producer_send_batch"] == 2000
    assert called["ka_producer_send_record"] == 4000  # so the first one took its short cut
    monkeypatch.undo()
    end(producer)


@pytest.mark.parametrize("policy", DROPPING)
def test_policy_that_drops_excludes_transactions(one: str, policy: Policy) -> None:
    with pytest.raises(ConfigError, match=rf"transactional\.id.*{policy}") as caught:
        Producer(NOBODY, one, on_full=policy, config={"transactional.id": "t"})
    assert caught.value.property == "transactional.id"


@pytest.mark.parametrize("policy", ["raise", "block"])
def test_policy_that_does_not_drop_allows_transactions(one: str, policy: Policy) -> None:
    Producer(NOBODY, one, on_full=policy, config={"transactional.id": "t"}).stop()


@pytest.mark.parametrize("policy", POLICIES)
def test_order_of_survivors_is_kept_and_every_drop_counted(cluster: MockCluster, topic: str, policy: Policy) -> None:
    cluster.create_topic(topic, 4)
    reports: list[DeliveryReport] = []
    refused = [0] * 4

    def send(sender: int) -> None:
        for number in range(3000):
            try:
                producer.send(b"%d" % number, partition=sender, on_delivery=reports.append if number % 3 == 0 else None)
            except QueueFull:
                refused[sender] += 1

    with Producer(cluster.bootstrap_servers, topic, queue_messages=100, on_full=policy) as producer:
        senders = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    log = read_log(cluster.bootstrap_servers, topic)
    for partition in range(4):
        numbers = [int(record.value or b"") for record in log if record.partition == partition]
        assert numbers == sorted(set(numbers))
    metrics = producer.metrics()
    assert metrics.delivered == len(log)
    assert len(log) + sum(refused) + metrics.dropped == 12_000
    assert metrics.accepted == len(log) + metrics.purged
    told = Counter((report.partition, report.value) for report in reports if report.error is None)
    assert set(told.values()) <= {1}
    assert set(told) == {(record.partition, record.value) for record in log if int(record.value or b"") % 3 == 0}
    if policy == "block":
        assert len(log) == 12_000
    if policy != "drop_old":
        assert metrics.purged == 0


# block


def test_block_waits_for_room_in_bytes(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, queue_bytes=100, on_full="block") as producer:
        for number in range(200):
            producer.send(b"%03d" % number + b"v" * (number % 97), b"" if number % 2 else None)
            assert producer.metrics().outstanding_bytes <= 100
    assert log_values(cluster.bootstrap_servers, one) == [
        b"%03d" % number + b"v" * (number % 97) for number in range(200)
    ]


def test_block_with_results_waits_for_room(cluster: MockCluster, one: str) -> None:
    reports: list[DeliveryReport] = []
    with Producer(cluster.bootstrap_servers, one, queue_messages=3, on_full="block") as producer:
        futures = []
        for number in range(300):
            futures.append(producer.submit(b"%d" % number, on_delivery=reports.append))
            assert producer.metrics().outstanding <= 3
        assert [future.result(20).offset for future in futures] == list(range(300))
    assert [report.value for report in reports] == [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("block_timeout", [0, 0.1])
def test_block_gives_up_and_queues_nothing(one: str, block_timeout: float) -> None:
    producer = Producer(NOBODY, one, queue_bytes=10, on_full="block", block_timeout=block_timeout)
    producer.send(b"12345678")
    calls: list[Callable[[], object]] = [
        lambda: producer.send(b"123"),
        lambda: producer.submit(b"123"),
        lambda: producer.send_many([b"123"]),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(QueueFull, match="block_timeout") as caught:
            call()
        assert block_timeout <= time.monotonic() - began < block_timeout + 5
        assert caught.value.accepted == 0
    producer.send(b"12")
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.dropped, metrics.outstanding_bytes) == (2, 0, 10)
    end(producer)


@pytest.mark.parametrize("by", ["purge", "timeout"])
def test_block_goes_on_when_an_outcome_without_delivery_makes_room(one: str, by: str) -> None:
    config = {"message.timeout.ms": 100 if by == "timeout" else 60_000}
    producer = Producer(NOBODY, one, queue_messages=1, on_full="block", block_timeout=20, config=config)
    first = producer.submit(b"first")
    sender = threading.Thread(target=producer.send, args=(b"second",), kwargs={"headers": {"a": "b"}})
    sender.start()
    if by == "purge":
        assert producer.purge() >= 1  # the second may be among them
    sender.join(10)
    assert not sender.is_alive()
    assert isinstance(first.exception(10), DeliveryError)
    assert producer.metrics().accepted == 2
    producer.purge()
    producer.stop(0)


def test_stop_ends_a_blocked_batch_and_submit(one: str) -> None:
    producer = Producer(NOBODY, one, queue_messages=1, on_full="block")
    producer.send(b"v")
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except ClosedError as error:
            errors.append(error)

    calls: list[Callable[[], object]] = [lambda: producer.submit(b"w"), lambda: producer.send_many([b"w"])]
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    end(producer)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(errors) == 2
    assert producer.metrics().accepted == 1


# Properties


class Exact(RuleBasedStateMachine):
    """One thread, tiny bounds, nobody there: every number is known at every moment.

    With "drop_old" which messages are left is not known, since librdkafka holds some; how many were accepted
    is, and each is outstanding or was told as purged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.producer: Producer | None = None

    @initialize(
        policy=st.sampled_from(POLICIES), messages=st.integers(1, 6), size=st.integers(1, 60), timeout=st.booleans()
    )
    def open(self, policy: Policy, messages: int, size: int, timeout: bool) -> None:
        self.policy: Policy = policy
        self.messages, self.bytes = messages, size
        self.accepted = self.refused = self.purged = 0
        self.outstanding: list[int] = []  # sizes; unknown with drop_old
        self.futures: list[Delivery] = []
        self.called: Counter[int] = Counter()
        self.callbacks = 0
        event(policy)
        self.producer = Producer(
            NOBODY,
            "t",
            queue_messages=messages,
            queue_bytes=size,
            on_full=policy,
            block_timeout=0.001 if timeout else 0,
            log=False,
        )

    def fits(self, size: int) -> bool:
        return len(self.outstanding) < self.messages and sum(self.outstanding) + size <= self.bytes

    def take(self, accepted: bool, size: int) -> None:
        """Book one message, and see that it was rightly accepted or refused."""
        if self.policy != "drop_old":
            assert accepted == self.fits(size)
        self.accepted += accepted
        self.refused += not accepted
        if accepted:
            self.outstanding.append(size)

    @property
    def p(self) -> Producer:
        assert self.producer is not None
        return self.producer

    @rule(size=st.integers(0, 30), key=st.one_of(st.none(), st.integers(0, 30)), callback=st.booleans())
    def submit(self, size: int, key: int | None, callback: bool) -> None:
        total, number = size + (key or 0), self.accepted + self.refused

        def tell(_: DeliveryReport) -> None:
            self.called[number] += 1

        def call() -> Delivery:
            return self.p.submit(
                b"v" * size, None if key is None else b"k" * key, on_delivery=tell if callback else None
            )

        if total > self.bytes:
            with pytest.raises(MessageTooLarge):
                call()
            return
        try:
            delivery = call()
        except QueueFull as error:
            assert self.policy in ("raise", "block")
            assert error.accepted == 0
            self.take(False, total)
            return
        self.take(not is_full(delivery), total)
        if not is_full(delivery):
            self.futures.append(delivery)
            self.callbacks += callback

    @rule(size=st.integers(0, 30))
    def send(self, size: int) -> None:
        if self.policy == "drop_old":
            return  # whether it was accepted could not be known
        if size > self.bytes:
            with pytest.raises(MessageTooLarge):
                self.p.send(b"v" * size)
            return
        fits = self.fits(size)
        try:
            self.p.send(b"v" * size)
        except QueueFull:
            assert self.policy in ("raise", "block")
            self.take(False, size)
        else:
            self.take(fits or self.policy != "drop_new", size)

    @rule(sizes=st.lists(st.integers(0, 30), max_size=8), records=st.booleans())
    def send_many(self, sizes: list[int], records: bool) -> None:
        items = [Record(b"v" * size, b"") if records else b"v" * size for size in sizes]
        large = {index for index, size in enumerate(sizes) if size > self.bytes}
        refused: set[int] = set()
        try:
            accepted = self.p.send_many(items)
        except QueueFull as error:
            assert self.policy in ("raise", "block")
            accepted = error.accepted
            refused = {index for index, reason in error.errors if isinstance(reason, QueueFull)}
            first = min(refused)
            assert [index for index, _ in error.errors] == sorted({i for i in large if i < first} | refused)
            assert refused == set(range(first, len(items)))
        except MessageTooLarge as error:
            accepted = error.accepted
            assert [index for index, _ in error.errors] == sorted(large)
        else:
            assert not large
        if self.policy == "drop_old":
            self.accepted += accepted
            self.refused += len(items) - len(large) - accepted
            return
        before = self.accepted
        stopped = False
        for index, size in enumerate(sizes):
            if index in refused and self.policy != "drop_new":
                stopped = stopped or not self.fits(size)
                assert stopped
                self.refused += 1
            elif index not in large:
                self.take(self.fits(size), size)
        assert self.accepted - before == accepted

    @rule(timeout=st.sampled_from([0, 0.002]))
    def flush(self, timeout: float) -> None:
        outstanding = self.p.metrics().outstanding if self.policy == "drop_old" else len(self.outstanding)
        if not outstanding:
            self.p.flush(20)
            return
        with pytest.raises(FlushTimeout) as caught:
            self.p.flush(timeout)
        assert caught.value.outstanding >= outstanding

    @rule(in_flight=st.booleans())
    def purge(self, in_flight: bool) -> None:
        purged = self.p.purge(in_flight=in_flight)
        if self.policy != "drop_old":
            assert purged == len(self.outstanding)
        self.outstanding.clear()
        self.p.flush(20)  # for the callbacks
        assert self.p.metrics().purged == self.accepted
        assert all(future.done() for future in self.futures)
        assert self.called.total() == self.callbacks

    @rule()
    def failures(self) -> None:
        assert self.p.failures() == []

    @invariant()
    def metrics(self) -> None:
        if self.producer is None:
            return
        metrics = self.producer.metrics()
        assert metrics.accepted == self.accepted
        assert (metrics.delivered, metrics.failed) == (0, 0)
        assert 0 <= metrics.outstanding <= self.messages
        assert 0 <= metrics.outstanding_bytes <= self.bytes
        if self.policy == "drop_old":
            assert metrics.outstanding + metrics.purged == self.accepted
            assert self.refused <= metrics.dropped <= self.refused + metrics.purged
            return
        assert (metrics.outstanding, metrics.outstanding_bytes) == (len(self.outstanding), sum(self.outstanding))
        assert metrics.purged == self.accepted - len(self.outstanding)
        assert metrics.dropped == (self.refused if self.policy == "drop_new" else 0)

    def teardown(self) -> None:
        if self.producer is None:
            return
        outstanding = self.producer.metrics().outstanding
        if outstanding:
            with pytest.raises(FlushTimeout) as caught:
                self.producer.stop(0)
            assert caught.value.outstanding == outstanding
        else:
            self.producer.stop(0)
        assert all(isinstance(future.exception(0), DeliveryError) for future in self.futures)
        assert self.called.total() == self.callbacks
        assert set(self.called.values()) <= {1}
        assert self.producer.metrics().purged == self.accepted


TestExactBooks = Exact.TestCase
TestExactBooks.settings = settings(STABLE, max_examples=150, stateful_step_count=20)

Operation = tuple[str, Any]
SIZES = st.integers(10, 40)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["send", "send", "callback", "future", "bad", "bad callback"]), SIZES),
        st.tuples(st.just("many"), st.lists(SIZES, min_size=1, max_size=12)),
        st.tuples(st.sampled_from(["flush", "purge", "failures", "metrics"]), st.none()),
    ),
    max_size=25,
)
PROGRAMS = st.lists(OPERATIONS, min_size=2, max_size=3)


class Books:
    """The application's own: what became of each message, by its value, as far as it was told."""

    def __init__(self, producer: Producer, policy: Policy) -> None:
        self.producer, self.policy = producer, policy
        self.attempts: list[bytes] = []  # list.append is atomic
        self.accepted: list[bytes] = []  # by what the call said
        self.refused: list[bytes] = []
        self.refused_of_batches: list[int] = []
        self.results: list[bytes] = []  # attempts with a future or a callback
        self.called: list[tuple[bytes, str | None, int | None]] = []
        self.futures: list[tuple[bytes, Delivery]] = []
        self.failures: list[bytes | None] = []
        self.errors: list[BaseException] = []

    def tell(self, report: DeliveryReport) -> None:
        assert report.value is not None
        self.called.append((report.value, name_of(report.error), report.offset))

    def value(self, thread: int, number: int, size: int) -> bytes:
        return (b"%d.%d." % (thread, number)).ljust(size, b"v")

    def one(self, kind: str, value: bytes) -> None:
        """Send one message in one of the ways."""
        self.attempts.append(value)
        partition = 99 if kind.startswith("bad") else 0
        try:
            if kind == "future":
                delivery = self.producer.submit(value, partition=partition)
                self.results.append(value)
                if is_full(delivery):
                    assert self.policy in DROPPING
                    self.refused.append(value)
                    return
                self.futures.append((value, delivery))
            elif kind.endswith("callback"):
                self.producer.send(value, partition=partition, on_delivery=self.tell)
                self.results.append(value)
            else:
                self.producer.send(value, partition=partition)
        except QueueFull:
            assert self.policy in ("raise", "block")
            self.refused.append(value)
        else:
            self.accepted.append(value)

    def many(self, values: list[bytes]) -> None:
        self.attempts += values
        items = [value if index % 2 else Record(value, None, 0) for index, value in enumerate(values)]
        try:
            accepted = self.producer.send_many(items)
        except QueueFull as error:
            assert self.policy in ("raise", "block")
            refused = [index for index, _ in error.errors]
            assert refused == list(range(error.accepted, len(values)))
            self.refused += values[error.accepted :]
            self.accepted += values[: error.accepted]
        else:
            if self.policy in DROPPING:
                self.refused_of_batches.append(len(values) - accepted)
            else:
                assert accepted == len(values)
                self.accepted += values

    def run(self, thread: int, program: list[Operation], delivering: bool) -> None:
        try:
            for number, (kind, argument) in enumerate(program):
                self.step(kind, argument, thread, number * 100, delivering)
        except BaseException as error:
            self.errors.append(error)

    def step(self, kind: str, argument: Any, thread: int, number: int, delivering: bool) -> None:
        if kind == "many":
            self.many([self.value(thread, number + index, size) for index, size in enumerate(argument)])
        elif kind == "flush":
            try:
                self.producer.flush(20 if delivering else 0.003)
            except FlushTimeout as error:
                assert not delivering
                assert error.outstanding > 0
            except DeliveryError as error:
                assert error.name in ("_UNKNOWN_PARTITION", "")
        elif kind == "purge":
            assert self.producer.purge() >= 0
        elif kind == "failures":
            self.failures += [report.value for report in self.producer.failures()]
        elif kind == "metrics":
            self.producer.metrics()
        else:
            self.one(kind, self.value(thread, number, argument))

    def watch(self, messages: int, size: int, running: Callable[[], bool]) -> None:
        """Hold snapshots against what is known for certain at that moment."""
        last = self.producer.metrics()
        again = True
        while again:
            again = running()
            told, accepted = len(self.called), 0 if self.policy in DROPPING else len(self.accepted)
            metrics = self.producer.metrics()
            assert accepted <= metrics.accepted <= len(self.attempts)
            assert told <= metrics.delivered + metrics.failed + metrics.purged
            assert metrics.accepted == metrics.delivered + metrics.failed + metrics.purged + metrics.outstanding
            assert 0 <= metrics.outstanding <= messages
            assert 0 <= metrics.outstanding_bytes <= size
            for name in ("accepted", "delivered", "failed", "purged", "dropped"):
                assert getattr(metrics, name) >= getattr(last, name)
            last = metrics

    def close(self, log: list[bytes]) -> None:
        """Compare everything, now that nothing can change any more."""
        metrics = self.producer.metrics()
        self.failures += [report.value for report in self.producer.failures()]
        told: dict[bytes, str | None] = {}
        for value, name, _ in self.called:
            assert value not in told
            told[value] = name
        for value, future in self.futures:
            error = future.exception(0)
            assert error is None or isinstance(error, DeliveryError)
            assert value not in told
            told[value] = name_of(error)
        assert (metrics.outstanding, metrics.outstanding_bytes) == (0, 0)
        assert len(set(log)) == len(log) == metrics.delivered
        assert {value for value, name in told.items() if name is None} == set(log) & set(self.results)
        assert set(log) <= set(self.attempts) - set(self.refused)
        failed = {value for value, name in told.items() if name == "_UNKNOWN_PARTITION"}
        assert {name for name in told.values() if name} <= {"_UNKNOWN_PARTITION", "_PURGE_QUEUE", "_PURGE_INFLIGHT"}
        assert len(set(self.failures)) == len(self.failures)
        assert failed.isdisjoint(value for value in self.failures if value)
        assert metrics.failed == len(failed) + len(self.failures)
        self.close_acceptance(metrics, told)

    def close_acceptance(self, metrics: ProducerMetrics, told: dict[bytes, str | None]) -> None:
        if self.policy not in DROPPING:
            assert metrics.accepted == len(self.accepted) == len(self.attempts) - len(self.refused)
            assert set(told) == set(self.results) - set(self.refused)
            assert metrics.dropped == 0
            return
        refused = len(self.attempts) - metrics.accepted
        known = len(set(self.results) - set(told)) + sum(self.refused_of_batches)
        plain = len(self.attempts) - len(self.results)
        assert known <= refused <= known + plain
        if self.policy == "drop_new":
            assert metrics.dropped == refused
        else:
            assert refused <= metrics.dropped <= refused + metrics.purged


def run_programs(books: Books, programs: list[list[Operation]], delivering: bool, messages: int, size: int) -> None:
    threads = [
        threading.Thread(target=books.run, args=(number, program, delivering))
        for number, program in enumerate(programs)
    ]
    for thread in threads:
        thread.start()
    try:
        books.watch(messages, size, lambda: any(thread.is_alive() for thread in threads))
    finally:
        for thread in threads:
            thread.join(30)
    assert books.errors == []


@pytest.mark.parametrize("policy", POLICIES)
@settings(STABLE, max_examples=40)
@given(programs=PROGRAMS, messages=st.integers(1, 12), size=st.integers(40, 300))
def test_books_are_right_with_nobody_there(
    policy: Policy, programs: list[list[Operation]], messages: int, size: int
) -> None:
    producer = Producer(
        NOBODY,
        "t",
        queue_messages=messages,
        queue_bytes=size,
        on_full=policy,
        block_timeout=0.002,
        log=False,
    )
    books = Books(producer, policy)
    run_programs(books, programs, False, messages, size)
    outstanding = producer.metrics().outstanding
    try:
        producer.stop(0)
    except FlushTimeout as error:
        assert error.outstanding == outstanding
    else:
        assert outstanding == 0
    books.close([])


@pytest.mark.parametrize("policy", POLICIES)
@settings(STABLE, max_examples=15)
@given(programs=PROGRAMS, messages=st.integers(1, 12), size=st.integers(40, 300))
def test_books_are_right_with_a_cluster_that_delivers(
    cluster: MockCluster, policy: Policy, programs: list[list[Operation]], messages: int, size: int
) -> None:
    topic = f"books-{policy}-{next(NUMBERS)}"
    cluster.create_topic(topic, 1)
    producer = Producer(
        cluster.bootstrap_servers,
        topic,
        queue_messages=messages,
        queue_bytes=size,
        on_full=policy,
        block_timeout=20,
        log=False,
    )
    books = Books(producer, policy)
    run_programs(books, programs, True, messages, size)
    try:
        producer.stop(20)
    except DeliveryError as error:
        assert error.name in ("_UNKNOWN_PARTITION", "")
    books.close([record.value or b"" for record in read_log(cluster.bootstrap_servers, topic)])


NUMBERS = iter(range(1_000_000))
