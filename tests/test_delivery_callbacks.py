"""Callbacks: the thread that runs them, those that misbehave, and what waits for slow ones."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator

import pytest
from other_client import read_log
from outcomes import THREAD, Running
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import wait_for

from kafka_async import ClosedError, DeliveryReport, FlushTimeout, Producer, QueueFull
from kafka_async.testing import MockCluster


class Gate:
    """A callback that waits until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.reports: list[DeliveryReport] = []

    def __call__(self, report: DeliveryReport) -> None:
        self.entered.set()
        self.opened.wait(30)
        self.reports.append(report)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


# The thread


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == THREAD}


def test_thread_starts_with_the_first_result_and_ends_with_the_producer(cluster: MockCluster, one: str) -> None:
    before = threads()
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(b"plain")
        producer.send(b"plain", b"key", on_delivery=None)
        producer.send_many([b"plain"] * 10)
        producer.flush(20)
        assert threads() <= before
        producer.send(b"v", on_delivery=lambda _: None)
        producer.submit(b"v")
        producer.flush(20)
        (thread,) = threads() - before
        assert thread.daemon
    thread.join(10)
    assert not thread.is_alive()


def test_each_producer_has_its_own(cluster: MockCluster, one: str, gate: Gate) -> None:
    with Producer(cluster.bootstrap_servers, one) as slow, Producer(cluster.bootstrap_servers, one) as fast:
        slow.send(b"v", on_delivery=gate)
        assert gate.entered.wait(20)
        fast.submit(b"v").result(20)
        gate.opened.set()


def test_message_is_refused_when_the_thread_can_not_start(
    cluster: MockCluster, one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Producer(cluster.bootstrap_servers, one) as producer:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="new thread"):
            patch.setattr(threading.Thread, "start", refuse)
            producer.send(b"refused", on_delivery=print)
        assert producer.metrics().accepted == 0
        assert producer.submit(b"v").result(20).offset == 0


def test_callback_is_known_as_one_while_its_thread_starts(
    cluster: MockCluster, one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that starts it may be held up, and others' callbacks run before it goes on."""
    running, told = threading.Event(), threading.Event()
    outcomes: list[object] = []

    class Slow(threading.Thread):
        def start(self) -> None:
            super().start()
            running.set()
            told.wait(20)

    def call(_: DeliveryReport) -> None:
        try:
            outcomes.append(producer.flush(5))  # type: ignore[func-returns-value]
        except RuntimeError as error:
            outcomes.append(type(error))
        told.set()

    with Producer(cluster.bootstrap_servers, one) as producer:
        first = Running(lambda: producer.send(b"first", on_delivery=lambda _: None), start=False)
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", Slow)
            first.start()
            assert running.wait(20)
        producer.send(b"second", on_delivery=call)
        assert told.wait(20)
        first.join()
    assert outcomes == [RuntimeError]


# Callbacks that misbehave


class Odd(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, Odd])
def test_exception_in_a_callback_is_logged_and_stops_nothing(
    cluster: MockCluster, one: str, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    told: list[bytes | None] = []

    def fall(report: DeliveryReport) -> None:
        told.append(report.value)
        raise kind("on purpose")

    with Producer(cluster.bootstrap_servers, one) as producer:
        for number in range(3):
            producer.send(b"%d" % number, on_delivery=fall)
        future = producer.submit(b"3", on_delivery=fall)
        producer.flush(20)
        assert future.result(0).offset == 3
    assert told == [b"0", b"1", b"2", b"3"]
    logged = [record for record in caplog.records if record.name == "kafka_async" and record.exc_info]
    assert len(logged) == 4
    for record in logged:
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[0] is kind
        assert record.exc_text is not None
        assert "in fall" in record.exc_text


@pytest.mark.parametrize("kind", [ValueError, SystemExit, Odd])
def test_exception_in_a_done_callback_is_logged_and_stops_nothing(
    cluster: MockCluster, one: str, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    reports: list[DeliveryReport] = []

    def fall(_: object) -> None:
        raise kind("on purpose")

    with Producer(cluster.bootstrap_servers, one, config={"linger.ms": 50}) as producer:
        first = producer.submit(b"first", on_delivery=reports.append)
        first.add_done_callback(fall)
        second = producer.submit(b"second")
        producer.flush(20)
        assert (first.result(0).offset, second.result(0).offset) == (0, 1)
    assert [report.value for report in reports] == [b"first"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [kind]


def test_log_handler_that_fails_stops_nothing(cluster: MockCluster, one: str) -> None:
    class Broken(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            raise OSError("no space left for the log")

    def fall(_: DeliveryReport) -> None:
        raise ValueError("on purpose")

    logger = logging.getLogger("kafka_async")  # restored after each test
    logger.handlers[:], logger.propagate = [Broken()], False
    producer = Producer(cluster.bootstrap_servers, one, log=False)
    producer.send(b"v", on_delivery=fall)
    try:
        assert producer.submit(b"w").result(10).offset == 1
    finally:
        producer.stop(1)


def test_callback_that_sends_to_a_full_queue_never_waits(cluster: MockCluster, one: str) -> None:
    refused: list[tuple[str, float]] = []

    def refill(report: DeliveryReport) -> None:  # noqa: ARG001
        for _ in range(1_000_000):
            began = time.monotonic()
            try:
                producer.send(b"more")
            except QueueFull as error:
                refused.append((str(error), time.monotonic() - began))
                return

    with Producer(cluster.bootstrap_servers, one, queue_messages=10, on_full="block") as producer:
        producer.send(b"first", on_delivery=refill)
        wait_for(lambda: refused, 20)
    ((text, took),) = refused
    assert "callback" in text
    assert took < 5  # and not block_timeout, 300 s


@pytest.mark.parametrize("result", [False, True])
def test_callback_that_sends_while_others_block_ends(cluster: MockCluster, one: str, result: bool) -> None:
    """Every place is contended: by the sender that waits, and by callbacks that do not."""
    counts: Counter[str] = Counter()

    def count(_: DeliveryReport) -> None:
        counts["told"] += 1

    def again(report: DeliveryReport) -> None:
        count(report)
        try:
            producer.send(b"again", **({"on_delivery": count} if result else {"key": b"k"}))
        except QueueFull:
            counts["refused"] += 1
        else:
            counts["again"] += 1

    with Producer(cluster.bootstrap_servers, one, queue_messages=5, on_full="block") as producer:
        for _ in range(500):
            producer.send(b"v", on_delivery=again)
        producer.flush(20)
        producer.flush(20)  # what callbacks sent
    assert counts["again"] + counts["refused"] == 500
    assert counts["told"] == 500 + (counts["again"] if result else 0)
    assert producer.metrics().delivered == 500 + counts["again"]
    assert len(read_log(cluster.bootstrap_servers, one)) == 500 + counts["again"]


@pytest.mark.parametrize("queue_messages", [1, 100])
def test_callback_that_sends_with_room_is_accepted(cluster: MockCluster, one: str, queue_messages: int) -> None:
    """Also in a queue of one: its message's outcome has been counted."""
    sent: list[int | None] = []
    done = threading.Event()

    def next_one(report: DeliveryReport) -> None:
        sent.append(report.offset)
        if len(sent) < 30:
            producer.send(b"next", on_delivery=next_one)
        else:
            done.set()

    with Producer(cluster.bootstrap_servers, one, queue_messages=queue_messages, on_full="block") as producer:
        producer.send(b"first", on_delivery=next_one)
        assert done.wait(30)
    assert sent == list(range(30))


def test_flush_inside_a_callback_is_refused(cluster: MockCluster, one: str) -> None:
    errors: list[str] = []

    def call(_: DeliveryReport) -> None:
        with pytest.raises(RuntimeError) as caught:
            producer.flush()
        errors.append(str(caught.value))

    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(b"v", on_delivery=call)
        producer.submit(b"w", on_delivery=call)
        producer.flush(20)
    assert len(errors) == 2
    assert all("callback" in error for error in errors)


def test_stop_inside_a_callback_closes_and_the_others_still_run(cluster: MockCluster, one: str) -> None:
    stopped: list[object] = []
    reports: list[DeliveryReport] = []

    def call(report: DeliveryReport) -> None:
        reports.append(report)
        if len(reports) == 1:
            stopped.append(producer.stop(20))  # type: ignore[func-returns-value]

    producer = Producer(cluster.bootstrap_servers, one)
    sent = 0
    while not reports and sent < 1_000_000:
        try:
            producer.send(b"v", on_delivery=call)
        except (QueueFull, ClosedError):
            continue
        sent += 1
    wait_for(lambda: len(reports) == sent, 20)
    assert stopped == [None]
    with pytest.raises(ClosedError):
        producer.send(b"v")
    assert producer.metrics().delivered == sent == len(read_log(cluster.bootstrap_servers, one))


def test_other_calls_inside_a_callback_work(cluster: MockCluster, one: str) -> None:
    results: list[object] = []

    def call(_: DeliveryReport) -> None:
        results.extend((producer.partitions(one), producer.purge(), producer.failures()))
        producer.warm_up()
        results.append(producer.metrics().delivered)

    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(b"v", on_delivery=call)
        producer.flush(20)
    assert results == [1, 0, [], 1]


def test_metrics_inside_a_callback_count_its_message(cluster: MockCluster, one: str) -> None:
    seen: list[tuple[int, int]] = []

    def look(_: DeliveryReport) -> None:
        metrics = producer.metrics()
        seen.append((metrics.delivered, metrics.outstanding))

    with Producer(cluster.bootstrap_servers, one, queue_messages=2000) as producer:
        for _ in range(2000):
            producer.send(b"v", on_delivery=look)
    assert len(seen) == 2000
    for told, (delivered, outstanding) in enumerate(seen, 1):
        assert told <= delivered <= 2000
        assert 0 <= outstanding <= 2000 - told


def test_callback_may_drop_the_last_reference_to_its_producer(cluster: MockCluster, one: str) -> None:
    told: list[bytes | None] = []
    holder = [Producer(cluster.bootstrap_servers, one)]
    alive = weakref.ref(holder[0])

    def drop(report: DeliveryReport) -> None:
        holder.clear()
        gc.collect()
        told.append(report.value)

    before = threads()
    for number in range(10):
        holder[0].send(b"%d" % number, on_delivery=drop)
        if number == 0:
            (thread,) = threads() - before
            wait_for(lambda: told or holder, 20)
        if not holder:
            break
    sent = number + 1
    wait_for(lambda: len(told) == sent, 20)
    assert alive() is None
    thread.join(20)
    assert not thread.is_alive()


# Flush, stop and slow callbacks


def test_flush_waits_for_callbacks(cluster: MockCluster, one: str, gate: Gate) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        for _ in range(300):  # more than the thread takes at once
            producer.send(b"v", on_delivery=gate)
        flush = Running(lambda: producer.flush(20))
        wait_for(lambda: producer.metrics().delivered == 300)
        assert not flush.is_done()
        gate.opened.set()
        flush.join()
        assert flush.error is None
        assert len(gate.reports) == 300


def test_flush_gives_up_on_a_slow_callback(cluster: MockCluster, one: str, gate: Gate) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(b"v", on_delivery=gate)
        assert gate.entered.wait(20)
        began = time.monotonic()
        for timeout in (0, 0.2):
            with pytest.raises(FlushTimeout) as caught:
                producer.flush(timeout)
            assert caught.value.outstanding == 1
        assert 0.2 <= time.monotonic() - began < 5
        gate.opened.set()
        producer.flush(20)
        assert len(gate.reports) == 1


def test_stop_ends_a_flush_that_waits_for_a_callback(cluster: MockCluster, one: str, gate: Gate) -> None:
    producer = Producer(cluster.bootstrap_servers, one)
    producer.send(b"v", on_delivery=gate)
    assert gate.entered.wait(20)
    flush = Running(lambda: producer.flush(None))
    with pytest.raises(FlushTimeout, match="callbacks") as caught:
        producer.stop(0)
    assert caught.value.outstanding == 1
    flush.join()
    assert isinstance(flush.error, ClosedError)
    gate.opened.set()
    wait_for(lambda: len(gate.reports) == 1)
    assert producer.metrics().delivered == 1
    producer.stop()


def test_stop_waits_for_callbacks(cluster: MockCluster, one: str, gate: Gate) -> None:
    producer = Producer(cluster.bootstrap_servers, one)
    producer.send(b"v", on_delivery=gate)
    assert gate.entered.wait(20)
    stop = Running(lambda: producer.stop(20))
    with pytest.raises(ClosedError):
        while True:
            producer.send(b"w", on_delivery=gate)
    assert not stop.is_done()
    gate.opened.set()
    stop.join()
    assert stop.error is None
    assert len(gate.reports) == producer.metrics().delivered


def fill(producer: Producer, gate: Gate) -> int:
    """Send until no more results can wait, and count."""
    sent = 0
    while True:
        full_before = producer.metrics().outstanding == 0 and gate.entered.is_set()
        try:
            producer.send(b"v", on_delivery=gate)
        except QueueFull:
            if full_before:
                return sent
        else:
            sent += 1
        assert sent < 1000


def test_results_that_wait_for_slow_callbacks_are_bounded(cluster: MockCluster, one: str, gate: Gate) -> None:
    with Producer(cluster.bootstrap_servers, one, queue_messages=10) as producer:
        assert fill(producer, gate) == 20
        assert gate.reports == []
        with pytest.raises(QueueFull):
            producer.submit(b"v")
        for number in range(30):  # without a result nothing is in its way
            producer.send(b"plain")
            wait_for(lambda number=number: producer.metrics().delivered == 21 + number)  # type: ignore[misc]
        gate.opened.set()
        wait_for(lambda: len(gate.reports) == 20)
        producer.flush(20)
        producer.submit(b"again").result(20)
    assert producer.metrics().accepted == 20 + 30 + 1


def test_blocking_send_waits_for_slow_callbacks(cluster: MockCluster, one: str, gate: Gate) -> None:
    with Producer(cluster.bootstrap_servers, one, queue_messages=2, on_full="block") as producer:
        for _ in range(4):
            producer.send(b"v", on_delivery=gate)
        assert gate.entered.wait(20)
        blocked = Running(lambda: producer.send(b"v", on_delivery=gate))
        producer.send(b"plain")
        wait_for(lambda: producer.metrics().delivered == 5)
        assert not blocked.is_done()
        gate.opened.set()
        blocked.join()
        assert blocked.error is None
    assert len(gate.reports) == 5
