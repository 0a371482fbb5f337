"""Cases that went wrong once, on a real Kafka."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import create_topic, read, reader, run_python, send_all

from kafka_async import Consumer, ConsumerError, TopicPartition

pytestmark = pytest.mark.broker

LIMIT_S = 30.0
COUNT = 1000


@pytest.fixture
def filled(broker: str, topic: str) -> TopicPartition:
    create_topic(broker, topic, 1)
    send_all(broker, topic, [b"%d" % number for number in range(COUNT)])
    return TopicPartition(topic, 0)


def offsets(consumer: Consumer, count: int) -> list[int]:
    return [message.offset for message in read(consumer, count)]


@pytest.mark.parametrize("first", ["beginning", "end", ("tail", 100), ("timestamp", 0)])
def test_of_two_seeks_the_second_counts(broker: str, filled: TopicPartition, first: object) -> None:
    """librdkafka takes up a search again whose answer was out of date, and goes where that leads."""
    with reader(broker, filled.topic) as consumer:
        consumer.assign([filled._replace(offset=0)])
        assert offsets(consumer, 1) == [0]
        for start in range(20, 120, 20):
            consumer.seek(filled._replace(offset=first))  # type: ignore[arg-type]
            if start % 3 == 0:
                consumer.poll_message(0)
            consumer.seek(filled._replace(offset=start))
            assert offsets(consumer, 10) == list(range(start, start + 10))
        began = time.monotonic()
        following = start + 10
        while time.monotonic() < began + 0.7:  # such a search is taken up after half a second
            assert offsets(consumer, 1) == [following]
            following += 1
            time.sleep(0.01)  # a rate


@pytest.mark.parametrize("begin", ["earliest", "latest"])
def test_a_seek_right_after_the_start_counts(broker: str, filled: TopicPartition, begin: str) -> None:
    for start in (5, 500, COUNT - 1):
        with Consumer(broker, config={"auto.offset.reset": begin}) as consumer:
            consumer.assign([filled])
            consumer.seek(filled._replace(offset=start))
            assert offsets(consumer, COUNT - start) == list(range(start, COUNT))
            assert consumer.poll_message(0.7) is None


@pytest.mark.parametrize("group", [False, True], ids=["no group", "group"])
def test_a_seek_goes_on_after_an_offset_that_is_not_there(broker: str, filled: TopicPartition, group: bool) -> None:
    config = {"auto.offset.reset": "error"}
    with Consumer(broker, group_id=filled.topic if group else None, config=config) as consumer:
        for start in (3, 700):
            consumer.assign([filled._replace(offset=10 * COUNT)])
            with pytest.raises(ConsumerError) as caught:
                consumer.poll_message(LIMIT_S)
            assert caught.value.name == "_AUTO_OFFSET_RESET"
            assert caught.value.partition is not None
            assert caught.value.partition[:2] == filled[:2]
            consumer.seek(filled._replace(offset=start))
            assert offsets(consumer, COUNT - start) == list(range(start, COUNT))


def test_cooperative_members_that_come_and_go(broker: str, topic: str) -> None:
    """librdkafka before 2.3 aborts the process of one that never had an assignment."""
    create_topic(broker, topic, 6)
    done = run_python(
        """
        import random, sys, threading, time
        from kafka_async import Consumer
        servers, topic = sys.argv[1:]
        config = {"partition.assignment.strategy": "cooperative-sticky"}
        end = time.monotonic() + 8
        def member(seed):
            choice = random.Random(seed)
            while time.monotonic() < end:
                with Consumer(servers, topic, group_id=topic, config=config, log=False) as consumer:
                    until = time.monotonic() + choice.uniform(0.1, 2)
                    while time.monotonic() < until:
                        consumer.poll_message(0.05)
        threads = [threading.Thread(target=member, args=(seed,)) for seed in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        """,
        broker,
        topic,
        limit=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_stop_amid_changes_of_the_subscription(broker: str, topic: str) -> None:
    """librdkafka aborts the process when a subscription that waits comes into force while it closes."""
    create_topic(broker, topic, 4)
    create_topic(broker, topic + "-2", 2)
    done = run_python(
        """
        import random, sys, time
        from kafka_async import Consumer
        servers, topic = sys.argv[1:]
        choice = random.Random(2)
        end = time.monotonic() + 10
        number = 0
        while time.monotonic() < end:
            number += 1
            consumer = Consumer(servers, topic, group_id=f"{topic}-{number}", log=False)
            while not consumer.assignment():
                consumer.poll_message(0.05)
            for _ in range(choice.randint(1, 4)):
                consumer.subscribe(choice.choice([topic, topic + "-2"]))
                consumer.poll_message(choice.choice([0, 0.01, 0.1]))
            consumer.stop()
        time.sleep(1)
        """,
        broker,
        topic,
        limit=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_questions_keep_their_time_without_a_broker() -> None:
    with Consumer("127.0.0.1:1", group_id="g") as consumer, ThreadPoolExecutor(4) as pool:
        at = TopicPartition("t", 0, 5)

        def times(call: object) -> float:
            began = time.monotonic()
            with pytest.raises(ConsumerError, match=r"0\.3 s|Timed out|_TIMED_OUT|_TRANSPORT|_ALL_BROKERS"):
                call()  # type: ignore[operator]
            return time.monotonic() - began

        for took in pool.map(
            times,
            [
                lambda: consumer.watermarks("t", 0, 0.3),
                lambda: consumer.offsets_for_times([at], 0.3),
                lambda: consumer.committed([at], 0.3),
                lambda: consumer.commit(offsets=[at], timeout=0.3),
            ],
        ):
            assert took < 1.0
