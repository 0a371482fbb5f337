"""Outcomes are told at the end of the producer and of the process, and exact when all happens at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from other_client import read_log
from outcomes import SOON, Running
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, run_python, wait_for

from kafka_async import DeliveryError, DeliveryReport, FlushTimeout, Producer, QueueFull, RecordMetadata, _producer
from kafka_async._native import lib
from kafka_async._wait import run, wait
from kafka_async.testing import MockCluster

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


class Late:
    """Waits until there is an answer, and then says that the time is over."""

    async def until(self, block: Callable[[int], int], *_: object) -> int:
        assert wait(block, 20) >= 0
        return int(lib.KA_TIMEOUT)


def test_what_is_purged_as_the_time_is_over_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, exited = (Producer(NOBODY, "t", log=False) for _ in range(2))
    for producer in (stopped, exited):
        producer.send_many([b"v"] * 1000)
        assert producer.purge() == 1000
        producer.send_many([b"v"] * 300)
    stopped._waits = Late()  # type: ignore[assignment]
    with pytest.raises(FlushTimeout) as caught:
        stopped.stop(0)
    assert caught.value.outstanding == 300
    monkeypatch.setattr(_producer, "wait", lambda block, _: run(Late().until(block)))
    exited._begin_exit(0)
    assert exited._end_exit(0) == 300


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
