"""What tests of security do with each way to connect."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from support import read, reader

from kafka_async import Consumer, ConsumerError, KafkaError, Producer, aio

WRONG_S = 20.0  # within which a mistake is told, on a machine that does other things too


def round_trip(servers: str, topic: str, config: Mapping[str, str | bool]) -> None:
    with Producer(servers, topic, config=config) as producer:
        offset = producer.submit(b"there").result(20).offset
    with reader(servers, topic, config=config) as consumer:
        assert read(consumer, (offset or 0) + 1)[-1].value == b"there"
    with Consumer(servers, topic, group_id=topic, config={**config, "auto.offset.reset": "earliest"}) as consumer:
        assert read(consumer, (offset or 0) + 1)[-1].value == b"there"


async def round_trip_aio(servers: str, topic: str, config: Mapping[str, str | bool]) -> None:
    async with aio.Producer(servers, topic, config=config) as producer:
        offset = (await producer.send(b"and back")).offset
    async with aio.Consumer(servers, topic, config={**config, "auto.offset.reset": "earliest"}) as consumer:
        async for message in consumer:
            if message.offset == offset:
                break
    assert message.value == b"and back"


def told_to_producer(servers: str, topic: str, config: Mapping[str, str | bool], text: str) -> KafkaError:
    """What `warm_up` raises long before its time is over. The message that waits meanwhile goes nowhere."""
    began = time.monotonic()
    producer = Producer(servers, topic, config=config)
    try:
        producer.send(b"never to arrive")
        with pytest.raises(KafkaError, match=text) as caught:
            producer.warm_up(timeout=60)
        assert time.monotonic() - began < WRONG_S
        assert producer.metrics().delivered == 0
    finally:
        with pytest.raises(KafkaError, match=text):
            producer.stop(0)
    return caught.value


def failures_of_consumer(
    servers: str, topic: str, config: Mapping[str, str | bool], group_id: str | None
) -> list[ConsumerError]:
    """What polling raises until a mistake must have been told, and a little more."""
    found: list[ConsumerError] = []
    end = time.monotonic() + WRONG_S
    with Consumer(servers, topic, group_id=group_id, config=config) as consumer:
        while time.monotonic() < end:
            try:
                assert consumer.poll_message(0.1) is None
            except ConsumerError as error:
                found.append(error)
                end = min(end, time.monotonic() + 1.5)
    return found
