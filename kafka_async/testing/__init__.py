"""An embedded Kafka for tests and demos: librdkafka's in-process mock cluster."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from kafka_async import errors
from kafka_async._native import ffi, lib
from kafka_async.message import check_topic

__all__ = ["MockCluster"]


class MockCluster:
    """A Kafka cluster inside this process, on loopback sockets.

    It does producing and consuming, headers, groups. It keeps about 5 MB or 100,000 batches a partition
    and drops older ones, read or not; its first group join takes about 3 s.

    Parameters
    ----------
    brokers : int, default 1
        How many brokers, 1 to 100.
    topics : mapping of str to int, optional
        Topics to create, with their number of partitions. Others are created when they are first
        written to, with 4 partitions.

    Raises
    ------
    KafkaError
        It did not start.
    ValueError
        A number is out of range.
    """

    def __init__(self, brokers: int = 1, topics: Mapping[str, int] | None = None) -> None:
        self._mock = None
        if not 1 <= brokers <= 100:
            raise ValueError(f"brokers must be from 1 to 100, not {brokers}")
        self._error = ffi.new("ka_error *")
        mock = lib.ka_wait_mock_open(brokers, self._error)
        if not mock:
            raise errors.from_native(errors.KafkaError, self._error)
        # A cluster that was forgotten is closed when it is collected; that takes milliseconds.
        self._mock = ffi.gc(mock, lib.ka_wait_mock_close)
        self._servers = ffi.string(lib.ka_mock_bootstrap_servers(mock)).decode()
        for name, partitions in (topics or {}).items():
            self.create_topic(name, partitions)

    @property
    def bootstrap_servers(self) -> str:
        """``host:port,...`` for a producer or consumer."""
        return self._servers

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic.

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
        ClosedError
            The cluster is stopped.
        """
        if self._mock is None:
            raise errors.ClosedError("the cluster is stopped: make a new one")
        check_topic(name)
        if not 1 <= partitions <= 10_000:
            raise ValueError(f"partitions must be from 1 to 10000, not {partitions}")
        if lib.ka_wait_mock_create_topic(self._mock, name.encode(), partitions, self._error) != lib.KA_OK:
            raise errors.from_native(errors.KafkaError, self._error)

    def stop(self) -> None:
        """Stop the cluster; its data is gone. A second call does nothing."""
        if self._mock is not None:
            mock, self._mock = self._mock, None
            ffi.release(mock)

    def __enter__(self) -> MockCluster:
        """Use it as a context manager, which stops it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the cluster."""
        self.stop()
