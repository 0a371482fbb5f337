"""Outcomes by future and callback: each told once, in order, and what the future of one can do."""

from __future__ import annotations

import array
import concurrent.futures
import functools
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from other_client import read_log
from outcomes import SOON, THREAD
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, end, run_python

from kafka_async import Delivery, DeliveryError, DeliveryReport, FlushTimeout, Producer, RecordMetadata
from kafka_async.testing import MockCluster

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
        with pytest.raises(TypeError, match="coroutine function"):
            producer.send(b"v", on_delivery=never_awaited)
        producer.send(b"v", on_delivery=functools.partial(never_awaited))  # which only a call of it shows
    assert producer.metrics().accepted == 1
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


def test_a_future_whose_constructor_was_interrupted_ends_without_a_word() -> None:
    unfinished = Delivery.__new__(Delivery)
    del unfinished  # what it can't do in its end would be an unraisable exception, which fails the test
