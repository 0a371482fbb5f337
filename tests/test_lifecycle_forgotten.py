"""What nobody stops: daemon threads that go on while the interpreter ends, objects that the garbage collector finds.

``KAFKA_ASYNC_TIMES=20 pytest tests/test_lifecycle_forgotten.py`` repeats the ends 20 times as often.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_cluster import shared_cluster as shared_cluster
from support import NOBODY, read, reader, run_python, wait_for

from kafka_async import Consumer, Producer, aio
from kafka_async.testing import MockCluster

TIMES = int(os.environ.get("KAFKA_ASYNC_TIMES", "1"))
SOON_S = 0.5  # nothing waits; the rest is the machine's


@pytest.mark.timeout(100 + 60 * TIMES)
def test_daemon_threads_that_go_on_while_the_interpreter_ends_crash_nothing(cluster: MockCluster, one: str) -> None:
    """Many ends of forked children: each a whole finalization, which is cheaper than a whole program."""
    done = run_python(
        """
        import faulthandler, os, sys, threading, time
        import forked
        from kafka_async import ClosedError, Consumer, Producer, QueueFull

        def forever(call):
            def run():
                while True:
                    try:
                        call()
                    except (ClosedError, QueueFull):
                        time.sleep(0)
            threading.Thread(target=run, daemon=True).start()

        def main(number):
            odd = number % 2
            producer = Producer(*sys.argv[1:3], queue_messages=20, on_full="block" if odd else "raise", log=not odd)
            consumer = Consumer(*sys.argv[1:3], log=False)
            forever(lambda: producer.send(b"v"))
            forever(lambda: producer.send(b"v", b"k", on_delivery=lambda report: None))
            forever(lambda: producer.send_many([b"v"] * 10))
            forever(lambda: producer.submit(b"v").exception() if odd else producer.submit(b"v"))
            forever(lambda: consumer.poll_message(0.001 if odd else None))
            forever(lambda: producer.flush(None))
            time.sleep(number % 5 * 0.004)

        faulthandler.enable()
        for number in range(int(sys.argv[3])):
            if (child := os.fork()) == 0:
                main(number)
                sys.exit(0)
            forked.wait(child)
        """,
        cluster.bootstrap_servers,
        one,
        str(20 * TIMES),
        env={"PYTHONPATH": str(Path(__file__).parent)},
        limit=90 + 60 * TIMES,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_what_a_daemon_thread_sent_until_the_end_is_delivered(cluster: MockCluster, one: str) -> None:
    done = run_python(
        """
        import os, sys, threading, time
        from kafka_async import ClosedError, Producer
        producer = Producer(*sys.argv[1:3])
        begun = threading.Event()
        def send():
            try:
                while True:
                    producer.send(b"v")
                    os.write(1, b".")
                    begun.set()
                    time.sleep(0.0005)
            except ClosedError:
                pass
        threading.Thread(target=send, daemon=True).start()
        begun.wait()
        time.sleep(0.05)
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with reader(cluster.bootstrap_servers, one) as consumer:
        read(consumer, len(done.stdout))
        # The thread may have been stopped for good between a send and its dot.
        assert consumer.poll_message(0.2) is None or consumer.poll_message(0.2) is None


class Kept:
    """Holds an object that is forgotten: in a cycle, or alone."""

    def __init__(self, thing: Any, *, cycle: bool) -> None:
        self.thing = thing
        self.me = self if cycle else None


@pytest.fixture
def _no_garbage() -> Iterator[None]:
    """Only the tests collect."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def forget(kept: list[Kept], thread: str) -> float:
    """Drop the only reference, here or on a thread of its own. Returns how long that took."""
    alive, took = weakref.ref(kept[0].thing), []

    def drop() -> None:
        began = time.monotonic()
        kept.clear()
        gc.collect()
        took.append(time.monotonic() - began)

    if thread == "here":
        drop()
    else:
        dropping = threading.Thread(target=drop)
        dropping.start()
        dropping.join(20)
    assert alive() is None
    return took[0]


@pytest.mark.parametrize("thread", ["here", "elsewhere"])
@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.usefixtures("_no_garbage")
def test_forgotten_object_is_gone_at_once_and_still_delivers(
    cluster: MockCluster, one: str, thread: str, cycle: bool, there: bool
) -> None:
    servers = cluster.bootstrap_servers if there else NOBODY
    producers = [Kept(Producer(servers, one, config={"linger.ms": 60_000}), cycle=cycle)]
    consumers = [Kept(Consumer(servers, one), cycle=cycle)]
    told: list[Any] = []
    for _ in range(100):
        producers[0].thing.send(b"v")
    future = producers[0].thing.submit(b"v", on_delivery=told.append)
    gc.collect()
    assert forget(producers, thread) < SOON_S
    assert forget(consumers, thread) < SOON_S
    if there:
        with reader(servers, one) as consumer:
            assert len(read(consumer, 101)) == 101
        assert future.result(20).topic == one
        wait_for(lambda: told)


@pytest.mark.parametrize("thread", ["here", "elsewhere"])
@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.usefixtures("_no_garbage")
def test_forgotten_object_of_asyncio_is_gone_at_once_and_still_delivers(
    cluster: MockCluster, one: str, thread: str, cycle: bool
) -> None:
    async def main() -> None:
        producers = [Kept(aio.Producer(cluster.bootstrap_servers, one), cycle=cycle)]
        consumers = [Kept(aio.Consumer(cluster.bootstrap_servers, one), cycle=cycle)]
        for _ in range(100):
            producers[0].thing.send_nowait(b"v")
        future = producers[0].thing.submit(b"v")
        assert await consumers[0].thing.poll_message(0.01) is None
        gc.collect()
        assert forget(producers, thread) < SOON_S
        assert forget(consumers, thread) < SOON_S
        assert (await asyncio.wait_for(future, 20)).topic == one

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a record of it would keep them
        asyncio.run(main())
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert len(read(consumer, 101)) == 101
