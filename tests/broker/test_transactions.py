"""Transactions on a real broker: all of one is visible to others at once, or none of it, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kafka_server import KafkaServer
from other_client import log_values, read_log
from real_kafka import frozen, kcat, own_broker, running
from support import create_topic, persist, wait_for

from kafka_async import DeliveryError, KafkaError, Producer, TransactionError

pytestmark = [pytest.mark.broker, pytest.mark.timeout(150)]

LIMIT_S = 60
PROGRAM = Path(__file__).with_name("transformer.py")
FENCED = ("_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED")
LIMITED = {"max.message.bytes": "10000"}


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with own_broker() as server:
        yield server


@pytest.fixture
def kafka(server: KafkaServer) -> KafkaServer:
    return running(server)


@pytest.fixture
def servers(kafka: KafkaServer) -> str:
    return kafka.bootstrap_servers


@pytest.fixture
def narrow(servers: str, topic: str) -> str:
    """A topic of one partition, which keeps the order."""
    create_topic(servers, topic, 1)
    return topic


def ready(servers: str, topic: str, name: str | None = None, **options: str | int | float) -> Producer:
    """A producer whose transactions may begin."""
    config = {"transactional.id": name or topic, **options}
    producer = Producer(servers, topic, config=config)
    persist(lambda: producer.init_transactions(LIMIT_S), LIMIT_S)
    return producer


def send_persistently(producer: Producer, value: bytes) -> None:
    """In a transaction; another one if the first requires an abort.

    Once the broker refused messages, or they were purged on their way, librdkafka numbers the next ones past those: the
    broker misses them, and the transaction can only be aborted. Then the numbers begin anew.
    """
    try:
        with producer.transaction():
            producer.send(value)
    except TransactionError as error:
        if not error.requires_abort:
            raise
        with producer.transaction():
            producer.send(value)


def committed(servers: str, topic: str) -> list[bytes | None]:
    return log_values(servers, topic, isolation="read_committed")


def written(servers: str, topic: str) -> list[bytes | None]:
    return log_values(servers, topic, isolation="read_uncommitted")


def by_kcat(servers: str, topic: str, isolation: str) -> list[bytes]:
    arguments = ("-C", "-q", "-e", "-o", "beginning", "-t", topic, "-b", servers)
    return kcat(*arguments, "-X", f"isolation.level={isolation}").splitlines()


def test_commit_is_visible_and_abort_is_not(servers: str, narrow: str) -> None:
    with ready(servers, narrow) as producer:
        for outcome in (b"committed", b"aborted", b"committed again"):
            producer.begin_transaction()
            for number in range(3):
                producer.send(b"%s %d" % (outcome, number))
            producer.flush(LIMIT_S)
            (producer.abort_transaction if outcome == b"aborted" else producer.commit_transaction)(LIMIT_S)
        producer.begin_transaction()
        producer.send(b"open")
        producer.flush(LIMIT_S)
        seen = [b"%s %d" % (name, number) for name in (b"committed", b"committed again") for number in range(3)]
        aborted = [b"aborted %d" % number for number in range(3)]
        everything = [*seen[:3], *aborted, *seen[3:], b"open"]
        assert committed(servers, narrow) == seen
        assert by_kcat(servers, narrow, "read_committed") == seen
        assert written(servers, narrow) == everything
        assert by_kcat(servers, narrow, "read_uncommitted") == everything
        producer.commit_transaction(LIMIT_S)
        metrics = producer.metrics()
    assert committed(servers, narrow) == [*seen, b"open"]
    assert (metrics.accepted, metrics.delivered, metrics.failed, metrics.purged) == (10, 10, 0, 0)


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_all_that_is_accepted_before_the_end_belongs_to_it(servers: str, topic: str, end: str) -> None:
    """Threads send up to the end and beyond; what raised TransactionError was not accepted."""
    create_topic(servers, topic, 3)
    with ready(servers, topic) as producer, ThreadPoolExecutor(3) as threads:
        accepted: list[list[list[bytes]]] = [[] for _ in range(5)]

        def send(turn: int, sender: int) -> list[bytes]:
            sent = []
            with contextlib.suppress(TransactionError):
                while True:
                    value = b"%d %d %d" % (turn, sender, len(sent))
                    producer.send(value, b"%d" % sender)
                    sent.append(value)
                    if len(sent) % 50 == 0:
                        time.sleep(0.001)
            return sent

        for turn in range(5):
            before = producer.metrics()
            producer.begin_transaction()
            jobs = [threads.submit(send, turn, sender) for sender in range(3)]
            delivered = before.delivered + 1 + 500 * turn
            wait_for(lambda: producer.metrics().delivered >= delivered, LIMIT_S)  # noqa: B023
            if end == "commit" or turn % 2 == 0:
                producer.commit_transaction(LIMIT_S)
            else:
                producer.abort_transaction(LIMIT_S)
            accepted[turn] = [job.result(LIMIT_S) for job in jobs]
            with pytest.raises(TransactionError, match="begin_transaction"):
                producer.send(b"outside")
        metrics = producer.metrics()
    ended = range(5) if end == "commit" else range(0, 5, 2)
    expected = sorted(value for turn in ended for sent in accepted[turn] for value in sent)
    rows = read_log(servers, topic, isolation="read_committed")
    print(f"\n{metrics.accepted} accepted, {len(rows)} committed")
    assert sorted(row.value or b"" for row in rows) == expected
    assert metrics.accepted == sum(len(sent) for turn in accepted for sent in turn)
    assert metrics.delivered >= len(rows)
    assert metrics.outstanding == metrics.failed == 0
    for sender in range(3):
        mine = [row.value for row in rows if row.key == b"%d" % sender]
        assert mine == [value for turn in ended for value in accepted[turn][sender]]


def test_abort_right_after_a_message_harms_nothing(servers: str, narrow: str) -> None:
    """librdkafka may ask the broker to end a transaction of which the broker has not heard yet, which is fatal."""
    turns = 40
    with ready(servers, narrow) as producer:
        for number in range(turns):
            with producer.transaction():
                producer.send(b"%d" % number)
            producer.begin_transaction()
            producer.send(b"aborted")
            time.sleep(0.001 * (number % 5))
            producer.abort_transaction(LIMIT_S)
    assert committed(servers, narrow) == [b"%d" % number for number in range(turns)]


def test_late_abort_spares_the_next_transaction(
    kafka: KafkaServer, servers: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker may carry out an abort late whose connection was given up.

    Several producers and turns, since it takes luck: an abort that did not wait for its messages failed two of three
    runs, more often by being fatal than by a loss. `test_abort_waits_for_messages_that_librdkafka_has` needs none.
    """
    create_topic(servers, topic, 3)
    names = [f"{topic}-{number}" for number in range(12)]
    impatient = {"socket.timeout.ms": 1000}
    barrier = threading.Barrier(len(names) + 1, timeout=LIMIT_S)
    committed = []

    def play(name: str) -> None:
        with ending(barrier), ready(servers, topic, name, **impatient) as producer:
            for turn in range(6):
                producer.begin_transaction()
                barrier.wait()
                barrier.wait()  # now it is frozen
                send_three(producer, b"aborted")
                persist(producer.abort_transaction, LIMIT_S)
                for number in range(3):
                    value = f"{name} {turn} {number}".encode()
                    producer.begin_transaction()
                    send_three(producer, value)
                    persist(producer.commit_transaction, LIMIT_S)
                    committed.extend([value] * 3)

    with ThreadPoolExecutor(len(names)) as threads:
        players = [threads.submit(play, name) for name in names]
        with contextlib.suppress(threading.BrokenBarrierError):  # then a player tells why
            for _ in range(6):
                barrier.wait()
                with frozen(kafka):
                    caplog.clear()
                    barrier.wait()
                    wait_for(lambda: given_up(caplog) == len(names), LIMIT_S, "connections that are given up")
        failures = [failure for player in players if (failure := player.exception(LIMIT_S))]
    failures.sort(key=lambda failure: isinstance(failure, threading.BrokenBarrierError))  # the cause first
    assert not failures
    assert sorted(log_values(servers, topic, isolation="read_committed")) == sorted(committed)


@contextlib.contextmanager
def ending(barrier: threading.Barrier) -> Iterator[None]:
    """Who fails keeps nobody waiting."""
    try:
        yield
    except BaseException:
        barrier.abort()
        raise


def given_up(caplog: pytest.LogCaptureFixture) -> int:
    """How many clients have said that requests of theirs had no answer in time."""
    return len({line.split()[0] for line in caplog.messages if " REQTMOUT: " in line})


def send_three(producer: Producer, value: bytes) -> None:
    for partition in range(3):
        producer.send(value, partition=partition)


def test_init_waits_for_the_end_of_an_older_transaction(servers: str, narrow: str) -> None:
    """The broker answers "not yet" for a moment; that is what the timeout is for."""
    for number in range(5):
        older = ready(servers, narrow)
        older.begin_transaction()
        older.send(b"%d" % number)
        older.flush(LIMIT_S)
        with Producer(servers, narrow, config={"transactional.id": narrow}) as producer:
            producer.init_transactions(LIMIT_S)
        with contextlib.suppress(TransactionError):
            older.stop()


def test_context_manager_commits_or_aborts(servers: str, narrow: str) -> None:
    with ready(servers, narrow) as producer:
        with producer.transaction():
            producer.send(b"1")
        with pytest.raises(ZeroDivisionError), producer.transaction():
            producer.send(b"2")
            producer.flush(LIMIT_S)
            raise ZeroDivisionError
        with producer.transaction():
            producer.send(b"3")
        with pytest.raises(TransactionError) as caught, producer.transaction():
            producer.send(b"4")
            producer.flush(LIMIT_S)
            producer.send(b"nowhere", partition=7)
        assert not caught.value.fatal
        with producer.transaction():
            producer.send(b"5")
    assert committed(servers, narrow) == [b"1", b"3", b"5"]


def test_commit_that_timed_out_is_resumed(kafka: KafkaServer, servers: str, narrow: str) -> None:
    with ready(servers, narrow) as producer:
        producer.begin_transaction()
        for number in range(100):
            producer.send(b"%d" % number)
        producer.flush(LIMIT_S)
        with frozen(kafka):
            for number in range(100, 200):
                producer.send(b"%d" % number)
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(TransactionError) as caught:
                    producer.commit_transaction(0.7)
                assert 0.6 <= time.monotonic() - began < 1.7
                assert caught.value.retriable
                assert (caught.value.requires_abort, caught.value.fatal) == (False, False)
                with pytest.raises(TransactionError):
                    producer.send(b"too late")
        producer.commit_transaction(LIMIT_S)
        with producer.transaction():
            producer.send(b"200")
    assert committed(servers, narrow) == [b"%d" % number for number in range(201)]


def test_abort_that_timed_out_is_resumed(kafka: KafkaServer, servers: str, narrow: str) -> None:
    with ready(servers, narrow) as producer:
        producer.begin_transaction()
        producer.send(b"aborted")
        producer.flush(LIMIT_S)
        with frozen(kafka):
            producer.send(b"never sent")
            began = time.monotonic()
            with pytest.raises(TransactionError) as caught:
                producer.abort_transaction(0.7)
            assert 0.6 <= time.monotonic() - began < 1.7
            assert (caught.value.retriable, caught.value.fatal) == (True, False)
        producer.abort_transaction(LIMIT_S)
        with producer.transaction():
            producer.send(b"fine")
    assert committed(servers, narrow) == [b"fine"]


def test_second_producer_fences_the_first(servers: str, narrow: str) -> None:
    first = ready(servers, narrow)
    first.begin_transaction()
    first.send(b"of the first")
    first.flush(LIMIT_S)
    with ready(servers, narrow) as second:
        with pytest.raises(TransactionError) as caught:
            first.commit_transaction(LIMIT_S)
        assert caught.value.fatal
        assert not caught.value.retriable
        assert caught.value.name in FENCED
        for call in (first.begin_transaction, first.abort_transaction, first.commit_transaction):
            with pytest.raises(TransactionError) as again:
                call()
            assert again.value.fatal, call
        with second.transaction():
            second.send(b"of the second")
        began = time.monotonic()
        with contextlib.suppress(TransactionError):
            first.stop()
        assert time.monotonic() - began < 7
    assert committed(servers, narrow) == [b"of the second"]


def test_fenced_producer_learns_it_from_its_messages(servers: str, narrow: str) -> None:
    first = ready(servers, narrow)
    first.begin_transaction()
    first.send(b"in time")
    first.flush(LIMIT_S)
    with ready(servers, narrow) as second:
        delivery = first.submit(b"too late")
        error = delivery.exception(LIMIT_S)
        assert isinstance(error, DeliveryError)
        assert error.name in FENCED
        with pytest.raises(TransactionError) as caught:
            first.commit_transaction(LIMIT_S)
        assert caught.value.fatal
        with pytest.raises(KafkaError):
            first.stop()
        with second.transaction():
            second.send(b"of the second")
    assert committed(servers, narrow) == [b"of the second"]


@pytest.mark.parametrize("failing", ["partition", "size"])
def test_failed_message_requires_an_abort(servers: str, topic: str, failing: str) -> None:
    create_topic(servers, topic, 1, **LIMITED)
    with ready(servers, topic) as producer:
        producer.begin_transaction()
        producer.send(b"aborted")
        producer.flush(LIMIT_S)
        lost = producer.submit(
            b"x" * (20_000 if failing == "size" else 1), partition=9 if failing == "partition" else 0
        )
        with pytest.raises(TransactionError) as caught:
            producer.commit_transaction(LIMIT_S)
        print(f"\n{caught.value!r}")
        assert (caught.value.requires_abort, caught.value.fatal, caught.value.retriable) == (True, False, False)
        assert isinstance(lost.exception(LIMIT_S), DeliveryError)
        with pytest.raises(TransactionError):
            producer.begin_transaction()
        producer.abort_transaction(LIMIT_S)
        send_persistently(producer, b"fine")
    assert committed(servers, topic) == [b"fine"]


def test_purge_requires_an_abort(kafka: KafkaServer, servers: str, narrow: str) -> None:
    with ready(servers, narrow) as producer:
        producer.begin_transaction()
        producer.send(b"sent")
        producer.flush(LIMIT_S)
        with frozen(kafka):
            for _ in range(100):
                producer.send(b"purged")
            assert producer.purge(in_flight=True) == 100
        with pytest.raises(TransactionError) as caught:
            producer.commit_transaction(LIMIT_S)
        assert (caught.value.requires_abort, caught.value.fatal) == (True, False)
        producer.abort_transaction(LIMIT_S)
        metrics = producer.metrics()
        assert (metrics.accepted, metrics.delivered, metrics.purged) == (101, 1, 100)
        send_persistently(producer, b"fine")
    assert committed(servers, narrow) == [b"fine"]


def test_transactions_after_a_purge_are_whole(servers: str, narrow: str) -> None:
    for number in range(12):
        with ready(servers, narrow) as producer:
            if number % 2:
                with producer.transaction():
                    producer.send(b"before")
            with pytest.raises(TransactionError) as caught, producer.transaction():
                producer.send_many([b"purged"] * 1000)
                producer.purge()
            assert (caught.value.requires_abort, caught.value.fatal) == (True, False)
            with producer.transaction():
                producer.send(b"after")
    assert committed(servers, narrow) == [b"after", b"before", b"after"] * 6


def test_stop_within_a_transaction_aborts_it_and_holds_nobody_up(servers: str, narrow: str) -> None:
    producer = ready(servers, narrow)
    producer.begin_transaction()
    producer.send(b"aborted")
    producer.flush(LIMIT_S)
    producer.send(b"aborted too")
    began = time.monotonic()
    with pytest.raises(TransactionError) as caught:
        producer.stop()
    assert time.monotonic() - began < 5
    assert "2 messages" in str(caught.value)
    producer.stop()  # does nothing
    with Producer(servers, narrow) as other:
        other.send(b"after")
    # A transaction that is open would hide it until transaction.timeout.ms.
    assert committed(servers, narrow) == [b"after"]


def test_with_block_that_fails_in_a_transaction_holds_nobody_up(servers: str, narrow: str) -> None:
    with pytest.raises(ZeroDivisionError), ready(servers, narrow) as producer:
        producer.begin_transaction()
        producer.send(b"aborted")
        producer.flush(LIMIT_S)
        raise ZeroDivisionError
    with Producer(servers, narrow) as other:
        other.send(b"after")
    assert committed(servers, narrow) == [b"after"]


def test_transactions_survive_a_kill_of_the_broker(kafka: KafkaServer, servers: str, narrow: str) -> None:
    with ready(servers, narrow) as producer:
        with producer.transaction():
            producer.send(b"before")
        producer.begin_transaction()
        producer.send(b"early")
        producer.flush(LIMIT_S)
        kafka.kill()
        producer.send(b"meanwhile")
        with ThreadPoolExecutor(1) as threads:
            committing = threads.submit(producer.commit_transaction, LIMIT_S)
            began = time.monotonic()
            kafka.start()
            started = time.monotonic()
            committing.result(LIMIT_S)
            print(f"\nbroker started in {started - began:.1f} s, commit {time.monotonic() - started:.1f} s later")
        with producer.transaction():
            producer.send(b"after")
    assert committed(servers, narrow) == [b"before", b"early", b"meanwhile", b"after"]


def test_two_transactional_producers_in_one_process(servers: str, topic: str) -> None:
    create_topic(servers, topic, 2)
    with ready(servers, topic, f"{topic}-0") as zero, ready(servers, topic, f"{topic}-1") as one:
        barrier = threading.Barrier(2)

        def run(producer: Producer, number: int) -> None:
            for turn in range(20):
                barrier.wait(LIMIT_S)
                producer.begin_transaction()
                for _ in range(10):
                    producer.send(b"%d %d" % (number, turn), partition=turn % 2)
                if (turn + number) % 3:
                    producer.commit_transaction(LIMIT_S)
                else:
                    producer.flush(LIMIT_S)
                    producer.abort_transaction(LIMIT_S)

        with ThreadPoolExecutor(2) as threads:
            for job in [threads.submit(run, producer, number) for number, producer in enumerate((zero, one))]:
                job.result(LIMIT_S)
    expected = sorted(b"%d %d" % (number, turn) for number in range(2) for turn in range(20) if (turn + number) % 3)
    assert sorted(row or b"" for row in committed(servers, topic)) == sorted(expected * 10)


def committed_offsets(servers: str, group: str, topic: str, partitions: int) -> list[int]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": group})
    try:
        asked = [TopicPartition(topic, number) for number in range(partitions)]
        return [item.offset for item in consumer.committed(asked, LIMIT_S)]
    finally:
        consumer.close()


def test_transformer_that_is_killed_gives_its_output_once(servers: str, topic: str) -> None:
    count, partitions = 3000, 2
    source, target = f"{topic}-source", f"{topic}-target"
    for name in (source, target):
        create_topic(servers, name, partitions)
    with Producer(servers, source) as producer:
        for number in range(count):
            producer.send(b"%d" % number, partition=number % partitions)

    def start() -> subprocess.Popen[str]:
        arguments = json.dumps([servers, source, target, count])
        return subprocess.Popen([sys.executable, str(PROGRAM), arguments], stdout=subprocess.PIPE, text=True)

    killed_at = []
    for turn in range(3):
        program = start()
        try:
            assert program.stdout
            if turn < 2:  # each line is a transaction that was committed; one more is open by then
                for _ in range(4 + turn):
                    line = program.stdout.readline()
                    assert line, "it ended"
                killed_at.append(int(line))
                os.kill(program.pid, signal.SIGKILL)
            else:
                output, _ = program.communicate(timeout=2 * LIMIT_S)
                assert program.returncode == 0
                assert "done" in output
        finally:
            program.kill()
            program.wait()
            if program.stdout:
                program.stdout.close()
    rows = read_log(servers, target, isolation="read_committed")
    print(
        f"\nkilled after {killed_at} messages of its own; {len(written(servers, target))} were written for {len(rows)}"
    )
    assert sorted(int(row.value or b"-1") for row in rows) == [2 * number for number in range(count)]
    for partition in range(partitions):
        values = [int(row.value or b"-1") for row in rows if row.partition == partition]
        assert values == sorted(values)
    assert committed_offsets(servers, f"{source}-group", source, partitions) == [count // partitions] * partitions
