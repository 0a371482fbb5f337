"""The embedded cluster fails as it is told to, and clients meet what they would meet on a real one."""

from __future__ import annotations

import gc
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import read, reader, run_python, wait_for

from kafka_async import ClosedError, Consumer, ConsumerError, FlushTimeout, KafkaError, Producer
from kafka_async._native import lib
from kafka_async.testing import MockCluster

NEW = lib.ka_librdkafka_version_linked() >= 0x020C0000
QUICK = {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50}
STORAGE_ERROR = 56


@pytest.fixture
def t(cluster: MockCluster) -> MockCluster:
    cluster.create_topic("t", 1)
    return cluster


@pytest.fixture(scope="module")
def shared() -> Iterator[MockCluster]:
    """For tests that leave nothing behind."""
    with MockCluster(brokers=2, topics={"t": 1}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stopped() -> MockCluster:
    cluster = MockCluster(topics={"t": 1})
    cluster.stop()
    return cluster


@contextmanager
def connected(cluster: MockCluster, **config: object) -> Iterator[Producer]:
    """A producer that has delivered a message, so that nothing but the failure to come can hold up the next."""
    producer = Producer(cluster.bootstrap_servers, "t", config={**QUICK, "retry.backoff.ms": 10, **config})  # type: ignore[dict-item]
    try:
        producer.send(b"first")
        producer.flush(20)
        yield producer
    finally:
        producer.failures()
        producer.stop(20)


def failure(producer: Producer) -> str:
    """Send a message that fails, and tell why."""
    producer.send(b"v")
    wait_for(lambda: producer.metrics().outstanding == 0)
    (report,) = producer.failures()
    assert report.error is not None
    return report.error.name


def values(cluster: MockCluster, count: int) -> list[bytes | None]:
    with reader(cluster.bootstrap_servers, "t") as consumer:
        return [message.value for message in read(consumer, count)]


# Errors, as a producer meets them.


def test_retriable_errors_are_retried_and_the_message_arrives(t: MockCluster) -> None:
    with connected(t, **{"retry.backoff.ms": 50}) as producer:
        t.fail_next("Produce", ["NOT_ENOUGH_REPLICAS", "KAFKA_STORAGE_ERROR"])
        producer.send(b"patient")
        producer.flush(20)
        metrics = producer.metrics()
    assert (metrics.delivered, metrics.failed) == (2, 0)
    assert metrics.ack_latency.max >= 0.1  # two times retry.backoff.ms
    assert values(t, 2) == [b"first", b"patient"]


def test_retriable_error_ends_as_failed_when_there_are_no_retries(t: MockCluster) -> None:
    with connected(t, retries=0) as producer:
        t.fail_next("Produce", "NOT_ENOUGH_REPLICAS")
        assert failure(producer) == "NOT_ENOUGH_REPLICAS"


@pytest.mark.parametrize("name", ["TOPIC_AUTHORIZATION_FAILED", "MSG_SIZE_TOO_LARGE", "INVALID_RECORD"])
def test_permanent_error_ends_as_failed_with_its_name(t: MockCluster, name: str) -> None:
    with connected(t) as producer:
        t.fail_next("Produce", [name])
        assert failure(producer) == name


def test_errors_come_in_order_and_none_lets_one_request_pass(t: MockCluster) -> None:
    with connected(t) as producer:
        t.fail_next("produce", ["invalid_record", None, 10])
        t.fail_next(0, ("NO_ERROR", "UNSUPPORTED_FOR_MESSAGE_FORMAT"))
        t.fail_next("Produce", [])
        assert failure(producer) == "INVALID_RECORD"
        producer.send(b"second")
        producer.flush(20)
        assert failure(producer) == "MSG_SIZE_TOO_LARGE"
        producer.send(b"third")
        producer.flush(20)
        assert failure(producer) == "UNSUPPORTED_FOR_MESSAGE_FORMAT"
    assert values(t, 3) == [b"first", b"second", b"third"]


def test_closed_connection_is_opened_again_and_the_message_arrives(t: MockCluster) -> None:
    with connected(t) as producer:
        t.fail_next("Produce", "_TRANSPORT")
        producer.send(b"again")
        producer.flush(20)
    assert values(t, 2) == [b"first", b"again"]


def test_idempotent_producer_gets_over_a_refused_producer_id(t: MockCluster) -> None:
    t.fail_next("InitProducerId", ["COORDINATOR_LOAD_IN_PROGRESS"])
    with Producer(t.bootstrap_servers, "t", config={**QUICK, "enable.idempotence": True}) as producer:
        producer.send(b"v")
        producer.flush(20)
    assert values(t, 1) == [b"v"]


# Errors, as a consumer meets them.


def test_permanent_fetch_error_is_raised(t: MockCluster) -> None:
    with connected(t), reader(t.bootstrap_servers, "t", config={"fetch.wait.max.ms": 50}) as consumer:
        read(consumer, 1)
        # Two: librdkafka takes the first answer at a partition's end for its end, whatever stands in it, and tells
        # the application of the same error once.
        t.fail_next("Fetch", ["TOPIC_AUTHORIZATION_FAILED"] * 2)
        with pytest.raises(ConsumerError) as caught:
            consumer.poll_message(20)
        assert caught.value.name == "TOPIC_AUTHORIZATION_FAILED"


def test_retriable_fetch_errors_are_not_seen(t: MockCluster) -> None:
    with connected(t):
        t.fail_next("Fetch", ["KAFKA_STORAGE_ERROR", "_TRANSPORT", "NOT_LEADER_FOR_PARTITION"])
        t.fail_next("ListOffsets", ["LEADER_NOT_AVAILABLE"])
    with reader(t.bootstrap_servers, "t", config=QUICK) as consumer:
        assert read(consumer, 1)[0].value == b"first"


def test_group_that_is_not_allowed_is_told(t: MockCluster) -> None:
    # A newer librdkafka closes its first connection as soon as it knows the brokers, with what is asked there.
    t.fail_next("FindCoordinator", ["GROUP_AUTHORIZATION_FAILED"] * 2)
    with (
        Consumer(t.bootstrap_servers, "t", group_id="g", config=QUICK) as consumer,
        pytest.raises(ConsumerError) as caught,
    ):
        consumer.poll_message(20)
    assert caught.value.name == "GROUP_AUTHORIZATION_FAILED"


# Errors of every API that the documentation names, on the wire.

TOPIC = struct.pack(">ih1sii", 1, 1, b"t", 1, 0)  # one topic, one partition: 0
PRODUCER_ID = struct.pack(">qh", 1, 0)
TEXT = struct.pack(">h1s", 1, b"x")  # of a group, a member, a transaction
TO_PARTITION, THROTTLE = len(TOPIC), 4
FLEXIBLE = 1  # version of the one that has the newer encoding here

# Name: ApiKey, version, request without header, bytes before the error in the response.
REQUESTS: dict[str, tuple[int, int, bytes, int]] = {
    "Produce": (0, 0, struct.pack(">hi", 1, 1000) + TOPIC + struct.pack(">i100x", 100), TO_PARTITION),
    "Fetch": (1, 0, struct.pack(">iii", -1, 0, 0) + TOPIC + struct.pack(">qi", 0, 1000), TO_PARTITION),
    "ListOffsets": (2, 0, struct.pack(">i", -1) + TOPIC + struct.pack(">qi", -1, 1), TO_PARTITION),
    "OffsetCommit": (8, 0, TEXT + TOPIC + struct.pack(">q", 0) + TEXT, TO_PARTITION),
    "OffsetFetch": (9, 0, TEXT + TOPIC, TO_PARTITION + 10),
    "FindCoordinator": (10, 0, TEXT, 0),
    "JoinGroup": (11, 0, TEXT + struct.pack(">i", 6000) + TEXT + TEXT + struct.pack(">i", 0), 0),
    "Heartbeat": (12, 0, TEXT + struct.pack(">i", 1) + TEXT, 0),
    "LeaveGroup": (13, 0, TEXT + TEXT, 0),
    "SyncGroup": (14, 0, TEXT + struct.pack(">i", 1) + TEXT + struct.pack(">i", 0), 0),
    "ApiVersions": (18, 0, b"", 0),
    "InitProducerId": (22, 0, TEXT + struct.pack(">i", 1000), THROTTLE),
    "OffsetForLeaderEpoch": (23, 2, TOPIC + struct.pack(">ii", -1, 0), THROTTLE + TO_PARTITION - 4),
    "AddPartitionsToTxn": (24, 0, TEXT + PRODUCER_ID + TOPIC, THROTTLE + TO_PARTITION),
    "AddOffsetsToTxn": (25, 0, TEXT + PRODUCER_ID + TEXT, THROTTLE),
    "EndTxn": (26, 0, TEXT + PRODUCER_ID + b"\1", THROTTLE),
    "TxnOffsetCommit": (
        28,
        0,
        TEXT + TEXT + PRODUCER_ID + TOPIC + struct.pack(">q", 0) + TEXT,
        THROTTLE + TO_PARTITION,
    ),
    "ConsumerGroupHeartbeat": (
        68,
        FLEXIBLE,
        b"\0\2x\2x" + struct.pack(">iBBi", 0, 0, 0, 1000) + b"\0\0\0\0\0",
        1 + THROTTLE,
    ),
}


@contextmanager
def connection(cluster: MockCluster) -> Iterator[socket.socket]:
    host, port = cluster.bootstrap_servers.split(",")[0].split(":")
    with socket.create_connection((host, int(port)), 10) as peer:
        yield peer


def ask(peer: socket.socket, name: str) -> None:
    key, version, body, _ = REQUESTS[name]
    message = struct.pack(">hhih", key, version, 7, -1) + body  # correlation id 7, no client id
    peer.sendall(struct.pack(">i", len(message)) + message)


def answer(peer: socket.socket, name: str) -> int:
    """The error code of an answer."""
    with peer.makefile("rb") as stream:
        (length,) = struct.unpack(">i", stream.read(4))
        response = stream.read(length)
    return int(struct.unpack_from(">h", response, 4 + REQUESTS[name][3])[0])


def named() -> list[str]:
    assert MockCluster.fail_next.__doc__
    text = MockCluster.fail_next.__doc__.partition("Errors can be injected into")[2].partition("has no way")[0]
    return [name for name in REQUESTS if f'"{name}"' in text]


def test_every_api_that_is_named_is_tried_here(shared: MockCluster) -> None:
    assert named() == list(REQUESTS)
    with pytest.raises(ValueError, match="use one of") as caught:
        shared.fail_next("", [])
    told = str(caught.value).partition("use one of ")[2].split(", ")
    assert [name for name in told if name in REQUESTS] == told
    assert len(told) == len(REQUESTS) - 2 * (not NEW)


@pytest.mark.parametrize("name", REQUESTS)
def test_error_reaches_the_client(shared: MockCluster, name: str) -> None:
    if name in ("OffsetForLeaderEpoch", "ConsumerGroupHeartbeat") and not NEW:
        with pytest.raises(ValueError, match="can't inject"):
            shared.fail_next(name, "KAFKA_STORAGE_ERROR")
        return
    shared.fail_next(name, ["KAFKA_STORAGE_ERROR", "_TRANSPORT"])
    with connection(shared) as peer:
        ask(peer, name)
        assert answer(peer, name) == STORAGE_ERROR
        ask(peer, name)
        assert peer.recv(1) == b""  # closed
    if name == "JoinGroup":
        return  # answered after seconds
    with connection(shared) as peer:
        ask(peer, name)
        assert answer(peer, name) != STORAGE_ERROR


# Brokers that are away.


def test_messages_wait_for_a_broker_that_is_down_and_keep_their_order(t: MockCluster) -> None:
    expected = [b"first"] + [b"%d" % number for number in range(1000)]
    with connected(t) as producer:
        t.broker_down(1)
        for value in expected[1:]:
            producer.send(value)
        with pytest.raises(FlushTimeout) as caught:
            producer.flush(0.3)
        assert caught.value.outstanding == 1000
        t.broker_up(1)
        producer.flush(20)
        assert producer.metrics().delivered == 1001
    assert values(t, 1001) == expected


def test_messages_fail_when_a_broker_is_down_for_longer_than_they_may_take(t: MockCluster) -> None:
    with connected(t, **{"message.timeout.ms": 300}) as producer:
        t.broker_down(1)
        producer.send(b"a")
        producer.send(b"b")
        wait_for(lambda: producer.metrics().failed == 2)
        reports = producer.failures()
        t.broker_up(1)
    assert [report.value for report in reports] == [b"a", b"b"]
    assert [report.error.name for report in reports if report.error] == ["_MSG_TIMED_OUT"] * 2


def test_leaders_go_round_and_the_others_go_on_when_one_is_down() -> None:
    with MockCluster(brokers=3, topics={"t": 6}) as cluster, connected(cluster) as producer:
        for partition in range(6):
            producer.send(b"before", partition=partition)
        producer.flush(20)
        cluster.broker_down(2)
        for partition in (1, 4):
            producer.send(b"waits", partition=partition)
        for partition in (0, 2, 3, 5):
            producer.send(b"goes on", partition=partition)
        wait_for(lambda: producer.metrics().delivered == 11)
        with pytest.raises(FlushTimeout) as caught:
            producer.flush(0.1)
        assert caught.value.outstanding == 2
        cluster.broker_up(2)
        producer.flush(20)


def test_consumer_gets_over_a_broker_that_was_away(t: MockCluster) -> None:
    with connected(t) as producer, reader(t.bootstrap_servers, "t", config=QUICK) as consumer:
        read(consumer, 1)
        t.broker_down(1)
        t.broker_down(1)
        assert consumer.poll_message(0.1) is None
        t.broker_up(1)
        t.broker_up(1)
        producer.send(b"second")
        assert read(consumer, 1)[0].value == b"second"


# Round trips.


def test_round_trip_shows_in_the_latency_of_acknowledgements(t: MockCluster) -> None:
    with connected(t) as producer:
        t.set_round_trip(1, 0.25)
        producer.send(b"slow")
        producer.flush(20)
        assert producer.metrics().ack_latency.max >= 0.25
        t.set_round_trip(1, 0)


def test_shorter_round_trip_lets_waiting_answers_go(t: MockCluster) -> None:
    t.set_round_trip(1, 3600)
    with connection(t) as peer:
        ask(peer, "ApiVersions")
        peer.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        t.set_round_trip(1, 0.0001)
        peer.settimeout(20)
        assert answer(peer, "ApiVersions") == 0


# Arguments and lifetime.


@pytest.mark.parametrize(
    ("error", "text", "method", "args"),
    [
        (ValueError, "use one of Produce, Fetch", "fail_next", ("Produced", "NOT_ENOUGH_REPLICAS")),
        (ValueError, "use one of Produce, Fetch", "fail_next", ("Metadata", "NOT_ENOUGH_REPLICAS")),
        (ValueError, "use one of Produce, Fetch", "fail_next", (3, "NOT_ENOUGH_REPLICAS")),
        (ValueError, "use one of Produce, Fetch", "fail_next", (-1, "NOT_ENOUGH_REPLICAS")),
        (ValueError, "use one of Produce, Fetch", "fail_next", (2**40, "NOT_ENOUGH_REPLICAS")),
        (TypeError, "api", "fail_next", (None, "NOT_ENOUGH_REPLICAS")),
        (TypeError, "api", "fail_next", (b"Produce", "NOT_ENOUGH_REPLICAS")),
        (ValueError, "such as NOT_ENOUGH_REPLICAS", "fail_next", ("Produce", "NOT_ENOUGH_REPLICA")),
        (ValueError, "such as", "fail_next", ("Produce", [None, ""])),
        (ValueError, "can't answer", "fail_next", ("Produce", "_MSG_TIMED_OUT")),
        (ValueError, "can't answer", "fail_next", ("Produce", [0, -192])),
        (ValueError, "can't answer", "fail_next", ("Produce", 30_000)),
        (ValueError, "can't answer", "fail_next", ("Produce", 2**70)),
        (TypeError, "errors", "fail_next", ("Produce", 1.5)),
        (TypeError, "errors", "fail_next", ("Produce", b"NOT_ENOUGH_REPLICAS")),
        (TypeError, "errors", "fail_next", ("Produce", [["NOT_ENOUGH_REPLICAS"]])),
        *[
            (ValueError, "ids of this cluster are 1 to 2", method, (broker, *more))
            for broker in (-1, 0, 3, 2**31, 2**70)
            for method, *more in (("broker_down",), ("broker_up",), ("set_round_trip", 0.1))
        ],
        (TypeError, "integer", "broker_down", ("1",)),
        (TypeError, "integer", "broker_up", (1.0,)),
        (ValueError, "seconds", "set_round_trip", (1, -0.001)),
        (ValueError, "seconds", "set_round_trip", (1, 3601)),
        (ValueError, "seconds", "set_round_trip", (1, float("nan"))),
        (TypeError, "seconds", "set_round_trip", (1, "1")),
    ],
)
def test_wrong_argument_is_refused(
    shared: MockCluster, error: type[Exception], text: str, method: str, args: tuple[object, ...]
) -> None:
    with pytest.raises(error, match=text):
        getattr(shared, method)(*args)
    with connection(shared) as peer:  # nothing of it came into force
        ask(peer, "ApiVersions")
        assert answer(peer, "ApiVersions") == 0


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("create_topic", ("u",)),
        ("fail_next", ("Produce", None)),
        ("broker_down", (1,)),
        ("broker_up", (1,)),
        ("set_round_trip", (1, 0)),
    ],
)
def test_stopped_cluster_says_so(stopped: MockCluster, method: str, args: tuple[object, ...]) -> None:
    stopped.stop()  # a second time
    with pytest.raises(ClosedError, match="stopped"):
        getattr(stopped, method)(*args)


def test_stop_ends_the_cluster_whoever_keeps_an_error_of_it(t: MockCluster) -> None:
    with pytest.raises(KafkaError) as caught:
        t.create_topic("t")
    assert caught.value.name == "TOPIC_ALREADY_EXISTS"
    gc.disable()  # it is not the collector that ends it
    try:
        t.stop()
        with pytest.raises(ConnectionRefusedError), connection(t):
            pass
    finally:
        gc.enable()


def use_until_closed(cluster: MockCluster, first: bool, started: threading.Barrier, ends: list[str]) -> None:
    started.wait(10)
    try:
        while True:
            cluster.fail_next("Fetch", [None] * 10)
            if first:
                cluster.set_round_trip(1, 0.001)
    except ClosedError as error:
        ends.append(str(error))


def test_stop_is_safe_while_other_threads_use_it() -> None:
    for _ in range(3):
        cluster = MockCluster()
        started = threading.Barrier(4)
        ends: list[str] = []
        threads = [
            threading.Thread(target=use_until_closed, args=(cluster, not i, started, ends), daemon=True)
            for i in range(3)
        ]
        for thread in threads:
            thread.start()
        started.wait(10)
        cluster.stop()
        for thread in threads:
            thread.join(20)
        assert len(ends) == 3


def test_child_of_a_fork_is_refused_and_the_parent_is_untouched() -> None:
    done = run_python(
        """
        import os, warnings
        from kafka_async import ForkedError, Producer
        from kafka_async.testing import MockCluster
        warnings.simplefilter("ignore")
        cluster = MockCluster(topics={"t": 1})
        child = os.fork()
        if not child:
            refused = 0
            for method, args in [
                (cluster.create_topic, ("u",)), (cluster.fail_next, ("Produce", None)), (cluster.broker_down, (1,)),
                (cluster.broker_up, (1,)), (cluster.set_round_trip, (1, 1)),
            ]:
                try:
                    method(*args)
                except ForkedError:
                    refused += 1
            cluster.stop()
            with MockCluster(topics={"t": 1}) as own, Producer(own.bootstrap_servers, "t") as producer:
                producer.send(b"v")
                producer.flush(20)
            os._exit(refused)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with Producer(cluster.bootstrap_servers, "t") as producer:
            producer.send(b"v")
            producer.flush(20)
        cluster.stop()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


# The fixture.

SUITE = """
import pytest
from kafka_async import Producer

def test_fixture(kafka_cluster):
    with Producer(kafka_cluster.bootstrap_servers, "t") as producer:
        producer.send(b"v")
        producer.flush(20)

{marked}
"""
MARKED = """
@pytest.mark.kafka_cluster(brokers=3, topics={"t": 2})
def test_marker(kafka_cluster):
    assert kafka_cluster.bootstrap_servers.count(",") == 2
    kafka_cluster.broker_down(3)
"""


@pytest.mark.parametrize(
    ("conftest", "marked"),
    [
        ('pytest_plugins = ["kafka_async.testing.pytest_plugin"]', MARKED),
        ("from kafka_async.testing import kafka_cluster", ""),
    ],
)
def test_fixture_is_a_cluster_for_one_test(tmp_path: Path, conftest: str, marked: str) -> None:
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(SUITE.replace("{marked}", marked))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "--strict-markers", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 if marked else 1} passed" in done.stdout


def test_pytest_is_imported_for_the_fixture_alone() -> None:
    done = run_python(
        """
        import sys
        import kafka_async.testing
        from kafka_async.testing import *
        assert "pytest" not in sys.modules
        try:
            kafka_async.testing.nothing
        except AttributeError as error:
            print(error)
        from kafka_async.testing import kafka_cluster
        assert "pytest" in sys.modules
        """
    )
    assert (done.returncode, done.stdout) == (0, "module 'kafka_async.testing' has no attribute 'nothing'\n"), (
        done.stderr
    )
