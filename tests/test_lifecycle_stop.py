"""``stop`` from wherever it may come: other threads, two at once, callbacks, ``__del__``, signal handlers, atexit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from loops import fails
from loops import run as run_loop
from outcomes import Running
from shared_cluster import shared_cluster as shared_cluster
from support import NOBODY, read, reader, run_python, send_all, wait_for

from kafka_async import ClosedError, Consumer, DeliveryReport, FlushTimeout, Producer, QueueFull, TopicPartition, aio
from kafka_async.testing import MockCluster

EARLIEST = {"auto.offset.reset": "earliest"}


def values(cluster: MockCluster, topic: str, count: int) -> list[bytes | None]:
    with reader(cluster.bootstrap_servers, topic) as consumer:
        return [message.value for message in read(consumer, count)]


def test_consumer_is_stopped_by_several_threads_at_once(cluster: MockCluster, one: str) -> None:
    """Each returns when it is closed: what was handed out is committed."""
    send_all(cluster.bootstrap_servers, one, [b"0", b"1"])
    consumer = Consumer(cluster.bootstrap_servers, group_id=one, config=EARLIEST)
    consumer.assign([TopicPartition(one, 0, 0)])
    read(consumer, 2)
    cluster.set_round_trip(1, 0.3)
    try:
        begin = threading.Barrier(4)
        stops = [Running(lambda: (begin.wait(), consumer.stop())) for _ in range(3)]
        begin.wait()
        for stop in stops:
            stop.join()
            assert stop.error is None
        with pytest.raises(ClosedError):
            consumer.poll_message(0)
    finally:
        cluster.set_round_trip(1, 0)
    with Consumer(cluster.bootstrap_servers, group_id=one) as other:
        (committed,) = other.committed([TopicPartition(one, 0)], 20)
        assert committed.offset == 1  # the message in hand was another thread's


@pytest.mark.parametrize("kind", ["producer", "consumer"])
def test_tasks_stop_at_once(cluster: MockCluster, one: str, kind: str) -> None:
    async def main() -> None:
        made: Any = (aio.Producer if kind == "producer" else aio.Consumer)(cluster.bootstrap_servers, one)
        if kind == "producer":
            made.send_nowait(b"v")
        await asyncio.gather(*(made.stop() for _ in range(5)))
        await made.stop()
        error = await fails(made.send(b"w") if kind == "producer" else made.poll_message(0), ClosedError)
        assert "is stopped" in str(error)

    run_loop(main())
    if kind == "producer":
        assert values(cluster, one, 1) == [b"v"]


@pytest.mark.parametrize("kind", ["producer", "consumer"])
def test_stop_of_asyncio_from_another_thread_is_refused_and_harms_nothing(
    cluster: MockCluster, one: str, kind: str
) -> None:
    async def main() -> None:
        made: Any = (aio.Producer if kind == "producer" else aio.Consumer)(cluster.bootstrap_servers, one)
        stop = Running(lambda: asyncio.run(made.stop()))
        await asyncio.to_thread(stop.join)
        assert "belongs to the event loop" in str(stop.error)
        assert await made.lag(5) == {} if kind == "consumer" else (await made.send(b"v")).topic == one
        await made.stop()

    run_loop(main())


def test_delivery_callback_stops_the_other_objects_and_its_own(cluster: MockCluster, one: str) -> None:
    consumer = Consumer(cluster.bootstrap_servers, one)
    other = Producer(cluster.bootstrap_servers, one)
    producer = Producer(cluster.bootstrap_servers, one)
    failed: list[BaseException] = []
    done = threading.Event()

    def stop(_: DeliveryReport) -> None:
        try:
            for each in (consumer, other, producer):
                each.stop(20)
        except BaseException as error:
            failed.append(error)
        done.set()

    other.send(b"other")
    producer.send(b"own", on_delivery=stop)
    assert done.wait(20)
    assert failed == []
    assert sorted(values(cluster, one, 2)) == [b"other", b"own"]  # type: ignore[type-var]
    with pytest.raises(ClosedError):
        producer.send(b"late")


def test_callback_on_the_loop_may_have_its_producer_stopped(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        producer = aio.Producer(cluster.bootstrap_servers, one)
        tasks: list[asyncio.Task[None]] = []
        producer.send_nowait(b"v", on_delivery=lambda _: tasks.append(asyncio.create_task(producer.stop())))
        while not tasks:
            await asyncio.sleep(0.01)
        await tasks[0]

    run_loop(main())
    assert values(cluster, one, 1) == [b"v"]


@pytest.mark.parametrize("when", ["on_assign", "on_revoke"])
def test_rebalance_callback_stops_others_and_not_its_own(cluster: MockCluster, one: str, when: str) -> None:
    producer = Producer(cluster.bootstrap_servers, one)
    producer.send(b"v")
    refused: list[str] = []

    def callback(consumer: Consumer, _: list[TopicPartition]) -> None:
        try:
            consumer.stop()
        except RuntimeError as error:
            refused.append(str(error))
        producer.stop(20)

    options: dict[str, Any] = {when: callback}
    with Consumer(cluster.bootstrap_servers, one, group_id=one, config=EARLIEST, **options) as consumer:
        assert [message.value for message in read(consumer, 1)] == [b"v"] if when == "on_assign" else True
        wait_for(lambda: consumer.poll_message(0.1) is None and consumer.assignment(), 20)
    assert refused == ["stop can't be called from within a rebalance callback"]


class Owner:
    """Stops what it owns when it is collected, in a cycle."""

    def __init__(self, *owned: Producer | Consumer) -> None:
        self.owned, self.me = owned, self

    def __del__(self) -> None:
        for each in self.owned:
            each.stop(20)


@pytest.mark.parametrize("thread", ["main", "another", "delivery"])
def test_stop_in_a_finalizer(cluster: MockCluster, one: str, thread: str) -> None:
    producer, consumer = Producer(cluster.bootstrap_servers, one), Consumer(cluster.bootstrap_servers, one)
    producer.send(b"v")
    owner = [Owner(producer, consumer)]
    collecting = Producer(cluster.bootstrap_servers, one)
    done = threading.Event()

    def collect(*_: object) -> None:
        owner.clear()
        gc.collect()
        done.set()

    if thread == "main":
        collect()
    elif thread == "another":
        threading.Thread(target=collect).start()
    else:
        collecting.send(b"w", on_delivery=collect)
    assert done.wait(20)
    collecting.stop()
    with pytest.raises(ClosedError):
        producer.send(b"late")
    assert b"v" in values(cluster, one, 1 + (thread == "delivery"))


def full() -> Producer:
    producer = Producer(NOBODY, "t", queue_messages=1, on_full="block", log=False)
    producer.send(b"v")
    return producer


# What waits while the handler of a signal stops its object, and the error it ends with.
WAITS: dict[str, tuple[Callable[[], Any], Callable[[Any], object], type[Exception]]] = {
    "flush": (full, lambda p: p.flush(None), ClosedError),
    "send": (full, lambda p: p.send(b"w"), ClosedError),
    "partitions": (full, lambda p: p.partitions("t", None), ClosedError),
    "poll_message": (lambda: Consumer(NOBODY, "t", log=False), lambda c: c.poll_message(None), ClosedError),
    "poll_batch": (lambda: Consumer(NOBODY, "t", log=False), lambda c: c.poll_batch(1, None), ClosedError),
    "iteration": (lambda: Consumer(NOBODY, "t", log=False), next, StopIteration),  # type: ignore[dict-item]
    "watermarks": (lambda: Consumer(NOBODY, log=False), lambda c: c.watermarks("t", 0, 60), ClosedError),
    "stop": (full, lambda p: p.stop(None), QueueFull),  # which it is not: it returns
}


@pytest.mark.parametrize("name", WAITS)
def test_signal_handler_stops_what_is_waited_for(name: str) -> None:
    make, call, kind = WAITS[name]
    made = make()

    def handle(*_: object) -> None:
        with contextlib.suppress(FlushTimeout):
            made.stop(0)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        began = time.monotonic()
        with pytest.raises(kind) if name != "stop" else contextlib.nullcontext():
            call(made)
        assert time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ClosedError):
        made.send(b"late") if isinstance(made, Producer) else made.poll_message(0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_stop_at_exit_before_and_after_everything_is_closed(cluster: MockCluster, one: str, when: str) -> None:
    """What is registered after the import runs before ours, and the other way round."""
    register = "atexit.register(late)"
    done = run_python(
        f"""
        import atexit, sys
        def late():
            producer.stop()
            consumer.stop()
            print("stopped", producer.metrics().delivered, flush=True)
        {register if when == "after" else ""}
        from kafka_async import Consumer, Producer
        {register if when == "before" else ""}
        producer = Producer(*sys.argv[1:])
        producer.send(b"v", on_delivery=lambda report: None)
        consumer = Consumer(*sys.argv[1:])
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped 1\n", "")
