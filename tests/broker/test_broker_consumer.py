"""Groups and topics as a real Kafka has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest
from support import create_topic, read, reader, send_all

from kafka_async import Consumer, ConsumerError, Message, Producer

pytestmark = pytest.mark.broker


def numbers(messages: Iterable[Message]) -> list[int]:
    return [int(message.value or b"-1") for message in messages]


@pytest.fixture
def hundred(broker: str, topic: str) -> str:
    """A topic of one partition that holds b"0" to b"99"."""
    create_topic(broker, topic, 1)
    send_all(broker, topic, [b"%d" % number for number in range(100)])
    return topic


def test_group_reads_commits_and_resumes(broker: str, topic: str) -> None:
    create_topic(broker, topic, 2)
    send_all(broker, topic, [b"%d" % number for number in range(100)])
    config = {"auto.offset.reset": "earliest"}
    with Consumer(broker, topic, group_id=topic, config=config) as consumer:
        first = read(consumer, 60)
        assert consumer.subscription() == [topic]
        assert {tp.partition for tp in consumer.assignment()} == {0, 1}
    with Consumer(broker, topic, group_id=topic, config=config) as consumer:
        second = read(consumer, 40)
        assert consumer.poll_message(0.3) is None
    assert sorted(numbers(first + second)) == list(range(100))


def test_exception_in_the_with_block_sees_its_message_again(broker: str, hundred: str) -> None:
    config = {"auto.offset.reset": "earliest"}
    with (
        pytest.raises(ZeroDivisionError),
        Consumer(broker, hundred, group_id=hundred, config=config) as consumer,
    ):
        handled = read(consumer, 31)
        raise ZeroDivisionError
    with Consumer(broker, hundred, group_id=hundred, config=config) as consumer:
        assert read(consumer, 1)[0].value == handled[-1].value


def test_stop_by_another_thread_leaves_the_message_in_hand(broker: str, hundred: str) -> None:
    config = {"auto.offset.reset": "earliest"}
    consumer = Consumer(broker, hundred, group_id=hundred, config=config)
    handled = read(consumer, 10)
    thread = threading.Thread(target=consumer.stop)
    thread.start()
    thread.join()
    with Consumer(broker, hundred, group_id=hundred, config=config) as consumer:
        assert read(consumer, 1)[0].value == handled[-1].value


def test_small_prefetch_never_stalls_for_a_second(broker: str, topic: str) -> None:
    """librdkafka before 2.2 looks at a queue that was full again after a second."""
    create_topic(broker, topic, 2)
    with Producer(broker, topic, on_full="block", config={"linger.ms": 5}) as producer:
        for number in range(200_000):
            producer.send(b"x" * 100, partition=number % 2)
    gaps = []
    with reader(broker, topic, prefetch_messages=10_000) as consumer:
        read(consumer, 1)
        last = time.monotonic()
        for _ in range(199_999):
            assert consumer.poll_message(20) is not None
            now = time.monotonic()
            gaps.append(now - last)
            last = now
    assert max(gaps) < 0.8


def test_unknown_topic_raises_once_and_is_read_when_it_appears(broker: str, topic: str) -> None:
    with reader(broker, topic) as consumer:
        with pytest.raises(ConsumerError) as caught:
            consumer.poll_message(10)
        assert caught.value.name == "UNKNOWN_TOPIC_OR_PART"
        assert topic in str(caught.value)
        assert consumer.poll_message(0.1) is None
        create_topic(broker, topic, 2)
        send_all(broker, topic, [b"1", b"2"])
        assert sorted(numbers(read(consumer, 2))) == [1, 2]
