"""Every call that may wait, made to wait, and a look at its object after it was left by an exception."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from support import NOBODY, read, wait_for

from kafka_async import Consumer, FlushTimeout, Producer, Record, TopicPartition, TransactionError
from kafka_async.testing import MockCluster

AT = TopicPartition("t", 0)
MANUAL = {"enable.auto.commit": False, "auto.offset.reset": "earliest"}

Case = Iterator[Callable[[], object]]  # yields the call that waits; then looks at what became of its object
CASES: dict[str, Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]] = {}


@contextlib.contextmanager
def cluster_of(topics: dict[str, int]) -> Iterator[MockCluster]:
    """One whose end, which takes up to a second, nobody waits for."""
    cluster = MockCluster(topics=topics)
    yield cluster
    threading.Thread(target=cluster.stop).start()


def case(name: str, make: Callable[..., Case], *args: Any) -> None:
    CASES[name] = lambda: contextlib.contextmanager(make)(*args)


def fails(call: Callable[[], object]) -> str:
    """Name the error that a call raises."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "none"


def finish(producer: Producer, accepted: int) -> None:
    """The books of a producer of which nothing was delivered are right, and it works on."""
    metrics = producer.metrics()
    assert metrics.accepted == accepted, metrics
    assert metrics.outstanding + metrics.purged == accepted, metrics
    wait_for(lambda: producer.purge() >= 0 and producer.metrics().outstanding == 0)
    producer.send(b"again")
    assert producer.metrics().accepted == accepted + 1
    with contextlib.suppress(FlushTimeout):
        producer.stop(0)
    assert producer.metrics().purged == accepted + 1


def full(call: Callable[[Producer], object]) -> Case:
    producer = Producer(NOBODY, "t", queue_messages=1, on_full="block", log=False)
    producer.send(b"v")
    yield lambda: call(producer)
    finish(producer, 1)


def plain(call: Callable[[Producer], object]) -> Case:
    producer = Producer(NOBODY, "t", log=False)
    yield lambda: call(producer)
    finish(producer, 0)


case("flush", full, lambda p: p.flush(None))
case("send", full, lambda p: p.send(b"w"))
case("submit", full, lambda p: p.submit(b"w"))
case("send_many", full, lambda p: p.send_many([b"w"] * 3))
case("partitions", plain, lambda p: p.partitions("t", None))
case("warm_up", plain, lambda p: p.warm_up(timeout=None))


def future(call: Callable[[Any], object]) -> Case:
    producer = Producer(NOBODY, "t", log=False)
    waited = producer.submit(b"v")
    yield lambda: call(waited)
    assert not waited.done()
    finish(producer, 1)
    assert type(waited.exception(10)).__name__ == "DeliveryError"


case("result of submit", future, lambda f: f.result())
case("exception of submit", future, lambda f: f.exception(60))


def callback() -> Case:
    producer, release = Producer(NOBODY, "t", log=False), threading.Event()
    producer.send(b"v", on_delivery=lambda _: release.wait(30))
    producer.purge()
    yield lambda: producer.flush(None)
    release.set()
    finish(producer, 1)


case("flush for a callback", callback)


def stop() -> Case:
    producer = Producer(NOBODY, "t", log=False)
    producer.send(b"v")
    yield lambda: producer.stop(None)
    assert fails(lambda: producer.stop(0)) == "FlushTimeout"
    assert producer.metrics().purged == 1


case("stop of a producer", stop)


def constructor() -> Case:
    yield lambda: Producer(NOBODY, "t", partitioner=lambda *_: 0, log=False)


case("constructor that counts partitions", constructor)


def init() -> Case:
    producer = Producer(NOBODY, "t", config={"transactional.id": "x"}, log=False)
    yield lambda: producer.init_transactions(None)
    with contextlib.suppress(TransactionError):
        producer.init_transactions(0.1)
    producer.stop(0)


case("init_transactions", init)


def transaction(name: str) -> Case:
    with cluster_of({"t": 1}) as cluster:
        config = {"transactional.id": "x", "reconnect.backoff.max.ms": 100}
        producer = Producer(cluster.bootstrap_servers, "t", config=config, log=False)
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(b"v")
        producer.flush()
        cluster.set_round_trip(1, 1.5)
        yield lambda: getattr(producer, name)(None)
        cluster.set_round_trip(1, 0)
        getattr(producer, name)(20)  # waits for the one that was left, and tells how it ended
        with producer.transaction():
            producer.send(b"w")
        assert producer.metrics().delivered == 2
        producer.stop()


case("commit_transaction", transaction, "commit_transaction")
case("abort_transaction", transaction, "abort_transaction")


def consumer(call: Callable[[Consumer], object], **options: Any) -> Case:
    """Of a group; its cluster takes 2 s for an answer while the call waits."""
    with cluster_of({"t": 2}) as cluster:
        with Producer(cluster.bootstrap_servers, "t") as producer:
            producer.send_many([Record(value, partition=0) for value in (b"0", b"1", b"2")])
        config = {**MANUAL, **options}
        reading = Consumer(cluster.bootstrap_servers, group_id="g", config=config, log=False)
        reading.assign([AT._replace(offset=0)])
        assert read(reading, 1)[0].offset == 0
        reading.commit()
        cluster.set_round_trip(1, 2.0)
        yield lambda: call(reading)
        cluster.set_round_trip(1, 0)
        assert read(reading, 1)[0].offset == 1
        assert reading.commit(timeout=20) == [AT._replace(offset=2)]
        assert reading.committed([AT], 20) == [AT._replace(offset=2)]
        reading.stop()
        metrics = reading.metrics()
        assert metrics.received == metrics.handed_out + metrics.purged


case("commit", consumer, lambda c: c.commit(offsets={AT: 1}))
case("result of commit", consumer, lambda c: c.commit(offsets={AT: 1}, asynchronous=True).result())
case("committed", consumer, lambda c: c.committed([AT], 20))
case("watermarks", consumer, lambda c: c.watermarks("t", 0, 20))
case("offsets_for_times", consumer, lambda c: c.offsets_for_times([AT._replace(offset=0)], 20))
case("lag", consumer, lambda c: c.lag(20))
case("seek", consumer, lambda c: c.seek(AT._replace(offset=("tail", 2)), 20))
case("assign", consumer, lambda c: c.assign([AT._replace(offset=("tail", 2))]))
case("incremental_assign", consumer, lambda c: c.incremental_assign([TopicPartition("t", 1, "end")]))


def ended(call: Callable[[Consumer], object]) -> Case:
    """One that waits for messages, of which there are none until the last signal."""
    with cluster_of({"t": 1}) as cluster:
        reading = Consumer(cluster.bootstrap_servers, "t", config=MANUAL, log=False)
        yield lambda: call(reading)
        with Producer(cluster.bootstrap_servers, "t") as producer:
            producer.send_many([b"0", b"1", b"2"])
        assert [message.value for message in read(reading, 3)] == [b"0", b"1", b"2"]
        reading.stop()


case("poll_message", ended, lambda c: c.poll_message(None))
case("poll_batch", ended, lambda c: c.poll_batch(timeout=None))
case("iteration", ended, next)


def leave() -> Case:
    with cluster_of({"t": 1}) as cluster:
        with Producer(cluster.bootstrap_servers, "t") as producer:
            producer.send_many([b"0", b"1"])
        config = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": 60_000}
        reading = Consumer(cluster.bootstrap_servers, group_id="g", config=config, log=False)
        reading.assign([AT._replace(offset=0)])
        assert len(read(reading, 2)) == 2
        cluster.set_round_trip(1, 1.5)
        yield lambda: reading.stop(None)
        cluster.set_round_trip(1, 0)
        reading.stop(20)  # waits for the end of what was begun
        with Consumer(cluster.bootstrap_servers, group_id="g", config=MANUAL, log=False) as other:
            assert other.committed([AT], 20) == [AT._replace(offset=2)]


case("stop of a consumer", leave)
