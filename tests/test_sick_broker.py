"""A broker that can't store messages, for want of replicas or of a disk: they wait for it, and are accounted for."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
from loops import run, until
from support import read, reader, wait_for

from kafka_async import DeliveryError, Producer, ProducerMetrics, TransactionError, aio
from kafka_async._native import lib
from kafka_async.testing import MockCluster

SICK = ("KAFKA_STORAGE_ERROR", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND")
COUNT = 50
LIMIT_S = 20.0
EVER = 10_000  # more answers than are asked for


@pytest.fixture
def sick(cluster: MockCluster, topic: str) -> MockCluster:
    cluster.create_topic(topic, 1)
    return cluster


def counts(metrics: ProducerMetrics) -> tuple[int, int, int, int, int]:
    return metrics.accepted, metrics.delivered, metrics.failed, metrics.purged, metrics.outstanding


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("name", SICK)
def test_sick_broker_is_asked_again_until_it_is_well(
    sick: MockCluster, topic: str, name: str, idempotent: bool
) -> None:
    config = {"retry.backoff.ms": 10, "max.in.flight": 1, "enable.idempotence": idempotent}
    with Producer(sick.bootstrap_servers, topic, config=config) as producer:
        sick.fail_next("Produce", [name] * 10)
        deliveries = [producer.submit(b"%d" % number) for number in range(COUNT)]
        producer.flush(LIMIT_S)
        assert [delivery.result(0).offset for delivery in deliveries] == list(range(COUNT))
        assert (
            producer.metrics().ack_latency.max >= 0.08
        )  # ten times retry.backoff.ms, of which librdkafka takes a little off
        assert counts(producer.metrics()) == (COUNT, COUNT, 0, 0, 0)
    with reader(sick.bootstrap_servers, topic) as consumer:
        assert [message.value for message in read(consumer, COUNT)] == [b"%d" % number for number in range(COUNT)]


@pytest.mark.parametrize("name", SICK)
def test_time_is_over_before_the_broker_is_well(sick: MockCluster, topic: str, name: str) -> None:
    """librdkafka then says that, and not why: hence ``retries``, below."""
    config = {"retry.backoff.ms": 20, "message.timeout.ms": 1000}
    with Producer(sick.bootstrap_servers, topic, config=config) as producer:
        sick.fail_next("Produce", [name] * EVER)
        for number in range(COUNT):
            producer.send(b"%d" % number)
        with pytest.raises(DeliveryError) as caught:
            producer.flush(LIMIT_S)
        assert (caught.value.failed, caught.value.name, caught.value.retriable) == (COUNT, "_MSG_TIMED_OUT", True)
        reports = producer.failures()
        # In the order in which they failed: what waits for its first try and for another one is looked at in turn.
        assert sorted(int(report.value or b"-1") for report in reports) == list(range(COUNT))
        assert all(1.0 <= report.latency_s <= 3.0 for report in reports)
        assert counts(producer.metrics()) == (COUNT, 0, COUNT, 0, 0)


@pytest.mark.parametrize("name", SICK)
def test_retries_bound_the_time_and_keep_the_brokers_word(sick: MockCluster, topic: str, name: str) -> None:
    config = {"retry.backoff.ms": 20, "retries": 5}
    with Producer(sick.bootstrap_servers, topic, config=config) as producer:
        sick.fail_next("Produce", [name] * EVER)
        deliveries = [producer.submit(b"%d" % number) for number in range(COUNT)]
        producer.flush(LIMIT_S)
        for delivery in deliveries:
            error = delivery.exception(0)
            assert isinstance(error, DeliveryError)
            assert (error.name, error.retriable) == (name, True)
            assert error.report is not None
            assert error.report.latency_s >= 0.1  # five times retry.backoff.ms
        assert counts(producer.metrics()) == (COUNT, 0, COUNT, 0, 0)


@pytest.mark.parametrize("name", SICK)
def test_transactions_whose_messages_time_out_are_aborted_at_once(sick: MockCluster, topic: str, name: str) -> None:
    """The error of such a commit is called _TIMED_OUT, like that of a call that may be resumed."""
    config = {"retry.backoff.ms": 100, "message.timeout.ms": 1000, "transactional.id": topic}
    aborted = 0
    with Producer(sick.bootstrap_servers, topic, config=config) as producer:
        producer.init_transactions()
        sick.fail_next("Produce", [name] * 30)  # for some rounds of a second
        while True:
            producer.begin_transaction()
            delivery = producer.submit(b"0")
            began = time.monotonic()
            try:
                producer.commit_transaction(LIMIT_S)
                break
            except TransactionError as refusal:
                requires_abort = refusal.requires_abort
            assert requires_abort
            assert time.monotonic() - began < LIMIT_S / 2
            error = delivery.exception(LIMIT_S)
            assert isinstance(error, DeliveryError)
            assert error.name == "_MSG_TIMED_OUT"
            producer.abort_transaction(LIMIT_S)
            aborted += 1
        assert aborted >= 2
        assert counts(producer.metrics()) == (aborted + 1, 1, aborted, 0, 0)


def test_abort_waits_for_messages_that_librdkafka_has(sick: MockCluster, topic: str) -> None:
    """So that no request of the transaction is on its way any more when its end is asked for."""
    config = {"retry.backoff.ms": 100, "transactional.id": topic}
    with Producer(sick.bootstrap_servers, topic, config=config) as producer:
        producer.init_transactions()
        sick.fail_next("Produce", ["NOT_ENOUGH_REPLICAS"] * 20)
        producer.begin_transaction()
        delivery = producer.submit(b"0")
        wait_for(lambda: producer.metrics().hops.ring.count == 1)
        with pytest.raises(TransactionError, match="did not answer in time") as caught:
            producer.abort_transaction(0.5)
        assert (caught.value.retriable, caught.value.requires_abort) == (True, False)
        producer.abort_transaction(LIMIT_S)
        assert delivery.result(LIMIT_S).offset == 0
        assert counts(producer.metrics()) == (1, 1, 0, 0, 0)


def test_block_whose_abort_fails_too_says_so_and_the_next_one_makes_up_for_it(sick: MockCluster, topic: str) -> None:
    config = {"retry.backoff.ms": 100, "transactional.id": topic}
    with Producer(sick.bootstrap_servers, topic, config=config) as producer:
        producer.init_transactions()
        sick.fail_next("Produce", ["NOT_ENOUGH_REPLICAS"] * 20)
        with pytest.raises(ZeroDivisionError) as caught, producer.transaction(timeout=0.3):
            producer.send(b"aborted")
            wait_for(lambda: producer.metrics().hops.ring.count == 1)
            raise ZeroDivisionError
        if sys.version_info >= (3, 11):
            (note,) = caught.value.__notes__
            assert "could not be aborted: abort_transaction(): the cluster did not answer in time" in note
        with pytest.raises(
            TransactionError, match=r"not over: commit_transaction\(\) or abort_transaction\(\) ends it"
        ):
            producer.begin_transaction()
        with producer.transaction(timeout=LIMIT_S):
            producer.send(b"committed")
        with producer.transaction(timeout=LIMIT_S):
            producer.send(b"committed, too")
        assert counts(producer.metrics()) == (3, 3, 0, 0, 0)


def test_block_that_is_cancelled_within_its_abort_is_made_up_for_by_the_next(sick: MockCluster, topic: str) -> None:
    async def use(producer: aio.Producer) -> None:
        async with producer.transaction():
            producer.send_nowait(b"aborted")
            await asyncio.sleep(EVER)

    async def main() -> None:
        config = {"retry.backoff.ms": 100, "transactional.id": topic}
        async with aio.Producer(sick.bootstrap_servers, topic, config=config) as producer:
            await producer.init_transactions()
            sick.fail_next("Produce", ["NOT_ENOUGH_REPLICAS"] * 20)
            task = asyncio.create_task(use(producer))
            await until(lambda: producer.metrics().hops.ring.count == 1)
            task.cancel()
            await until(lambda: lib.ka_producer_transaction(producer._native) == lib.KA_TXN_ENDING)
            task.cancel()  # within the abort, which waits for the message
            await until(task.done)
            assert task.cancelled()
            async with producer.transaction(timeout=LIMIT_S):
                producer.send_nowait(b"committed")
            assert counts(producer.metrics()) == (2, 2, 0, 0, 0)

    run(main())
