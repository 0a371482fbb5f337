"""The consumer of asyncio: iteration, polls that are cancelled, control, rebalance callbacks that are awaited."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from loops import fails, newer, read, run, until
from shared_cluster import shared_cluster as shared_cluster
from support import send_all

from kafka_async import ClosedError, ConsumerError, Message, PartitionEnd, Producer, TopicPartition, aio
from kafka_async.testing import MockCluster

COUNT = 1000
EARLIEST = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 10}


@pytest.fixture
def filled(cluster: MockCluster, one: str) -> str:
    send_all(cluster.bootstrap_servers, one, [b"%d" % number for number in range(COUNT)])
    return one


def offsets(messages: list[Message]) -> list[int]:
    return [message.offset for message in messages]


@pytest.mark.parametrize("debug", [False, True])
def test_iteration_hands_out_all_in_order(cluster: MockCluster, filled: str, debug: bool) -> None:
    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, filled, config=EARLIEST) as consumer:
            messages = []
            async for message in consumer:
                messages.append(message)
                if len(messages) == COUNT:
                    break
            assert offsets(messages) == list(range(COUNT))
            assert [message.value for message in messages] == [b"%d" % number for number in range(COUNT)]
            assert await consumer.poll_message(0) is None

    run(main(), debug=debug)


def test_iteration_while_three_tasks_produce(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 3)

    async def main() -> None:
        servers = cluster.bootstrap_servers
        async with (
            aio.Producer(servers, topic) as producer,
            aio.Consumer(servers, topic, config=EARLIEST) as consumer,
        ):

            async def produce(partition: int) -> None:
                for number in range(COUNT):
                    await producer.send(b"%d" % number, partition=partition)

            tasks = [asyncio.create_task(produce(partition)) for partition in range(3)]
            seen: dict[int, list[bytes | None]] = {0: [], 1: [], 2: []}
            async for message in consumer:
                seen[message.partition].append(message.value)
                if sum(map(len, seen.values())) == 3 * COUNT:
                    break
            await asyncio.gather(*tasks)
            assert all(values == [b"%d" % number for number in range(COUNT)] for values in seen.values())

    run(main())


def test_batches(cluster: MockCluster, filled: str) -> None:
    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, filled, config=EARLIEST) as consumer:
            found: list[int] = []
            while len(found) < COUNT:
                batch = await consumer.poll_batch(300, 5)
                assert 0 < len(batch) <= 300
                found += batch.offsets
            assert found == list(range(COUNT))
            assert len(await consumer.poll_batch(10, 0.05)) == 0

    run(main())


def test_waiting_poll_ends_with_a_message_a_timeout_or_a_stop(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with aio.Consumer(cluster.bootstrap_servers, one, config=EARLIEST) as consumer:
            begin = loop.time()
            assert await consumer.poll_message(0.1) is None
            assert 0.1 <= loop.time() - begin < 1
            waiting = asyncio.create_task(consumer.poll_message(None))
            await asyncio.sleep(0.05)
            async with aio.Producer(cluster.bootstrap_servers, one) as producer:
                await producer.send(b"v")
            message = await waiting
            assert message is not None
            assert message.value == b"v"
            iterating = asyncio.create_task(anext_all(consumer))
            polling = await poller_is_there(consumer)
            await consumer.stop()
            assert polling
            assert await iterating == []
            await fails(consumer.poll_message(0), ClosedError)
            await consumer.stop()

    async def anext_all(consumer: aio.Consumer) -> list[Message]:
        return [message async for message in consumer]

    async def poller_is_there(consumer: aio.Consumer) -> bool:
        await until(lambda: consumer._filling)
        return True

    run(main())


def test_slow_task_delays_itself_alone(cluster: MockCluster, filled: str) -> None:
    """Messages that are there never keep the loop for longer than a block."""

    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, filled, config=EARLIEST) as consumer:
            await until(lambda: consumer.metrics().prefetched)
            turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            turning = asyncio.create_task(turn())
            await read(consumer, COUNT)
            turning.cancel()
            assert turns >= COUNT // 256

    run(main())


# ---------------------------------------------------------------- cancellation


@pytest.mark.parametrize("way", ["cancel", "wait_for", pytest.param("timeout", marks=newer), "timeout 0"])
def test_cancelled_polls_lose_nothing(cluster: MockCluster, one: str, way: str) -> None:
    """At random moments, while messages trickle in."""

    async def main() -> None:
        rng = random.Random(way)
        servers = cluster.bootstrap_servers
        async with (
            aio.Producer(servers, one) as producer,
            aio.Consumer(servers, one, config=EARLIEST) as consumer,
        ):

            async def produce() -> None:
                for number in range(COUNT):
                    producer.send_nowait(b"%d" % number)
                    if rng.random() < 0.3:
                        await asyncio.sleep(rng.random() * 0.004)

            async def poll() -> Message | None:
                if way == "timeout 0":
                    await asyncio.sleep(rng.random() * 0.002)
                    return await consumer.poll_message(0)
                limit = rng.random() * 0.003
                if way == "wait_for":
                    try:
                        return await asyncio.wait_for(consumer.poll_message(None), limit)
                    except asyncio.TimeoutError:
                        return None
                if way == "timeout":
                    message = None
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(limit):
                            message = await consumer.poll_message(None)
                    return message
                task = asyncio.create_task(consumer.poll_message(None))
                await asyncio.sleep(limit)
                task.cancel()
                try:
                    return await task
                except asyncio.CancelledError:
                    return None

            producing = asyncio.create_task(produce())
            found: list[int] = []
            while len(found) < COUNT:
                if (message := await poll()) is not None:
                    found.append(message.offset)
            await producing
            assert found == list(range(COUNT))

    run(main())


@newer
def test_timeout_of_a_poll_leaves_the_first_message_to_the_next(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, one, config=EARLIEST) as consumer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await consumer.poll_message(None)
            async with aio.Producer(cluster.bootstrap_servers, one) as producer:
                for _ in range(3):
                    await producer.send(b"v")
            assert offsets(await read(consumer, 3)) == [0, 1, 2]

    run(main())


@newer
def test_task_that_polls_and_one_that_produces_in_a_group(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        servers = cluster.bootstrap_servers
        async with aio.Producer(servers, one) as producer, aio.Consumer(servers, one, config=EARLIEST) as consumer:

            async def produce() -> None:
                for _ in range(COUNT):
                    await producer.send(b"v")

            async with asyncio.TaskGroup() as group:
                reading = group.create_task(read(consumer, COUNT))
                group.create_task(produce())
            assert offsets(reading.result()) == list(range(COUNT))

    run(main())


@newer
def test_group_that_fails_cancels_its_poll_and_no_message_is_lost(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        found: list[Message] = []
        servers = cluster.bootstrap_servers
        async with aio.Producer(servers, one) as producer, aio.Consumer(servers, one, config=EARLIEST) as consumer:

            async def poll() -> None:
                async for message in consumer:
                    found.append(message)

            async def produce() -> None:
                for _ in range(COUNT):
                    producer.send_nowait(b"v")
                await until(lambda: found)
                raise KeyError("mine")

            async def both() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(poll())
                    group.create_task(produce())

            error = await fails(both(), Exception)
            assert [type(inner) for inner in error.exceptions] == [KeyError]  # type: ignore[attr-defined]
            found += await read(consumer, COUNT - len(found))
            assert offsets(found) == list(range(COUNT))

    run(main())


# ---------------------------------------------------------------- control and offsets


def test_control_takes_effect_at_once(cluster: MockCluster, filled: str) -> None:
    async def main() -> None:
        place = TopicPartition(filled, 0)
        async with aio.Consumer(cluster.bootstrap_servers, config=EARLIEST) as consumer:
            await consumer.assign([place._replace(offset=10)])
            assert offsets(await read(consumer, 5)) == [10, 11, 12, 13, 14]
            await consumer.seek(place._replace(offset=("tail", 3)))
            assert offsets(await read(consumer, 3)) == [997, 998, 999]
            await consumer.seek(place._replace(offset=0))
            await consumer.pause([place])
            assert await consumer.poll_message(0.1) is None
            await consumer.resume([place])
            assert offsets(await read(consumer, 2)) == [0, 1]
            assert consumer.position([place]) == [place._replace(offset=2)]
            assert await consumer.watermarks(filled, 0) == (0, COUNT)
            assert await consumer.lag(5) == {place: COUNT - 2}
            await consumer.incremental_unassign([place])
            assert await consumer.poll_message(0.05) is None
            await consumer.incremental_assign([place._replace(offset=7)])
            assert offsets(await read(consumer, 1)) == [7]
            await fails(consumer.seek(TopicPartition("none", 0, 1)), ConsumerError)

    run(main())


def test_end_of_partition_is_raised_and_iteration_goes_on(cluster: MockCluster, filled: str) -> None:
    async def main() -> None:
        config = {**EARLIEST, "enable.partition.eof": True}
        async with aio.Consumer(cluster.bootstrap_servers, filled, config=config) as consumer:
            await read(consumer, COUNT)
            error = await fails(consumer.poll_message(10), PartitionEnd)
            assert isinstance(error, PartitionEnd)
            assert error.partition == (filled, 0, COUNT)
            with Producer(cluster.bootstrap_servers, filled) as producer:
                producer.send(b"more")
            assert [message.value for message in await read(consumer, 1)] == [b"more"]

    run(main())


@pytest.mark.parametrize(
    ("ending", "committed"),
    [("with", 10), ("raise", 9), ("other task", 9), ("stop", 10), ("unsubscribe", 10), ("poll in a task", 10)],
)
def test_what_the_end_commits(cluster: MockCluster, filled: str, ending: str, committed: int) -> None:
    place = TopicPartition(filled, 0)

    async def main() -> None:
        group = f"{filled}-{ending}"
        topics = filled if ending == "unsubscribe" else None
        consumer = aio.Consumer(cluster.bootstrap_servers, topics, group_id=group, config=EARLIEST)
        with contextlib.suppress(KeyError):
            async with consumer:
                if not topics:
                    await consumer.assign([place._replace(offset=0)])
                for _ in range(10):
                    polled = consumer.poll_message(10)
                    if ending == "poll in a task":
                        assert await asyncio.create_task(polled) is not None
                    else:
                        assert await polled is not None
                if ending == "raise":
                    raise KeyError
                if ending == "stop":
                    await consumer.stop()
                if ending == "other task":
                    await asyncio.create_task(consumer.stop())
                if ending == "unsubscribe":
                    await consumer.unsubscribe()
        async with aio.Consumer(cluster.bootstrap_servers, group_id=group, config=EARLIEST) as other:
            assert await other.committed([place]) == [place._replace(offset=committed)]

    run(main())


def test_stop_that_was_cancelled_is_finished_by_the_next(cluster: MockCluster, filled: str) -> None:
    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, filled, group_id=filled, config=EARLIEST) as consumer:
            assert await consumer.poll_message(20) is not None
            cluster.set_round_trip(1, 0.3)
            stopping = asyncio.create_task(consumer.stop())
            await asyncio.sleep(0.05)
            stopping.cancel()
            await fails(stopping, asyncio.CancelledError)
            assert not consumer._closed
            cluster.set_round_trip(1, 0)
            await consumer.stop()
            assert consumer._closed

    run(main())


def test_commit_and_store(cluster: MockCluster, filled: str) -> None:
    place = TopicPartition(filled, 0)

    async def main() -> None:
        config = {**EARLIEST, "enable.auto.commit": False}
        async with aio.Consumer(cluster.bootstrap_servers, group_id=filled, config=config) as consumer:
            await consumer.assign([place._replace(offset=0)])
            messages = await read(consumer, 10)
            assert await consumer.commit(messages[4]) == [place._replace(offset=5)]
            consumer.store(messages[6])
            assert await consumer.commit() == [place._replace(offset=7)]
            assert await consumer.commit(offsets={place: 3}) == [place._replace(offset=3)]
            assert await consumer.committed([place]) == [place._replace(offset=3)]

    run(main())


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize("kind", ["coroutine", "plain"])
def test_rebalance_callbacks_may_be_coroutines(cluster: MockCluster, filled: str, kind: str) -> None:
    seen: list[str] = []

    async def main() -> None:
        async def on_assign(consumer: aio.Consumer, partitions: list[TopicPartition]) -> None:
            await asyncio.sleep(0.05)
            await consumer.seek(partitions[0]._replace(offset=990))
            seen.append("on_assign")

        async def on_revoke(consumer: aio.Consumer, _: list[TopicPartition]) -> None:
            seen.append(f"on_revoke {await consumer.commit()}")
            with pytest.raises(RuntimeError, match="callback"):
                await consumer.poll_message(0)

        def plain(_: aio.Consumer, partitions: list[TopicPartition]) -> None:
            seen.append(f"plain {len(partitions)}")

        options: dict[str, Any] = {"on_assign": on_assign, "on_revoke": on_revoke}
        if kind == "plain":
            options = {"on_assign": plain, "on_revoke": plain}
        async with aio.Consumer(
            cluster.bootstrap_servers, filled, group_id=filled, config=EARLIEST, **options
        ) as consumer:
            first = (await read(consumer, 10))[0]
            assert first.offset == (990 if kind == "coroutine" else 0)

    run(main())
    place = TopicPartition(filled, 0, COUNT)
    assert seen == (["on_assign", f"on_revoke {[place]}"] if kind == "coroutine" else ["plain 1", "plain 1"])


def test_callback_runs_to_its_end_though_its_poll_is_cancelled(cluster: MockCluster, filled: str) -> None:
    async def main() -> None:
        begun, done = asyncio.Event(), asyncio.Event()

        async def on_assign(consumer: aio.Consumer, partitions: list[TopicPartition]) -> None:
            begun.set()
            await asyncio.sleep(0.2)
            await consumer.seek(partitions[0]._replace(offset=500))
            done.set()

        async with aio.Consumer(
            cluster.bootstrap_servers, filled, group_id=filled, config=EARLIEST, on_assign=on_assign
        ) as consumer:
            polling = asyncio.create_task(consumer.poll_message(None))
            await begun.wait()
            polling.cancel()
            await fails(polling, asyncio.CancelledError)
            begun.clear()
            assert (await read(consumer, 1))[0].offset == 500
            assert done.is_set()
            assert not begun.is_set()

    run(main())


@pytest.mark.parametrize("end", ["stop", "block"])
def test_callback_that_hangs_is_cancelled_when_the_time_of_stop_is_over(
    cluster: MockCluster, filled: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = asyncio.Event()

    async def on_revoke(*_: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def main() -> None:
        async with aio.Consumer(
            cluster.bootstrap_servers, filled, group_id=filled, config=EARLIEST, on_revoke=on_revoke
        ) as consumer:
            await read(consumer, 1)
            begin = asyncio.get_running_loop().time()
            if end == "stop":
                await consumer.stop(0.3)
                await consumer.stop(0.3)
        assert asyncio.get_running_loop().time() - begin < 8
        await asyncio.wait_for(cancelled.wait(), 5)

    run(main())
    assert "it was cancelled" in caplog.text


@pytest.mark.parametrize("kind", [KeyError, asyncio.CancelledError])
def test_exception_of_a_callback_surfaces_from_the_first_stop(
    cluster: MockCluster, filled: str, kind: type[BaseException]
) -> None:
    async def on_revoke(*_: object) -> None:
        raise kind

    async def main() -> None:
        async with aio.Consumer(
            cluster.bootstrap_servers, filled, group_id=filled, config=EARLIEST, on_revoke=on_revoke
        ) as consumer:
            await read(consumer, 1)
            await fails(consumer.stop(), kind)
            await consumer.stop()

    run(main())


def test_poll_within_a_callback_of_a_poll_is_refused(cluster: MockCluster, filled: str) -> None:
    async def on_assign(consumer: aio.Consumer, _: object) -> None:
        with pytest.raises(RuntimeError, match="from within a rebalance callback"):
            await consumer.poll_message(0)
        with pytest.raises(RuntimeError, match="from within a rebalance callback"):
            await consumer.poll_batch(1, 0)

    async def main() -> None:
        async with aio.Consumer(
            cluster.bootstrap_servers, filled, group_id=filled, config=EARLIEST, on_assign=on_assign
        ) as consumer:
            assert (await read(consumer, 1))[0].offset == 0

    run(main())


def test_polls_that_are_cancelled_at_once_get_on_all_the_same(cluster: MockCluster, filled: str) -> None:
    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, filled, config=EARLIEST) as consumer:
            await until(lambda: consumer.metrics().prefetched == COUNT)
            found: list[Message] = []

            async def poll() -> None:
                if message := await consumer.poll_message(0):
                    found.append(message)

            for _ in range(2 * COUNT):
                polling = asyncio.create_task(poll())
                await asyncio.sleep(0)
                polling.cancel()
                await asyncio.wait({polling})
            assert offsets(found) == list(range(COUNT))

    run(main())


def test_exception_of_a_callback_surfaces_from_the_poll(cluster: MockCluster, filled: str) -> None:
    async def main() -> None:
        async def on_assign(*_: object) -> None:
            await asyncio.sleep(0)
            raise KeyError("mine")

        async with aio.Consumer(
            cluster.bootstrap_servers, filled, group_id=filled, config=EARLIEST, on_assign=on_assign
        ) as consumer:
            await fails(consumer.poll_message(20), KeyError)
            assert offsets(await read(consumer, 3)) == [0, 1, 2]

    run(main())


def test_poll_that_waits_keeps_the_membership_as_long_as_the_loop_turns(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        config = {**EARLIEST, "max.poll.interval.ms": 4500, "session.timeout.ms": 4000}  # joining takes 3 s
        async with aio.Consumer(cluster.bootstrap_servers, one, group_id=one, config=config) as consumer:
            waiting = asyncio.create_task(consumer.poll_message(None))
            await until(consumer.assignment)
            await asyncio.sleep(5.5)
            assert not waiting.done()
            assert consumer.assignment()
            waiting.cancel()

    run(main())


# ---------------------------------------------------------------- bad input


def test_second_task_that_polls_is_refused(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, one, config=EARLIEST) as consumer:
            waiting = asyncio.create_task(consumer.poll_message(None))
            await until(lambda: consumer._filling)
            await fails(consumer.poll_message(0), RuntimeError)
            await fails(consumer.poll_batch(1, 0), RuntimeError)
            send_all(cluster.bootstrap_servers, one, [b"v"])
            message = await waiting
            assert message is not None
            assert message.value == b"v"

    run(main())


def test_bad_arguments(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        async with aio.Consumer(cluster.bootstrap_servers, one, config=EARLIEST) as consumer:
            await fails(consumer.poll_message(-1), ValueError)
            await fails(consumer.poll_batch(0), ValueError)
            await fails(consumer.subscribe([]), ValueError)
            await fails(consumer.commit(), ConsumerError)
            await fails(consumer.committed([TopicPartition(one, 0)]), ConsumerError)
            await fails(consumer.stop(-1), ValueError)
        with pytest.raises(TypeError):
            aio.Consumer(cluster.bootstrap_servers, one, on_assign=1)  # type: ignore[arg-type]

    run(main())
