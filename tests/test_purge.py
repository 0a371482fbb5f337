"""What `purge` takes back, and that it is told and counted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import NOBODY, read, reader, wait_for

from kafka_async import ClosedError, DeliveryError, Producer
from kafka_async.testing import MockCluster

pytestmark = pytest.mark.timeout(60)


def test_purge_takes_back_all_that_was_not_sent_and_counts_it() -> None:
    with Producer(NOBODY, "t", log=False) as producer:
        futures = [producer.submit(b"%d" % number) for number in range(1000)]
        assert producer.purge() == 1000
        assert producer.purge() == 0
        errors = [future.exception(5) for future in futures]
        assert all(isinstance(error, DeliveryError) and error.name == "_PURGE_QUEUE" for error in errors)
        producer.flush()  # purged messages raise nothing
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.purged, metrics.outstanding, metrics.outstanding_bytes) == (1000, 1000, 0, 0)
        assert producer.failures() == []


def test_purge_makes_room_for_a_blocked_send() -> None:
    with Producer(NOBODY, "t", queue_messages=1, on_full="block", log=False) as producer:
        producer.send(b"v")
        with ThreadPoolExecutor(1) as pool:
            blocked = pool.submit(producer.send, b"w")
            wait_for(lambda: producer.purge() and blocked.done())
            blocked.result(5)
        assert producer.metrics().accepted == 2
        producer.purge()


def test_what_is_in_flight_is_purged_on_request_only(topic: str) -> None:
    with MockCluster(topics={topic: 1}) as cluster, Producer(cluster.bootstrap_servers, topic) as producer:
        producer.submit(b"first").result(10)  # connected
        cluster.set_round_trip(1, 5.0)
        future = producer.submit(b"v")
        # Not in a queue any more: it is on its way.
        wait_for(lambda: producer.metrics().outstanding == 1)
        taken = producer.purge()
        if taken == 0:
            assert not future.done()
            assert producer.purge(in_flight=True) == 1
        error = future.exception(5)
        assert isinstance(error, DeliveryError)
        assert error.name in ("_PURGE_QUEUE", "_PURGE_INFLIGHT")
        cluster.set_round_trip(1, 0.0)


def test_purges_of_several_threads_count_every_message_once() -> None:
    with Producer(NOBODY, "t", on_full="block", log=False) as producer:
        done = threading.Event()

        def purge_on() -> int:
            purged = 0
            while not done.is_set():
                purged += producer.purge()
            return purged

        with ThreadPoolExecutor(3) as pool:
            purges = [pool.submit(purge_on) for _ in range(3)]
            for _ in range(20_000):
                producer.send(b"v")
            done.set()
            counted = sum(purge.result(20) for purge in purges)
        assert counted + producer.purge() == 20_000 == producer.metrics().purged


def test_messages_after_a_purge_are_delivered_in_order(topic: str) -> None:
    with MockCluster(topics={topic: 1}) as cluster:
        with Producer(cluster.bootstrap_servers, topic, config={"linger.ms": 20_000}) as producer:
            for number in range(100):
                producer.send(b"purged %d" % number)
            assert producer.purge() == 100
            for number in range(100):
                producer.send(b"%d" % number)
        with reader(cluster.bootstrap_servers, topic) as consumer:
            assert [message.value for message in read(consumer, 100)] == [b"%d" % number for number in range(100)]


def test_purge_after_stop_is_closed() -> None:
    producer = Producer(NOBODY, "t", log=False)
    producer.stop()
    with pytest.raises(ClosedError):
        producer.purge()
