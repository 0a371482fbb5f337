"""Every call of the facade without memory: run by test_memory.py, with tests/native/alloc_preload.c preloaded."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import sys
import uuid
from collections.abc import Callable
from typing import Any

from kafka_async import Consumer, FlushTimeout, MessageBatch, Producer, TopicPartition, _native, aio
from kafka_async.testing import MockCluster

BIG = 1_500_000  # above what the consumer's ring takes

_preloaded = ctypes.CDLL(None)
_preloaded.alloc_arm.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int]
_preloaded.alloc_disarm.restype = ctypes.c_int64
_cpu = min(os.sched_getaffinity(0))


def exhaust(
    name: str,
    call: Callable[[], Any],
    undo: Callable[[Any], Any] = lambda _: None,
    late: tuple[type[Exception], ...] = (),
) -> None:
    """Have the first, the second ... native allocation of a call fail, alone and with all that follow.

    It must raise MemoryError, or do its work all the same; `late` is what else it may say of a worker without memory.
    """
    for everything in (False, True):
        for number in itertools.count(1):
            assert _preloaded.alloc_arm(_native.__file__.encode(), number, everything)
            refused: object = None
            try:
                result = call()
            except (MemoryError, *late) as error:
                refused = str(error) or error
            failed = _preloaded.alloc_disarm()
            assert failed or refused is None, f"{name}: an error without a reason: {refused}"
            assert refused is None or isinstance(refused, str), f"{name}: an error without a word: {refused!r}"
            if refused is None:
                undo(result)
            if not failed:
                break
            assert number < 100, f"{name} has no end"
            print(name, number, "all" if everything else "one", "done" if refused is None else "refused", flush=True)


def read(consumer: Consumer, poll: Callable[[Consumer], int], count: int) -> None:
    """Read so many messages; being told that there was no memory for one is no loss."""
    for attempt in itertools.count():
        assert attempt < 100
        with contextlib.suppress(MemoryError):
            count -= poll(consumer)
            if count <= 0:
                return
            continue
        _preloaded.alloc_disarm()


def producer(cluster: MockCluster) -> None:
    servers, names = cluster.bootstrap_servers, (f"t{number}" for number in itertools.count())
    exhaust("MockCluster", MockCluster, MockCluster.stop)
    exhaust("Producer", lambda: Producer(servers, "t", config={"linger.ms": 1}, cpu=_cpu), Producer.stop)
    exhaust("Producer", lambda: Producer(servers, "t", partitioner=lambda *_: 0), Producer.stop)
    with Producer(servers, "t", config={"linger.ms": 1000}) as p:
        exhaust("send", lambda: p.send(b"x", topic=next(names)))
        exhaust("partitions", lambda: p.partitions("t"))
        exhaust("warm_up", lambda: p.warm_up(next(names)))
        p.flush()
        before = p.metrics()
        count = 0

        def submit() -> None:
            nonlocal count
            futures = [p.submit(b"x", headers=[("a", b"b")]) for _ in range(600)]
            count += len(futures)
            try:
                p.flush(0.5)
            finally:
                pending.extend(futures)

        pending: list[Any] = []
        exhaust("submit and flush", submit, late=(FlushTimeout,))
        p.flush(20)
        assert len([future.result(1) for future in pending]) == count
        assert p.metrics().delivered == before.delivered + count
        exhaust("purge", p.purge)
    transactional = {"transactional.id": uuid.uuid4().hex}

    def init() -> None:
        with Producer(servers, "t", config=transactional) as p:
            p.init_transactions(10)

    exhaust("init_transactions", init)
    with (
        Producer(servers, "t", config=transactional) as p,
        Consumer(servers, group_id="x", config={"enable.auto.commit": False}) as c,
    ):
        p.init_transactions(10)
        exhaust("begin_transaction", p.begin_transaction, lambda _: p.abort_transaction(10))
        p.begin_transaction()
        offsets = [TopicPartition("t", 0, 1)]
        exhaust("send_offsets_to_transaction", lambda: p.send_offsets_to_transaction(c, offsets))
        exhaust("commit_transaction", lambda: p.commit_transaction(10), lambda _: p.begin_transaction())
        exhaust("abort_transaction", lambda: p.abort_transaction(10), lambda _: p.begin_transaction())
        p.abort_transaction(10)


def consumer(cluster: MockCluster) -> None:
    servers = cluster.bootstrap_servers
    with Producer(servers, "t", config={"message.max.bytes": 2_000_000}) as p:
        for value in (b"small", bytes(BIG), b"small"):
            p.send(value, partition=0)
    options = {"auto.offset.reset": "earliest", "enable.auto.commit": False}
    exhaust("Consumer", lambda: Consumer(servers, "t", config=options, cpu=_cpu), Consumer.stop)
    with Consumer(servers, group_id="g", config=options) as c:
        begin = TopicPartition("t", 0, 0)
        where = [TopicPartition("t", 0)]
        others = (TopicPartition(f"o{number}", number) for number in itertools.count(1))
        exhaust("assign", lambda: c.assign([begin, next(others)]))
        exhaust("incremental_assign", lambda: c.incremental_assign([next(others)]))
        c.assign([begin])
        exhaust("poll_message", lambda: read(c, lambda c: c.poll_message(0.1) is not None, 3), lambda _: c.seek(begin))
        exhaust("poll_batch", lambda: read(c, poll_batch, 3), lambda _: c.seek(begin))
        exhaust("seek", lambda: c.seek(begin))
        exhaust("pause", lambda: c.pause(where))
        exhaust("resume", lambda: c.resume(where))
        exhaust("commit", lambda: c.commit(offsets=[TopicPartition("t", 0, 2)]))
        exhaust("commit", lambda: c.commit(offsets=[TopicPartition("t", 0, 2)], asynchronous=True).result(5))
        exhaust("committed", lambda: c.committed(where))
        exhaust("position", lambda: c.position(where))
        exhaust("watermarks", lambda: c.watermarks("t", 0))
        exhaust("offsets_for_times", lambda: c.offsets_for_times([TopicPartition("t", 0, 5)]))
        exhaust("lag", c.lag)
        exhaust("lag", lambda: c.lag(5))
        exhaust("subscribe", lambda: c.subscribe(["t"]))
        exhaust("unsubscribe", c.unsubscribe)
    with Consumer(servers, config=options) as c:
        exhaust("subscribe", lambda: c.subscribe(["t", "u"]))


def poll_batch(consumer: Consumer) -> int:
    batch: MessageBatch = consumer.poll_batch(10, 0.1)
    return len(batch)


def looped(cluster: MockCluster) -> None:
    servers = cluster.bootstrap_servers

    async def use_producer() -> None:
        async with aio.Producer(servers, "t") as p:
            p.send_nowait(b"x")
            with contextlib.suppress(FlushTimeout):
                await p.flush(0.1)
            _preloaded.alloc_disarm()
            await p.flush(10)

    async def use_consumer() -> None:
        async with aio.Consumer(servers, "t", config={"auto.offset.reset": "earliest"}) as c:
            if await c.poll_message(0.1) is None:
                _preloaded.alloc_disarm()
                assert await c.poll_message(10)

    # A bell that there is no descriptor for is an OSError.
    exhaust("aio.Producer", lambda: asyncio.run(use_producer()), late=(OSError,))
    exhaust("aio.Consumer", lambda: asyncio.run(use_consumer()), late=(OSError,))


if __name__ == "__main__":
    with MockCluster(topics={"t": 2, "u": 1}) as cluster:
        {"producer": producer, "consumer": consumer, "asyncio": looped}[sys.argv[1]](cluster)
