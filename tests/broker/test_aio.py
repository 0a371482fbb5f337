"""asyncio on a real Kafka: much at once, and cancelled at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
from collections import Counter

import pytest
from loops import run, until
from other_client import read_log
from support import create_topic

from kafka_async import aio

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

EARLIEST = {"auto.offset.reset": "earliest"}
MINUTE_S = 60.0
SLOW_S = 0.05


def test_100_000_gathered_sends_keep_order_and_know_their_places(broker: str, topic: str) -> None:
    create_topic(broker, topic, 4)

    async def main() -> dict[tuple[int, int | None], int]:
        async with aio.Producer(broker, topic) as producer:
            found = await asyncio.gather(
                *(producer.send(b"%d" % number, partition=number % 4) for number in range(100_000))
            )
            assert producer.metrics().delivered == 100_000
        return {(metadata.partition, metadata.offset): number for number, metadata in enumerate(found)}

    places = run(main(), limit=90)
    assert {(row.partition, row.offset): int(row.value or b"") for row in read_log(broker, topic)} == places
    for partition in range(4):
        mine = [number for (at, _), number in sorted(places.items()) if at == partition]
        assert mine == sorted(mine)


def test_iteration_while_three_tasks_produce(broker: str, topic: str) -> None:
    create_topic(broker, topic, 3)

    async def main() -> None:
        async with aio.Producer(broker, topic) as producer, aio.Consumer(broker, topic, config=EARLIEST) as consumer:

            async def produce(partition: int) -> None:
                for number in range(2000):
                    await producer.send(b"%d" % number, partition=partition)

            tasks = [asyncio.create_task(produce(partition)) for partition in range(3)]
            seen: Counter[int] = Counter()
            async for message in consumer:
                assert message.value == b"%d" % seen[message.partition]
                seen[message.partition] += 1
                if seen.total() == 6000:
                    break
            await asyncio.gather(*tasks)

    run(main(), limit=60)


def test_slow_task_delays_itself_alone(broker: str, topic: str) -> None:
    """Sends are acknowledged as fast beside a task that takes its time over every message as without it."""
    create_topic(broker, topic, 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with aio.Producer(broker, topic) as producer, aio.Consumer(broker, topic, config=EARLIEST) as consumer:

            async def typical() -> float:
                times = []
                for _ in range(500):
                    begin = loop.time()
                    await producer.send(b"v")
                    times.append(loop.time() - begin)
                return statistics.median(times)

            handled = 0

            async def read_slowly() -> None:
                nonlocal handled
                async for _ in consumer:
                    await asyncio.sleep(SLOW_S)
                    handled += 1

            await producer.warm_up()
            alone = await typical()
            slow = asyncio.create_task(read_slowly())
            await until(lambda: handled)
            beside = await typical()
            assert 1 < handled < 500  # it was at work all the time, and far behind
            assert beside < alone + SLOW_S / 4
            slow.cancel()

    run(main(), limit=60)


def test_cancelled_at_random_for_a_minute_nothing_is_lost_or_doubled(broker: str, topic: str) -> None:
    create_topic(broker, topic, 2)

    async def main() -> None:
        rng = random.Random(7)
        loop = asyncio.get_running_loop()
        end = loop.time() + MINUTE_S
        async with (
            aio.Producer(broker, topic, queue_messages=200, on_full="block") as producer,
            aio.Consumer(broker, topic, config=EARLIEST) as consumer,
        ):
            numbers = iter(range(10**9))
            read: list[bytes | None] = []

            async def send_often() -> None:
                while loop.time() < end:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(producer.send(b"%d" % next(numbers)), rng.random() * 0.02)

            async def disturb(tasks: list[asyncio.Task[None]]) -> None:
                while loop.time() < end:
                    await asyncio.sleep(rng.random() * 0.01)
                    victim = rng.randrange(len(tasks))
                    tasks[victim].cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await tasks[victim]
                    tasks[victim] = asyncio.create_task(send_often())

            async def poll_cancelled() -> None:
                task = asyncio.create_task(consumer.poll_message(None))
                await asyncio.sleep(rng.random() * 0.004)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    message = await task
                    assert message is not None
                    read.append(message.value)

            tasks = [asyncio.create_task(send_often()) for _ in range(20)]
            disturbing = asyncio.create_task(disturb(tasks))
            while not disturbing.done():
                await poll_cancelled()
            await disturbing
            await asyncio.gather(*tasks)
            await producer.flush(20)
            accepted = producer.metrics()
            assert accepted.accepted == accepted.delivered
            while len(read) < accepted.delivered:
                message = await consumer.poll_message(10)
                assert message is not None
                read.append(message.value)
            assert await consumer.poll_message(0.5) is None
            assert len({*read}) == len(read) == accepted.delivered > 1000

    run(main(), limit=150)
