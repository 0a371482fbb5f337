"""The clients, opened with settings that are the same where they can be the same.

What differs is here and nowhere else, so that a reader can judge whether it is fair; bench/limit.c sets the same in C.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import kafka_async
from kafka_async import aio

Properties = Mapping[str, str | int | float | bool]

TIMEOUT_S = 120.0
CREATE_S = 10.0  # until a broker that can be connected to has made a topic

# Nothing is refused or stalled by a bound in any measurement: they hold all that is sent, or prefetched.
QUEUE_MESSAGES = 2_000_000
QUEUE_BYTES = 2**30

# kafka_async sets these by default; the others over librdkafka are given them.
LOW_LATENCY_PRODUCER: Properties = {"linger.ms": 0, "socket.nagle.disable": True}
LOW_LATENCY_CONSUMER: Properties = {"socket.nagle.disable": True, "fetch.queue.backoff.ms": 2}


@dataclass(frozen=True)
class Broker:
    """Where to measure: a topic of one's own on a real broker."""

    servers: str
    topic: str
    partitions: int
    #: Of librdkafka, what it takes to connect.
    config: Properties = field(default_factory=dict)


@contextlib.contextmanager
def temporary_topic(servers: str, partitions: int, config: Properties | None = None) -> Iterator[Broker]:
    """Make a topic that nobody else uses, and delete it at the end.

    Raises
    ------
    OSError
        It can't be made: confluent-kafka doesn't take a property, or no broker answers within 10 s.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    name = f"kafka-async-bench-{uuid.uuid4().hex[:12]}"
    try:
        admin = AdminClient({"bootstrap.servers": servers, **(config or {})})
    except KafkaException as error:
        raise OSError(f"confluent-kafka makes no client: {error.args[0].str()}") from error
    created = admin.create_topics([NewTopic(name, partitions, -1)], request_timeout=CREATE_S)[name]
    try:
        try:
            created.result(TIMEOUT_S)
        except KafkaException as error:
            raise OSError(f"no topic can be made on {servers}: {error.args[0].str()}") from error
        yield Broker(servers, name, partitions, config or {})
    finally:
        if not (created.done() and created.exception()):  # also after a signal while it was being made
            admin.delete_topics([name])[name].result(TIMEOUT_S)


# Producers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_producer(broker: Broker, config: Properties | None = None, **options: Any) -> Iterator[kafka_async.Producer]:
    """Open ours, connected: one message is through."""
    with kafka_async.Producer(
        broker.servers,
        broker.topic,
        config={**broker.config, **(config or {})},
        **{"queue_messages": QUEUE_MESSAGES, "queue_bytes": QUEUE_BYTES, **options},
    ) as producer:
        producer.send(b"first")
        producer.flush(TIMEOUT_S)
        yield producer


@contextlib.contextmanager
def opened_confluent_producer(broker: Broker, config: Properties | None = None) -> Iterator[Any]:
    """Open confluent-kafka's, connected: one message is through."""
    import confluent_kafka

    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": broker.servers,
            "queue.buffering.max.messages": QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": QUEUE_BYTES // 1024,
            **LOW_LATENCY_PRODUCER,
            **broker.config,
            **(config or {}),
        }
    )
    producer.produce(broker.topic, b"first")
    flush_confluent(producer)
    yield producer
    flush_confluent(producer)


def flush_confluent(producer: Any) -> None:
    """Wait until everything is delivered."""
    if left := producer.flush(TIMEOUT_S):
        raise RuntimeError(f"{left} messages were not delivered")


# Consumers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_consumer(broker: Broker, place: str = "beginning", **options: Any) -> Iterator[kafka_async.Consumer]:
    """Open ours at the topic's beginning or end, without a group."""
    with kafka_async.Consumer(broker.servers, config=dict(broker.config), **options) as consumer:
        consumer.assign(
            [kafka_async.TopicPartition(broker.topic, number, place) for number in range(broker.partitions)]
        )
        yield consumer


@contextlib.contextmanager
def opened_confluent_consumer(
    broker: Broker, config: Properties | None = None, place: str = "beginning"
) -> Iterator[Any]:
    """Open confluent-kafka's at the topic's beginning or end, committing nothing."""
    import confluent_kafka

    offset = confluent_kafka.OFFSET_BEGINNING if place == "beginning" else confluent_kafka.OFFSET_END
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker.servers,
            "group.id": "unused",
            "enable.auto.commit": False,
            **broker.config,
            **(config or {}),
        }
    )
    consumer.assign(
        [confluent_kafka.TopicPartition(broker.topic, number, offset) for number in range(broker.partitions)]
    )
    try:
        yield consumer
    finally:
        consumer.close()


# On an event loop ------------------------------------------------------------------------------


class AsyncProducer(NamedTuple):
    """A producer on an event loop."""

    send: Callable[[bytes], Awaitable[object]]  # acknowledged when it is awaited
    submit_many: Callable[[bytes, int], Awaitable[object]]  # one after the other, then all acknowledgements together
    ours: aio.Producer | None = None


@contextlib.asynccontextmanager
async def async_producer(broker: Broker, *, waits: bool = True, **options: Any) -> AsyncIterator[AsyncProducer]:
    """Open ours; without `waits` many messages are sent and flushed, which tells of failures."""
    async with aio.Producer(
        broker.servers,
        broker.topic,
        config=dict(broker.config),
        queue_messages=QUEUE_MESSAGES,
        queue_bytes=QUEUE_BYTES,
        **options,
    ) as producer:
        from asyncio import gather

        async def submit_many(value: bytes, count: int) -> None:
            if waits:
                await gather(*[producer.submit(value) for _ in range(count)])
                return
            for _ in range(count):
                producer.send_nowait(value)
            await producer.flush(TIMEOUT_S)

        yield AsyncProducer(producer.send, submit_many, producer)


@contextlib.asynccontextmanager
async def aiokafka_producer(broker: Broker) -> AsyncIterator[AsyncProducer]:
    """Open aiokafka's; it has no librdkafka, and no linger by default."""
    from asyncio import gather

    import aiokafka

    async with aiokafka.AIOKafkaProducer(bootstrap_servers=broker.servers, acks="all") as producer:

        async def submit_many(value: bytes, count: int) -> None:
            await gather(*[await producer.send(broker.topic, value) for _ in range(count)])

        yield AsyncProducer(partial(producer.send_and_wait, broker.topic), submit_many)


@contextlib.asynccontextmanager
async def confluent_aio_producer(broker: Broker, **tuning: Any) -> AsyncIterator[AsyncProducer]:
    """Open confluent-kafka's; it hands batches to threads, a thousand messages or what a second brought."""
    from asyncio import gather

    from confluent_kafka.aio import AIOProducer

    producer = AIOProducer({"bootstrap.servers": broker.servers, **LOW_LATENCY_PRODUCER, **broker.config}, **tuning)

    async def send(value: bytes) -> object:
        return await (await producer.produce(broker.topic, value))

    async def submit_many(value: bytes, count: int) -> None:
        await gather(*[await producer.produce(broker.topic, value) for _ in range(count)])

    try:
        yield AsyncProducer(send, submit_many)
    finally:
        await producer.close()
