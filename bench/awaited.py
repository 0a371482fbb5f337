"""Measures asyncio: how long an awaited send takes at a steady rate, and messages per second.

Every case runs an event loop of its own, made by asyncio.run().
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import aiokafka
import confluent_kafka
import confluent_kafka.aio
from clients import LOW_LATENCY_CONSUMER, LOW_LATENCY_PRODUCER, QUEUE_BYTES, QUEUE_MESSAGES, Broker
from produce import PAYLOAD
from table import Case, Values

from kafka_async import TopicPartition, aio


class Rival(NamedTuple):
    """A producer in use."""

    send: Callable[[bytes], Awaitable[object]]  # acknowledged when it is awaited
    submit_many: Callable[[int], Awaitable[object]]  # one after the other, then all acknowledgements together


Opened: TypeAlias = Callable[[Broker], AbstractAsyncContextManager[Rival]]

SECONDS = 5
RATES = (200, 2000)  # sends a second
SLOW = 5_000  # messages, where one takes a millisecond; at 50,000 tasks aiokafka's sends end by its timeout


def awaited_cases(broker: Broker, messages: int) -> list[Case]:
    """List what measures sends that are awaited."""
    rivals: dict[str, tuple[Opened, int]] = {
        "kafka_async": (_ours, messages),
        "aiokafka": (_aiokafka, messages),
        "confluent AIOProducer": (_confluent, SLOW),
        "confluent AIOProducer, tuned": (partial(_confluent, batch_size=1, buffer_timeout=0.01), SLOW),
    }
    alone = {name: opened for name, (opened, _) in rivals.items()} | {
        "kafka_async, idle=spin": partial(_ours, idle="spin")
    }
    cases = [
        Case(f"awaited at {rate}/s", name, partial(_run, broker, opened, partial(_paced, rate)))
        for rate in RATES
        for name, opened in alone.items()
    ]
    for name, (opened, count) in rivals.items():
        cases.append(Case("gathered", name, partial(_run, broker, opened, partial(_gathered, SLOW))))
        cases.append(Case("pipelined", name, partial(_run, broker, opened, partial(_pipelined, count))))
    unawaited = partial(_run, broker, _unawaited, partial(_pipelined, messages))
    cases.append(Case("pipelined", "kafka_async send_nowait", unawaited))
    return cases


def iterated_cases(broker: Broker, messages: int) -> list[Case]:
    """List what measures reading one message at a time."""
    return [
        Case("iterated", "kafka_async async for", lambda: asyncio.run(_read_ours(broker, messages))),
        Case("iterated", "aiokafka async for", lambda: asyncio.run(_read_aiokafka(broker, messages))),
        Case("iterated", "confluent AIOConsumer poll", lambda: asyncio.run(_read_confluent(broker, SLOW))),
    ]


# ---------------------------------------------------------------- sending


def _run(broker: Broker, opened: Opened, measure: Callable[[Rival], Coroutine[Any, Any, Values]]) -> Values:
    async def main() -> Values:
        async with opened(broker) as rival:
            await rival.send(b"first")  # it is connected
            return await measure(rival)

    return asyncio.run(main())


async def _paced(rate: int, rival: Rival) -> Values:
    """Time sends that begin when it is their time, however long those before take."""
    took = []

    async def one() -> None:
        begin = time.perf_counter()
        await rival.send(PAYLOAD)
        took.append(time.perf_counter() - begin)

    loop = asyncio.get_running_loop()
    begin = loop.time()
    tasks = []
    for number in range(rate * SECONDS):
        if (early := begin + number / rate - loop.time()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    took.sort()
    return {"p50_us": took[len(took) // 2] * 1e6, "p99_us": took[int(len(took) * 0.99)] * 1e6}


async def _gathered(count: int, rival: Rival) -> Values:
    """Send from as many tasks as there are messages."""
    begin = time.perf_counter()
    await asyncio.gather(*(rival.send(PAYLOAD) for _ in range(count)))
    return {"messages_s": count / (time.perf_counter() - begin)}


async def _pipelined(count: int, rival: Rival) -> Values:
    """Send from one task, which collects futures."""
    begin = time.perf_counter()
    await rival.submit_many(count)
    return {"messages_s": count / (time.perf_counter() - begin)}


@asynccontextmanager
async def _ours(broker: Broker, idle: Literal["park", "spin"] = "park") -> AsyncIterator[Rival]:
    async with aio.Producer(
        broker.servers, broker.topic, queue_messages=QUEUE_MESSAGES, queue_bytes=QUEUE_BYTES, idle=idle
    ) as producer:

        async def submit_many(count: int) -> None:
            await asyncio.gather(*[producer.submit(PAYLOAD) for _ in range(count)])

        yield Rival(producer.send, submit_many)


@asynccontextmanager
async def _unawaited(broker: Broker) -> AsyncIterator[Rival]:
    async with aio.Producer(
        broker.servers, broker.topic, queue_messages=QUEUE_MESSAGES, queue_bytes=QUEUE_BYTES
    ) as producer:

        async def submit_many(count: int) -> None:
            for _ in range(count):
                producer.send_nowait(PAYLOAD)
            await producer.flush(60)  # which raises if any failed

        yield Rival(producer.send, submit_many)


@asynccontextmanager
async def _aiokafka(broker: Broker) -> AsyncIterator[Rival]:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=broker.servers, acks="all") as producer:

        async def submit_many(count: int) -> None:
            await asyncio.gather(*[await producer.send(broker.topic, PAYLOAD) for _ in range(count)])

        yield Rival(partial(producer.send_and_wait, broker.topic), submit_many)


@asynccontextmanager
async def _confluent(broker: Broker, **tuning: float) -> AsyncIterator[Rival]:
    producer = confluent_kafka.aio.AIOProducer(
        {"bootstrap.servers": broker.servers, "linger.ms": 0, **LOW_LATENCY_PRODUCER}, **tuning
    )

    async def send(value: bytes) -> object:
        return await (await producer.produce(broker.topic, value))

    async def submit_many(count: int) -> None:
        await asyncio.gather(*[await producer.produce(broker.topic, PAYLOAD) for _ in range(count)])

    try:
        yield Rival(send, submit_many)
    finally:
        await producer.close()


# ---------------------------------------------------------------- reading


async def _read_ours(broker: Broker, messages: int) -> Values:
    async with aio.Consumer(broker.servers) as consumer:
        await consumer.assign([TopicPartition(broker.topic, number, 0) for number in range(broker.partitions)])
        left = messages - 1
        await anext(consumer)
        begin = time.perf_counter()
        async for message in consumer:
            _ = message.value, message.offset
            left -= 1
            if not left:
                break
        return {"messages_s": (messages - 1) / (time.perf_counter() - begin)}


async def _read_aiokafka(broker: Broker, messages: int) -> Values:
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=broker.servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    async with consumer:
        places = [aiokafka.TopicPartition(broker.topic, number) for number in range(broker.partitions)]
        consumer.assign(places)
        for place in places:
            consumer.seek(place, 0)
        left = messages - 1
        await consumer.getone()
        begin = time.perf_counter()
        async for message in consumer:
            _ = message.value, message.offset
            left -= 1
            if not left:
                break
        return {"messages_s": (messages - 1) / (time.perf_counter() - begin)}


async def _read_confluent(broker: Broker, messages: int) -> Values:
    consumer = confluent_kafka.aio.AIOConsumer(
        {
            "bootstrap.servers": broker.servers,
            "group.id": "unused",
            "enable.auto.commit": False,
            **LOW_LATENCY_CONSUMER,
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
