"""Where the time of a message goes: each part is made long by itself, and shows there and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from shared_cluster import shared_cluster  # noqa: F401
from support import reader, send_all, wait_for

from kafka_async import Producer, ProducerHops
from kafka_async.testing import MockCluster

LONG_S = 0.2
SHORT_S = LONG_S / 2  # less than what is made long, and much more than what is not


@pytest.fixture
def producer(cluster: MockCluster, one: str) -> Iterator[Producer]:
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.warm_up()
        yield producer


def long_ones(hops: ProducerHops) -> set[str]:
    names = ("ring", "queue", "wire", "report", "told")
    return {name for name in names if getattr(hops, name).p50 > SHORT_S}


def test_parts_add_up_to_the_time_of_acknowledgement(producer: Producer) -> None:
    for _ in range(100):
        producer.send(b"x")
    producer.flush()
    metrics = producer.metrics()
    parts = (metrics.hops.ring, metrics.hops.queue, metrics.hops.wire, metrics.hops.report)
    assert [part.count for part in parts] == [100] * 4
    assert metrics.ack_latency.count == 100
    assert metrics.hops.told.count == 0
    # The parts are kept in 24 bits, and one that came out below 0 for that counts as 0.
    assert sum(part.mean for part in parts) == pytest.approx(metrics.ack_latency.mean, rel=1e-3)


def test_a_slow_broker_shows_on_the_wire(producer: Producer, cluster: MockCluster) -> None:
    cluster.set_round_trip(1, LONG_S)
    try:
        producer.send(b"x")
        producer.flush()
    finally:
        cluster.set_round_trip(1, 0)
    assert long_ones(producer.metrics().hops) == {"wire"}


def test_linger_shows_in_the_queue(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, config={"linger.ms": LONG_S * 1000}) as producer:
        producer.warm_up()
        producer.send(b"x")
        wait_for(lambda: producer.metrics().delivered)
        assert long_ones(producer.metrics().hops) == {"queue"}


def test_attempts_that_failed_show_in_the_queue(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, config={"retry.backoff.ms": LONG_S * 1000}) as producer:
        producer.warm_up()
        cluster.fail_next("Produce", "NOT_ENOUGH_REPLICAS")
        producer.send(b"x")
        producer.flush()
        assert long_ones(producer.metrics().hops) == {"queue"}


def test_a_busy_delivery_thread_shows_in_what_is_told(producer: Producer) -> None:
    producer.send(b"x", on_delivery=lambda _: time.sleep(LONG_S))
    wait_for(lambda: producer.metrics().hops.told.count == 1)
    for _ in range(3):
        producer.submit(b"y")
    producer.flush()
    assert producer.metrics().hops.told.count == 4
    assert long_ones(producer.metrics().hops) == {"told"}


def test_without_acknowledgements_nothing_is_on_the_wire(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one, config={"acks": 0}) as producer:
        producer.warm_up()
        producer.send(b"x")
        producer.flush()
        metrics = producer.metrics()
    assert metrics.hops.wire.max == 0
    assert metrics.hops.queue.max + metrics.hops.ring.max <= metrics.ack_latency.max


def test_what_failed_is_in_no_part_but_the_ring(cluster: MockCluster, one: str) -> None:
    with Producer(cluster.bootstrap_servers, one) as producer:
        producer.warm_up()
        cluster.fail_next("Produce", "MSG_SIZE_TOO_LARGE")
        producer.send(b"x")
        wait_for(lambda: producer.metrics().failed)
        assert len(producer.failures()) == 1
        hops = producer.metrics().hops
    assert [part.count for part in (hops.ring, hops.queue, hops.wire, hops.report)] == [1, 0, 0, 0]


def test_age_at_arrival_counts_from_the_timestamp(cluster: MockCluster, one: str) -> None:
    hour_ago = time.time() - 3600
    send_all(cluster.bootstrap_servers, one, [b"x"], timestamp_ms=int(hour_ago * 1000))
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert consumer.poll_message(10)
        metrics = consumer.metrics()
    assert metrics.hops.arrival.p50 == pytest.approx(time.time() - hour_ago, abs=2)
    assert metrics.hops.ring.max < SHORT_S
    assert metrics.age.p50 == pytest.approx(metrics.hops.arrival.p50, abs=2)


@pytest.mark.parametrize("batch", [False, True])
def test_what_waits_to_be_polled_shows_in_the_ring(cluster: MockCluster, one: str, batch: bool) -> None:
    send_all(cluster.bootstrap_servers, one, [b"x"] * 10)
    with reader(cluster.bootstrap_servers, one) as consumer:
        wait_for(lambda: consumer.metrics().prefetched == 10)
        time.sleep(LONG_S)
        if batch:
            assert len(consumer.poll_batch(10)) == 10
        else:
            assert all(consumer.poll_message(10) for _ in range(10))
        assert consumer.poll_message(0) is None
        hops = consumer.metrics().hops
    assert hops.ring.count == 10
    assert hops.ring.p50 > SHORT_S
    assert hops.block.count == 10
    assert hops.block.max < SHORT_S


def test_a_slow_application_shows_in_the_block(cluster: MockCluster, one: str) -> None:
    send_all(cluster.bootstrap_servers, one, [b"x"] * 10)
    with reader(cluster.bootstrap_servers, one) as consumer:
        wait_for(lambda: consumer.metrics().prefetched == 10)
        for _ in range(10):
            assert consumer.poll_message(10)
            time.sleep(LONG_S / 10)
        assert consumer.poll_message(0) is None
        hops = consumer.metrics().hops
    assert hops.ring.max < SHORT_S
    assert hops.block.count == 10
    assert hops.block.max > SHORT_S
