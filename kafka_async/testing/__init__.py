"""An embedded Kafka for tests and demos: librdkafka's in-process mock cluster, which can be told to fail.

::

    from kafka_async import Producer
    from kafka_async.testing import MockCluster

    with MockCluster(topics={"orders": 4}) as cluster:
        cluster.fail_next("Produce", ["NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS"])
        with Producer(cluster.bootstrap_servers, "orders") as producer:
            producer.send(b"arrives at the third attempt")

With pytest, one line in the ``conftest.py`` beside your pytest configuration

::

    pytest_plugins = ["kafka_async.testing.pytest_plugin"]

gives tests the fixture ``kafka_cluster``, for each test a cluster of its own, and a marker with the arguments of
`MockCluster` for it::

    def test_orders(kafka_cluster):
        with Producer(kafka_cluster.bootstrap_servers, "orders") as producer:
            ...

    @pytest.mark.kafka_cluster(brokers=3, topics={"orders": 4})
    def test_a_broker_dies(kafka_cluster):
        kafka_cluster.broker_down(2)
        ...

``from kafka_async.testing import kafka_cluster`` works, too; ``--strict-markers`` knows the marker by the line above
alone. There is no entry point: an installed library must not load itself into test runs of other things.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kafka_async import errors
from kafka_async._fast import keep
from kafka_async._native import ffi, lib
from kafka_async.config import native_error
from kafka_async.message import check_topic
from kafka_async.testing._names import api_number, error_codes

if TYPE_CHECKING:
    from kafka_async.testing.pytest_plugin import kafka_cluster as kafka_cluster

__all__ = ["MockCluster"]

_MAX_ROUND_TRIP_S = 3600.0


class MockCluster:
    """A Kafka cluster inside this process, on loopback sockets.

    It does producing and consuming, headers, groups, and the requests of transactions, not their effect: messages
    are seen at once, aborted ones too, offsets sent to a transaction are not stored, and a second producer of
    the same ``transactional.id`` fences nobody (`fail_next` does). An acknowledgement tells 1234 as every record's
    timestamp. It keeps about 5 MB or 100,000 batches a partition and drops older ones, read or not; its first group
    join takes about 3 s. All methods may be called from any thread.

    Parameters
    ----------
    brokers : int, default 1
        How many brokers, 1 to 100. Their ids are 1 to `brokers`.
    topics : mapping of str to int, optional
        Topics to create, with their number of partitions. Others are created when they are first
        written to, with 4 partitions, led by any broker.

    Raises
    ------
    KafkaError
        It did not start.
    ValueError
        A number is out of range.
    """

    def __init__(self, brokers: int = 1, topics: Mapping[str, int] | None = None) -> None:
        self._mock: ffi.CData | None = None
        if not 1 <= brokers <= 100:
            raise ValueError(f"brokers must be from 1 to 100, not {brokers}")
        self._brokers = brokers
        error = ffi.new("ka_error *")
        mock = lib.ka_wait_mock_open(brokers, error)
        if not mock:
            raise native_error(error)
        self._servers = ffi.string(lib.ka_mock_bootstrap_servers(mock)).decode()
        # Closed with the last reference: stop() gives ours back, and a call on another thread has one of its own
        # until it returns. So no method keeps it in a variable, which an exception's traceback would keep alive.
        self._mock = ffi.gc(mock, lib.ka_wait_mock_close)
        self._kept: object = keep(self._mock)  # beside finalizers of a cycle that it is collected in
        del mock
        for name, partitions in (topics or {}).items():
            self.create_topic(name, partitions)

    @property
    def bootstrap_servers(self) -> str:
        """``host:port,...`` for a producer or consumer."""
        return self._servers

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic.

        Its partition ``p`` is led by broker ``p % brokers + 1``.

        Parameters
        ----------
        name : str
            Its name.
        partitions : int, default 1
            From 1 to 10,000.

        Raises
        ------
        KafkaError
            It exists already.
        TypeError, ValueError
            `name` is no legal name, or `partitions` is out of range.
        ClosedError, ForkedError
            The cluster is stopped, or belongs to the parent process.
        """
        check_topic(name)
        if not 1 <= partitions <= 10_000:
            raise ValueError(f"partitions must be from 1 to 10000, not {partitions}")
        error = ffi.new("ka_error *")
        status = lib.ka_wait_mock_create_topic(self._native(), name.encode(), partitions, error)
        if status == lib.KA_FAILED:
            raise errors.from_native(errors.KafkaError, error)
        _check(status)

    def fail_next(self, api: str | int, errors: str | int | Sequence[str | int | None] | None) -> None:
        """Answer the next requests of an API with errors.

        The next ``len(errors)`` requests of that API, whichever client sends them and whichever broker they reach,
        are answered with these errors in order and do nothing else. What was given before comes first.

        Parameters
        ----------
        api : str or int
            The request's name in Kafka's protocol, in any case, or its number (ApiKey). Errors can be injected into

            - ``"Produce"``, ``"InitProducerId"`` (idempotent and transactional producers);
            - ``"AddPartitionsToTxn"``, ``"AddOffsetsToTxn"``, ``"TxnOffsetCommit"``, ``"EndTxn"`` (transactions);
            - ``"Fetch"``, ``"ListOffsets"``, and ``"OffsetForLeaderEpoch"`` (from librdkafka 2.1);
            - ``"FindCoordinator"``, ``"JoinGroup"``, ``"SyncGroup"``, ``"Heartbeat"``, ``"LeaveGroup"``,
              ``"OffsetCommit"``, ``"OffsetFetch"`` (groups), and ``"ConsumerGroupHeartbeat"`` (from librdkafka 2.12,
              ``group.protocol=consumer``);
            - ``"ApiVersions"``, the first request on every connection.

            The embedded cluster has no way to do that to ``"Metadata"``.
        errors : str, int, None, or a sequence of them
            Kafka's errors by name, such as ``"NOT_ENOUGH_REPLICAS"``, in any case, or by code. ``"_TRANSPORT"`` closes
            the connection that the request came on, instead of an answer. None, ``"NO_ERROR"`` and 0 let one request
            pass.

        Raises
        ------
        ValueError
            There is no such API or error, or errors can't be injected there.
        TypeError
            It is neither a name nor a number.
        ClosedError, ForkedError
            The cluster is stopped, or belongs to the parent process.

        Notes
        -----
        Clients retry what Kafka calls retriable by themselves, after ``retry.backoff.ms``: such an error shows only
        as a delay, unless there are more of them than the client has time or retries for.
        """
        number, codes = api_number(api), error_codes(errors)
        _check(lib.ka_mock_fail(self._native(), number, ffi.new("int32_t[]", codes), len(codes)))

    def broker_down(self, broker: int) -> None:
        """Close a broker's connections and refuse new ones, until `broker_up`.

        It stays the leader of its partitions: messages for them wait. A second call does nothing.

        Parameters
        ----------
        broker : int
            Its id, from 1.

        Raises
        ------
        ValueError
            There is no such broker.
        ClosedError, ForkedError
            The cluster is stopped, or belongs to the parent process.
        """
        self._check_broker(lib.ka_wait_mock_broker(self._native(), _broker_id(broker), 0), broker)

    def broker_up(self, broker: int) -> None:
        """Let a broker accept connections again, with all it had before `broker_down`.

        Clients try again after ``reconnect.backoff.ms``, doubled by every failure up to
        ``reconnect.backoff.max.ms`` (librdkafka's defaults: 100 and 10,000).

        Parameters
        ----------
        broker : int
            Its id, from 1.

        Raises
        ------
        ValueError
            There is no such broker.
        ClosedError, ForkedError
            The cluster is stopped, or belongs to the parent process.
        """
        self._check_broker(lib.ka_wait_mock_broker(self._native(), _broker_id(broker), 1), broker)

    def set_round_trip(self, broker: int, seconds: float) -> None:
        """Delay all that a broker answers.

        Parameters
        ----------
        broker : int
            Its id, from 1.
        seconds : float
            From 0 (no delay) to 3,600; rounded up to milliseconds.

        Raises
        ------
        ValueError
            There is no such broker, or `seconds` is out of range.
        TypeError
            `seconds` is no number.
        ClosedError, ForkedError
            The cluster is stopped, or belongs to the parent process.
        """
        milliseconds = _milliseconds(seconds)
        self._check_broker(lib.ka_wait_mock_round_trip(self._native(), _broker_id(broker), milliseconds), broker)

    def stop(self) -> None:
        """Stop the cluster; its data is gone. A second call does nothing.

        It may take a second: so long librdkafka's own thread may take to see that it ends.
        """
        self._mock = self._kept = None

    def _native(self) -> ffi.CData:
        mock = self._mock
        if mock is None:
            raise errors.ClosedError("the cluster is stopped: make a new one")
        return mock

    def _check_broker(self, status: int, broker: int) -> None:
        if status == lib.KA_INVALID:
            raise ValueError(f"there is no broker {broker}: the ids of this cluster are 1 to {self._brokers}")
        _check(status)

    def __enter__(self) -> MockCluster:
        """Use it as a context manager, which stops it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the cluster."""
        self.stop()


def _check(status: int) -> None:
    if status == lib.KA_FORKED:
        raise errors.ForkedError("this cluster belongs to the parent process: make a new one after the fork")
    assert status == lib.KA_OK, status


def _broker_id(broker: int) -> int:
    """Take any integer; one that C has no room for is no broker either."""
    number = operator.index(broker)
    return number if 1 <= number <= 100 else 0


def _milliseconds(seconds: float) -> int:
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"seconds must be a number, not {type(seconds).__name__}")
    if not 0 <= seconds <= _MAX_ROUND_TRIP_S:
        raise ValueError(f"seconds must be from 0 to {_MAX_ROUND_TRIP_S:g}, not {seconds}")
    return math.ceil(round(seconds * 1000, 6))  # 0.07 s are 70.00000000000001 ms


def __getattr__(name: str) -> Any:
    """Let the fixture be imported from here, and pytest only then."""
    if name != "kafka_cluster":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kafka_async.testing.pytest_plugin import kafka_cluster

    return kafka_cluster
