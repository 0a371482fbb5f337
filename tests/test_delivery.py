"""Outcomes by future and callback: each told once, in order, on one thread, whatever happens meanwhile."""

from __future__ import annotations

import array
import concurrent.futures
import contextlib
import gc
import logging
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from other_client import read_log
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, end, run_python, wait_for

from kafka_async import ClosedError, DeliveryError, DeliveryReport, FlushTimeout, Producer, QueueFull, RecordMetadata
from kafka_async.testing import MockCluster

THREAD = "kafka_async-delivery"
SOON = {"message.timeout.ms": 100}  # librdkafka looks once a second


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


class Running:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object], *, start: bool = True) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                call()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        if start:
            self.start()

    def start(self) -> None:
        self._thread.start()

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(20)
        assert self.is_done()


# What is told


def test_future_tells_where_the_message_was_written(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 3)
    with Producer(cluster.bootstrap_servers, topic) as producer:
        futures = [producer.submit(b"%d" % number, partition=number % 3) for number in range(300)]
        told = [future.result(20) for future in futures]
    where = {record.value: (record.partition, record.offset) for record in read_log(cluster.bootstrap_servers, topic)}
    assert all(isinstance(metadata, RecordMetadata) for metadata in told)
    assert {metadata.topic for metadata in told} == {topic}
    assert [(m.partition, m.offset) for m in told] == [where[b"%d" % number] for number in range(300)]
    assert all(metadata.timestamp_ms > 0 for metadata in told)


def test_callback_gets_a_report_of_what_was_written(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 3)
    reports: list[DeliveryReport] = []
    headers = [("a", b"1"), ("b", None), ("a", "ü")]
    with Producer(cluster.bootstrap_servers, topic) as producer:
        began = time.monotonic()
        producer.send("välue", "këy", partition=2, headers=headers, on_delivery=reports.append)
        producer.flush(20)
        took = time.monotonic() - began
    (report,) = reports
    (record,) = read_log(cluster.bootstrap_servers, topic)
    assert report.error is None
    assert (report.topic, report.partition, report.offset) == (topic, record.partition, record.offset)
    assert (report.key, report.value) == (record.key, record.value) == ("këy".encode(), "välue".encode())
    assert report.headers == record.headers == [("a", b"1"), ("b", None), ("a", "ü".encode())]
    assert 0 < report.latency_s <= took


def test_topic_of_the_call_is_told(cluster: MockCluster) -> None:
    reports: list[DeliveryReport] = []
    with Producer(cluster.bootstrap_servers) as producer:
        metadata = producer.submit(b"v", topic="another", on_delivery=reports.append).result(20)
        producer.flush()
    assert metadata.topic == "another"
    assert [report.topic for report in reports] == ["another"]


def test_callbacks_come_once_each_in_order_and_on_one_thread(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)
    told: list[tuple[int, int, int]] = []
    threads = set()

    def tell(report: DeliveryReport) -> None:
        threads.add(threading.current_thread())
        assert report.partition is not None
        assert report.offset is not None
        told.append((report.partition, report.offset, int(report.value or b"")))

    with Producer(cluster.bootstrap_servers, topic) as producer:
        for number in range(5000):
            producer.send(b"%d" % number, partition=number % 4, on_delivery=tell)
    assert [thread.name for thread in threads] == [THREAD]
    for partition in range(4):
        mine = [(offset, number) for at, offset, number in told if at == partition]
        assert mine == list(enumerate(range(partition, 5000, 4)))


def test_future_and_callback_of_one_message_are_both_told(cluster: MockCluster, one: str) -> None:
    reports: list[DeliveryReport] = []
    with Producer(cluster.bootstrap_servers, one) as producer:
        futures = [producer.submit(b"%d" % number, on_delivery=reports.append) for number in range(100)]
        producer.flush(20)
        assert [future.result(0).offset for future in futures] == list(range(100))
        assert [report.offset for report in reports] == list(range(100))


def test_without_acknowledgement_there_is_no_offset(cluster: MockCluster, one: str) -> None:
    reports: list[DeliveryReport] = []
    with Producer(cluster.bootstrap_servers, one, config={"acks": 0}) as producer:
        metadata = producer.submit(b"v", on_delivery=reports.append).result(20)
        producer.flush()
    assert (metadata.partition, metadata.offset) == (0, None)
    assert [(report.offset, report.error) for report in reports] == [(None, None)]


INPUTS: dict[str, Callable[[], object]] = {
    "bytes": lambda: b"\1\0\2\0",
    "str": lambda: "\1\0\2\0",
    "bytearray": lambda: bytearray(b"\1\0\2\0"),
    "memoryview": lambda: memoryview(bytearray(b"x\1\0\2\0x"))[1:-1],
    "array": lambda: array.array("h", [1, 2]),
    "numpy": lambda: np.array([[1], [2]], dtype="<i2"),
    "none": lambda: None,
}


def test_report_of_a_failure_has_the_message_as_it_was_sent(one: str) -> None:
    reports: dict[str, DeliveryReport] = {}
    producer = Producer(NOBODY, one, config=SOON)
    for name, make in INPUTS.items():
        value, key = make(), make()
        producer.send(
            value,  # type: ignore[arg-type]
            key,  # type: ignore[arg-type]
            headers={"name": name},
            on_delivery=lambda report, name=name: reports.update({name: report}),  # type: ignore[misc]
        )
        for changeable in (value, key):
            if name not in ("bytes", "str", "none"):
                changeable[0] = 9  # type: ignore[index]
    producer.flush(20)
    assert set(reports) == set(INPUTS)
    for name, report in reports.items():
        expected = None if name == "none" else b"\1\0\2\0"
        assert (report.value, report.key) == (expected, expected)
        assert report.headers == [("name", name.encode())]
        assert (report.topic, report.partition, report.offset) == (one, None, None)
        assert report.error is not None
        assert (report.error.name, report.error.code) == ("_MSG_TIMED_OUT", -192)
        assert 0.1 <= report.latency_s < 3
    producer.stop()


def test_future_of_a_failure_ends_with_its_report(one: str) -> None:
    with Producer(NOBODY, one, config=SOON) as producer:
        future = producer.submit(b"value", b"key", headers={"h": None})
        with pytest.raises(DeliveryError, match="_MSG_TIMED_OUT") as caught:
            future.result(20)
        assert future.exception() is caught.value
        assert (caught.value.name, caught.value.code, caught.value.failed) == ("_MSG_TIMED_OUT", -192, 1)
        report = caught.value.report
        assert report is not None
        assert (report.topic, report.key, report.value, report.headers) == (one, b"key", b"value", [("h", None)])
        assert report.error is not None
        assert report.error.name == "_MSG_TIMED_OUT"


def test_unknown_partition_is_told_to_its_message_alone(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        futures = [producer.submit(b"v", partition=partition) for partition in (0, 7, 0)]
        assert [futures[0].result(20).offset, futures[2].result(20).offset] == [0, 1]
        error = futures[1].exception(20)
        assert isinstance(error, DeliveryError)
        assert error.name == "_UNKNOWN_PARTITION"
        assert error.report is not None
        assert error.report.partition == 7


def test_purge_is_told_and_is_no_failure(one: str) -> None:
    reports: list[DeliveryReport] = []
    with Producer(NOBODY, one) as producer:
        producer.send(b"callback", on_delivery=reports.append)
        future = producer.submit(b"future")
        producer.send(b"plain")
        assert producer.purge() == 3
        producer.flush()
        error = future.exception(0)
        assert isinstance(error, DeliveryError)
        assert error.report is not None
        assert (error.name, error.report.value) == ("_PURGE_QUEUE", b"future")
        assert [(report.value, report.error and report.error.name) for report in reports] == [
            (b"callback", "_PURGE_QUEUE")
        ]
        assert producer.failures() == []
        metrics = producer.metrics()
        assert (metrics.purged, metrics.failed, metrics.outstanding) == (3, 0, 0)


def test_stop_without_time_tells_every_future(one: str) -> None:
    reports: list[DeliveryReport] = []
    producer = Producer(NOBODY, one)
    futures = [producer.submit(b"v", on_delivery=reports.append) for _ in range(3000)]
    with pytest.raises(FlushTimeout) as caught:
        producer.stop(0)
    assert caught.value.outstanding == 3000
    names = Counter(getattr(future.exception(0), "name", None) for future in futures)
    assert set(names) <= {"_PURGE_QUEUE", "_PURGE_INFLIGHT"}
    assert len(reports) == 3000


def test_failures_that_were_told_are_not_told_again(one: str) -> None:
    reports: list[DeliveryReport] = []
    with Producer(NOBODY, one, config=SOON) as producer:
        futures = []
        for _ in range(5):
            producer.send(b"callback", on_delivery=reports.append)
            futures.append(producer.submit(b"future"))
        producer.flush(20)
        assert producer.failures() == []
        futures.append(producer.submit(b"future"))
        for _ in range(3):
            producer.send(b"plain")
        with pytest.raises(DeliveryError) as caught:
            producer.flush(20)
        assert caught.value.failed == 3
        assert [report.value for report in producer.failures()] == [b"plain"] * 3
        assert producer.metrics().failed == 14
    assert len(reports) == 5


def test_failure_in_a_future_that_is_dropped_unread_is_told(one: str) -> None:
    seen: list[object] = []
    with Producer(NOBODY, one, config=SOON, log=False) as producer:
        producer.submit(b"dropped")
        producer.submit(b"watched").add_done_callback(seen.append)
        read = producer.submit(b"read")
        with pytest.raises(DeliveryError) as caught:
            producer.flush(20)
        assert caught.value.failed == 1
        assert caught.value.report is not None
        assert caught.value.report.value == b"dropped"
        assert isinstance(read.exception(0), DeliveryError)
        del read
        assert len(seen) == 1
        seen.clear()
        gc.collect()
        producer.flush()
        assert [report.value for report in producer.failures()] == [b"dropped"]


def test_failures_whose_callbacks_had_no_time_are_told_at_exit() -> None:
    done = run_python(
        f"""
        import time
        from kafka_async import Producer
        producer = Producer({NOBODY!r}, "t", config={{"message.timeout.ms": 300}}, log=False)
        producer.send(b"first", on_delivery=lambda _: time.sleep(60))
        for _ in range(9):
            producer.send(b"v", on_delivery=print)
        future = producer.submit(b"w")
        while producer.metrics().failed < 11:
            time.sleep(0.01)
        """
    )
    assert done.returncode == 0
    assert "10 messages were lost" in done.stderr


def test_submit_while_the_interpreter_ends_does_not_hang() -> None:
    done = run_python(
        f"""
        import kafka_async
        class Last:
            def __init__(self):
                self.producer = kafka_async.Producer({NOBODY!r}, "t", log=False)
            def __del__(self):
                try:
                    self.producer.submit(b"v")
                except kafka_async.ClosedError:
                    print("closed")
        last = Last()
        import sys
        sys.modules["last"] = last
        """,
        limit=20,
    )
    assert done.returncode == 0, done.stderr
    assert "closed" in done.stdout


def test_coroutine_function_as_a_callback_is_told(
    cluster: MockCluster, one: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def never_awaited(report: DeliveryReport) -> None:
        raise AssertionError(report)

    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.send(b"v", on_delivery=never_awaited)
    assert "coroutine function" in caplog.text


# The future as a future


def test_accepted_message_can_not_be_cancelled(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        future = producer.submit(b"v")
        assert future.cancel() is False
        assert not future.cancelled()
        assert future.result(20).offset == 0
        assert future.cancel() is False


def test_future_works_with_the_functions_of_concurrent_futures(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        futures = [producer.submit(b"%d" % number) for number in range(50)]
        assert isinstance(futures[0], concurrent.futures.Future)
        done, not_done = concurrent.futures.wait(futures, 20)
        assert (len(done), len(not_done)) == (50, 0)
        assert {future.result().offset for future in concurrent.futures.as_completed(futures, 20)} == set(range(50))


def test_waiting_for_a_future_has_a_limit(one: str) -> None:
    producer = Producer(NOBODY, one)
    future = producer.submit(b"v")
    with pytest.raises(TimeoutError):
        future.result(0.05)
    with pytest.raises(TimeoutError):
        future.exception(0)
    assert not future.done()
    end(producer)


def test_done_callback_runs_on_the_delivery_thread(cluster: MockCluster, one: str) -> None:
    ran: list[tuple[str, int | None]] = []

    def note(future: concurrent.futures.Future[RecordMetadata]) -> None:
        ran.append((threading.current_thread().name, future.result(0).offset))

    with Producer(cluster.bootstrap_servers, one, config={"linger.ms": 50}) as producer:
        future = producer.submit(b"v")
        future.add_done_callback(note)
        producer.flush(20)
        assert ran == [(THREAD, 0)]
        future.add_done_callback(note)
        assert ran[1:] == [(threading.current_thread().name, 0)]


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


# The end of the producer, of the process


def test_forgotten_producer_still_tells(cluster: MockCluster, one: str) -> None:
    reports: list[DeliveryReport] = []
    producer = Producer(cluster.bootstrap_servers, one, config={"linger.ms": 100})
    futures = [producer.submit(b"%d" % number, on_delivery=reports.append) for number in range(500)]
    alive = weakref.ref(producer)
    del producer
    gc.collect()
    assert alive() is None
    assert [future.result(20).offset for future in futures] == list(range(500))
    wait_for(lambda: len(reports) == 500)


def test_forgotten_producer_tells_failures_too(one: str) -> None:
    producer = Producer(NOBODY, one, config=SOON)
    futures = [producer.submit(b"v") for _ in range(5)]
    del producer
    gc.collect()
    assert {type(future.exception(20)) for future in futures} == {DeliveryError}


def test_exit_runs_pending_callbacks(cluster: MockCluster) -> None:
    done = run_python(
        """
        import sys
        from kafka_async import Producer
        told = []
        def tell(report):
            told.append(report.error)
            if len(told) == 1000:
                print("callbacks", set(told), flush=True)
        producer = Producer(sys.argv[1], "exit", config={"linger.ms": 300})
        for number in range(1000):
            producer.send(b"v", on_delivery=tell)
        producer.submit(b"v").add_done_callback(lambda future: print("future", future.result(0).topic, flush=True))
        assert not told
        """,
        cluster.bootstrap_servers,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["callbacks {None}", "future exit"]


def test_exit_runs_pending_callbacks_of_a_forgotten_producer() -> None:
    done = run_python(
        """
        import sys
        from kafka_async import Producer
        def send():
            producer = Producer(sys.argv[1], "t", config={"message.timeout.ms": 100})
            for number in range(3):
                producer.send(b"v", on_delivery=lambda report: print(report.error.name, flush=True))
        send()
        """,
        NOBODY,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "_MSG_TIMED_OUT\n" * 3)


def test_future_in_a_forked_child_says_so() -> None:
    done = run_python(
        """
        import os, sys
        from kafka_async import DeliveryError, FlushTimeout, ForkedError, Producer
        producer = Producer(sys.argv[1], "t")
        purged = producer.submit(b"purged")
        producer.purge()
        assert isinstance(purged.exception(10), DeliveryError)
        future = producer.submit(b"v", on_delivery=lambda report: print("told", flush=True))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                calls = [future.result, lambda: future.result(0), lambda: future.exception(5),
                         lambda: producer.submit(b"w"), lambda: producer.send(b"w", on_delivery=print),
                         lambda: producer.send_many([b"w"]), producer.flush, producer.purge]
                for number, call in enumerate(calls):
                    try:
                        call()
                        print("no error from call", number, file=sys.stderr)
                        break
                    except ForkedError:
                        continue
                else:
                    assert isinstance(purged.exception(0), DeliveryError)  # it was told before
                    producer.stop()
                    code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert not future.done()
        try:
            producer.stop(0)
        except FlushTimeout as error:
            assert error.outstanding == 1
        assert isinstance(future.exception(0), DeliveryError)
        """,
        NOBODY,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "told\n")


def test_forked_child_has_results_of_its_own(cluster: MockCluster) -> None:
    done = run_python(
        """
        import os, sys
        from kafka_async import Producer
        producer = Producer(sys.argv[1], "fork")
        producer.submit(b"parent", partition=0).result(20)  # the parent has a delivery thread
        child = os.fork()
        if child == 0:
            new = Producer(sys.argv[1], "fork")
            new.submit(b"child", partition=0).result(20)
            new.send(b"at exit", partition=0, on_delivery=lambda report: print(report.offset, flush=True))
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(producer.submit(b"parent", partition=0).result(20).offset)
        """,
        cluster.bootstrap_servers,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "2\n3\n")


# All of it at once


def test_results_of_many_messages_from_many_threads_are_exact(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)
    told: Counter[bytes] = Counter()
    where: dict[bytes, tuple[int | None, int | None]] = {}
    futures: list[list[tuple[bytes, concurrent.futures.Future[RecordMetadata]]]] = [[] for _ in range(4)]

    def tell(report: DeliveryReport) -> None:
        assert report.value is not None
        told[report.value] += 1
        where[report.value] = report.partition, report.offset

    def send(sender: int) -> None:
        for number in range(5000):
            value = b"%d-%d" % (sender, number)
            if number % 10 == 0:
                futures[sender].append((value, producer.submit(value, partition=sender, on_delivery=tell)))
            else:
                producer.send(value, partition=sender, on_delivery=tell)

    with Producer(cluster.bootstrap_servers, topic, queue_messages=1000, on_full="block") as producer:
        senders = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        producer.flush(30)
        assert len(told) == 20_000
    assert set(told.values()) == {1}
    assert {value for mine in futures for value, future in mine if where[value] != future.result(0)[1:3]} == set()
    log = read_log(cluster.bootstrap_servers, topic)
    assert {record.value: (record.partition, record.offset) for record in log} == where
    for partition in range(4):
        written = [record.value for record in log if record.partition == partition]
        assert written == [b"%d-%d" % (partition, number) for number in range(5000)]
    metrics = producer.metrics()
    assert (metrics.accepted, metrics.delivered, metrics.failed, metrics.purged) == (20_000, 20_000, 0, 0)


def test_failures_told_to_one_thread_hide_none_from_another(cluster: MockCluster, one: str) -> None:
    """One thread fetches failures while another one flushes: afterwards a new one is still raised."""
    fetched: list[bytes | None] = []
    done = threading.Event()

    def fetch() -> None:
        while not done.is_set():
            fetched.extend(report.value for report in producer.failures())

    def flush() -> None:
        while not done.is_set():
            with contextlib.suppress(DeliveryError):
                producer.flush(20)

    interval = sys.getswitchinterval()
    producer = Producer(cluster.bootstrap_servers, one)
    producer.submit(b"v").result(20)
    both = [Running(fetch), Running(flush)]
    sys.setswitchinterval(1e-5)
    try:
        for number in range(4000):
            producer.send(b"%d" % number, partition=7)
            if number % 20 == 0:
                wait_for(lambda: producer.metrics().outstanding == 0)
                wait_for(partial(lambda least: len(fetched) > least, number - 500))  # fewer than are kept
    finally:
        done.set()
        sys.setswitchinterval(interval)
        for running in both:
            running.join()
            assert running.error is None
    with contextlib.suppress(DeliveryError):
        producer.flush(20)
    fetched.extend(report.value for report in producer.failures())
    assert sorted(fetched, key=lambda value: int(value or b"")) == [b"%d" % number for number in range(4000)]
    for number in range(20):  # were some counted as told beforehand, nobody would be told of the first ones
        producer.send(b"another", partition=7)
        with pytest.raises(DeliveryError):
            producer.flush(20)
        assert len(producer.failures()) == 1, number
    producer.stop()


def test_failures_of_an_aborted_transaction_hide_none_of_the_next(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, config={"transactional.id": one}) as producer:
        producer.init_transactions(20)
        for _ in range(2):
            producer.begin_transaction()
            for _ in range(3):
                producer.send(b"bad", partition=7)
            wait_for(lambda: producer.metrics().outstanding == 0)
            with pytest.raises(DeliveryError) as caught:
                producer.flush(20)
            assert caught.value.failed == 3
            producer.abort_transaction(20)
            assert producer.failures() != []
            producer.begin_transaction()
            producer.send(b"bad", partition=7)
            wait_for(lambda: producer.metrics().outstanding == 0)
            producer.abort_transaction(20)  # counts as told
            producer.flush(20)
            assert [report.value for report in producer.failures()] == [b"bad"]


def test_payloads_of_callbacks_that_do_not_keep_up_are_bounded_in_bytes() -> None:
    """Messages leave the bounds with their outcome, what is kept for their callbacks has one of its own."""
    release = threading.Event()
    producer = Producer(NOBODY, "t", queue_bytes=100_000, log=False)
    sent = 0
    try:
        producer.send(b"first", on_delivery=lambda _: release.wait(30))
        with pytest.raises(QueueFull, match="callbacks"):
            for _ in range(100):
                producer.send(bytes(10_000), on_delivery=lambda _: None)
                sent += 1
                producer.purge()
        assert sent <= 20
        producer.send(bytes(10_000))  # one without a callback finds room
    finally:
        release.set()
        with contextlib.suppress(FlushTimeout):
            producer.stop(0)
