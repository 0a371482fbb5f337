"""Transactions on the embedded cluster: order, states, errors, and what closing does to an open one.

What readers see is tested on a real broker: tests/broker/test_transactions.py.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import NOBODY, run_python, wait_for

from kafka_async import (
    ClosedError,
    ConfigError,
    Consumer,
    ConsumerError,
    DeliveryError,
    Producer,
    TopicPartition,
    TransactionError,
)
from kafka_async.testing import MockCluster

pytestmark = pytest.mark.timeout(60)


def transactional(servers: str, name: str, topic: str | None = "t", **options: object) -> Producer:
    return Producer(servers, topic, config={"transactional.id": name}, **options)  # type: ignore[arg-type]


@pytest.fixture
def producer(topic: str) -> Iterator[Producer]:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = transactional(cluster.bootstrap_servers, topic)
        producer.init_transactions()
        yield producer
        with contextlib.suppress(TransactionError):
            producer.stop()


def test_commit_delivers_all_that_was_accepted(producer: Producer) -> None:
    with producer.transaction():
        deliveries = [producer.submit(b"%d" % number) for number in range(100)]
    assert [delivery.result(10).offset for delivery in deliveries] == list(range(100))
    assert producer.metrics().delivered == 100


def test_send_outside_of_a_transaction_is_refused_and_says_what_to_do(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster, transactional(cluster.bootstrap_servers, topic) as producer:
        with pytest.raises(TransactionError, match="init_transactions"):
            producer.send(b"v")
        producer.init_transactions()
        with pytest.raises(TransactionError, match=r"call begin_transaction\(\)"):
            producer.submit(b"v")
        with pytest.raises(TransactionError) as caught:
            producer.send_many([b"v"])
        assert caught.value.accepted == 0
        producer.begin_transaction()
        producer.send(b"v")
        producer.commit_transaction()
        with pytest.raises(TransactionError, match="begin_transaction"):
            producer.send(b"v")
        assert producer.metrics().accepted == 1


def test_begin_twice_is_refused_and_leaves_the_first_open(producer: Producer) -> None:
    producer.begin_transaction()
    with pytest.raises(TransactionError) as caught:
        producer.begin_transaction()
    assert not caught.value.retriable
    assert not caught.value.fatal
    producer.send(b"v")
    producer.commit_transaction()
    assert producer.metrics().delivered == 1


def test_commit_without_a_transaction_is_refused(producer: Producer) -> None:
    with pytest.raises(TransactionError, match="commit_transaction"):
        producer.commit_transaction()


def test_methods_of_a_producer_without_transactional_id_say_so() -> None:
    with Producer(NOBODY, "t") as producer:
        for call in (producer.init_transactions, producer.begin_transaction, producer.commit_transaction):
            with pytest.raises(TransactionError, match=r"transactional\.id"):
                call()


def test_exception_in_the_block_aborts_and_is_kept(producer: Producer) -> None:
    with pytest.raises(ZeroDivisionError), producer.transaction():
        producer.send(b"v")
        raise ZeroDivisionError
    with producer.transaction():
        producer.send(b"w")
    metrics = producer.metrics()
    assert metrics.accepted == 2
    assert metrics.outstanding == 0


def test_threads_that_send_until_the_commit_are_inside_or_refused(topic: str) -> None:
    """What `send` accepted is delivered when the commit returns, and what came later was refused."""
    with MockCluster(topics={"t": 1}) as cluster:
        producer = transactional(cluster.bootstrap_servers, topic, queue_messages=100, on_full="block")
        producer.init_transactions()
        race_with_commits(producer, 20)
        producer.stop()


def race_with_commits(producer: Producer, rounds: int) -> None:
    accepted = [0] * 3

    def send_until_refused(number: int) -> None:
        while True:
            try:
                producer.send(b"v")
            except TransactionError:
                return
            accepted[number] += 1

    with ThreadPoolExecutor(3) as pool:
        for _ in range(rounds):
            producer.begin_transaction()
            senders = [pool.submit(send_until_refused, number) for number in range(3)]
            wait_for(lambda: producer.metrics().outstanding > 50)
            producer.commit_transaction()
            for sender in senders:
                sender.result(10)
            assert producer.metrics().delivered == sum(accepted)


def test_abort_does_not_linger_and_tells_every_message(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = Producer(cluster.bootstrap_servers, "t", config={"transactional.id": topic, "linger.ms": 20_000})
        producer.init_transactions()
        producer.begin_transaction()
        deliveries = [producer.submit(b"v") for _ in range(50)]
        producer.abort_transaction(10)
        reports = [delivery.exception(10) for delivery in deliveries]
        assert all(isinstance(report, DeliveryError | None) for report in reports)
        metrics = producer.metrics()
        assert (metrics.delivered, metrics.purged) == (reports.count(None), 50 - reports.count(None))
        producer.stop()


def test_purge_makes_the_transaction_require_an_abort(topic: str) -> None:
    """What librdkafka holds by then stays, and is aborted."""
    with MockCluster(topics={"t": 1}) as cluster:
        producer = Producer(cluster.bootstrap_servers, "t", config={"transactional.id": topic, "linger.ms": 20_000})
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(b"v")
        wait_for(lambda: producer.metrics().hops.ring.count == 1)
        assert producer.purge() == 0
        with pytest.raises(TransactionError) as caught:
            producer.commit_transaction()
        assert caught.value.requires_abort
        assert not caught.value.fatal
        producer.abort_transaction()
        with producer.transaction():
            producer.send(b"w")
        assert producer.metrics().delivered == 2
        producer.stop()


def test_message_that_failed_makes_the_transaction_require_an_abort(producer: Producer) -> None:
    with pytest.raises(TransactionError) as caught, producer.transaction():
        producer.send(b"v", partition=77)
        wait_for(lambda: producer.metrics().failed == 1)
    assert caught.value.requires_abort
    with producer.transaction():  # the block has aborted the one before
        producer.send(b"w")
    assert producer.metrics().delivered == 1
    producer.flush()  # the failure was told by the transaction
    assert producer.failures()[0].value == b"v"


def test_drop_policies_are_refused() -> None:
    for policy in ("drop_new", "drop_old"):
        with pytest.raises(ConfigError) as caught:
            transactional(NOBODY, "x", on_full=policy)
        assert caught.value.property == "transactional.id"


def test_guess_why_the_cluster_is_away_may_pass(topic: str) -> None:
    """Whatever closes connections at once may be a load balancer whose broker is down."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=close_all, args=(server,), daemon=True)
        thread.start()
        producer = transactional(f"127.0.0.1:{server.getsockname()[1]}", topic, log=False)
        with pytest.raises(TransactionError, match="may speak TLS") as caught:
            producer.init_transactions(20)
        assert (caught.value.retriable, caught.value.fatal) == (True, False)
        producer.stop()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def close_all(server: socket.socket) -> None:
    with contextlib.suppress(OSError):  # once it is shut down
        while True:
            server.accept()[0].close()


def test_init_gives_up_in_time_and_can_be_resumed() -> None:
    producer = transactional(NOBODY, "x", log=False)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(TransactionError) as caught:
            producer.init_transactions(0.3)
        assert time.monotonic() - began < 2
        assert caught.value.retriable
        assert caught.value.name == "_TIMED_OUT"
    producer.stop()


def test_stop_ends_a_waiting_call_at_once() -> None:
    producer = transactional(NOBODY, "x", log=False)
    ended: list[float] = []

    def init() -> None:
        with pytest.raises(ClosedError):
            producer.init_transactions(None)
        ended.append(time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(init)
        wait_for(waiting.running)
        wait_for(lambda: threading.active_count() > 1)
        stopped = time.monotonic()
        producer.stop()
        waiting.result(5)
    assert ended[0] - stopped < 1  # 5 ms, and the machine's noise


def test_stop_aborts_an_open_transaction_and_says_so(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = transactional(cluster.bootstrap_servers, topic)
        producer.init_transactions()
        producer.begin_transaction()
        for _ in range(5):
            producer.send(b"v")
        with pytest.raises(TransactionError, match="5 messages"):
            producer.stop()
        producer.stop()


def test_with_block_left_by_an_exception_keeps_it_and_aborts(topic: str) -> None:
    with (
        MockCluster(topics={"t": 1}) as cluster,
        pytest.raises(ZeroDivisionError),
        transactional(cluster.bootstrap_servers, topic) as producer,
    ):
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(b"v")
        raise ZeroDivisionError


def test_fenced_producer_is_told_to_give_up(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = transactional(cluster.bootstrap_servers, topic)
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(b"v")
        producer.flush()
        cluster.fail_next("EndTxn", "PRODUCER_FENCED")
        for call in (producer.commit_transaction, producer.abort_transaction):
            with pytest.raises(TransactionError) as caught:
                call()
            error = caught.value
            assert (error.fatal, error.requires_abort, error.retriable) == (True, False, False)
        with pytest.raises(TransactionError):
            producer.stop()


def test_refused_partition_is_told_to_abort(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = transactional(cluster.bootstrap_servers, topic)
        producer.init_transactions()
        cluster.fail_next("AddPartitionsToTxn", "TOPIC_AUTHORIZATION_FAILED")
        producer.begin_transaction()
        producer.send(b"v")
        with pytest.raises(TransactionError) as caught:
            producer.commit_transaction()
        error = caught.value
        assert (error.fatal, error.requires_abort, error.retriable) == (False, True, False)
        producer.abort_transaction()
        with producer.transaction():
            producer.send(b"w")
        producer.stop()
        assert producer.metrics().delivered == 1


def test_commit_that_ran_out_of_time_is_resumed(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = transactional(cluster.bootstrap_servers, topic)
        producer.init_transactions()
        producer.begin_transaction()
        delivery = producer.submit(b"v")
        delivery.result(10)
        cluster.fail_next("EndTxn", ["COORDINATOR_LOAD_IN_PROGRESS"] * 15)  # 100 ms each
        with pytest.raises(TransactionError) as caught:
            producer.commit_transaction(0.2)
        error = caught.value
        assert (error.fatal, error.requires_abort, error.retriable) == (False, False, True)
        with pytest.raises(TransactionError, match="finish it"):
            producer.send(b"too late")
        producer.commit_transaction()
        with producer.transaction():
            producer.send(b"w")
        producer.stop()
        assert producer.metrics().delivered == 2


def committing(cluster: MockCluster, name: str, refusals: int) -> Producer:
    """A producer whose commit takes a tenth of a second for each refusal."""
    producer = transactional(cluster.bootstrap_servers, name)
    producer.init_transactions()
    producer.begin_transaction()
    producer.submit(b"v").result(10)
    cluster.fail_next("EndTxn", ["COORDINATOR_LOAD_IN_PROGRESS"] * refusals)
    return producer


def test_stop_finishes_a_commit_that_has_begun(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = committing(cluster, topic, 8)
        with pytest.raises(TransactionError):
            producer.commit_transaction(0.1)
        producer.stop(30)  # no error: it was committed; newer librdkafkas wait longer with each retry


def test_stop_says_that_a_commit_did_not_end(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = committing(cluster, topic, 100)
        with pytest.raises(TransactionError):
            producer.commit_transaction(0.1)
        with pytest.raises(TransactionError, match="not known"):
            producer.stop(0.2)


def test_commit_that_an_exception_left_is_told_to_the_next_call(topic: str) -> None:
    done = run_python(
        f"""
        import signal, sys
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        from test_transactions import MockCluster, committing

        class Alarm(Exception):
            pass

        def handle(*_):
            raise Alarm

        with MockCluster(topics={{"t": 1}}) as cluster:
            producer = committing(cluster, {topic!r}, 8)
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                producer.commit_transaction()
            except Alarm:
                print("left")
            producer.commit_transaction()  # waits for the one that was left, and tells its success
            with producer.transaction():
                producer.send(b"w")
            producer.stop()
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "left\n"


def test_begin_during_a_commit_that_ran_out_of_time_is_not_retriable(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = committing(cluster, topic, 8)
        with pytest.raises(TransactionError):
            producer.commit_transaction(0.1)
        with pytest.raises(TransactionError, match="call that one again") as caught:
            producer.abort_transaction()
        assert not caught.value.retriable
        producer.commit_transaction()
        producer.stop()


def consumed(cluster: MockCluster, group: str, **config: object) -> Consumer:
    settings = {"auto.offset.reset": "earliest", "enable.auto.commit": False, **config}
    return Consumer(cluster.bootstrap_servers, "in", group_id=group, config=settings)  # type: ignore[arg-type]


def test_offsets_become_part_of_the_transaction(topic: str) -> None:
    with MockCluster(topics={"in": 1, "out": 1}) as cluster:
        with Producer(cluster.bootstrap_servers, "in") as feed:
            feed.send_many([b"%d" % number for number in range(10)])
        producer = transactional(cluster.bootstrap_servers, topic, "out")
        producer.init_transactions()
        with consumed(cluster, topic) as consumer:
            with producer.transaction():
                for _ in range(4):
                    message = consumer.poll_message(20)
                    assert message is not None
                    producer.send(message.value)
                producer.send_offsets_to_transaction(consumer)
            with producer.transaction():
                producer.send_offsets_to_transaction(consumer, [TopicPartition("in", 0, 6)])
        producer.stop()
        assert producer.metrics().delivered == 4


def test_offsets_need_a_group_that_does_not_commit_by_itself(producer: Producer) -> None:
    with Consumer(NOBODY, log=False) as reader, pytest.raises(ConsumerError, match="group_id"):
        producer.send_offsets_to_transaction(reader)
    with (
        Consumer(NOBODY, group_id="g", log=False) as member,
        pytest.raises(ConfigError, match=r"enable\.auto\.commit") as caught,
    ):
        producer.send_offsets_to_transaction(member)
    assert caught.value.property == "enable.auto.commit"


@pytest.mark.parametrize(
    ("kind", "offsets"),
    [
        (TypeError, [("t", 0)]),
        (TypeError, [("t", 0, "end")]),
        (ValueError, [("t", 0, -1)]),
        (TypeError, ["t"]),
    ],
)
def test_bad_offsets_are_refused(producer: Producer, kind: type[Exception], offsets: list[TopicPartition]) -> None:
    with (
        Consumer(NOBODY, group_id="g", config={"enable.auto.commit": False}, log=False) as member,
        pytest.raises(kind),
    ):
        producer.send_offsets_to_transaction(member, offsets)


def test_commit_after_stop_is_closed(producer: Producer) -> None:
    producer.stop()
    with pytest.raises(ClosedError):
        producer.begin_transaction()
