"""Samples of asyncio: how long an awaited send takes at a steady rate, and messages per second.

Every sample runs an event loop of its own, made by asyncio.run().
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from kafka_async import TopicPartition, aio
from kafka_async.bench.clients import LOW_LATENCY_CONSUMER, AsyncProducer, Broker
from kafka_async.bench.hops import hops
from kafka_async.bench.producing import SIZE
from kafka_async.bench.timing import Values, percentiles

VALUE = b"x" * SIZE
TIMER_S = 0.001  # the loop's timers are late by up to so much, whatever it has to do

Opened: TypeAlias = Callable[[Broker], AbstractAsyncContextManager[AsyncProducer]]


def _with(opened: Opened, broker: Broker, measure: Callable[[AsyncProducer], Coroutine[Any, Any, Values]]) -> Values:
    async def main() -> Values:
        async with opened(broker) as producer:
            await producer.send(b"first")  # it is connected
            values = await measure(producer)
            if producer.ours is not None:
                await producer.ours.flush()
                values |= hops("producer", producer.ours.metrics().hops)
            return values

    return asyncio.run(main())


def time_awaited(opened: Opened, broker: Broker, rate: float, seconds: float) -> Values:
    """Time sends from when they are due, however long those before take."""

    async def measure(producer: AsyncProducer) -> Values:
        times: list[float] = []

        async def one(due: float) -> None:
            begin = min(clock(), due + TIMER_S)  # what is later than a timer can be is the client's
            await producer.send(VALUE)
            times.append((clock() - begin) * 1e9)

        clock = asyncio.get_running_loop().time
        first = clock()
        tasks = []
        for number in range(int(rate * seconds)):
            due = first + number / rate
            if (early := due - clock()) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
        return percentiles(times)

    return _with(opened, broker, measure)


def time_gathered(opened: Opened, broker: Broker, count: int) -> Values:
    """Send from as many tasks as there are messages."""

    async def measure(producer: AsyncProducer) -> Values:
        begin = time.perf_counter()
        await asyncio.gather(*(producer.send(VALUE) for _ in range(count)))
        return {"messages_s": count / (time.perf_counter() - begin)}

    return _with(opened, broker, measure)


def time_pipelined(opened: Opened, broker: Broker, count: int) -> Values:
    """Send from one task, which collects futures."""

    async def measure(producer: AsyncProducer) -> Values:
        begin = time.perf_counter()
        await producer.submit_many(VALUE, count)
        return {"messages_s": count / (time.perf_counter() - begin)}

    return _with(opened, broker, measure)


# Reading ---------------------------------------------------------------------------------------


def read_ours(broker: Broker, messages: int) -> Values:
    """Iterate over a filled topic."""

    async def main() -> Values:
        async with aio.Consumer(broker.servers, config=dict(broker.config)) as consumer:
            await consumer.assign([TopicPartition(broker.topic, number, 0) for number in range(broker.partitions)])
            await anext(consumer)
            return await _drain(consumer, messages - 1)

    return asyncio.run(main())


def read_aiokafka(broker: Broker, messages: int) -> Values:
    """Do that with aiokafka."""
    import aiokafka

    async def main() -> Values:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=broker.servers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        async with consumer:
            places = [aiokafka.TopicPartition(broker.topic, number) for number in range(broker.partitions)]
            consumer.assign(places)
            for place in places:
                consumer.seek(place, 0)
            await consumer.getone()
            return await _drain(consumer, messages - 1)

    return asyncio.run(main())


async def _drain(consumer: Any, left: int) -> Values:
    messages, begin = left, time.perf_counter()
    async for message in consumer:
        _ = message.value, message.offset
        left -= 1
        if not left:
            break
    return {"messages_s": messages / (time.perf_counter() - begin)}


def read_confluent(broker: Broker, messages: int) -> Values:
    """Poll one at a time with confluent-kafka's, which has no iterator and hands each poll to a thread."""
    import confluent_kafka
    from confluent_kafka.aio import AIOConsumer

    async def main() -> Values:
        consumer = AIOConsumer(
            {
                "bootstrap.servers": broker.servers,
                "group.id": "unused",
                "enable.auto.commit": False,
                **LOW_LATENCY_CONSUMER,
                **broker.config,
            }
        )
        try:
            await consumer.assign(
                [confluent_kafka.TopicPartition(broker.topic, number, 0) for number in range(broker.partitions)]
            )
            while await consumer.poll(1.0) is None:
                pass
            begin, left = time.perf_counter(), messages - 1
            while left:
                message = await consumer.poll(1.0)
                if message is not None:
                    _ = message.value(), message.offset()
                    left -= 1
            return {"messages_s": (messages - 1) / (time.perf_counter() - begin)}
        finally:
            await consumer.close()

    return asyncio.run(main())
