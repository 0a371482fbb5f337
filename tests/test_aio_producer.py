"""The producer of asyncio: awaited sends, futures, back-pressure, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from loops import fails, newer, run, until
from shared_cluster import shared_cluster as shared_cluster
from support import NOBODY, read, reader, wait_for

from kafka_async import (
    ClosedError,
    ConfigError,
    DeliveryError,
    DeliveryReport,
    FlushTimeout,
    MessageTooLarge,
    QueueFull,
    Record,
    TransactionError,
    aio,
)
from kafka_async.testing import MockCluster


def values(cluster: MockCluster, topic: str, count: int, **config: Any) -> list[Any]:
    with reader(cluster.bootstrap_servers, topic, config=config) as consumer:
        return [message.value for message in read(consumer, count)]


@pytest.fixture
def t() -> Iterator[MockCluster]:
    """A cluster that may be told to fail, with the topic t."""
    with MockCluster(topics={"t": 1}) as cluster:
        yield cluster


@pytest.mark.parametrize("debug", [False, True])
def test_awaited_send_returns_where_the_message_is(cluster: MockCluster, one: str, debug: bool) -> None:
    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one) as producer:
            for number in range(5):
                metadata = await producer.send(b"%d" % number, b"key", headers=[("h", b"1")])
                assert metadata[:3] == (one, 0, number)
            assert producer.metrics().delivered == 5

    run(main(), debug=debug)
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert [(m.value, m.key, m.headers) for m in read(consumer, 5)] == [
            (b"%d" % number, b"key", [("h", b"1")]) for number in range(5)
        ]


def test_gathered_sends_keep_their_order_and_know_their_places(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one) as producer:
            found = await asyncio.gather(*(producer.send(b"%d" % number) for number in range(20_000)))
            assert [metadata.offset for metadata in found] == list(range(20_000))

    run(main())
    assert values(cluster, one, 20_000) == [b"%d" % number for number in range(20_000)]


@pytest.mark.parametrize("debug", [False, True])
def test_submit_and_send_nowait_and_send_many(cluster: MockCluster, one: str, debug: bool) -> None:
    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one) as producer:
            producer.send_nowait(b"0")
            producer.send_nowait("1", b"key")
            futures = [producer.submit(b"%d" % number) for number in range(2, 5)]
            assert all(isinstance(future, asyncio.Future) and not future.done() for future in futures)
            assert await producer.send_many([b"5", Record("6", key=b"k")]) == 2
            await producer.flush()
            assert [future.result().offset for future in futures] == [2, 3, 4]

    run(main(), debug=debug)
    assert values(cluster, one, 7) == [b"%d" % number for number in range(7)]


def test_callbacks_run_on_the_loops_thread_and_flush_waits_for_them(cluster: MockCluster, one: str) -> None:
    seen: list[tuple[int, DeliveryReport]] = []

    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one) as producer:
            for number in range(1000):
                producer.send_nowait(
                    b"%d" % number, on_delivery=lambda report: seen.append((threading.get_ident(), report))
                )
            await producer.flush()
            assert len(seen) == 1000

    run(main())
    assert {ident for ident, _ in seen} == {threading.get_ident()}
    assert [report.value for _, report in seen] == [b"%d" % number for number in range(1000)]


def test_no_thread_of_pythons_is_started(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        before = set(threading.enumerate())
        async with (
            aio.Producer(cluster.bootstrap_servers, one, log=False) as producer,
            aio.Consumer(
                cluster.bootstrap_servers, one, log=False, config={"auto.offset.reset": "earliest"}
            ) as consumer,
        ):
            await producer.send(b"v")
            assert await consumer.poll_message(10) is not None
            await consumer.lag(5)
            assert set(threading.enumerate()) == before

    run(main())


# ---------------------------------------------------------------- failures


def test_failures_reach_whoever_awaits_and_flush_tells_of_the_others(t: MockCluster) -> None:
    async def main() -> None:
        async with aio.Producer(t.bootstrap_servers, "t") as producer:
            t.fail_next("Produce", ["TOPIC_AUTHORIZATION_FAILED"] * 2)
            error = await fails(producer.send(b"told"), DeliveryError)
            assert isinstance(error, DeliveryError)
            assert error.report is not None
            assert error.report.value == b"told"
            await producer.flush()
            producer.send_nowait(b"untold")
            error = await fails(producer.flush(), DeliveryError)
            assert isinstance(error, DeliveryError)
            assert error.failed == 1
            assert [report.value for report in producer.failures()] == [b"untold"]

    run(main())


def test_failure_of_a_cancelled_send_counts_as_told_to_nobody(t: MockCluster) -> None:
    async def main() -> None:
        async with aio.Producer(t.bootstrap_servers, "t") as producer:
            t.fail_next("Produce", ["TOPIC_AUTHORIZATION_FAILED"])
            task = asyncio.create_task(producer.send(b"v"))
            await until(lambda: producer.metrics().accepted == 1)
            task.cancel()
            await fails(task, asyncio.CancelledError)
            error = await fails(producer.flush(), DeliveryError)
            assert isinstance(error, DeliveryError)
            assert error.failed == 1
            assert [report.value for report in producer.failures()] == [b"v"]

    run(main())


def test_failure_in_a_future_that_is_dropped_unread_is_told_by_flush(t: MockCluster) -> None:
    async def main() -> None:
        async with aio.Producer(t.bootstrap_servers, "t") as producer:
            for read in (False, True):
                t.fail_next("Produce", ["TOPIC_AUTHORIZATION_FAILED"])
                future = producer.submit(b"v")
                await asyncio.wait([future])
                if read:
                    assert future.exception() is not None
                del future
                if read:
                    await producer.flush()
                    continue
                error = await fails(producer.flush(), DeliveryError)
                assert isinstance(error, DeliveryError)
                assert error.failed == 1

    run(main())


def test_failure_that_comes_together_with_a_cancellation_is_told_by_flush(t: MockCluster) -> None:
    async def main() -> None:
        async with aio.Producer(t.bootstrap_servers, "t") as producer:
            t.fail_next("Produce", ["TOPIC_AUTHORIZATION_FAILED"])
            task = asyncio.create_task(producer.send(b"v"))
            await asyncio.sleep(0)
            wait_for(lambda: producer.metrics().failed)  # this loop has not seen it yet
            producer._outcomes.serve()  # type: ignore[attr-defined]
            task.cancel()
            await fails(task, asyncio.CancelledError)
            error = await fails(producer.flush(), DeliveryError)
            assert isinstance(error, DeliveryError)
            assert error.failed == 1

    run(main())


def test_flush_and_stop_keep_their_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        producer = aio.Producer(NOBODY, "t", log=False)
        producer.send_nowait(b"1")
        future = producer.submit(b"2")
        begin = loop.time()
        error = await fails(producer.flush(0.2), FlushTimeout)
        assert isinstance(error, FlushTimeout)
        assert error.outstanding == 2
        assert 0.2 <= loop.time() - begin < 1
        error = await fails(producer.stop(0.2), FlushTimeout)
        assert isinstance(error, FlushTimeout)
        assert error.outstanding == 2
        with pytest.raises(DeliveryError):
            await future
        assert producer.metrics().purged == 2
        await producer.stop()
        for call in (producer.send(b"v"), producer.flush(), producer.send_many([b"v"])):
            await fails(call, ClosedError)
        with pytest.raises(ClosedError):
            producer.send_nowait(b"v")

    run(main())


def test_many_stops_in_a_row_end_at_once(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        for _ in range(100):
            producer = aio.Producer(cluster.bootstrap_servers, one, log=False)
            future = producer.submit(b"v")
            await producer.stop(None)
            assert future.done()

    run(main())


def test_future_ends_though_stop_ran_out_of_time() -> None:
    async def main() -> None:
        producer = aio.Producer(NOBODY, "t", log=False)
        futures = [producer.submit(b"v") for _ in range(3)]
        await fails(producer.stop(0), FlushTimeout)
        for future in futures:
            await fails(asyncio.wait_for(future, 5), DeliveryError)

    run(main())


def test_other_tasks_run_while_one_waits() -> None:
    async def main() -> None:
        producer = aio.Producer(NOBODY, "t", log=False)
        producer.send_nowait(b"1")
        ticks = itertools.count()

        async def tick() -> None:
            while True:
                next(ticks)
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        for wait in (producer.flush(0.3), producer.partitions("t", 0.3), producer.stop(0.3)):
            before = next(ticks)
            await fails(wait, Exception)
            assert next(ticks) - before > 10  # a loop that is held up has one
        ticking.cancel()

    run(main())


def test_send_nowait_from_threads(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 3)

    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, topic) as producer:

            def send_all(partition: int) -> None:
                for number in range(1000):
                    producer.send_nowait(b"%d" % number, partition=partition)

            await asyncio.gather(*(asyncio.to_thread(send_all, partition) for partition in range(3)))
            await producer.flush()
            assert producer.metrics().delivered == 3000

    run(main())
    assert Counter(values(cluster, topic, 3000)) == {b"%d" % number: 3 for number in range(1000)}


# ---------------------------------------------------------------- a full queue


def test_full_queue_raises() -> None:
    async def main() -> None:
        async with aio.Producer(NOBODY, "t", queue_messages=3, log=False) as producer:
            for _ in range(3):
                producer.send_nowait(b"v")
            with pytest.raises(QueueFull):
                producer.send_nowait(b"v")
            with pytest.raises(QueueFull):
                producer.submit(b"v")
            await fails(producer.send(b"v"), QueueFull)
            await fails(producer.send_many([b"v"]), QueueFull)
            assert producer.metrics().accepted == 3
            assert await producer.purge() == 3

    run(main())


def test_full_queue_is_awaited_in_the_order_of_the_calls(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one, queue_messages=10, on_full="block") as producer:
            found = await asyncio.gather(*(producer.send(b"%d" % number) for number in range(2000)))
            assert [metadata.offset for metadata in found] == list(range(2000))
            assert await producer.send_many([b"%d" % number for number in range(2000, 2500)]) == 500

    run(main())
    assert values(cluster, one, 2500) == [b"%d" % number for number in range(2500)]


def test_waiting_for_room_has_an_end_and_can_be_cancelled() -> None:
    async def main() -> None:
        options: dict[str, Any] = {"queue_messages": 1, "on_full": "block", "log": False}
        async with aio.Producer(NOBODY, "t", block_timeout=0.2, **options) as producer:
            producer.send_nowait(b"v")
            for call in (producer.send_nowait, producer.submit):
                with pytest.raises(QueueFull, match="this call does not wait"):
                    call(b"v")
            await asyncio.gather(*(fails(producer.send(b"v"), QueueFull) for _ in range(3)))
            task = asyncio.create_task(producer.send(b"v"))
            await asyncio.sleep(0.05)
            task.cancel()
            await fails(task, asyncio.CancelledError)
            assert producer.metrics().accepted == 1
            assert producer._outcomes.pending() == 0
            await producer.purge()
            sent = asyncio.create_task(producer.send(b"v"))
            await until(lambda: producer.metrics().accepted == 2)
            await producer.purge()
            await fails(sent, DeliveryError)

    run(main())


def test_time_for_room_counts_from_the_call_also_in_a_line() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        producer = aio.Producer(NOBODY, "t", queue_messages=1, on_full="block", block_timeout=0.3, log=False)
        producer.send_nowait(b"v")
        begin = loop.time()
        await asyncio.gather(*(fails(producer.send(b"v"), QueueFull) for _ in range(10)))
        assert 0.3 <= loop.time() - begin < 1
        await fails(producer.stop(0), FlushTimeout)

    run(main())


def test_stop_ends_those_that_wait_for_room() -> None:
    async def main() -> None:
        producer = aio.Producer(NOBODY, "t", queue_messages=1, on_full="block", log=False)
        producer.send_nowait(b"v")
        tasks = [asyncio.create_task(fails(producer.send(b"v"), ClosedError)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await fails(producer.stop(0), FlushTimeout)
        await asyncio.gather(*tasks)

    run(main())


def test_dropped_message_ends_its_future() -> None:
    async def main() -> None:
        async with aio.Producer(NOBODY, "t", queue_messages=1, on_full="drop_new", log=False) as producer:
            first = producer.submit(b"v")
            await fails(producer.send(b"w"), QueueFull)
            assert producer.metrics().dropped == 1
            await producer.purge()
            await fails(first, DeliveryError)

    run(main())


def test_buffers_are_the_callers_again_once_they_are_accepted(t: MockCluster) -> None:
    async def main() -> None:
        async with aio.Producer(t.bootstrap_servers, "t", queue_messages=2, on_full="block") as producer:
            t.broker_down(1)
            value, many = bytearray(b"send"), bytearray(b"send_many")
            first = asyncio.create_task(producer.send(value))
            waiting = asyncio.create_task(producer.send_many([many] * 3))  # but for one it has to
            await until(lambda: producer.metrics().accepted == 2)
            value[:] = many[:] = b"used again"
            t.broker_up(1)
            await first
            assert await waiting == 3

    run(main())
    assert values(t, "t", 4) == [b"send"] + [b"send_many"] * 3


# ---------------------------------------------------------------- cancellation


@pytest.mark.parametrize("way", ["wait_for", pytest.param("timeout", marks=newer)])
def test_cancelled_sends_have_one_outcome_each(cluster: MockCluster, one: str, way: str) -> None:
    """Also behind asyncio.wait_for and in asyncio.timeout, and when the queue is full most of the time."""

    async def main() -> int:
        rng = random.Random(1)
        async with aio.Producer(cluster.bootstrap_servers, one, queue_messages=50, on_full="block") as producer:

            async def send(number: int) -> None:
                limit = rng.random() * 0.01
                with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
                    if way == "wait_for":
                        await asyncio.wait_for(producer.send(b"%d" % number), limit)
                    else:
                        async with asyncio.timeout(limit):
                            await producer.send(b"%d" % number)

            tasks = [asyncio.create_task(send(number)) for number in range(3000)]
            while not all(task.done() for task in tasks):
                rng.choice(tasks).cancel()
                await asyncio.sleep(0.0005)
            await producer.flush()
            metrics = producer.metrics()
            assert metrics.accepted == metrics.delivered
            assert metrics.outstanding == producer._outcomes.pending() == 0
            return metrics.accepted

    accepted = run(main())
    found = values(cluster, one, accepted)
    assert 0 < accepted < 3000
    assert len({*found}) == len(found) == accepted


@newer
def test_timeout_takes_back_a_send_that_waits_for_room_and_no_other(t: MockCluster) -> None:
    async def main() -> None:
        async with aio.Producer(t.bootstrap_servers, "t", queue_messages=1, on_full="block") as producer:
            t.broker_down(1)
            for value in (b"accepted", b"never"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await producer.send(value)
                metrics = producer.metrics()
                assert (metrics.accepted, metrics.outstanding, producer._outcomes.pending()) == (1, 1, 1)
            t.broker_up(1)
            assert (await producer.send(b"next")).offset == 1  # also the turn was passed on
            metrics = producer.metrics()
            assert (metrics.accepted, metrics.delivered, producer._outcomes.pending()) == (2, 2, 0)

    run(main())
    assert values(t, "t", 2) == [b"accepted", b"next"]


@newer
@pytest.mark.parametrize("kind", [MessageTooLarge, DeliveryError])
def test_group_of_sends_ends_by_the_failure_of_one(
    cluster: MockCluster, one: str, kind: type[MessageTooLarge] | type[DeliveryError]
) -> None:
    """Refused at once, or failed after its acceptance: the others keep their outcomes, whoever awaits them or not."""
    refused = kind is MessageTooLarge

    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one) as producer:
            tasks: list[asyncio.Task[Any]] = []

            async def send_all() -> None:
                async with asyncio.TaskGroup() as group:
                    tasks.append(group.create_task(producer.send(b"first")))
                    bad = producer.send(b"x" * 2_000_000) if refused else producer.send(b"bad", partition=9)
                    tasks.append(group.create_task(bad))
                    tasks.append(group.create_task(producer.send(b"last")))

            error = await fails(send_all(), Exception)
            assert [type(inner) for inner in error.exceptions] == [kind]  # type: ignore[attr-defined]
            first, _, last = tasks
            assert all(task.cancelled() or task.result().topic == one for task in (first, last))
            await producer.flush()  # which has nothing to tell: the group told of the failure
            metrics = producer.metrics()
            assert (metrics.delivered, metrics.failed, metrics.outstanding) == (2, 0 if refused else 1, 0)
            assert metrics.accepted == metrics.delivered + metrics.failed
            assert producer._outcomes.pending() == 0

    run(main())
    assert values(cluster, one, 2) == [b"first", b"last"]


# ---------------------------------------------------------------- transactions


def test_transactions(cluster: MockCluster, one: str, topic: str) -> None:
    async def main() -> None:
        config = {"transactional.id": topic}
        async with aio.Producer(cluster.bootstrap_servers, one, config=config) as producer:
            await fails(producer.send(b"v"), TransactionError)
            await producer.init_transactions()
            async with producer.transaction():
                producer.send_nowait(b"1")
                await producer.send(b"2")
            with contextlib.suppress(KeyError):
                async with producer.transaction():
                    producer.send_nowait(b"never")
                    raise KeyError
            await producer.begin_transaction()
            producer.send_nowait(b"3")
            await producer.commit_transaction()
            await fails(producer.commit_transaction(), TransactionError)

    run(main())
    assert values(cluster, one, 3)[:2] == [b"1", b"2"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["send", "submit", "send_nowait", "send_many"])
def test_bad_messages(cluster: MockCluster, one: str, name: str) -> None:
    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one) as producer:

            async def call(*args: Any, **options: Any) -> None:
                made = getattr(producer, name)(*args, **options)
                if made is not None:
                    await made

            many = name == "send_many"
            await fails(call([1] if many else 1), TypeError)
            await fails(call([b"x" * 2_000_000] if many else b"x" * 2_000_000), MessageTooLarge)
            await fails(call([b"v"] if many else b"v", topic=""), ValueError)
            if not many:
                await fails(call(b"v", partition=-1), ValueError)
            assert producer.metrics().accepted == 0
            assert producer._outcomes.pending() == 0

    run(main())


def test_bad_construction() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError):
            aio.Producer(NOBODY, config={"nonsense": 1})
        with pytest.raises(ValueError, match="on_full"):
            aio.Producer(NOBODY, on_full="maybe")  # type: ignore[arg-type]
        for timeout in (-1, float("nan"), "1"):
            async with aio.Producer(NOBODY, log=False) as producer:
                for call in (producer.flush(timeout), producer.stop(timeout), producer.partitions("t", timeout)):
                    await fails(call, (TypeError, ValueError))  # type: ignore[arg-type]

    run(main())


def test_partitioner_is_called_once_its_topic_is_counted(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)

    async def main() -> None:
        async with aio.Producer(
            cluster.bootstrap_servers, topic, partitioner=lambda _topic, _key, value, count: int(value) % count
        ) as producer:
            assert await producer.partitions(topic) == 4
            await producer.warm_up()
            assert [(await producer.send(b"%d" % number)).partition for number in range(8)] == [0, 1, 2, 3] * 2

    run(main())
